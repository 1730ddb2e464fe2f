"""A bounded map that drops its oldest entries, and is as fast to read as a dictionary."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FIFO(dict[K, V]):
    """At most `capacity` entries, for values that are cheap to find out again."""

    __slots__ = ("_capacity",)

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one entry, not {capacity}")
        super().__init__()
        self._capacity = capacity

    def put(self, key: K, value: V) -> None:
        """Store a value. A new value of an existing key keeps the age of the old one."""
        self[key] = value
        if len(self) > self._capacity:
            del self[next(iter(self))]
