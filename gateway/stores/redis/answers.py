"""The answers of the shared tier, as values: they know no driver, and neither do their readers."""

import math
from dataclasses import dataclass

from gateway.core.revocations import Revocations
from gateway.stores.redis.user_documents import CachedUser


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time during which no change in Postgres was missed."""

    name: str
    heartbeat: str
    """The one that last kept it alive: a worker that received it has heard of every change since."""


@dataclass(frozen=True, slots=True)
class SharedAnswer:
    """What Redis holds about one token."""

    cached: CachedUser | None
    """A fresh answer only when its epoch is `epoch`."""
    revocations: Revocations
    complete: bool
    """False: the blacklist has not been filled from Postgres, and its silence proves nothing."""
    epoch: str | None
    """The name of the epoch in force; None when there is none."""
    era: bytes = b""
    """That of Redis: until it ends, a key that is gone was deleted or has expired. Empty: it is not known."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A filling of the blacklist that has begun."""

    loading: str
    """A key that is there until it is complete, unless Redis has been emptied."""
    number: int
    """Higher than that of every filling that began before."""


def version_of(value: bytes | None) -> float:
    """Read a tombstone's version as the script does that stores users: what is no number is above all."""
    if value is None:
        return -math.inf
    try:
        return float(value)
    except ValueError:
        return math.inf


def epoch_from(value: bytes | None) -> Epoch | None:
    """Read `<name> <run of the server> <heartbeat>`; None when it is not that."""
    parts = (value or b"").decode(errors="replace").split(" ")
    return Epoch(parts[0], parts[2]) if len(parts) == 3 else None
