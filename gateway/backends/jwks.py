"""The keys of every configured issuer: fetched early, refreshed in the background, never borrowed.

Each issuer has its own state, its own task and its own back-off, so that one's trouble stays its
own. A request never fetches, except to ask for a key that the set does not have, and that at most
once in `REFRESH_INTERVAL` and issuer, however many requests ask. Operators are not held to that.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import structlog

from gateway.backends.fetch import Fetcher, FetchError
from gateway.backends.keysources import KeySource, Loaded
from gateway.core.lru import LRU
from gateway.core.tokens import KeySet

REFRESH_INTERVAL: Final = 30.0
"""Seconds between two fetches that unknown keys may cause, per issuer."""
START_TIMEOUT: Final = 3.0
"""Seconds that a start waits for issuers; the slower ones arrive in the background."""
MAX_STALE: Final = 86_400.0
"""Seconds for which keys are trusted after their issuer was last heard."""
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
JITTER: Final = 0.1
_WITHDRAWN: Final = 32
"""Keys of an issuer that are remembered after they have left, for who asks why."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeyObserver(Protocol):
    """What the metrics want to know of the keys."""

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        """Take note of one attempt to load an issuer's keys (`jwks_refreshes_total`)."""
        ...


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How things stand with one issuer's keys."""

    ready: bool
    """True while tokens of this issuer can be verified."""
    keys: int
    age: float | None
    """Seconds since the keys were last loaded; None when they never were."""
    last_error: str | None
    """Why the latest attempt failed; None when it did not."""
    skipped: tuple[str, ...]
    """Why published keys are not used, one sentence each."""
    withdrawn: Mapping[str, float]
    """The `kid` of keys that were seen to leave lately, and how many seconds ago."""


