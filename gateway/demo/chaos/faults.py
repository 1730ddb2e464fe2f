"""The faults of `gateway demo --chaos`, one after the other."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.demo.chaos.link import Link


@dataclass(frozen=True, slots=True)
class Targets:
    """What can fail."""

    postgres: Link
    redis: Link
    supervisor: int
    """The process id of `gateway run`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    name: str
    title: str
    explained: str
    """What it stands for, and what the gateway does meanwhile."""
    apply: Callable[[Targets], AbstractAsyncContextManager[None]]
    """Lasts as long as the context."""
    hides_changes: bool = False
    """Whether the gateway cannot learn of changes in Postgres before its end."""
    breaks_connections: bool = False
    """Whether clients of one worker lose theirs."""


@asynccontextmanager
async def _redis_frozen(targets: Targets) -> AsyncIterator[None]:
    targets.redis.freeze()
    try:
        yield
    finally:
        targets.redis.thaw()


@asynccontextmanager
async def _redis_gone(targets: Targets) -> AsyncIterator[None]:
    await targets.redis.pull()
    try:
        yield
    finally:
        await targets.redis.plug()


@asynccontextmanager
async def _postgres_gone(targets: Targets) -> AsyncIterator[None]:
    await targets.postgres.pull()
    try:
        yield
    finally:
        await targets.postgres.plug()


@asynccontextmanager
async def _both_gone(targets: Targets) -> AsyncIterator[None]:
    async with _redis_gone(targets), _postgres_gone(targets):
        yield


@asynccontextmanager
async def _worker_killed(targets: Targets) -> AsyncIterator[None]:
    os.kill(min(_children(targets.supervisor)), signal.SIGKILL)
    yield


@asynccontextmanager
async def _notifications_lost(targets: Targets) -> AsyncIterator[None]:
    links = (targets.postgres, targets.redis)
    for link in links:
        link.deaf = True
    try:
        yield
    finally:
        for link in links:
            link.deaf = False


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if listed.exists():
        return [int(child) for child in listed.read_text().split()]
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607 -- the system's own
    return [int(child) for child in found.stdout.split()]


FAULTS: Final = (
    Fault(
        "redis-frozen",
        "Redis frozen",
        "it keeps all connections and answers nothing. Postgres answers",
        _redis_frozen,
    ),
    Fault("redis-gone", "Redis gone", "connections are refused. Postgres answers", _redis_gone),
    Fault(
        "postgres-gone",
        "Postgres gone",
        "Redis answers for the users that it knows, marked stale; others get 503",
        _postgres_gone,
        hides_changes=True,
    ),
    Fault(
        "both-gone",
        "both gone",
        "no revocation can be checked, so all requests get 503",
        _both_gone,
        hides_changes=True,
    ),
    Fault(
        "worker-killed",
        "worker killed",
        "its connections break, another worker goes on, a new one starts",
        _worker_killed,
        breaks_connections=True,
    ),
    Fault(
        "notifications-lost",
        "changes lost",
        "connections live, but no change arrives. Heartbeats miss it, and the stores are asked",
        _notifications_lost,
    ),
)
