"""The issuers' keys for one explanation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.core.tokens.jws import KeySet
from gateway.explain.setup import Keys
from gateway.issuer_keys.fetch import FetchError, UnknownIssuer
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.sources import LoadedKeys

_NOTHING: Final = KeyStatus(
    ready=False, keys=0, age=None, last_error=None, skipped=(), left_out=0, withdrawn={}
)


class ColdKeys:
    """The keys of the process, and those that a request would fetch, which are kept only here.

    Implements the pipeline's `Keys`. It neither starts nor respects a worker's cool-down.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._fetched: dict[str, LoadedKeys | FetchError] = {}

    def current(self, realm: str) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""
        fetched = self._fetched.get(realm)
        return fetched.keys if isinstance(fetched, LoadedKeys) else self._keys.current(realm)

    async def refresh(self, realm: str, kid: str | None = None, algorithm: str = "") -> bool:  # noqa: ARG002 -- of the Protocol; each key causes the same fetch
        """Fetch the key set once, if it lacks the key; return whether the key does not exist."""
        if realm not in self._fetched:
            try:
                self._fetched[realm] = await self._keys.look(realm)
            except FetchError as error:
                self._fetched[realm] = error
        return self.heard(realm) and not self.left_out(realm, kid)

    def heard(self, realm: str) -> bool:
        """Return whether the issuer answered. Then a key that the set lacks does not exist."""
        fetched = self._fetched.get(realm)
        if isinstance(fetched, FetchError):
            return self.is_no_tenant(realm)
        return fetched is None or not fetched.unheard

    def is_no_tenant(self, realm: str) -> bool:
        """Return whether the issuer said that it does not have this tenant."""
        unlisted = realm not in self._keys.status()
        return unlisted and isinstance(self._fetched.get(realm), UnknownIssuer)

    def left_out(self, realm: str, kid: str | None) -> bool:
        """Return whether the issuer publishes the key, but after more keys than the gateway keeps."""
        return kid in self.status()[realm].left_out_kids

    def is_ahead(self, realm: str) -> bool:
        """Return whether fetched keys replace the keys of the process."""
        return isinstance(self._fetched.get(realm), LoadedKeys) and self._keys.current(realm) is not None

    def status(self) -> Mapping[str, KeyStatus]:
        """Return the status of the keys by realm."""
        known = self._keys.status()
        unknown = dict.fromkeys(self._fetched.keys() - known.keys(), _NOTHING)
        return {
            name: self._told(status, self._fetched.get(name)) for name, status in {**known, **unknown}.items()
        }

    def _told(self, status: KeyStatus, fetched: LoadedKeys | FetchError | None) -> KeyStatus:
        match fetched:
            case None:
                return status
            case FetchError():
                return replace(status, last_error=str(fetched))
            case LoadedKeys():
                keys = len(fetched.keys.keys)
                return replace(
                    status,
                    ready=keys > 0,
                    keys=keys,
                    age=0.0,
                    last_error="; ".join(fetched.unheard) or None,
                    skipped=fetched.skipped,
                    left_out=fetched.left_out,
                    left_out_kids=fetched.left_out_kids,
                )