class KeyRing:
    """The key sets of all issuers, by configured name; implements the pipeline's `Keys`.

    `on_change` is called with an issuer's name and its new set whenever that differs from the one
    before, with an empty set when the old one became too old to trust: what was verified with a
    key that left must be forgotten. `max_stale` is in seconds: keys are loaded again twice in that
    time at least. `clock` gives monotonic seconds. The fetcher remains its owner's to close.
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
    ) -> None:
        self._issuers = {
            name: _IssuerKeys(name, source, fetcher, observer, on_change, max_stale, clock)
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
            await asyncio.wait(attempts.values(), timeout=timeout)

    async def close(self) -> None:
        """Stop the background work; the keys there are remain."""
        tasks = [
            *self._tasks,
            *(issuer.loading for issuer in self._issuers.values() if issuer.loading is not None),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def current(self, issuer_name: str) -> KeySet | None:
        """Return the keys to trust now; None when there never were any or they are too old."""
        return self._issuers[issuer_name].current()

    async def refresh(self, issuer_name: str) -> None:
        """Look for a key that is not in the set: start or join a fetch, if one is allowed now.

        Waits at most as long as one fetch may take. A caller that is cancelled leaves the fetch to
        the others.
        """
        attempt = self._issuers[issuer_name].demand()
        if attempt is not None:
            await asyncio.wait((attempt,), timeout=self._fetcher.timeout)

    async def reload(self, issuer_name: str) -> None:
        """Load an issuer's keys because an operator asks, however recently they were loaded.

        Joins a fetch that is under way, and waits until it has ended; `status` tells how.
        """
        await asyncio.wait((self._issuers[issuer_name].load(),))

    async def look(self, issuer_name: str) -> Loaded:
        """Return the keys that an issuer has at its place at this moment, without taking note of them.

        Raises `FetchError`.
        """
        return await self._issuers[issuer_name].source.load(self._fetcher)

    def status(self) -> dict[str, KeyStatus]:
        """Tell how things stand, by issuer name."""
        return {name: issuer.status() for name, issuer in self._issuers.items()}

    async def _maintain(self, issuer: "_IssuerKeys", attempt: asyncio.Task[None]) -> None:
        while True:
            await asyncio.wait((attempt,))
            await self._sleep(issuer.delay)
            attempt = issuer.load()


class _IssuerKeys:
    """One issuer's keys and how they were come by."""

    def __init__(
        self,
        name: str,
        source: KeySource,
        fetcher: Fetcher,
        observer: KeyObserver,
        on_change: Callable[[str, KeySet], None] | None,
        max_stale: float,
        clock: Callable[[], float],
    ) -> None:
        self.source: Final = source
        self.loading: asyncio.Task[None] | None = None
        self.delay = FIRST_RETRY
        """Seconds from the end of the latest attempt to the next one."""
        self._name = name
        self._fetcher = fetcher
        self._observer = observer
        self._on_change = on_change
        self._max_stale = max_stale
        self._clock = clock
        self._keys: KeySet | None = None
        self._loaded_at: float | None = None
        self._good_until = math.inf
        self._demanded_at: float | None = None
        self._failures = 0
        self._last_error: str | None = None
        self._skipped: tuple[str, ...] = ()
        self._withdrawn: LRU[str, float] = LRU(_WITHDRAWN)

    def current(self) -> KeySet | None:
        # The age is checked here too: when keys end must not depend on a task being on time.
        return self._keys if self._clock() <= self._good_until else None

    def status(self) -> KeyStatus:
        keys = self.current()
        return KeyStatus(
            ready=keys is not None,
            keys=0 if keys is None else len(keys.keys),
            age=self._age(),
            last_error=self._last_error,
            skipped=self._skipped,
            withdrawn={kid: self._clock() - left_at for kid, left_at in self._withdrawn.newest()},
        )

    def load(self) -> asyncio.Task[None]:
        """Start an attempt, or join the one that is under way."""
        if self.loading is None or self.loading.done():
            self.loading = asyncio.create_task(self._load(), name=f"keys of {self._name}")
        return self.loading

    def demand(self) -> asyncio.Task[None] | None:
        """Like `load`, out of turn: None when the latest such attempt is too recent."""
        if self.loading is not None and not self.loading.done():
            return self.loading
        now = self._clock()
        if self._demanded_at is not None and now - self._demanded_at < REFRESH_INTERVAL:
            return None
        self._demanded_at = now
        return self.load()

    async def _load(self) -> None:
        try:
            loaded = await self.source.load(self._fetcher)
        except FetchError as error:
            self._failed(str(error))
        except Exception as error:
            # A defect of ours. The event loop reports it; the schedule must not end with it.
            self._failed(f"unexpected {type(error).__name__}")
            raise
        else:
            self._succeeded(loaded)

    def _succeeded(self, loaded: Loaded) -> None:
        self.delay = min(loaded.fresh_for * _spread(), self._max_stale / 2)
        self._failures = 0
        self._last_error = None
        self._skipped = loaded.skipped
        self._loaded_at = self._clock()
        self._good_until = self._loaded_at + self._max_stale
        self._observer.jwks_refreshed(self._name, "success")
        self._replace(loaded.keys)

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._last_error = why
        self.delay = retry_delay(self._failures) * _spread()
        age = self._age()
        self._observer.jwks_refreshed(self._name, "failure")
        log.warning(
            "issuer_keys_refresh_failed",
            issuer=self._name,
            error=why,
            keys_age=None if age is None else round(age),
        )
        if self._clock() > self._good_until:
            self._replace(None)

    def _replace(self, keys: KeySet | None) -> None:
        before = {} if self._keys is None else {key.thumbprint: key for key in self._keys.keys}
        after = {} if keys is None else {key.thumbprint: key for key in keys.keys}
        changed = before.keys() != after.keys() or (self._keys is None) != (keys is None)
        self._keys = keys
        if not changed:
            return
        for key in before.values():
            if key.kid is not None:
                self._withdrawn.put(key.kid, self._clock())
        for key in after.values():
            if key.kid is not None:
                self._withdrawn.pop(key.kid)
        log.info(
            "issuer_keys_changed",
            issuer=self._name,
            added=[key.kid or "without kid" for thumbprint, key in after.items() if thumbprint not in before],
            removed=[
                key.kid or "without kid" for thumbprint, key in before.items() if thumbprint not in after
            ],
            skipped=self._skipped[:3],
        )
        if self._on_change is not None:
            self._on_change(self._name, KeySet(()) if keys is None else keys)

    def _age(self) -> float | None:
        return None if self._loaded_at is None else self._clock() - self._loaded_at


def retry_delay(failures: int) -> float:
    """Return the seconds until the next attempt after so many failed ones in a row."""
    # The exponent is bounded for outages that last for days.
    return min(FIRST_RETRY * 2.0 ** min(failures - 1, 16), LAST_RETRY)


def _spread() -> float:
    """Return a factor near one, which keeps many gateways from asking in the same moment."""
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 -- spreads load, guards nothing
