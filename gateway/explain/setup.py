"""What an explanation needs to know of the gateway that it explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.model import Issuer, Route
from gateway.core.tokens import KeySet
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.sources import LoadedKeys


@dataclass(frozen=True, slots=True)
class Setup:
    """How the gateway is configured, as far as an explanation goes. Durations are seconds."""

    issuers: Sequence[Issuer]
    """In the order of the configuration, as are the routes: fixes name their places in it."""
    routes: Sequence[Route]
    local_ttl: float = 30.0
    user_ttl: float = 300.0
    negative_ttl: float = 5.0
    stale_if_error: float = 300.0
    creation_grace: float = 10.0
    unchecked_allowed: bool = False
    """`revocation.on_unavailable: allow`."""
    prefix: str = "gateway:"
    """In front of every key in Redis."""
    schema: str = "public"
    """Of the tables."""
    config: str | None = None
    """The configuration file to name in commands; None names none."""


class Keys(Protocol):
    """The issuers' keys, and how things stand with them; `KeyRing` is one."""

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust at this moment; None when there are none that may be trusted."""

    async def look(self, issuer_name: str) -> LoadedKeys:
        """Fetch the issuer's keys without taking note of them. Raises `FetchError`."""

    def status(self) -> Mapping[str, KeyStatus]:
        """Tell how things stand, by issuer name."""
        ...
