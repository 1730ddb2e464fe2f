"""What clients are told of limits (draft-ietf-httpapi-ratelimit-headers-11)."""

import pytest

from gateway.limits import fields
from gateway.limits.bucket import Bucket
from gateway.limits.operators import left_and_held
from gateway.limits.rules import Limit

RATE = Limit("per-user", "user", "rate", 600, period=60.0, burst=50)
DAILY = Limit("daily", "tenant", "quota", 1000)
MONTHLY = Limit("monthly", "tenant", "quota", 9000, unit="month")
SLOTS = Limit("slots", "client", "concurrency", 5)


def bucket(left: int, tokens: int = 0, *, ends: float = 0.0) -> Bucket:
    found = Bucket("ann")
    found.left, found.tokens, found.ends = left, tokens, ends
    return found


@pytest.mark.parametrize(
    ("limit", "policy"),
    [
        (RATE, '"per-user";q=600;w=60'),
        (Limit("a", "user", "rate", 5, period=0.25, burst=5), '"a";q=5;w=1'),
        (DAILY, '"daily";q=1000;w=86400'),
        (MONTHLY, '"monthly";q=9000;w=2592000'),
        (SLOTS, '"slots";q=5;qu="concurrent-requests"'),
    ],
)
def test_policies(limit: Limit, policy: str) -> None:
    assert fields.policy(limit) == policy


@pytest.mark.parametrize(
    ("limit", "held", "state"),
    [
        (RATE, bucket(30, 5), '"per-user";r=35;t=2'),
        (RATE, bucket(50), '"per-user";r=50;t=0'),
        (RATE, bucket(-3), '"per-user";r=0;t=5'),
        # More may be lent than was asked for.
        (RATE, bucket(50, 5), '"per-user";r=50;t=0'),
        (DAILY, bucket(900, 10, ends=160.5), '"daily";r=910;t=61'),
        (SLOTS, bucket(2), '"slots";r=2'),
    ],
)
def test_states(limit: Limit, held: Bucket, state: str) -> None:
    assert fields.state(limit, held, 100.0) == state
    both = f"RateLimit-Policy: {fields.policy(limit)}\r\nRateLimit: {state}\r\n"
    assert fields.complete(fields.head(limit), limit, held, lambda: 100.0).decode() == both


@pytest.mark.parametrize(
    ("limit", "retry_at", "seconds"), [(RATE, 100.05, 1), (DAILY, 3700.0, 3600), (SLOTS, 0.0, 1)]
)
def test_another_try(limit: Limit, retry_at: float, seconds: int) -> None:
    held = bucket(0)
    held.retry_at = retry_at
    assert fields.retry_after(limit, held, 100.0) == seconds
    told = "" if limit is SLOTS else f";t={seconds}"
    assert fields.refused(limit, seconds) == f'"{limit.name}";r=0{told}'


@pytest.mark.parametrize(
    ("limit", "text", "expected"),
    [
        (RATE, None, (50, 0)),
        (RATE, "1000500000.00 250 3 2", (45, 5)),
        (RATE, "999000000.00 250 0 0", (50, 0)),
        (RATE, "1009000000.00 200 9 9", (0, 0)),
        (DAILY, "400 249 5 7 0", (600, 5)),
        (SLOTS, "0 250 2 1", (2, 3)),
        (SLOTS, "0 248 2 1", (5, 0)),
    ],
)
def test_a_budget_as_redis_has_it(limit: Limit, text: str | None, expected: tuple[int, int]) -> None:
    assert left_and_held(limit, text, 1000.0) == expected
