"""The answers of the shared tier as values, independent of the driver."""

import math
from dataclasses import dataclass
from functools import lru_cache

from gateway.core.revocations import Revocations
from gateway.stores.redis.user_documents import CachedUser


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time in which no change in Postgres was missed."""

    name: str
    heartbeat: str
    """The heartbeat that last kept it alive. A worker that received it has missed no change since."""


@dataclass(frozen=True, slots=True)
class SharedAnswer:
    """The entries in Redis for one token."""

    cached: CachedUser | None
    """It is a fresh answer only if its epoch is `epoch`."""
    revocations: Revocations
    complete: bool
    """False: the blacklist has not been filled from Postgres, so a missing entry proves nothing."""
    epoch: str | None
    """The name of the current epoch; None if there is none."""
    era: bytes = b""
    """The era of Redis: while it lasts, missing keys were deleted or have expired. Empty: it is not known."""
    user_id: str | None = None
    """Whose revocation is `revocations.user_at`; None: no user's was read."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A fill of the blacklist that has begun."""

    loading: str
    """A key that exists until the fill is complete, unless Redis is emptied."""
    number: int
    """Higher than the numbers of all earlier fills."""


def version_of(value: bytes | None) -> float:
    """Parse a tombstone's version like the script that stores users: text without a number is above all."""
    if value is None:
        return -math.inf
    try:
        return float(value)
    except ValueError:
        return math.inf


@lru_cache(maxsize=4)
def epoch_from(value: bytes | None) -> Epoch | None:
    """Parse `<name> <run of the server> <heartbeat>`; None if the text is different."""
    parts = (value or b"").decode(errors="replace").split(" ")
    return Epoch(parts[0], parts[2]) if len(parts) == 3 else None
