"""What operators see of budgets, and how they give one anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.limits.holdings import Holdings, holdings_of
from gateway.limits.lease_manager import LeaseManager
from gateway.limits.ledger import LEASE_SECONDS
from gateway.limits.periods import period_at
from gateway.limits.rules import Limit
from gateway.limits.subjects import named, network_of


class BudgetStore(Protocol):
    """The budgets in Redis. Every method raises `StoreUnavailable`."""

    async def budget(self, limit: str, period: str, subject: str) -> str | None:
        """Return what Redis has of a budget; None: it is as new."""

    async def reset(self, limit: str, period: str, subject: str, ends: float | None = None) -> bool:
        """Make a budget as new; return whether there was one. `ends`: of a quota, when its period ends."""


class UsageStore(Protocol):
    """Quotas in the system of record. Every method raises `StoreUnavailable`."""

    async def used(self, limit: str, subject: str, period: str) -> int:
        """Return what was spent of a quota."""

    async def reset(self, limit: str, subject: str, period: str) -> bool:
        """Forget it; return whether there was something."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What is left of a budget, and what workers hold of it."""

    subject: str
    """As it is counted: of an IPv6 address, its /64."""
    left: int
    """The tokens in Redis."""
    held: int
    """What workers hold in advance; of a concurrency, all requests that run."""


class Budgets:
    """The budgets of all gateways."""

    def __init__(self, manager: LeaseManager, store: BudgetStore, usages: UsageStore) -> None:
        self._manager = manager
        self._store = store
        self._usages = usages

    @property
    def limits(self) -> Sequence[Limit]:
        return [budget.limit for budget in self._manager.budgets.values()]

    @property
    def shared(self) -> bool:
        """Whether this worker takes leases."""
        return self._manager.share is None

    @property
    def workers(self) -> int:
        """How many workers share the budgets."""
        return self._manager.workers

    async def state_of(self, limit: Limit, subject: str) -> BudgetState:
        """Return the state of a budget. Raises `StoreUnavailable`."""
        subject, period, _ = self._named(limit, subject)
        text = await self._store.budget(limit.name, period, subject)
        if text is None and limit.kind == "quota":
            used = await self._usages.used(limit.name, subject, period)
            return BudgetState(subject, max(0, limit.amount - used), 0)
        left, held = left_and_held(limit, text, self._manager.unix())
        return BudgetState(subject, left, held)

    async def reset(self, limit: Limit, subject: str) -> None:
        """Give a budget anew. Other workers that refuse its requests ask again within a second."""
        subject, period, ends = self._named(limit, subject)
        if limit.kind == "quota":
            await self._usages.reset(limit.name, subject, period)
        await self._store.reset(limit.name, period, subject, ends)
        self.pardon(limit.name, subject)

    def pardon(self, limit: str, subject: str) -> None:
        """Let this worker ask Redis again for a subject that it refuses."""
        budget = self._manager.budgets.get(limit)
        if budget is None:
            return
        bucket = budget.buckets.peek(self._named(budget.limit, subject)[0])
        if bucket is not None:
            bucket.pardon()

    async def holdings(self) -> Holdings:
        """Return what this worker knows of all budgets."""
        return await holdings_of(self._manager)

    def _named(self, limit: Limit, subject: str) -> tuple[str, str, float | None]:
        """Return a subject as it is counted; of a quota its period, and when that ends."""
        subject = network_of(subject) if limit.per == "client" else named(subject)
        if limit.kind != "quota":
            return subject, "", None
        period = period_at(self._manager.unix(), limit.unit, limit.time_zone)
        return subject, period.name, period.ends


def left_and_held(limit: Limit, text: str | None, now: float) -> tuple[int, int]:
    """Read a budget as Redis has it (`stores.redis.scripts.limits`): what is left of it, and what is held."""
    if text is None:
        return limit.capacity, 0
    base, at, current, before = map(float, text.split(" ")[:4])
    epoch = int(now / LEASE_SECONDS)
    held = int((current if at >= epoch - 1 else 0) + (before if at >= epoch else 0))
    if limit.kind == "concurrency":
        left = limit.amount - held
    elif limit.kind == "quota":
        left = limit.amount - int(base)
    else:
        missing = max(0.0, base / 1_000_000 - now) / limit.interval
        left = min(int(limit.burst - missing + 1e-6), limit.burst - held)
    return max(0, left), held
