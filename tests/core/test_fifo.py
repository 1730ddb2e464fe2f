"""A bounded map without an order of use."""

import pytest

from gateway.core.fifo import FIFO


def test_what_came_first_makes_room() -> None:
    cache: FIFO[str, int] = FIFO(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache == {"b": 2, "c": 3}


def test_storing_again_replaces_and_lengthens_no_life() -> None:
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
