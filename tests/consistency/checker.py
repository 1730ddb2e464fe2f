"""The rules, and the check of a history against them.

The rules:

1. A request may be decided by any state that held at some time between `bound` before its begin and
   its end; not by an older one (a stale answer), nor by one that never held (a healthy user refused).
2. The bound is `HEALTHY` without faults, and `FAULTY` from the begin of a fault until
   `FAULTY` after its end. For connections that are cut, and may be made again at once, it is `CUT`. For a key
   that is deleted from Redis within `LEARNT` of its being set, it is `LEARNT`: it may be learnt just then.
3. A change in a store that the gateway cannot reach counts from the time when it can reach it again.
   So remembered users count while Postgres is down. A row that is lifted while Redis is down is
   refused until the change is in Redis, which came back with the key.
4. A revocation that exists in Redis only counts while Redis can be reached. After `LEARNT` without a fault
   it is learnt: then it counts even if Redis loses it, until it is deleted. A Redis that lost its keys has
   lost those that were not learnt, but never those of Postgres. A deletion during a fault may have been
   received or not, so its outcome is unknown.
5. A change with an unknown outcome may hold or not, until the next change of the same fact.
6. 503 is an answer during a fault and until that bound after its end, and at no other time.
7. There is no other answer at any time: no 401 or 403 for a reason that no state gives, no 502,
   no 504, no broken connection. Only a worker that is killed may break connections.
8. An admitted request has the identity of its own user.

It follows that a fault never causes a 401 or 403: a user whose state has not changed gets 200 or 503.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from tests.consistency.history import Answer, Change, Fault, History

HEALTHY: Final = 1.0
"""Seconds. Far beyond the milliseconds that are usual, for a machine that has more to do."""
FAULTY: Final = 6.0
"""Seconds: 2 until a fault is noticed, and the rest for what comes back after it, and for the machine."""
CUT: Final = 2.0
"""Seconds after connections were cut, which is noticed at once: below one, and one for the machine."""
LEARNT: Final = 2.0
"""Seconds until what another program has set in Redis is in Postgres: below one, and one for the machine."""

Rule: TypeAlias = Literal["stale", "refused", "fault_became_denial", "unavailable", "broken", "impostor"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A request that was answered against the rules."""

    rule: Rule
    about: str
    """The fact that was not heeded, or what was said instead."""
    answer: Answer
    why: str


def recovery(fault: Fault) -> float:
    """Return the seconds after the end of a fault until all is well again."""
    return CUT if fault.kind == "cut" else FAULTY


