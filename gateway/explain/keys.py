"""The issuers' keys as one explanation sees them."""

from collections.abc import Mapping
from dataclasses import replace

from gateway.core.tokens import KeySet
from gateway.explain.setup import Keys
from gateway.issuer_keys.fetch import FetchError
from gateway.issuer_keys.issuer import KeyStatus
from gateway.issuer_keys.sources import LoadedKeys


class ColdKeys:
    """What a process has, and what a request would have it fetch; that is kept here alone.

    Implements the pipeline's `Keys`. The cool-down of a worker is neither used up nor respected.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._fetched: dict[str, LoadedKeys | FetchError] = {}

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust at this moment; None when there are none that may be trusted."""
        fetched = self._fetched.get(issuer_name)
        return fetched.keys if isinstance(fetched, LoadedKeys) else self._keys.current(issuer_name)

    async def refresh(self, issuer_name: str, kid: str | None = None, algorithm: str = "") -> bool:  # noqa: ARG002 -- the Protocol's: any key causes the same fetch
        """Look for keys that are not in the set, once; returns whether one of that name does not exist."""
        if issuer_name not in self._fetched:
            try:
                self._fetched[issuer_name] = await self._keys.look(issuer_name)
            except FetchError as error:
                self._fetched[issuer_name] = error
        return self.heard(issuer_name) and not self.left_out(issuer_name, kid)

    def heard(self, issuer_name: str) -> bool:
        """Tell whether what is missing in the set does not exist: the issuer was not asked in vain."""
        return not isinstance(self._fetched.get(issuer_name), FetchError)

    def left_out(self, issuer_name: str, kid: str | None) -> bool:
        """Tell whether a key of that name is published, and was not looked at: there are too many."""
        return kid in self.status()[issuer_name].left_out_kids

    def is_ahead(self, issuer_name: str) -> bool:
        """Tell whether keys were fetched in place of others that the process has."""
        return (
            isinstance(self._fetched.get(issuer_name), LoadedKeys)
            and self._keys.current(issuer_name) is not None
        )

    def status(self) -> Mapping[str, KeyStatus]:
        """Tell how things stand, by issuer name."""
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
