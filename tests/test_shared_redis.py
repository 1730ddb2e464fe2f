"""The turns of tests that share a Redis: those that need it alone wait, and are not overtaken."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.shared_redis import database, reaches_the_server

_REPOSITORY: Final = Path(__file__).parent.parent
_PROGRAM: Final = """
import sys
from tests.shared_redis import turn
with turn(alone=sys.argv[1] == "alone"):
    print("in", flush=True)
    sys.stdin.readline()
"""


User: TypeAlias = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """Starts processes that wait for their turn: `alone` or `shared`."""
    with ExitStack() as stack:

        def start(how: str) -> "subprocess.Popen[str]":
            process = stack.enter_context(
                subprocess.Popen(  # noqa: S603 -- a program of ours
                    [sys.executable, "-c", _PROGRAM, how],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=_REPOSITORY,
                    env={**os.environ, "GATEWAY_TEST_REDIS_URL": f"redis://{tmp_path.name}"},
                )
            )
            stack.callback(process.kill)
            return process

        yield start


def has_turn(process: "subprocess.Popen[str]", seconds: float) -> bool:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    if not ready:
        return False
    assert process.stdout.readline() == "in\n", process.poll()
    return True


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate("\n", timeout=60)


def test_one_that_needs_redis_alone_waits_and_is_not_overtaken(user: User) -> None:
    first, second = user("shared"), user("shared")
    assert has_turn(first, 60)
    assert has_turn(second, 60)
    alone = user("alone")
    assert not has_turn(alone, 0.5)
    later = user("shared")
    end(first)
    end(second)
    assert has_turn(alone, 60)
    assert not has_turn(later, 0.3)
    end(alone)
    assert has_turn(later, 60)
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
def test_commands_that_concern_a_whole_server(tmp_path: Path, text: str, *, expected: bool) -> None:
    module = tmp_path / "test_module.py"
    module.write_text(text)
    assert reaches_the_server(module) is expected
