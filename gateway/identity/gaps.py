"""Gaps: times in which something may have been missed, each open until a complete copy makes up for it."""


class Gaps:
    """Counts the gaps.

    A complete copy closes the gaps that were noticed before the copy began. Later ones stay open.
    """

    def __init__(self) -> None:
        self._noticed = 0
        self._closed = 0
        """The number of gaps that are closed: the first ones of those noticed."""

    @property
    def open(self) -> bool:
        """Whether a gap is open."""
        return self._closed < self._noticed

    def notice(self) -> None:
        """Record that something may have been missed."""
        self._noticed += 1

    def before_copy(self) -> int:
        """Return the argument of `close` for a copy that begins now."""
        return self._noticed

    def close(self, noticed: int) -> None:
        """Record that a copy is complete; `noticed` is what `before_copy` returned when it began."""
        self._closed = max(self._closed, noticed)
