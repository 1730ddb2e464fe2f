"""A circuit breaker: not every request waits for a store that does not answer."""

import math
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
"""Consecutive calls without an answer that open it."""
PROBE_INTERVAL: Final = 0.25
"""Seconds between the calls that an open breaker lets through."""


class CircuitBreaker:
    """Lets all calls through, until the store did not answer `FAILURES` calls in a row; then single calls.

    The first answer closes it. `clock` returns seconds and never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._probe_at = 0.0
        self._answered_at = -math.inf

    @property
    def open(self) -> bool:
        return self._failures >= FAILURES

    @property
    def refuses(self) -> bool:
        """Whether no call may be made now. Unlike `admits`, it uses up no call of the interval."""
        return self.open and self._clock() < self._probe_at

    def admits(self) -> bool:
        """Return whether a call may be made now. An open breaker allows the first call of each interval."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_INTERVAL
        return True

    def now(self) -> float:
        """Return the time at which a call begins."""
        return self._clock()

    def answered(self) -> None:
        """Record an answer, even if it is an error."""
        self._failures = 0
        self._answered_at = self._clock()

    def failed(self, began: float) -> bool:
        """Record that a call which began then got no answer; return whether this opened the breaker.

        A call that began before the last answer does not count: the store has answered since.
        """
        if began < self._answered_at:
            return False
        self._failures += 1
        if self._failures != FAILURES:
            return False
        self._probe_at = self._clock() + PROBE_INTERVAL
        return True
