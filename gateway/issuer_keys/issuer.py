"""The keys of one issuer: when they are fetched, and what is known of them.

A request never fetches, except to ask for a key that the set does not have:

- While the issuer answers, an allowance bounds these fetches, however many keys are invented. A key that
  a fetch did not find is remembered for a while, and causes none. A few requests wait for their turn.
- While it does not, such a request is told so at once: its key may exist. A new attempt begins each second
  at most, so that it is noticed within a second or two that the issuer is back.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import structlog

from gateway.core.caches import LRU
from gateway.core.tokens.jws import KeySet
from gateway.issuer_keys.demand import MAX_WAITING, AbsentKeys, FetchAllowance
from gateway.issuer_keys.fetch import Fetcher, FetchError, UnknownIssuer
from gateway.issuer_keys.sources import KeySource, LoadedKeys

RETRY_INTERVAL: Final = 1.0
"""Seconds between two attempts that unknown keys may cause while the issuer does not answer."""
PATIENCE: Final = 1.0
"""Seconds that a request waits for an issuer that has answered so far."""
FAILING_PATIENCE: Final = 0.25
"""Seconds that a request waits for one that has not."""
MAX_ATTEMPTS: Final = 6
"""Fetches of one issuer that may be under way, because the earlier ones hang; one is given up for another."""
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
JITTER: Final = 0.1
_WITHDRAWN: Final = 32
"""Keys of an issuer that are remembered after they have left, for who asks why."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class KeyObserver(Protocol):
    """What the metrics want to know of the keys."""

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        """Count an attempt to load an issuer's keys (`gateway_jwks_refreshes_total`)."""
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
    left_out: int
    """Published keys that were not looked at, because there are enough before them."""
    withdrawn: Mapping[str, float]
    """The `kid` of keys that were seen to leave lately, and how many seconds ago."""
    left_out_kids: frozenset[str] = frozenset()
    """The `kid` of keys that were left out: whether their tokens are good is not known."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One fetch of an issuer's keys."""

    number: int
    began: float
    allowed: bool
    """Whether the allowance was charged for it."""
    failed: bool = False
    task: asyncio.Task[None] = field(init=False)


