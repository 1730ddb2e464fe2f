"""A bounded map that forgets what came first, and is read as fast as a dictionary."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FIFO(dict[K, V]):
    """At most `capacity` entries, for what is learnt again soon when it was forgotten too early."""

    __slots__ = ("_capacity",)

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one entry, not {capacity}")
        super().__init__()
        self._capacity = capacity

    def put(self, key: K, value: V) -> None:
        """Store a value; one with a key that is there is forgotten when the one before would have been."""
        self[key] = value
        if len(self) > self._capacity:
            del self[next(iter(self))]
