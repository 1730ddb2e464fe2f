"""The configuration of the gateway that an explanation is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.model import Credential, Issuer, Route
from gateway.core.shadow import Shadow
from gateway.core.tokens.introspection import Introspected
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.sources import LoadedKeys


@dataclass(frozen=True, slots=True)
class Login:
    """Where and as whom the gateway connects to Postgres, without the password."""

    address: str
    """Hosts and ports."""
    user: str | None = None
    database: str | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings that an explanation needs. Durations are seconds."""

    issuers: Sequence[Issuer]
    """In the order of the configuration, like the routes: fixes name their positions in it."""
    routes: Sequence[Route]
    local_ttl: float = 30.0
    user_ttl: float = 300.0
    negative_ttl: float = 5.0
    stale_if_error: float = 300.0
    creation_grace: float = 10.0
    unchecked_allowed: bool = False
    """`revocation.on_unavailable: allow`."""
    prefix: str = "gateway:"
    """The prefix of every key in Redis."""
    schema: str = "public"
    """The schema of the tables."""
    postgres: Login | None = None
    config: str | None = None
    """The configuration file that commands name; None if they name none."""
    shadow: Shadow | None = None
    """What is in shadow; None if nothing is."""


class Introspector(Protocol):
    """The issuers of opaque tokens, which are asked about each (RFC 7662)."""

    names: frozenset[str]
    """Their configured names."""

    def issuer_of(self, raw: bytes) -> Issuer | None:
        """Return the issuer to ask about a token; None if its own `iss` says whose it is."""

    async def introspect(self, issuer: Issuer, credential: Credential) -> Introspected:
        """Ask, or remember. Raises `Denial`."""

    def last_error(self, issuer_name: str) -> str | None:
        """Return why the latest call failed; None if it did not."""
        ...


class Keys(Protocol):
    """The issuers' keys and their status. `KeyRing` implements it."""

    def current(self, realm: str) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""

    async def look(self, realm: str) -> LoadedKeys:
        """Fetch the issuer's keys without storing them. Raises `FetchError`."""

    def status(self) -> Mapping[str, KeyStatus]:
        """Return the status of the keys by realm."""
        ...
