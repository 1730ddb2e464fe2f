"""The issuers' keys for one explanation."""

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.tokens import KeySet
from gateway.explain.setup import Keys
from gateway.issuer_keys.fetch import FetchError
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.sources import LoadedKeys


class ColdKeys:
    """The keys of the process, and those that a request would fetch, which are kept only here.

    Implements the pipeline's `Keys`. It neither starts nor respects a worker's cool-down.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._fetched: dict[str, LoadedKeys | FetchError] = {}

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust now; None if there are none."""
        fetched = self._fetched.get(issuer_name)
        return fetched.keys if isinstance(fetched, LoadedKeys) else self._keys.current(issuer_name)

    async def refresh(self, issuer_name: str, kid: str | None = None, algorithm: str = "") -> bool:  # noqa: ARG002 -- of the Protocol; each key causes the same fetch
        """Fetch the key set once, if it lacks the key; return whether the key does not exist."""
        if issuer_name not in self._fetched:
            try:
                self._fetched[issuer_name] = await self._keys.look(issuer_name)
            except FetchError as error:
                self._fetched[issuer_name] = error
        return self.heard(issuer_name) and not self.left_out(issuer_name, kid)

    def heard(self, issuer_name: str) -> bool:
        """Return whether the issuer answered. Then a key that the set lacks does not exist."""
        return not isinstance(self._fetched.get(issuer_name), FetchError)

    def left_out(self, issuer_name: str, kid: str | None) -> bool:
        """Return whether the issuer publishes the key, but after more keys than the gateway keeps."""
        return kid in self.status()[issuer_name].left_out_kids

    def is_ahead(self, issuer_name: str) -> bool:
        """Return whether fetched keys replace the keys of the process."""
        return (
            isinstance(self._fetched.get(issuer_name), LoadedKeys)
            and self._keys.current(issuer_name) is not None
        )

    def status(self) -> Mapping[str, KeyStatus]:
        """Return the status of the keys by issuer name."""
        return {
            name: self._told(status, self._fetched.get(name)) for name, status in self._keys.status().items()
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
                    ready=True,
                    keys=keys,
                    age=0.0,
                    last_error=None,
                    skipped=fetched.skipped,
                    left_out=fetched.left_out,
                    left_out_kids=fetched.left_out_kids,
                )
