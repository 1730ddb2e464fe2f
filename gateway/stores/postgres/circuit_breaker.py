"""A circuit breaker: a store that does not answer is not waited for by every request."""

import math
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
"""Calls without an answer, one after the other, that open it."""
PROBE_INTERVAL: Final = 0.25
"""Seconds between the calls that an open breaker lets through."""


class CircuitBreaker:
    """Lets all calls through, or, once the store was silent `FAILURES` times running, single ones.

    The first answer closes it again. `clock` gives seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0
        self._answered_at = -math.inf

    @property
    def open(self) -> bool:
        return self._failures >= FAILURES

    def admits(self) -> bool:
        """Tell whether a call may be made at this moment; of an open breaker's, the first asked for is."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_INTERVAL
        return True

    def now(self) -> float:
        """Return the time, for a call that begins."""
        return self._clock()

    def answered(self) -> None:
        """Take note of an answer, even of one that is an error."""
        self._failures = 0
        self._answered_at = self._clock()

    def failed(self, began: float) -> bool:
        """Take note that no answer came to a call that began then; returns whether this opened the breaker.

        Of one that began before the last answer it is no news: the store has come back since.
        """
        if began < self._answered_at:
            return False
        self._failures += 1
        if self._failures != FAILURES:
            return False
        self._probe_at = self._clock() + PROBE_INTERVAL
        return True
