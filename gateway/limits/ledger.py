"""What Redis is asked, and what it answers: the seam between `lease_manager` and `gateway.stores`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.limits.rules import Kind

LEASE_SECONDS: Final = 4.0
"""How long a worker may spend a lease. It is on record in Redis for at least that, and at most twice that."""


@dataclass(slots=True)
class Ask:
    """A worker's account of one lease, and its wish for the next one. All numbers are tokens.

    It is never changed; one that is frozen takes three times as long to make, and each lease makes one.
    """

    limit: str
    subject: str
    period: str
    """Of a quota: the name of its day or month. Else empty."""
    kind: Kind
    capacity: int
    interval: float
    """Of a rate: the seconds in which one token comes."""
    ends: float
    """Of a quota: the Unix time at which its period ends."""
    want: int
    """For requests that wait."""
    ahead: int
    """For requests to come."""
    registered: int
    """What the last lease is on record with."""
    epoch: int
    """When it was put on record."""
    keep: int
    """What is kept of it."""
    back: int
    """What is given back of it."""
    debt: int
    """Spent without a lease, while Redis did not answer."""
    seed: int
    """Of a quota: what has been spent at least, to the worker's knowledge. -1: it does not know."""
    era: str
    """The name of the time since which Redis has lost nothing."""


@dataclass(slots=True)
class Grant:
    """The answer to an `Ask`. It is never changed, either."""

    granted: int
    """Of `want`."""
    ahead: int
    """Of `ahead`."""
    epoch: int
    left: int
    """The tokens that are left in Redis after that."""
    wait: float
    """Seconds until the next token, if fewer than wanted were granted."""
    unknown: bool = False
    """Of a quota: Redis does not have it, and the worker gave no `seed`. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat."""

    now: float
    """The clock of Redis, in Unix seconds."""
    era: str
    workers: int
    """How many there are, this one included."""
    rank: int
    """The place of this one among them, from 0."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What has been spent of a quota."""

    limit: str
    subject: str
    period: str
    used: int
    ends: float
    """Unix seconds."""


class Ledger(Protocol):
    """The budgets in Redis. Every method raises `StoreUnavailable`."""

    async def beat(self, worker: str) -> Beat:
        """Tell that a worker lives."""

    async def lease(self, ask: Ask) -> Grant | None:
        """Settle one lease and take the next one; None: Redis has lost what it knew, and nothing was done."""

    async def leave(self, worker: str) -> None:
        """Tell that a worker ends."""


class Usages(Protocol):
    """What has been spent of quotas, in the system of record. Every method raises `StoreUnavailable`."""

    async def used(self, limit: str, subject: str, period: str) -> int:
        """Return what had been spent at the last `save`."""

    async def save(self, usages: Sequence[Usage]) -> None:
        """Store what has been spent; a larger number stays."""
