"""What may have been missed, until a copy of everything makes up for it."""


class Gaps:
    """Counts the times when something may have been missed.

    A copy makes up for the gaps that were noticed before it began. Those of meanwhile stay open.
    """

    def __init__(self) -> None:
        self._noticed = 0
        self._closed = 0
        """So many gaps, from the first on, have been made up for."""

    @property
    def open(self) -> bool:
        """True while something that was missed may still be missing."""
        return self._closed < self._noticed

    def notice(self) -> None:
        """Take note that something may have been missed."""
        self._noticed += 1

    def before_copy(self) -> int:
        """Return what to hand to `close` once the copy that begins now is whole."""
        return self._noticed

    def close(self, noticed: int) -> None:
        """Take note that a copy is whole; `noticed` is what `before_copy` returned when it began."""
        self._closed = max(self._closed, noticed)
