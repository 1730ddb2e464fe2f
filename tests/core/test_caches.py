"""Bounded maps."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caches import FIFO, LRU, SecondChance, shared, shared_word


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


def test_pop_and_clear() -> None:
    cache: LRU[str, int] = LRU(9)
    for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        cache.put(name, value)

    assert (cache.pop("a"), cache.pop("a")) == (1, None)
    assert (len(cache), cache.get("b")) == (3, 2)
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


def test_shedding_ends_at_the_first_that_is_to_stay() -> None:
    cache: FIFO[str, int] = FIFO(10)
    for key, value in {"a": 1, "b": 2, "c": 9, "d": 1}.items():
        cache.put(key, value)
    cache.shed(lambda value: value < 5)

    assert [cache.get(key) for key in "abcd"] == [None, None, 9, 1]
    cache.shed(lambda _: True)
    assert len(cache) == 0


def test_condemned_entries_are_discarded() -> None:
    cache: FIFO[str, int] = FIFO(10)
    cache.update({"a": 1, "b": 2, "c": 3, "d": 4})
    assert cache.discard(lambda value: value > 2) == 2
    assert cache == {"a": 1, "b": 2}


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_entries_are_evicted_only_for_want_of_room(capacity: int, steps: list[tuple[int, bool]]) -> None:
    """What was removed and came again may go earlier than it would have to, but not without need."""
    cache: FIFO[int, int] = FIFO(capacity)
    for key, stored in steps:
        before = dict(cache)
        if stored:
            cache.put(key, key)
            evicted = before.keys() - cache.keys()
            assert cache == {**{each: each for each in before if each not in evicted}, key: key}
            assert len(evicted) == (len(before) == capacity and key not in before)
        else:
            cache.pop(key, None)


def test_an_entry_that_comes_and_goes_takes_no_more_room() -> None:
    cache: FIFO[int, bytes] = FIFO(10)
    for _ in range(1000):
        cache.put(1, b"")
        del cache[1]
    assert len(cache._keys) <= 20


# Second chance -------------------------------------------------------------------------------------


@dataclass
class Page:
    used: bool = False


def pages(capacity: int, used: str, unused: str) -> SecondChance[str, Page]:
    cache: SecondChance[str, Page] = SecondChance(capacity)
    for key in sorted(used + unused):
        cache.put(key, Page())
    for key in used:
        cache[key].used = True
    return cache


@pytest.mark.parametrize(
    ("used", "unused", "left"),
    [("", "abc", "bcz"), ("a", "bc", "acz"), ("ab", "c", "abz"), ("abc", "", "bcz"), ("c", "ab", "bcz")],
)
def test_the_oldest_entry_that_was_not_used_is_evicted(used: str, unused: str, left: str) -> None:
    cache = pages(3, used, unused)
    cache.put("z", Page())
    assert "".join(sorted(cache)) == left


def test_a_second_chance_is_no_third() -> None:
    cache = pages(3, "a", "bc")
    for key in "xyz":
        cache.put(key, Page())
    assert "".join(sorted(cache)) == "xyz"


def test_an_entry_that_is_gone_has_no_chance() -> None:
    cache = pages(3, "a", "bc")
    del cache["a"]
    cache.put("y", Page())
    cache.put("z", Page())
    assert "".join(sorted(cache)) == "cyz"


def test_of_many_used_entries_few_are_looked_at_for_one() -> None:
    cache: SecondChance[int, Page] = SecondChance(1000)
    for key in range(1000):
        cache.put(key, Page(used=True))
    cache.put(1000, Page())
    assert len(cache) == 1000
    assert 900 < sum(page.used for page in cache.values()) < 999


# Shared values -------------------------------------------------------------------------------------


def test_equal_words_are_one_object() -> None:
    """Thousands of tokens and users have the same few; each copy would take memory."""
    kept = [shared((str(b"reader", "ascii"), f"writer-{number}")) for number in range(2)]
    word = shared_word(str(b"reader", "ascii"))

    assert kept == [("reader", "writer-0"), ("reader", "writer-1")]
    assert kept[0][0] is kept[1][0] is word
