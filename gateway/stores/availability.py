"""Whether a store answers, according to its callers."""

import math
import time
from collections.abc import Callable
from typing import Final

HOLD: Final = 1.0
"""Seconds. A store that was down is up again when it answers and has not failed for this long."""


class Availability:
    """Reports each change to `observer` once: why the store is down, or None when it is up again.

    The first answer of a store is not a change. A store that answers intermittently counts as down, so that
    it does not fill the log. `clock` returns seconds.
    """

    def __init__(
        self,
        observer: Callable[[str | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._failed_at = 0.0
        self._unproven = False
        self._down_since = 0.0
        self._heard_at = -math.inf
        self.up: bool | None = None
        """None until the store has been asked."""
        self.ever_served = False
        """Whether the store has ever answered a request, or proved that it could."""
        self._told_lasting = False

    def heard(self) -> None:
        """Record a step of a longer operation, which may still fail."""
        self._heard_at = self._clock()

    @property
    def silent_for(self) -> float:
        """The seconds since the last recorded step."""
        return self._clock() - self._heard_at

    def answered(self) -> None:
        """Record an answer."""
        if self.up or (self.up is False and (self._unproven or self._clock() - self._failed_at < HOLD)):
            return
        was, self.up = self.up, True
        self._told_lasting = False
        if was is False:
            self._observer(None)

    def proven(self) -> None:
        """Record that all statements of requests were answered."""
        self._unproven = False
        self.ever_served = True
        self.answered()

    def failed(self, detail: str, *, lasting: bool = False, until_proven: bool = False) -> None:
        """Record that no answer came, and why.

        `lasting`: the failure does not end by itself, and is reported even if another one was reported
        before. `until_proven`: other answers do not end the failure; only `prove` does.
        """
        self._failed_at = self._clock()
        self._unproven = self._unproven or until_proven
        was, self.up = self.up, False
        if was is not False:
            self._down_since = self._failed_at
        if was is not False or (lasting and not self._told_lasting):
            self._observer(detail)
        self._told_lasting = self._told_lasting or lasting

    @property
    def down_for(self) -> float:
        """The seconds for which it has been down; 0 while it is not."""
        return self._clock() - self._down_since if self.up is False else 0.0
