"""The values of `core.model`."""

from dataclasses import FrozenInstanceError

import pytest

from gateway.core.model import StoreUnavailable, Tier, User, UserStatus


def test_a_store_that_cannot_be_asked_says_which_and_why() -> None:
    error = StoreUnavailable(Tier.POSTGRES, "connection refused")

    assert str(error) == "postgres is unavailable: connection refused"
    assert (error.store, error.detail) == (Tier.POSTGRES, "connection refused")


def test_a_shared_value_cannot_be_changed() -> None:
    user = User("1", UserStatus.SUSPENDED)

    with pytest.raises(FrozenInstanceError):
        user.status = UserStatus.ACTIVE  # type: ignore[misc]  # what must fail
