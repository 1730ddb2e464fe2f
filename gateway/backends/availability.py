"""Whether a store answers, as those who ask it find out."""

import time
from collections.abc import Callable
from typing import Final

HOLD: Final = 1.0
"""Seconds without a failure after which a store that was down is up again when it answers."""


class Availability:
    """Tells `observer` of each change, once: why the store is down, or None when it is up again.

    That a store answers the first time is no change. One that answers only now and then counts as
    down, so that it does not fill the log. `clock` gives seconds.
    """

    def __init__(
        self,
        observer: Callable[[str | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._failed_at = 0.0
        self.up: bool | None = None
        """None until the store has been asked."""
        self.ever_up = False
        self._told_lasting = False

    def answered(self) -> None:
        """Take note of an answer."""
        if self.up or (self.up is False and self._clock() - self._failed_at < HOLD):
            return
        was, self.up, self.ever_up = self.up, True, True
        self._told_lasting = False
        if was is False:
            self._observer(None)

    def failed(self, detail: str, *, lasting: bool = False) -> None:
        """Take note that no answer came, and why.

        `lasting`: it does not pass by itself, and is told also where something else was told of before.
        """
        self._failed_at = self._clock()
        was, self.up = self.up, False
        if was is not False or (lasting and not self._told_lasting):
            self._observer(detail)
        self._told_lasting = self._told_lasting or lasting
