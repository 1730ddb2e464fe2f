"""One run: clients, writers and faults together for a while, and a report of the findings."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from tests.consistency.checker import HEALTHY, Faults, Violation
from tests.consistency.clients import hammer
from tests.consistency.faults import KINDS, STORES, Kind, inject
from tests.consistency.history import Answer, Fault, History
from tests.consistency.measure import delays, percentile
from tests.consistency.memory import Memory, watch
from tests.consistency.world import World
from tests.consistency.writers import KeyFact, SqlFact, ended, write_keys, write_sql

_SQL_WRITERS: Final = 2
_LAST_LOOK: Final = 2 * HEALTHY
"""Seconds for which clients go on when writers have ended: what is wrong for good shows then."""
_MINUTE: Final = 60.0
_SHOWN: Final = 4
"""Changes shown for a violation."""


async def play(
    world: World,
    sql: Sequence[SqlFact],
    keys: Sequence[KeyFact],
    seconds: float,
    *,
    kinds: Sequence[Kind] = KINDS,
) -> None:
    """Add to the world's history. What is done when follows from its seed; `kinds` are the faults."""
    history = world.history

    def chance(part: str) -> random.Random:
        return random.Random(f"{history.seed}:{part}")  # noqa: S311 -- a schedule to be replayed, no secret

    history.began = history.began or time.monotonic()
    async with asyncio.TaskGroup() as group:
        clients = group.create_task(hammer(world.program.url, world.people, history, chance("clients")))
        writers = [
            group.create_task(write_sql(world.dsn, own, history, chance(f"sql {number}")))
            for number in range(_SQL_WRITERS)
            if (own := sql[number::_SQL_WRITERS])
        ]
        # `make soak` tells how much memory it takes; `memory.py` judges that, without faults.
        watching = [group.create_task(watch(world, Memory(), every=_MINUTE))] if seconds >= _MINUTE else []
        if keys:
            writers.append(group.create_task(write_keys(world, keys, chance("keys"))))
        if kinds:
            await inject(world, keys, seconds, chance("faults"), kinds)
        else:
            await asyncio.sleep(seconds)
        await ended(writers)
        await asyncio.sleep(_LAST_LOOK)
        await ended([clients, *watching])


def report(history: History, violations: Sequence[Violation]) -> str:
    """Tell what was done, how soon changes were seen, and what was answered against the rules."""
    lines = [
        f"CONSISTENCY_SEED={history.seed}",
        f"{len(history.answers)} requests, {len(history.changes)} changes, {len(history.faults)} faults",
        *_answered(history),
        *(f"  {_span(history, fault)}: {fault.kind} ({fault.target})" for fault in history.faults),
        *_delays(history),
        f"{len(violations)} violations",
    ]
    by_kind: dict[tuple[str, str], list[Violation]] = defaultdict(list)
    for violation in violations:
        by_kind[violation.rule, violation.about].append(violation)
    for (rule, about), found in by_kind.items():
        first = found[0]
        lines += [
            f"  {len(found)} × {rule}, {about}; the first:",
            f"    {_told(history, first.answer)}: {first.why}",
            *_changes_before(history, first.answer),
        ]
    return "\n".join([*lines, ""])


def _answered(history: History) -> list[str]:
    counts = Counter((answer.status, answer.code or "") for answer in history.answers)
    return [f"  {count:7} × {status} {code}" for (status, code), count in sorted(counts.items())]


def _delays(history: History) -> list[str]:
    faults = Faults(history.faults)
    lines = []
    for store in STORES:
        for what, seconds in delays(history, faults, store).items():
            if seconds:
                p50, p99 = percentile(seconds, 50), percentile(seconds, 99)
                lines.append(
                    f"{store}, from commit to {what}: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms,"
                    f" worst {max(seconds) * 1000:.1f} ms of {len(seconds)} changes without a fault"
                )
    return lines


def _told(history: History, answer: Answer) -> str:
    lasted = (answer.end - answer.begin) * 1000
    return f"{answer.begin - history.began:.3f} s, {answer.jti}, {answer.status} in {lasted:.1f} ms"


def _changes_before(history: History, answer: Answer) -> list[str]:
    """Return the last changes that were about the token of a request."""
    about = [change for change in history.changes if answer.jti in change.jtis and change.sent <= answer.end]
    lines = []
    for change in sorted(about, key=lambda change: change.sent)[-_SHOWN:]:
        outcome = "unknown" if change.done is None else f"done {change.done - history.began:.3f} s"
        sent = f"sent {change.sent - history.began:.3f} s"
        lines.append(f"      {change.fact} → {change.code}: {sent}, {outcome}")
    return lines


def _span(history: History, fault: Fault) -> str:
    return f"{fault.begin - history.began:7.2f} s … {fault.end - history.began:7.2f} s"
