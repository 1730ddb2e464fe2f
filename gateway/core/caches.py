"""Bounded maps, which differ in the entry that makes room, and values that are kept once."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, KeysView
from functools import lru_cache
from typing import Final, Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_CHANCES: Final = 16
"""How many entries are spared at once, so that no request waits for many."""


class LRU(Generic[K, V]):
    """At most `capacity` entries; reading one makes it the most recent.

    It has no clock: callers store the expiry with the entry.
    """

    __slots__ = ("_capacity", "_entries", "peek")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one entry, not {capacity}")
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()
        # Bound here to save a call.
        self.peek: Callable[[K], V | None] = self._entries.get
        """Return an entry without making it more recent."""

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

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

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


class FIFO(dict[K, V]):
    """At most `capacity` entries. Each takes half the memory of an `LRU`'s, and reading one costs less."""

    __slots__ = ("_capacity", "_keys")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one entry, not {capacity}")
        super().__init__()
        self._capacity = capacity
        # The first key of a dict is found in linear time once many before it were removed.
        self._keys: deque[K] = deque()
        """All keys by age. Those of removed entries may be among them, and some twice."""

    def put(self, key: K, value: V) -> None:
        """Store a value. A new value of an existing key keeps the age of the old one."""
        if key not in self:
            if len(self) >= self._capacity:
                self._evict()
            if len(self._keys) >= 2 * self._capacity:
                self._keys = deque(self)
            self._keys.append(key)
        self[key] = value

    def _evict(self) -> None:
        while self.pop(self._keys.popleft(), None) is None:
            pass

    def discard(self, condemned: Callable[[V], bool]) -> int:
        """Drop every entry whose value is condemned; return how many. The time is linear in its size."""
        keys = [key for key, value in self.items() if condemned(value)]
        for key in keys:
            del self[key]
        return len(keys)

    def shed(self, condemned: Callable[[V], bool]) -> None:
        """Drop condemned entries, beginning with the oldest, up to the first that is not condemned."""
        keys = self._keys
        while keys:
            value = self.get(keys[0])
            if value is not None and not condemned(value):
                return
            self.pop(keys.popleft(), None)


class Usable(Protocol):
    """A value that knows whether it was used."""

    used: bool


U = TypeVar("U", bound=Usable)


class SecondChance(FIFO[K, U]):
    """At most `capacity` entries; one that was used since it was looked at last is kept for another round.

    Callers set `used`. This is the page replacement "CLOCK" (Corbató 1968), which comes near to `LRU`.
    """

    __slots__ = ()

    def _evict(self) -> None:
        keys = self._keys
        for _ in range(_CHANCES):
            value = self.get(keys[0])
            if value is None or not value.used:
                break
            value.used = False
            keys.rotate(-1)
        super()._evict()


# Shared values ------------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def shared_word(word: str) -> str:
    """Return the same object for the same word: thousands of tokens and users have the same few.

    Python 3.12 never frees what is interned.
    """
    return word


@lru_cache(maxsize=1024)
def shared(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same object for the same words."""
    return tuple(map(shared_word, words))


@lru_cache(maxsize=8192)
def shared_instant(seconds: float) -> float:
    """Return the same object for the same instant: many tokens are issued, and expire, in the same second."""
    return seconds