class IssuerKeys:
    """The keys of one source of one issuer, or of one of its tenants, and how they were come by.

    `name` is the realm, `label` the configured name. With `quiet`, failures before the first success are not
    logged: the tenant may have been invented.
    """

    def __init__(
        self,
        name: str,
        source: KeySource,
        fetcher: Fetcher,
        observer: KeyObserver,
        on_change: Callable[[str, KeySet], None] | None,
        max_stale: float,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]],
        *,
        label: str | None = None,
        quiet: bool = False,
    ) -> None:
        self.members: Final = (self,)
        self.unknown = False
        """Whether the latest attempt failed because there is no such issuer."""
        self._label = name if label is None else label
        self._quiet = quiet
        self.source: Final = source
        self.attempts: set[Attempt] = set()
        """Those that are under way."""
        self.delay = FIRST_RETRY
        """Seconds from the end of the latest attempt to the next one."""
        self._name = name
        self._fetcher = fetcher
        self._observer = observer
        self._on_change = on_change
        self._max_stale = max_stale
        self._clock = clock
        self._pause = pause
        self._resting: asyncio.Future[None] | None = None
        self._waiting = 0
        """Requests that wait for a fetch to be allowed."""
        self._keys: KeySet | None = None
        self._loaded_at: float | None = None
        self._good_until = math.inf
        self._latest: Attempt | None = None
        self._answered = 0
        """The number of the latest attempt that succeeded."""
        self._answered_from = -math.inf
        """When that began: what was published before then is known."""
        self._retry_at = -math.inf
        self._allowance = FetchAllowance()
        self._absent = AbsentKeys()
        self._failures = 0
        self._last_error: str | None = None
        self._skipped: tuple[str, ...] = ()
        self._left_out = 0
        self._left_out_kids: frozenset[str] = frozenset()
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
            left_out=self._left_out,
            withdrawn={kid: self._clock() - left_at for kid, left_at in self._withdrawn.newest()},
            left_out_kids=self._left_out_kids,
        )

    def load(self) -> Attempt:
        """Start an attempt, or join the latest one that is under way."""
        latest = self._latest
        return latest if latest is not None and not latest.task.done() else self._begin()

    async def rest(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Sleep until the next attempt is due; the first failure in the meantime brings it nearer."""
        while True:
            resting = self._resting = asyncio.ensure_future(sleep(self.delay))
            try:
                await asyncio.wait((resting,))
            finally:
                resting.cancel()
            if not resting.cancelled():
                return

    async def find(self, kid: str | None, algorithm: str) -> bool:
        """See `KeyRing.refresh`."""
        heard = await self._find(kid, algorithm)
        # That a key was left out is a limit of ours, and not a fault of the token.
        return heard and kid not in self._left_out_kids

    async def _find(self, kid: str | None, algorithm: str) -> bool:
        asked_at = self._clock()
        failing = self._is_failing(asked_at)
        # What was not there may have come since; while the issuer answers, that is soon found out.
        if not failing and self._absent.has(kid, algorithm, asked_at):
            return True
        attempt = self._demand(asked_at, failing=failing)
        if attempt is None and not failing:
            wait = self._allowance.wait(asked_at)
            if wait > PATIENCE or self._waiting >= MAX_WAITING:
                # Names are invented in great numbers: each one as a request that waits would be worse.
                return True
            attempt = await self._next_turn(wait)
            failing = self._is_failing(self._clock())
            if attempt is None:
                return not failing and self._answered_from >= asked_at
        if attempt is None:
            return False
        waited = self._clock() - attempt.began
        await asyncio.wait((attempt.task,), timeout=(FAILING_PATIENCE if failing else PATIENCE) - waited)
        # One that ended after a later one had succeeded did no harm.
        if not attempt.task.done() or (attempt.failed and self._failures):
            return False
        keys = self.current()
        if attempt.began >= asked_at and keys is not None and not keys.candidates(kid, algorithm):
            self._absent.add(kid, algorithm, self._clock())
        return True

    async def _next_turn(self, seconds: float) -> Attempt | None:
        """Wait until a fetch is allowed again; return it, or the one that another request has begun."""
        self._waiting += 1
        try:
            # uvloop's timers go by whole milliseconds, and may be early.
            await self._pause(max(seconds, 0) + 0.005)
        finally:
            self._waiting -= 1
        now = self._clock()
        return self._demand(now, failing=self._is_failing(now))

    def _is_failing(self, now: float) -> bool:
        """Tell whether the issuer does not answer, as far as is known."""
        latest = self._latest
        hangs = latest is not None and not latest.task.done() and now - latest.began >= PATIENCE
        return hangs or self._failures > 0

    def _demand(self, now: float, *, failing: bool) -> Attempt | None:
        """Return an attempt that is worth waiting for; None when there is none, and none may begin."""
        latest = self._latest
        limit = FAILING_PATIENCE if failing else PATIENCE
        if latest is not None and not latest.task.done() and now - latest.began < limit:
            return latest
        if not failing:
            return self._begin(allowed=True) if self._allowance.take(now) else None
        return self._begin() if now >= self._retry_at else None

    def _begin(self, *, allowed: bool = False) -> Attempt:
        now = self._clock()
        if len(self.attempts) >= MAX_ATTEMPTS:
            self._give_up_one()
        number = 1 if self._latest is None else self._latest.number + 1
        attempt = self._latest = Attempt(number, now, allowed)
        attempt.task = asyncio.create_task(self._load(attempt), name=f"keys of {self._name}")
        attempt.task.add_done_callback(lambda _: self.attempts.discard(attempt))
        self.attempts.add(attempt)
        # Never less, and not at the same time in all gateways.
        self._retry_at = now + RETRY_INTERVAL * random.uniform(1, 1 + 2 * JITTER)  # noqa: S311 -- spreads load, guards nothing
        return attempt

    def _give_up_one(self) -> None:
        """Cancel an attempt, to make room for one that finds out whether the issuer is back.

        The oldest goes on: an issuer that is slow would never be heard otherwise.
        """
        attempt = sorted(self.attempts, key=lambda attempt: attempt.number)[1]
        self.attempts.discard(attempt)
        attempt.task.cancel()
        self._failed(attempt, "it does not answer, and later attempts have begun")

    async def _load(self, attempt: Attempt) -> None:
        try:
            loaded = await self.source.load(self._fetcher)
        except FetchError as error:
            self.unknown = isinstance(error, UnknownIssuer)
            self._failed(attempt, str(error))
        except Exception as error:
            # A defect of ours. The event loop reports it; the schedule must not end with it.
            self._failed(attempt, f"unexpected {type(error).__name__}")
            raise
        else:
            self._succeeded(attempt, loaded)

    def _succeeded(self, attempt: Attempt, loaded: LoadedKeys) -> None:
        self._observer.jwks_refreshed(self._label, "success")
        if attempt.number < self._answered:
            # The issuer has said something later in the meantime.
            return
        self._answered, self._answered_from = attempt.number, attempt.began
        self.delay = min(loaded.fresh_for * _spread(), self._max_stale / 2)
        self._failures = 0
        self._last_error = None
        if loaded.skipped and loaded.skipped != self._skipped:
            log.warning("issuer_keys_skipped", issuer=self._name, keys=loaded.skipped[:3])
        self._skipped = loaded.skipped
        if loaded.left_out and loaded.left_out != self._left_out:
            log.warning(
                "issuer_keys_left_out",
                issuer=self._name,
                kept=len(loaded.keys.keys),
                left_out=loaded.left_out,
            )
        self._left_out = loaded.left_out
        self._left_out_kids = loaded.left_out_kids
        self._loaded_at = self._clock()
        self._good_until = self._loaded_at + self._max_stale
        self._replace(loaded.keys)

    def _failed(self, attempt: Attempt, why: str) -> None:
        self._observer.jwks_refreshed(self._label, "failure")
        attempt.failed = True
        if attempt.allowed:
            self._allowance.give_back()
        if attempt.number < self._answered:
            return
        told, self._last_error = self._last_error, why
        self._failures += 1
        self.delay = retry_delay(self._failures) * _spread()
        if self._failures == 1 and self._resting is not None:
            # It sleeps for as long as keys stay fresh.
            self._resting.cancel()
        age = self._age()
        if why != told and not (self._quiet and self._loaded_at is None):
            # Attempts that requests cause come each second; one outage is one line.
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
        self._absent.clear()
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
