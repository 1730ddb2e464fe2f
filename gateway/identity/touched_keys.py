"""What is done when Redis tells that somebody has touched a key: memory drops what the key is about."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from gateway.core.revocations import Target
from gateway.identity import outages
from gateway.identity.local_cache import LocalTier

Source: TypeAlias = Literal["postgres", "redis"]


class Observer(Protocol):
    """Counts changes."""

    def invalidated(self, source: Source) -> None: ...


class Owner(Protocol):
    """Who decides whether memory may be trusted."""

    def judge(self) -> None:
        """Look again at what that rests on."""

    def tell(self) -> None:
        """Let it be known that something was dropped."""


class TouchedKeys:
    """Implements `tracking.KeysListener`: what others write to Redis is dropped here."""

    def __init__(
        self,
        owner: Owner,
        local: LocalTier,
        issuers: Mapping[str, str],
        prefix: str,
        observer: Observer,
        revoked: Callable[[Target], None] = lambda _: None,
    ) -> None:
        """`revoked` is told of each key of a revocation."""
        self._revoked = revoked
        self.up = False
        """Whether Redis tells of every key that is touched."""
        self.prefixes = (f"{prefix}tombstone:", f"{prefix}revoked:")
        self._owner = owner
        self._local = local
        self._issuers = issuers
        self._prefix = prefix
        self._outages = outages.of_stream("redis")
        self._observer = observer

    def tracking(self) -> None:
        self.up = True
        self._owner.judge()

    def proven(self) -> None:
        self._outages.proven()

    def lost(self, detail: str) -> None:
        self._outages.failed(detail)
        self.up = False
        self._owner.judge()

    def touched(self, keys: Sequence[str] | None) -> None:
        self._observer.invalidated("redis")
        if keys is None:
            self._local.flush()
        else:
            for key in keys:
                self._drop(*key.removeprefix(self._prefix).partition(":")[::2])
        self._owner.tell()

    def _drop(self, kind: str, rest: str) -> None:
        """Drop what `<kind>:<rest>` is about; the name of an issuer has no colon, a subject may."""
        if kind == "tombstone":
            name, _, subject = rest.partition(":")
            if name in self._issuers:
                self._local.forget_identities([(self._issuers[name], subject)])
            return
        of, _, what = rest.partition(":")
        match of:
            case "jti":
                name, _, jti = what.partition(":")
                self._local.forget_tokens([(name, jti)])
                self._revoked(("jti", name, jti))
            case "user":
                self._local.forget_users([what])
                self._revoked(("user", "", what))
            case "issuer":
                self._local.forget_issuers([what])
                self._revoked(("issuer", what, ""))
