"""Memory growth: the criterion, and a run under every kind of load.

`make soak-memory` runs it for `MEMORY_SECONDS`; without these it is skipped. `MEMORY_TRACE` names a folder
for the reports of Python's tracemalloc about each worker, minute by minute. That makes the gateway slower.
"""

import asyncio
import os
import random
import secrets
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from tests import tokens
from tests.consistency.memory import Memory, told, watch
from tests.consistency.mixed_load import Load, answer, cached, summary
from tests.consistency.world import ISSUER_NAME, Person, open_world
from tests.consistency.writers import ended
from tests.issuer_keys.issuer import serving

SECONDS: Final = float(os.environ.get("MEMORY_SECONDS", "0"))
_UNKNOWN: Final = int(os.environ.get("MEMORY_UNKNOWN", "100000"))
_USERS: Final = 300
_MIB: Final = 1024 * 1024

GROWING: Final = [50 * _MIB + 20_000 * second for second in range(600)]


@pytest.fixture
def chance() -> random.Random:
    return random.Random("memory")  # noqa: S311 -- no secret


def series(chance: random.Random, sizes: list[int]) -> Memory:
    """Compose a record of one process, a sample each second, that goes up and down by some pages."""
    times = [float(second) for second in range(len(sizes))]
    return Memory(times, {"worker": [size + 4096 * chance.randrange(-20, 20) for size in sizes]})


def test_what_grows_all_the_time_is_found(chance: random.Random) -> None:
    memory = series(chance, GROWING)
    assert memory.still_growing()["worker"] == pytest.approx(300 * 20_000, rel=0.1)


def test_what_grows_slowly_is_found_in_a_run_that_is_long(chance: random.Random) -> None:
    # Sixty bytes for each of 28 tokens a second.
    slowly = [60 * _MIB + 28 * 60 * second for second in range(3600)]
    assert series(chance, slowly).still_growing()
    assert not series(chance, slowly[:300]).still_growing()


def test_what_has_stopped_growing_is_not(chance: random.Random) -> None:
    warm = [min(size, GROWING[250]) for size in GROWING]
    assert not series(chance, warm).still_growing()


@pytest.mark.parametrize("at", [310, 380, 450, 520, 590])
def test_one_step_is_no_growth(chance: random.Random, at: int) -> None:
    steps = [50 * _MIB + (4 * _MIB if second > at else 0) for second in range(600)]
    assert not series(chance, steps).still_growing()


def test_what_is_given_back_is_no_growth(chance: random.Random) -> None:
    saw = [50 * _MIB + 100_000 * (second % 60) for second in range(600)]
    assert not series(chance, saw).still_growing()
    growing = [size + 20_000 * second for second, size in enumerate(saw)]
    assert series(chance, growing).still_growing()


def test_an_ended_process_is_left_out() -> None:
    memory = Memory()
    me = os.getpid()
    memory.sample({"me": [me], "one": [me]})
    memory.sample({"me": [me], "other": [me]})
    assert list(memory.sizes) == ["me"]
    assert len(memory.sizes["me"]) == len(memory.times) == 2


@pytest.fixture
def servers() -> Iterator[tuple[EmbeddedPostgres, EmbeddedRedis]]:
    with EmbeddedPostgres() as postgres, EmbeddedRedis() as redis:
        yield postgres, redis


@pytest.mark.skipif(SECONDS == 0, reason="takes its time: `make soak-memory`")
@pytest.mark.timeout(SECONDS * 3 + 300)
async def test_memory_stops_growing_under_load_of_every_kind(
    servers: tuple[EmbeddedPostgres, EmbeddedRedis], tmp_path: Path
) -> None:
    seed = os.environ.get("CONSISTENCY_SEED") or secrets.token_hex(4)
    trace = os.environ.get("MEMORY_TRACE", "")
    people = [Person(f"member-{number}") for number in range(_USERS)]
    memory = Memory()
    async with serving() as issuer:
        issuer.publish(tokens.ed25519_key("main-ed").jwk())
        async with open_world(
            tmp_path, *servers, people, seed=seed, script=answer,
            module="tests.consistency.traced" if trace else "gateway", env={"MEMORY_TRACE": trace},
            issuers=[
                {
                    "name": ISSUER_NAME,
                    "issuer": tokens.ISSUER,
                    "audiences": [tokens.AUDIENCE],
                    "keys": {"jwks_uri": f"{issuer.url}/jwks"},
                }
            ],
            # Small, so that they are full soon.
            cache={"max_users": 1000, "max_tokens": 1000, "local_ttl": "5s", "negative_ttl": "2s"},
        ) as world:  # fmt: skip
            load = Load(world, SECONDS, _UNKNOWN, random.Random(seed))  # noqa: S311 -- no secret
            sys.stdout.write(f"CONSISTENCY_SEED={seed}, {_UNKNOWN} unknown tokens in {SECONDS:g} s\n")
            watching = asyncio.create_task(watch(world, memory, extra=partial(cached, world)))
            await load.run()
            await ended([watching])
    sys.stdout.write(
        "\n".join([*summary(load), f"grown in the second half, MiB: {told(memory.grown())}", ""])
    )
    assert load.sent == _UNKNOWN
    assert not load.unexpected
    assert sum(load.failures.values()) == 0, load.failures
    still = memory.still_growing()
    assert not {name for name in still if name.startswith(("supervisor", "worker"))}, told(still)
