"""The limits as values. A limit has one kind: a rate, a quota, or a number of requests at the same time."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from gateway.core.conditions import Condition

Kind: TypeAlias = Literal["rate", "quota", "concurrency"]
Audience: TypeAlias = Literal["all", "authenticated", "anonymous", "failed"]
"""The requests that count: those with a user, those without credentials, or failed authentications."""
Unit: TypeAlias = Literal["day", "month"]

SPARE: Final = 0.05
"""The part of a budget that all workers together may hold in advance."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One configured limit."""

    name: str
    per: str
    """`user`, `tenant`, `issuer`, `client`, `route`, or `claims.` and a path."""
    kind: Kind
    amount: int
    """How many requests: in each `period` of a rate, in each `unit` of a quota, at the same time."""
    period: float = 1.0
    """Of a rate: seconds."""
    burst: int = 1
    """Of a rate: how many requests may come at once."""
    unit: Unit = "day"
    """Of a quota."""
    time_zone: str = "UTC"
    """Of a quota: where its days and months begin."""
    routes: frozenset[str] = frozenset()
    """The names of the routes that it is for; empty: all."""
    counts: Audience = "all"
    when: Condition | None = None
    """Only requests that meet it count."""
    shadow: bool = False
    """Whether it only counts what it would refuse."""
    slack: float = 0.1
    """The part of the limit that may be admitted in addition when Redis fails."""

    capacity: int = field(init=False)
    """The most tokens that there are at once."""
    interval: float = field(init=False)
    """Of a rate: the seconds in which one token comes."""

    def __post_init__(self) -> None:
        # Each response reads them.
        object.__setattr__(self, "capacity", self.burst if self.kind == "rate" else self.amount)
        object.__setattr__(self, "interval", self.period / self.amount)

    @property
    def extra(self) -> int:
        """The tokens that all workers together may admit in addition when Redis fails."""
        return int(self.slack * self.capacity)

    def is_for(self, route: str) -> bool:
        return not self.routes or route in self.routes
