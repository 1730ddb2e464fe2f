"""The retry budget: a share of all requests, so that retries never multiply an outage."""

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 10
LEAST_PER_SECOND: Final = 3
"""Retries that are always allowed, because a share of a few requests is zero."""


@dataclass(slots=True)
class _Second:
    number: int
    requests: int = 0
    retries: int = 0


class RetryBudget:
    """Retries as a share of the requests in a sliding window. Times are seconds of one clock."""

    def __init__(self, share: float) -> None:
        """`share` 0 allows no retries."""
        self._share = share
        self._latest = _Second(-1)
        self._seconds: deque[_Second] = deque()

    def requested(self, now: float) -> None:
        """Count a request."""
        latest = self._latest
        if latest.number != int(now):
            latest = self._current(now)
        latest.requests += 1

    def spend(self, now: float) -> bool:
        """Count a retry, if there is one left; return whether there was."""
        current = self._current(now)
        if not self._share:
            return False
        requests = sum(second.requests for second in self._seconds)
        retries = sum(second.retries for second in self._seconds)
        if retries >= max(self._share * requests, LEAST_PER_SECOND * WINDOW_SECONDS):
            return False
        current.retries += 1
        return True

    def _current(self, now: float) -> _Second:
        number = int(now)
        if self._latest.number == number:
            return self._latest
        seconds = self._seconds
        while seconds and seconds[0].number <= number - WINDOW_SECONDS:
            seconds.popleft()
        self._latest = current = _Second(number)
        seconds.append(current)
        return current
