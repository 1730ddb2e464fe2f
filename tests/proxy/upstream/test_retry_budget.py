"""The budget for retries."""

import pytest

from gateway.proxy.upstream.retry_budget import RetryBudget


def spent(budget: RetryBudget, now: float, tries: int = 10_000) -> int:
    """Return how many retries are left, and take them."""
    return sum(budget.spend(now) for _ in range(tries))


def test_few_requests_have_three_retries_a_second() -> None:
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


def test_requests_of_long_ago_count_no_more() -> None:
    budget = RetryBudget(1.0)
    for _ in range(1000):
        budget.requested(0.0)
    assert spent(budget, 20.0) == 30


def test_no_share_means_no_retry() -> None:
    budget = RetryBudget(0.0)
    budget.requested(0.0)
    assert spent(budget, 0.0) == 0
