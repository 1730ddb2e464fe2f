"""Bounded maps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caches import FIFO, LRU


def test_the_least_recently_used_entry_makes_room() -> None:
    cache: LRU[str, int] = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)

    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_storing_again_replaces_and_makes_recent() -> None:
    cache: LRU[str, int] = LRU(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    cache.put("c", 4)

    assert (cache.get("a"), cache.get("b"), len(cache)) == (3, None, 2)


def test_a_falsy_value_is_still_an_entry() -> None:
    cache: LRU[str, int] = LRU(2)
    cache.put("a", 0)
    cache.put("b", 1)
    assert cache.get("a") == 0
    cache.put("c", 2)

    assert cache.get("a") == 0


def test_pop_discard_and_clear() -> None:
    cache: LRU[str, int] = LRU(9)
    for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        cache.put(name, value)

    assert (cache.pop("a"), cache.pop("a")) == (1, None)
    assert cache.discard(lambda value: value > 2) == 2
    assert (len(cache), cache.get("b")) == (1, 2)
    cache.clear()
    assert (len(cache), cache.get("b")) == (0, None)


@given(st.integers(1, 8), st.lists(st.integers(0, 20)))
def test_it_never_holds_more_than_its_capacity_and_always_the_latest(capacity: int, keys: list[int]) -> None:
    cache: LRU[int, int] = LRU(capacity)
    for key in keys:
        cache.put(key, key)
        assert len(cache) <= capacity
    latest = list(dict.fromkeys(reversed(keys)))[:capacity]

    assert all(cache.get(key) == key for key in latest)
    assert len(cache) == len(latest)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_cache_without_room_is_a_mistake(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        LRU[str, int](capacity)


def test_the_evicted_entry_is_returned() -> None:
    cache: LRU[str, int] = LRU(1)
    assert cache.put("a", 1) is None
    assert cache.put("a", 2) is None
    assert cache.put("b", 3) == 2


def test_shedding_ends_at_the_first_that_is_to_stay() -> None:
    cache: LRU[str, int] = LRU(10)
    for key, value in {"a": 1, "b": 2, "c": 9, "d": 1}.items():
        cache.put(key, value)
    cache.shed(lambda value: value < 5)

    assert [cache.get(key) for key in "abcd"] == [None, None, 9, 1]
    cache.shed(lambda _: True)
    assert len(cache) == 0


def test_peeking_keeps_the_order_that_the_newest_come_in() -> None:
    cache: LRU[str, int] = LRU(10)
    for key, value in {"a": 1, "b": 2, "c": 3, "a ": 4}.items():
        cache.put(key.strip(), value)
    assert cache.peek("b") == 2
    assert cache.peek("z") is None
    assert list(cache.newest()) == [("a", 4), ("c", 3), ("b", 2)]


# FIFO ----------------------------------------------------------------------------------------------


def test_the_oldest_entry_is_evicted() -> None:
    cache: FIFO[str, int] = FIFO(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache == {"b": 2, "c": 3}


def test_in_a_fifo_storing_again_replaces_and_lengthens_no_life() -> None:
    cache: FIFO[str, int] = FIFO(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.put("a", 3)
    assert cache == {"a": 3, "b": 2}
    cache.put("c", 4)
    assert cache == {"b": 2, "c": 4}


@pytest.mark.parametrize("capacity", [0, -1])
def test_there_is_room_for_one_at_least(capacity: int) -> None:
    with pytest.raises(ValueError, match="room for at least one"):
        FIFO[str, int](capacity)
