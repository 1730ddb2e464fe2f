"""What the workers of one gateway know of all budgets, for operators: what is held and spent, who is refused.

Each worker looks through its own buckets, in slices, so that no request waits for it. What several workers
know of one subject is put together.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from heapq import nlargest
from itertools import chain
from typing import Any, Final

from gateway.limits.bucket import Bucket
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.rules import Limit

THROTTLED: Final = 100
"""The subjects of all limits that are refused and listed; all are counted."""
SPENT: Final = 10
"""The subjects of each limit that are listed because they have spent most."""
_LONGEST_SUBJECT: Final = 255
"""Characters. Clients choose some subjects, such as a `kid`."""


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of the budget of one subject."""

    limit: str
    subject: str
    left: int | None
    """What is in Redis; None: this is not known."""
    age: float
    """For how many seconds it has been known."""
    held: int
    """What workers hold in advance."""
    running: int
    """Of a concurrency: the requests that run."""
    refused_for: float | None
    """For how many seconds it has been refused; None: it is not."""
    again_in: float
    """The seconds until a request may pass again."""

    def spent(self, limit: Limit) -> int | None:
        """Return what is spent of the budget; None: this is not known."""
        if limit.kind == "concurrency":
            return self.running
        return None if self.left is None else max(0, limit.capacity - self.left - self.held)

    def with_other(self, other: "Account") -> "Account":
        """Return what two workers know together."""
        known = (each for each in (self, other) if each.left is not None)
        latest = min(known, key=lambda each: each.age, default=self)
        refused = [each.refused_for for each in (self, other) if each.refused_for is not None]
        return replace(
            self,
            left=latest.left,
            age=latest.age,
            held=self.held + other.held,
            running=self.running + other.running,
            refused_for=max(refused, default=None),
            again_in=max(self.again_in, other.again_in),
        )


@dataclass(frozen=True, slots=True)
class Sum:
    """All subjects of one limit."""

    subjects: int = 0
    """Those that one worker remembers; of several workers, the largest number."""
    held: int = 0
    running: int = 0
    throttled: int = 0
    """Those that are refused; of several workers, the largest number."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is known of all budgets."""

    shared: bool
    """Whether the workers take leases; else one at least goes on with its share."""
    sums: Mapping[str, Sum]
    """By limit."""
    accounts: Sequence[Account]
    """Those who are refused, and those who have spent most."""


async def holdings_of(manager: LeaseManager) -> Holdings:
    """Return what one worker knows."""
    now, sums = manager.clock(), {}
    accounts: list[Account] = []
    throttled: list[Account] = []
    for name, budget in manager.budgets.items():
        total, spent = Sum(), list[Account]()
        async for buckets in budget.slices():
            found = [_account(budget.limit, bucket, now) for bucket in buckets]
            refused = [each for each in found if each.refused_for is not None]
            total = Sum(
                total.subjects + len(found),
                total.held + sum(each.held for each in found),
                total.running + sum(each.running for each in found),
                total.throttled + len(refused),
            )
            spent = _most_spent(budget.limit, [*spent, *found])
            throttled = _longest([*throttled, *refused])
        sums[name] = total
        accounts += spent
    return Holdings(manager.share is None, sums, [*dict.fromkeys([*accounts, *throttled])])


def _account(limit: Limit, bucket: Bucket, now: float) -> Account:
    left, age = bucket.known(limit, now) or (None, 0.0)
    return Account(
        limit.name,
        bucket.subject,
        left,
        age,
        bucket.tokens if now < bucket.until else 0,
        bucket.running,
        now - bucket.refused_since if bucket.is_throttled(now) else None,
        max(0.0, bucket.refused_until - now, bucket.retry_at - now),
    )


def _most_spent(limit: Limit, accounts: Iterable[Account]) -> list[Account]:
    spent = (each for each in accounts if each.spent(limit))
    return nlargest(SPENT, spent, key=lambda each: each.spent(limit) or 0)


def _longest(accounts: Iterable[Account]) -> list[Account]:
    return nlargest(THROTTLED, accounts, key=lambda each: each.refused_for or 0.0)


def together(limits: Iterable[Limit], known: Sequence[Holdings]) -> Holdings:
    """Return what several workers know together."""
    by_name = {limit.name: limit for limit in limits}
    sums = {name: _sum([each.sums[name] for each in known if name in each.sums]) for name in by_name}
    found: dict[tuple[str, str], Account] = {}
    for account in chain.from_iterable(each.accounts for each in known):
        other = found.get((account.limit, account.subject))
        found[account.limit, account.subject] = account if other is None else other.with_other(account)
    of_limits: defaultdict[str, list[Account]] = defaultdict(list)
    for account in found.values():
        of_limits[account.limit].append(account)
    # A worker that is replaced by a reload may still have limits that there are no more.
    accounts = [account for name in by_name for account in of_limits[name]]
    spent = chain.from_iterable(_most_spent(limit, of_limits[name]) for name, limit in by_name.items())
    refused = _longest(each for each in accounts if each.refused_for is not None)
    return Holdings(all(each.shared for each in known), sums, [*dict.fromkeys([*spent, *refused])])


def _sum(sums: Sequence[Sum]) -> Sum:
    return Sum(
        max((each.subjects for each in sums), default=0),
        sum(each.held for each in sums),
        sum(each.running for each in sums),
        max((each.throttled for each in sums), default=0),
    )


def shown(subject: str) -> str:
    """Return a subject for people, of a bounded length; `…` ends one that is longer."""
    text = subject.encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_SUBJECT else f"{text[:_LONGEST_SUBJECT]}…"


def pack(holdings: Holdings) -> list[object]:
    """Return holdings as JSON values."""
    sums = {name: astuple(each) for name, each in holdings.sums.items()}
    return [holdings.shared, sums, [astuple(each) for each in holdings.accounts]]


def unpack(row: Sequence[Any]) -> Holdings:
    """Return the holdings that `pack` was given."""
    shared, sums, accounts = row
    return Holdings(
        shared, {name: Sum(*each) for name, each in sums.items()}, [Account(*each) for each in accounts]
    )
