"""Bounded maps: one forgets the entry that was used least recently, one the entry that came first."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, KeysView
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most `capacity` entries; reading one makes it the most recent.

    It has no clock: callers store the expiry with the entry.
    """

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one entry, not {capacity}")
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def peek(self, key: K) -> V | None:
        """Return an entry without making it more recent."""
        return self._entries.get(key)

    def keys(self) -> KeysView[K]:
        """Return a live view of all keys."""
        return self._entries.keys()

    def newest(self) -> Iterator[tuple[K, V]]:
        """Return all entries, the most recent first."""
        return reversed(self._entries.items())

    def put(self, key: K, value: V) -> V | None:
        """Store a value; return the one that was dropped for it, if any."""
        entries = self._entries
        entries[key] = value
        entries.move_to_end(key)
        return entries.popitem(last=False)[1] if len(entries) > self._capacity else None

    def pop(self, key: K) -> V | None:
        return self._entries.pop(key, None)

    def discard(self, condemned: Callable[[V], bool]) -> int:
        """Drop every entry whose value is condemned; return how many. The time is linear in its size."""
        keys = [key for key, value in self._entries.items() if condemned(value)]
        for key in keys:
            del self._entries[key]
        return len(keys)

    def shed(self, condemned: Callable[[V], bool]) -> None:
        """Drop condemned entries, beginning with the least recent, up to the first that is not condemned."""
        entries = self._entries
        while entries and condemned(entries[next(iter(entries))]):
            entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


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
