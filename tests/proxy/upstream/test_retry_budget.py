"""The budget for retries."""

import pytest

from gateway.proxy.upstream.retry_budget import RetryBudget


def spent(budget: RetryBudget, now: float, tries: int = 10_000) -> int:
    """Return how many retries are left, and take them."""
    return sum(budget.spend(now) for _ in range(tries))


def test_few_requests_have_three_retries_per_second() -> None:
    budget = RetryBudget(0.2)
    budget.requested(0.0)
    assert spent(budget, 0.0) == 30


def test_many_requests_have_a_share() -> None:
    budget = RetryBudget(0.2)
    for second in range(10):
        for _ in range(100):
            budget.requested(float(second))
    assert spent(budget, 9.5) == 200


@pytest.mark.parametrize(("later", "left"), [(9.9, 0), (10.0, 30)])
def test_the_window_slides(later: float, left: int) -> None:
    budget = RetryBudget(0.5)
    assert spent(budget, 0.5) == 30
    assert spent(budget, later) == left


def test_old_requests_do_not_count() -> None:
    budget = RetryBudget(1.0)
    for _ in range(1000):
        budget.requested(0.0)
    assert spent(budget, 20.0) == 30


def test_a_share_of_zero_allows_no_retry() -> None:
    budget = RetryBudget(0.0)
    budget.requested(0.0)
    assert spent(budget, 0.0) == 0