class Faults:
    """When which store could not be reached."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._all = sorted((fault for fault in faults if not fault.harmless), key=lambda fault: fault.begin)
        self._begins = [fault.begin for fault in self._all]
        self._last_end = list(accumulate((fault.end + recovery(fault) for fault in self._all), max))

    def near(self, begin: float, end: float) -> list[Fault]:
        """Return the faults whose time, recovery included, touches this one."""
        first = bisect_left(self._last_end, begin)
        last = bisect_right(self._begins, end)
        return [fault for fault in self._all[first:last] if begin <= fault.end + recovery(fault)]

    def lost_keys_or_contact(self, begin: float, end: float) -> bool:
        """Tell whether the gateway may have had to do without Redis."""
        return any(
            fault.outage and fault.target in {"redis", "both stores"} for fault in self.near(begin, end)
        )

    def killed(self, answer: Answer) -> bool:
        """Tell whether a worker was killed during a request; when it was replaced, that is over."""
        return any(
            fault.kind == "kill worker" and fault.begin <= answer.end and answer.begin <= fault.end
            for fault in self._all
        )

    def deadline(self, change: Change, *, healthy: float = HEALTHY) -> float:
        """Return when the state before the change may no longer decide; infinity when that is unknown.

        `healthy` is the bound without faults.
        """
        if change.done is None:
            return float("inf")
        near = self.near(change.sent, change.done + healthy)
        if not near:
            return change.done + healthy
        since, bound = change.done, max(map(recovery, near))
        for fault in self._all:
            if fault.begin <= since + bound and since <= fault.end + recovery(fault):
                bound = max(bound, recovery(fault))
                stores = {change.store, "both stores", "worker", *(["redis"] if change.told_to_redis else [])}
                reachable = not fault.outage or fault.target not in stores
                if not reachable:
                    since = max(since, fault.end)
        return since + bound


class Fact:
    """The states of one fact, in order. In the first, there is no revocation."""

    def __init__(self, changes: Sequence[Change], faults: Faults) -> None:
        self.changes = sorted(changes, key=lambda change: change.sent)
        self._learnt = [float("inf")]
        """The time from which a state counts even if Redis loses it. States in Postgres always do."""
        if self.redis_alone:
            self._learn(faults)
        else:
            self._learnt *= len(self.changes) + 1
        self._faults = faults
        self._codes = [None, *(change.code for change in self.changes)]
        self._sent = [float("-inf"), *(change.sent for change in self.changes)]
        self.deadlines = [
            float("-inf"),
            *(
                faults.deadline(change, healthy=LEARNT if self._is_being_learnt(index) else HEALTHY)
                for index, change in enumerate(self.changes)
            ),
        ]
        # The state before i is over with the first deadline of i or of any change after it.
        self._over = list(self.deadlines)
        for index in range(len(self._over) - 2, -1, -1):
            self._over[index] = min(self._over[index], self._over[index + 1])

    def _is_being_learnt(self, index: int) -> bool:
        """Tell whether a key is deleted that may be learnt at that moment: then its row is deleted next."""
        change, before = self.changes[index], self.changes[index - 1] if index else None
        return (
            self.redis_alone
            and change.code is None
            and before is not None
            and before.code is not None
            and change.sent - (before.done or before.sent) < LEARNT
        )

    def _learn(self, faults: Faults) -> None:
        """Find out from when on each state counts without Redis, and which changes are none, or unknown."""
        known: list[Change] = []
        for index, change in enumerate(self.changes):
            if change.lost and self._learnt[-1] <= change.sent:
                continue
            learnt = float("inf")
            if change.code is None:
                unheard = change.lost or faults.near(change.sent, (change.done or change.sent) + HEALTHY)
                known.append(replace(change, done=None) if unheard else change)
            else:
                known.append(change)
                later = self.changes[index + 1].sent if index + 1 < len(self.changes) else float("inf")
                if change.done is not None and change.done + LEARNT <= later:
                    clean = not faults.near(change.sent, change.done + LEARNT)
                    learnt = change.done + LEARNT if clean else float("inf")
            self._learnt.append(learnt)
        self.changes = known

    @cached_property
    def redis_alone(self) -> bool:
        return self.changes[0].store == "redis"

    def may_be(self, answer: Answer) -> set[str | None]:
        """Return the codes of the states by which a request may have been decided."""
        first = bisect_left(self._over, answer.begin) - 1
        last = bisect_right(self._sent, answer.end)
        codes = set(self._codes[first:last])
        learnt = max(self._learnt[first:last]) <= answer.begin
        if self.redis_alone and not learnt and self._faults.lost_keys_or_contact(answer.begin, answer.end):
            codes.add(None)
        return codes

    def must_be_since(self, answer: Answer) -> Change:
        """Return the last change that a request must have been decided by, or by a later one."""
        return self.changes[bisect_left(self._over, answer.begin) - 2]


class Checker:
    """Holds a history against the rules."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.faults = Faults(history.faults)
        by_name: dict[str, list[Change]] = defaultdict(list)
        for change in history.changes:
            by_name[change.fact].append(change)
        self.facts = {name: Fact(changes, self.faults) for name, changes in by_name.items()}
        self._about: dict[str, list[Fact]] = defaultdict(list)
        for fact in self.facts.values():
            for jti in fact.changes[0].jtis:
                self._about[jti].append(fact)

    def violations(self) -> list[Violation]:
        """Return every request that was answered against the rules, in the order of their begin."""
        answers = sorted(self._history.answers, key=lambda answer: answer.begin)
        return [violation for violation in map(self._judge, answers) if violation is not None]

    def _judge(self, answer: Answer) -> Violation | None:
        match answer.status:
            case 200:
                return self._allowed(answer)
            case 401 | 403:
                return self._denied(answer)
            case 503:
                return self._unavailable(answer)
            case 0 if self.faults.killed(answer):
                return None
            case _:
                said = f"{answer.status} {answer.code}"
                return Violation("broken", said, answer, said + self._context(answer))

    def _allowed(self, answer: Answer) -> Violation | None:
        user = self._history.users[answer.jti]
        if answer.user != user:
            why = f"the upstream was told of {answer.user}, not {user}"
            return Violation("impostor", answer.jti, answer, why)
        for fact in self._about[answer.jti]:
            if None not in fact.may_be(answer):
                change = fact.must_be_since(answer)
                assert change.done is not None, "only a change that was confirmed ends the time of another"
                why = f"{change.fact} said {change.code} since {answer.begin - change.done:.3f} s"
                return Violation("stale", change.fact, answer, why + self._context(answer))
        return None

    def _denied(self, answer: Answer) -> Violation | None:
        facts = self._about[answer.jti]
        if any(answer.code in fact.may_be(answer) for fact in facts):
            return None
        said = [change for fact in facts for change in fact.changes if change.code == answer.code]
        before = [change for change in said if change.sent <= answer.end]
        if before:
            # It did once: decided by a state that was over.
            about = before[-1].fact
            why = f"{about} was the last to say {answer.code}, and that was over"
        else:
            about = answer.jti
            why = f"nothing ever said {answer.code} of this token"
        rule: Rule = "fault_became_denial" if self._during(answer) else "refused"
        return Violation(rule, about, answer, why + self._context(answer))

    def _unavailable(self, answer: Answer) -> Violation | None:
        if self._during(answer):
            return None
        return Violation("unavailable", str(answer.code), answer, f"{answer.code}, and all was well")

    def _during(self, answer: Answer) -> list[Fault]:
        return self.faults.near(answer.begin, answer.end)

    def _context(self, answer: Answer) -> str:
        return "".join(
            f"; {fault.kind} ({fault.target}) {_ago(answer.begin - fault.begin)},"
            f" over {_ago(answer.begin - fault.end)}"
            for fault in self._during(answer)
        )


def _ago(seconds: float) -> str:
    return f"{seconds:.3f} s before" if seconds >= 0 else f"{-seconds:.3f} s after"


def check(history: History) -> list[Violation]:
    """Return every violation of the rules above; none proves that they were kept."""
    return Checker(history).violations()
