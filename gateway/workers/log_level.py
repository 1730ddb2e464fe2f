"""The level of the log, which SIGUSR1 raises to `debug` for a while in all processes of a gateway."""

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from gateway.telemetry import logs
from gateway.workers.messages import Message
from gateway.workers.process import Process

RAISED_SECONDS: Final = 600.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RaisedLevel:
    """Raises the level and lowers it again, here and in the workers.

    `configured` returns the level that holds otherwise, `processes` the workers.
    """

    def __init__(
        self,
        configured: Callable[[], str],
        processes: Callable[[], Iterable[Process]],
        seconds: float = RAISED_SECONDS,
    ) -> None:
        self._configured = configured
        self._processes = processes
        self._seconds = seconds
        self.until: float | None = None
        """When it ends, on the monotonic clock; None while the configured level holds."""

    def toggle(self) -> None:
        """Raise the level; if it is raised, lower it."""
        if self.until is not None:
            self._lower("by SIGUSR1")
            return
        self.until = time.monotonic() + self._seconds
        logs.set_level("debug")
        self._tell_all(raised=True)
        # A warning, so that it is logged at every level but `error`.
        log.warning("log_level_raised", to="debug", seconds=self._seconds)

    def expire(self, now: float) -> None:
        """Lower the level if its time is over."""
        if self.until is not None and self.until <= now:
            self._lower("after its time")

    def tell(self, process: Process) -> None:
        """Tell a worker that has just been started."""
        if self.until is not None:
            process.send(Message("log_level", True))  # noqa: FBT003 -- the body of a message

    def _lower(self, why: str) -> None:
        self.until = None
        log.warning("log_level_restored", to=self._configured(), detail=why)
        logs.set_level(self._configured())
        self._tell_all(raised=False)

    def _tell_all(self, *, raised: bool) -> None:
        for process in self._processes():
            process.send(Message("log_level", raised))
