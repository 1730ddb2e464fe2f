"""The keys of every configured issuer: fetched early, and refreshed in the background.

Each issuer has its own state, its own task and its own back-off, so that one's trouble stays its own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.core.tokens import KeySet
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.issuer import Attempt, IssuerKeys, KeyObserver, KeyStatus
from gateway.issuer_keys.sources import KeySource, LoadedKeys

START_TIMEOUT: Final = 3.0
"""Seconds that a start waits for issuers; the slower ones arrive in the background."""
MAX_STALE: Final = 86_400.0
"""Seconds for which keys are trusted after their issuer was last heard."""


class KeyRing:
    """The key sets of all issuers, by configured name; implements the pipeline's `Keys`.

    `on_change` is called with an issuer's name and its new set whenever that differs from the one
    before, with an empty set when the old one became too old to trust: what was verified with a
    key that left must be forgotten. `max_stale` is in seconds: keys are loaded again twice in that
    time at least. `clock` gives monotonic seconds; `sleep` is what the background does, `pause` what
    requests do. The fetcher remains its owner's to close.
    """

    def __init__(
        self,
        sources: Mapping[str, KeySource],
        *,
        fetcher: Fetcher,
        observer: KeyObserver,
        on_change: Callable[[str, KeySet], None] | None = None,
        max_stale: float = MAX_STALE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._issuers = {
            name: IssuerKeys(name, source, fetcher, observer, on_change, max_stale, clock, pause)
            for name, source in sources.items()
        }
        self._fetcher = fetcher
        self._sleep = sleep
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, timeout: float = START_TIMEOUT) -> None:  # noqa: ASYNC109 -- does not raise: the wait ends, the work goes on
        """Load the keys of all issuers at once, and keep them fresh from then on.

        Returns when each has been tried, or after `timeout` seconds.
        """
        attempts = {issuer: issuer.load() for issuer in self._issuers.values()}
        self._tasks = [asyncio.create_task(self._maintain(*pair)) for pair in attempts.items()]
        if attempts:
            await asyncio.wait([attempt.task for attempt in attempts.values()], timeout=timeout)

    async def close(self) -> None:
        """Stop the background work; the keys there are remain."""
        tasks = [*self._tasks, *(each.task for issuer in self._issuers.values() for each in issuer.attempts)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust now; None when there never were any or they are too old."""
        return self._issuers[issuer_name].current()

    async def refresh(self, issuer_name: str, kid: str | None, algorithm: str) -> bool:
        """Look for a key that is not in the set: start or join a fetch, if one is allowed now.

        Returns whether the set, as it is then, is what the issuer says: a key that is not in it does not
        exist. False: the issuer cannot be heard, or the key is one of those that were left out. Waits for
        `PATIENCE` at most until a fetch is allowed, and as long for the issuer. A caller that is cancelled
        leaves the fetch to the others.
        """
        # From here on the request is a task; what comes before costs no turn of the event loop.
        await asyncio.sleep(0)
        return await self._issuers[issuer_name].find(kid, algorithm)

    async def reload(self, issuer_name: str) -> None:
        """Load an issuer's keys because an operator asks, however recently they were loaded.

        Joins a fetch that is under way, and waits until it has ended; `status` tells how.
        """
        await asyncio.wait((self._issuers[issuer_name].load().task,))

    async def look(self, issuer_name: str) -> LoadedKeys:
        """Return the keys that an issuer has at its place at this moment, without taking note of them.

        Raises `FetchError`.
        """
        return await self._issuers[issuer_name].source.load(self._fetcher)

    def status(self) -> dict[str, KeyStatus]:
        """Tell how things stand, by issuer name."""
        return {name: issuer.status() for name, issuer in self._issuers.items()}

    async def _maintain(self, issuer: IssuerKeys, attempt: Attempt) -> None:
        while True:
            await asyncio.wait((attempt.task,))
            await issuer.rest(self._sleep)
            attempt = issuer.load()
