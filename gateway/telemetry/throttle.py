"""Lines of the log that come in floods: so many a second, and then how many more there were."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

LINES_PER_SECOND: Final = 100
"""Lines of one kind that one process writes in a second."""


class Throttle:
    """Admits the first lines of each kind in a second, and tells of those that it left out.

    `tell` is called with the kind and the number, within two seconds. `most` is how many of a kind are
    admitted in a second. `clock` gives seconds.
    """

    def __init__(
        self,
        tell: Callable[[str, int], None],
        *,
        most: int = LINES_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._most = most
        self._clock = clock
        self._until = 0.0
        self._counts: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def admits(self, kind: str) -> bool:
        """Count a line; True: it is to be written."""
        now = self._clock()
        if now >= self._until:
            self._flush()
            self._until = now + 1.0
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        if count <= self._most:
            return True
        if self._timer is None:
            # The flood may end with this line. Without an event loop the next line tells of it.
            with suppress(RuntimeError):
                self._timer = asyncio.get_running_loop().call_later(1.0, self._flush)
        return False

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._counts = self._counts, {}
        for kind, count in counts.items():
            if count > self._most:
                self._tell(kind, count - self._most)
