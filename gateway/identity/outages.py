"""Outages of something that is proven again and again: reports when one begins and when it is over."""

import time
from collections.abc import Callable
from typing import Final

import structlog

HOLD: Final = 5.0
"""Seconds of uninterrupted proof after which an outage is over; shorter recoveries are part of it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Outages:
    """Calls `began` with the cause, and `over` with how long it lasted, in seconds.

    A failure before the first proof is an outage, too. `clock` gives seconds.
    """

    def __init__(
        self,
        began: Callable[[str], None],
        over: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._began = began
        self._over = over
        self._clock = clock
        self._since: float | None = None
        """When the outage began that was reported and is not over."""
        self._well_since: float | None = None
        """The first proof since the last failure."""

    def failed(self, detail: str) -> None:
        """Record a failure."""
        self._well_since = None
        if self._since is None:
            self._since = self._clock()
            self._began(detail)

    def proven(self) -> None:
        """Record a proof; to be called at least every few seconds while there is no failure."""
        if self._since is None:
            return
        now = self._clock()
        if self._well_since is None:
            self._well_since = now
        if now - self._well_since >= HOLD:
            lasted = self._well_since - self._since
            self._since = None
            self._over(lasted)


def of_stream(name: str) -> Outages:
    """Return the outages of the stream from a store, which are logged."""

    def began(detail: str) -> None:
        log.warning("invalidation_stream_down", stream=name, error=detail)

    def over(seconds: float) -> None:
        log.info("invalidation_stream_up", stream=name, down_seconds=round(seconds, 3))

    return Outages(began, over)
