"""What a worker has received from Postgres (changes and heartbeats), and the changes that Redis lacks."""

from dataclasses import dataclass, field
from typing import Final

from gateway.core.revocations import Revoked

_REMEMBERED: Final = 4096
"""Heartbeats that are kept: many times what all workers send within the lifetime of an epoch."""


@dataclass(slots=True)
class Pending:
    """The changes that Redis does not have yet: for each identity or revocation the last one."""

    identities: dict[tuple[str, str], None] = field(default_factory=dict)
    version: int = 0
    revoked: dict[tuple[str, str, str], Revoked] = field(default_factory=dict)
    everything: int | None = None

    def add(self, other: "Pending") -> None:
        """Add later changes."""
        self.identities |= other.identities
        self.version = max(self.version, other.version)
        self.revoked |= other.revoked
        if other.everything is not None:
            self.everything = max(other.everything, self.everything or 0)


@dataclass(slots=True)
class Listening:
    """A time in which this worker listens to Postgres without interruption."""

    heartbeats: dict[str, None] = field(default_factory=dict)
    """The heartbeats of this time, the latest last."""
    own: str | None = None
    """The last one that this worker sent."""
    proofs: int = 0
    """How many this worker sent. Each proves that every change before it has been received."""

    def heard(self, heartbeat: str) -> None:
        self.heartbeats[heartbeat] = None
        if len(self.heartbeats) > _REMEMBERED:
            del self.heartbeats[next(iter(self.heartbeats))]


@dataclass(slots=True)
class Joined:
    """An epoch that this worker has joined: it receives every change in it."""

    epoch: str
    kept: str
    """The last heartbeat of this worker that kept the epoch alive."""
