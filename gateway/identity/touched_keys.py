"""Notifications of touched keys from Redis: memory drops the entries that the key is about."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from gateway.core.revocations import Target
from gateway.identity import outages
from gateway.identity.local_cache import LocalCache
from gateway.stores.redis.keys import Keys

Source: TypeAlias = Literal["postgres", "redis"]


class Observer(Protocol):
    """Counts changes."""

    def invalidated(self, source: Source) -> None: ...


class Invalidator(Protocol):
    """Decides whether memory may be trusted."""

    def judge(self) -> None:
        """Decide anew."""

    def tell(self) -> None:
        """Tell the subscribers that entries were dropped."""


class TouchedKeys:
    """Implements `change_stream.KeysListener`: entries whose keys others write in Redis are dropped here."""

    def __init__(
        self,
        owner: Invalidator,
        local: LocalCache,
        issuers: Mapping[str, str],
        keys: Keys,
        observer: Observer,
        revoked: Callable[[Target], None] = lambda _: None,
    ) -> None:
        """`revoked` is called with the target of each touched key of a revocation."""
        self._revoked = revoked
        self.up = False
        """Whether Redis notifies this worker of every touched key."""
        self._owner = owner
        self._local = local
        self._issuers = issuers
        self._keys = keys
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
                self._drop(key)
        self._owner.tell()

    def _drop(self, key: str) -> None:
        match self._keys.read(key):
            case ("tombstone", name, subject):
                if name in self._issuers:
                    self._local.forget_identities([(self._issuers[name], subject)])
            case ("jti", name, jti):
                self._local.forget_tokens([(name, jti)])
                self._revoked(("jti", name, jti))
            case ("user", _, user_id):
                self._local.forget_users([user_id])
                self._revoked(("user", "", user_id))
            case ("issuer", name, _):
                self._local.forget_issuers([name])
                self._revoked(("issuer", name, ""))
