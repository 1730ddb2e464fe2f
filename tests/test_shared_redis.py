"""The turns of tests that share a Redis: those that need it alone wait, and are not overtaken."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared_redis import database, reaches_the_server

_PROGRAM = """
import sys
from tests.shared_redis import turn
with turn(alone=sys.argv[1] == "alone"):
    print("in", flush=True)
    sys.stdin.readline()
"""


def user(url: str, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 -- a program of ours
        [sys.executable, "-c", _PROGRAM, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "GATEWAY_TEST_REDIS_URL": url},
    )


def has_turn(process: "subprocess.Popen[str]", seconds: float) -> bool:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return bool(ready) and process.stdout.readline() == "in\n"


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate("\n", timeout=20)


def test_one_that_needs_redis_alone_waits_and_is_not_overtaken(tmp_path: Path) -> None:
    url = f"redis://{tmp_path.name}"
    first, second = user(url, "shared"), user(url, "shared")
    assert has_turn(first, 20)
    assert has_turn(second, 20)
    alone = user(url, "alone")
    assert not has_turn(alone, 0.5)
    later = user(url, "shared")
    end(first)
    end(second)
    assert has_turn(alone, 20)
    assert not has_turn(later, 0.3)
    end(alone)
    assert has_turn(later, 20)
    end(later)


@pytest.mark.parametrize(
    ("given", "worker", "expected"),
    [
        ("redis://h:6379", "master", "redis://h:6379/0"),
        ("redis://h:6379/3", "gw0", "redis://h:6379/3"),
        ("redis://:pw@h/3?x=y", "gw2", "redis://:pw@h/5?x=y"),
    ],
)
def test_each_process_has_a_database(given: str, worker: str, expected: str) -> None:
    assert database(given, worker) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("await client.flushall()", True),
        ('say(client, "CONFIG", "SET")', True),
        ('(await client.info("commandstats"))', True),
        ("await client.flushdb()", False),
        ("await client.set('gateway:revoked:jti:main:x', 1)", False),
    ],
)
def test_what_reaches_all_of_a_server(tmp_path: Path, text: str, *, expected: bool) -> None:
    module = tmp_path / "test_module.py"
    module.write_text(text)
    assert reaches_the_server(module) is expected
