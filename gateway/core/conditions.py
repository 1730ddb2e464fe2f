"""Conditions of routes, as the policy knows them: `gateway.conditions` has what they say.

A condition that reads token and user alone is part of the decision on them. One that also reads the request,
the client or the time is evaluated for each request, and nothing of its verdict is remembered.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the model knows conditions, and conditions its words
    from gateway.core.model import JSON, Claims, Request, Route, User
    from gateway.core.requests.asked import Asked


class Missing(Enum):
    """The value of a field that is not there; null is one that is."""

    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Reading:
    """One field that a condition reads."""

    path: str
    root: str
    """`user`, `claims`, `request`, `client` or `now`."""
    value: "JSON | Missing"


class RequestCheck(Protocol):
    """A condition for one token and user."""

    def __call__(self, request: "Request", route: "Route") -> None:
        """Raise a `Denial` unless it holds for this request of the route."""


class Condition(Protocol):
    """What a route requires beyond names: an expression that must be true."""

    @property
    def text(self) -> str:
        """As it stands in the configuration."""

    @property
    def per_request(self) -> bool:
        """Whether it reads the request, the client or the time."""

    @property
    def reads_now(self) -> bool:
        """Whether time alone may change its verdict."""

    @property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """Each path that it reads: `("user", "attributes", "plan")`."""

    @property
    def claims_read(self) -> frozenset[str]:
        """The names of claims that must be kept of tokens' payloads for it."""

    def check(self, claims: "Claims | None", user: "User | None") -> None:
        """Raise a `Denial` unless it holds. Only for one that is not `per_request`.

        Without a user, or without a token, the fields that it reads of these are missing.
        """

    def prepare(self, claims: "Claims | None", user: "User | None") -> RequestCheck:
        """Return the check for each request of this token and user. Only for one that is `per_request`."""

    def readings(
        self, claims: "Claims | None", user: "User | None", asked: "Asked | None"
    ) -> tuple[Reading, ...]:
        """Return what it reads, for explanations."""


class Computed(Protocol):
    """A value of an identity header that is computed from token and user."""

    @property
    def claims_read(self) -> frozenset[str]:
        """The names of claims that must be kept of tokens' payloads for it."""

    def header(self, claims: "Claims", user: "User | None") -> "JSON":
        """Return the value; None if there is none, as when it reads a field that is missing."""
