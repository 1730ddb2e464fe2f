"""The values of `core.model`."""

from dataclasses import FrozenInstanceError

import pytest

from gateway.core.model import StoreUnavailable, Tier, User, UserStatus, shared, shared_word


def test_a_store_that_cannot_be_asked_says_which_and_why() -> None:
    error = StoreUnavailable(Tier.POSTGRES, "connection refused")

    assert str(error) == "postgres is unavailable: connection refused"
    assert (error.store, error.detail) == (Tier.POSTGRES, "connection refused")


def test_a_value_cannot_be_changed_by_whom_it_is_shared_with() -> None:
    user = User("1", UserStatus.SUSPENDED)

    with pytest.raises(FrozenInstanceError):
        user.status = UserStatus.ACTIVE  # type: ignore[misc]  # what must fail


def test_equal_words_are_one_object() -> None:
    """Thousands of tokens and users have the same few; each copy would take memory."""
    kept = [shared((str(b"reader", "ascii"), f"writer-{number}")) for number in range(2)]
    word = shared_word(str(b"reader", "ascii"))

    assert kept == [("reader", "writer-0"), ("reader", "writer-1")]
    assert kept[0][0] is kept[1][0] is word
