"""A complete gateway, tested from the outside: `checker.py` has the rules.

CONSISTENCY_SEED replays a run's schedule; CONSISTENCY_SECONDS makes it longer, as `make soak` does.
CONSISTENCY_FAULTS chooses among the faults.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.consistency.checker import FAULTY, LEARNT, Violation, check
from tests.consistency.faults import KINDS, failing
from tests.consistency.hosts import Host, NoHosts, new_host
from tests.consistency.run import play, report
from tests.consistency.tables import Tables
from tests.consistency.world import OWN, SOURCE, World, open_world
from tests.consistency.writers import cast, ended

SECONDS: Final = float(os.environ.get("CONSISTENCY_SECONDS", "25"))
_CHOSEN: Final = [
    kind
    for kind in KINDS
    if any(part in str(kind) for part in os.environ.get("CONSISTENCY_FAULTS", "").split(","))
]
"""By parts of `<name> (<target>)`, with commas between them; every kind by default."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What shows that a rule is broken."""

    people: set[str]
    """Kinds of people."""
    fault: str | None = None
    """What is done during each round."""
    seconds: float = 1.5
    """How long a round takes."""
    before: float = 0.0
    """How long nothing is done before it."""


_WORLDS: Final = 2
_ROUNDS: Final = 5
"""In each of them."""
_BREACHES: Final = {"stale", "refused", "fault_became_denial", "impostor"}
_BROKEN: Final[Mapping[str, Broken]] = {
    "revocations count": Broken({"row", "key"}),
    "memory forgets": Broken({"status"}),
    "Redis forgets": Broken({"status"}),
    "slow readers are refused": Broken({"status"}),
    "heartbeats come the way of changes": Broken({"status"}, "deaf (postgres)", FAULTY + 3.0, before=3.0),
    "pushes are proven": Broken({"key"}, "deaf (redis)", FAULTY + 3.0),
    "Redis belongs to one database": Broken({"status"}, "another database on this Redis (neighbour)"),
    "refusals are remembered": Broken({"key"}, "unplug (redis)", before=2 * LEARNT),
}
"""Rules that can be broken."""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes by Linux's /proc"),
    pytest.mark.xdist_group("consistency"),  # with --dist loadgroup, one of them at a time
]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[EmbeddedPostgres, EmbeddedRedis]]:
    """Servers for these tests alone: they are killed, frozen and emptied."""
    with EmbeddedPostgres() as postgres, EmbeddedRedis() as redis:
        yield postgres, redis


def _seed() -> str:
    return os.environ.get("CONSISTENCY_SEED") or secrets.token_hex(4)


@pytest.fixture
def host() -> Iterator[Host | None]:
    """A host for the gateway; None where the machine allows none, and it runs beside its stores."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(new_host())
        except NoHosts as reason:
            sys.stdout.write(f"no faults between hosts: {reason}\n")
            yield None


def _found(world: World) -> list[Violation]:
    """Check what befell the gateway and its neighbours, and report it."""
    violations: list[Violation] = []
    for name, history in [("", world.history), *(("neighbour: ", other) for other in world.neighbours)]:
        own = check(history)
        sys.stdout.write(name + report(history, own))
        violations += own
    return violations


@pytest.mark.timeout(SECONDS * 2 + 150)
@pytest.mark.parametrize(
    ("tables", "seconds"),
    [
        pytest.param(OWN, SECONDS, id="own tables"),
        # What lies before the triggers differs alone, so a shorter run will do.
        pytest.param(SOURCE, SECONDS if "CONSISTENCY_SECONDS" in os.environ else 12.0, id="a source"),
    ],
)
async def test_no_request_is_decided_by_an_old_state_under_any_fault(
    tables: Tables,
    seconds: float,
    servers: tuple[EmbeddedPostgres, EmbeddedRedis],
    tmp_path: Path,
    host: Host | None,
) -> None:
    people, sql, keys = cast(tables=tables)
    async with open_world(tmp_path, *servers, people, seed=_seed(), host=host, tables=tables) as world:
        await play(world, sql, keys, seconds, kinds=_CHOSEN)
    violations = _found(world)
    if violations:
        for number, history in enumerate([world.history, *world.neighbours]):
            history.save(tmp_path / f"history-{number}.json")
        sys.stdout.write(f"histories and the gateway's log: {tmp_path}\n")
    assert not violations
    # A run in which nothing happened would prove nothing.
    assert len(world.history.answers) > 20 * seconds
    assert len(world.history.changes) > 2 * seconds
    assert world.history.faults


async def test_writers_end_even_when_an_error_takes_the_place_of_their_cancellation() -> None:
    async def write() -> None:
        for _ in range(2):
            with suppress(OSError):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError as error:
                    raise ConnectionError("no ROLLBACK") from error

    writer = asyncio.create_task(write())
    await asyncio.sleep(0)
    await asyncio.wait_for(ended([writer]), 20)
    assert writer.done()


@pytest.mark.parametrize("rule", _BROKEN)
async def test_a_gateway_that_breaks_a_rule_is_found_out(
    rule: str, servers: tuple[EmbeddedPostgres, EmbeddedRedis], tmp_path: Path
) -> None:
    # Which reader is the slower one is a matter of luck, and so is when a gateway begins to trust its
    # memory: of several rounds in several worlds, one finds it.
    violations: list[Violation] = []
    for _ in range(_WORLDS):
        violations = violations or await _violations(rule, servers, tmp_path)
    assert violations
    assert {violation.rule for violation in violations} <= _BREACHES


async def _violations(
    rule: str, servers: tuple[EmbeddedPostgres, EmbeddedRedis], folder: Path
) -> list[Violation]:
    """Run a gateway that breaks a rule, until that is found or the rounds are over."""
    broken = _BROKEN[rule]
    people, sql, keys = cast(12, broken.people)
    kind = next((kind for kind in KINDS if str(kind) == broken.fault), None)
    assert (kind is None) == (broken.fault is None)
    module, env = "tests.consistency.broken", {"BREAK_RULE": rule}
    async with open_world(folder, *servers, people, seed=_seed(), module=module, env=env) as world:
        for _ in range(_ROUNDS):
            if broken.before:
                await play(world, sql, keys, broken.before, kinds=())
            async with AsyncExitStack() as stack:
                if kind is not None:
                    await stack.enter_async_context(failing(world, keys, kind, broken.seconds))
                await play(world, sql, keys, broken.seconds, kinds=())
            violations = _found(world)
            if violations:
                return violations
    return []
