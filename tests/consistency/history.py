"""The history as values: each request, change and fault, on one monotonic clock."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

Store: TypeAlias = Literal["postgres", "redis"]
Target: TypeAlias = Literal["postgres", "redis", "both stores", "worker", "neighbour"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and what became of it. Times are seconds."""

    begin: float
    """Before its first byte was sent."""
    end: float
    """After its answer had been read, or it was given up."""
    jti: str
    status: int
    """0: there was no answer."""
    code: str | None = None
    """The reason of a denial; of a broken connection, what broke it."""
    user: str | None = None
    """As whom the request reached the upstream."""


ROW: Final = "revocations row of "
"""How the facts begin that are rows of `revocations`."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that was made to refuse some tokens, or to stand against them no longer.

    Facts are independent of each other: the status of a user, one row of `revocations`, one key in
    Redis. Nothing stands against a token before the first change.
    """

    fact: str
    store: Store
    """Where it is recorded."""
    jtis: frozenset[str]
    """The tokens it is about."""
    code: str | None
    """The reason for which they are refused; None: for none."""
    sent: float
    """Before the change was sent."""
    done: float | None
    """After its commit had been confirmed; None when it never was: it may hold, or not."""
    lost: bool = False
    """True if it was not intended: Redis has lost the key."""

    @property
    def told_to_redis(self) -> bool:
        """True for a row that is lifted: until Redis can be told, its blacklist holds the key."""
        return self.store == "postgres" and self.code is None and self.fact.startswith(ROW)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to the gateway's world."""

    kind: str
    target: Target
    begin: float
    end: float
    """When all was as before: connected, running, answering."""
    outage: bool = True
    """True when the gateway could not reach the store meanwhile, or lost its connections."""
    harmless: bool = False
    """True when the gateway must answer as if nothing had been done."""


@dataclass(slots=True)
class History:
    """Everything that was recorded in one run."""

    seed: str
    users: Mapping[str, str]
    """jti → id of the user whose token it is."""
    began: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write everything as JSON, to be looked at."""
        path.write_text(json.dumps(asdict(self), default=sorted))
