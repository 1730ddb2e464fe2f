"""The signing keys that all gateways share, as this process knows them.

Each process reads the keys again and again, several times while a new one is published but does not sign. If
they cannot be read, it goes on with those that it has.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from gateway.core import assertion
from gateway.core.assertion import SigningKey, SigningKeyUnusable
from gateway.core.model import StoreUnavailable

_RETRY_SECONDS: Final = 1.0
"""Until there is a first key."""
_LONGEST_INTERVAL: Final = 30.0
_LOADS_AHEAD: Final = 4
"""How often the keys are read while a new one is published but does not sign."""


class KeyStore(Protocol):
    """Where all gateways keep their keys. Raises `StoreUnavailable`, `SigningKeyUnusable` or OSError."""

    async def load(self) -> Sequence[SigningKey]:
        """Return all keys."""

    async def add(self, pem: str, algorithm: str, ahead: float, *, rotate: bool) -> None:
        """Add a key, which signs `ahead` seconds from now; at once, if it is the first.

        Unless `rotate`, add none if the newest one is for the same algorithm: another gateway has added it.
        """


class AssertionKeys:
    """Reads the keys, and makes the first one."""

    def __init__(
        self,
        store: KeyStore,
        *,
        algorithm: str,
        ttl: float,
        ahead: float,
        clock: Callable[[], float],
        report: Callable[[str | None], None],
    ) -> None:
        """`ttl` is that of assertions. `clock` gives Unix seconds.

        `report` is called with each outage of the store, and with None at its end.
        """
        self._store = store
        self._algorithm = algorithm
        self._ttl = ttl
        self._ahead = ahead
        self._clock = clock
        self._report = report
        self._keys: tuple[SigningKey, ...] = ()
        self._fits = False
        self.failure: str | None = None
        """Why the keys could not be read the last time; None if they could."""
        self._task: asyncio.Task[None] | None = None
        self.max_age = ahead / 2
        """Seconds for which verifiers may remember what is published: less than until a new key signs."""

    def signing(self) -> SigningKey | None:
        """Return the key that signs now; None if no key could be read yet."""
        return assertion.signing(self._keys, self._clock())

    def published(self) -> bytes | None:
        """Return the JWK set for verifiers; None if no key could be read yet."""
        if not self._keys:
            return None
        return assertion.jwks(assertion.published(self._keys, self._clock(), self._ttl))

    async def start(self) -> None:
        """Read the keys, or try again in the background. Raises OSError if a key file cannot be used."""
        try:
            await self._load()
        except StoreUnavailable as error:
            self._fail(error)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            interval = min(self._ahead / _LOADS_AHEAD, _LONGEST_INTERVAL)
            await asyncio.sleep(interval if self._keys else min(interval, _RETRY_SECONDS))
            try:
                await self._load()
            except (StoreUnavailable, SigningKeyUnusable, OSError) as error:
                self._fail(error)

    async def _load(self) -> None:
        keys = await self._store.load()
        if not keys or not self._fits:
            await self._store.add(
                assertion.new_pem(self._algorithm), self._algorithm, self._ahead, rotate=False
            )
            keys = await self._store.load()
            # Only once: two gateways with different settings would add keys without end.
            self._fits = True
        self._keys = tuple(keys)
        if self.failure is not None:
            self.failure = None
            self._report(None)

    def _fail(self, error: Exception) -> None:
        before, self.failure = self.failure, str(error)
        if before is None:
            self._report(self.failure)
