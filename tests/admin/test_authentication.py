"""Wrong tokens delay only the client that sends them."""

import asyncio

import pytest

from gateway.admin.api import authentication
from gateway.admin.api.authentication import FREE, LONGEST_PAUSE, WAITING, WINDOW, Throttle
from gateway.admin.api.problems import RequestRefused

RIGHT, WRONG = ["Bearer right-token-0123"], ["Bearer wrong-token-0123"]
HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> Throttle:
    return Throttle("right-token-0123", clock=clock, sleep=clock.sleep)


async def fail(guard: Throttle, times: int, address: str = HERE) -> None:
    for _ in range(times):
        with pytest.raises(RequestRefused) as refused:
            await guard.admit(address, WRONG)
        assert refused.value.status == 401


async def test_a_few_failures_cost_nothing(guard: Throttle, clock: Clock) -> None:
    await fail(guard, FREE)
    assert clock.slept == []


async def test_further_ones_cost_more_each_time_up_to_a_bound(guard: Throttle, clock: Clock) -> None:
    await fail(guard, FREE + 7)
    assert clock.slept == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert LONGEST_PAUSE == 5


async def test_the_right_token_waits_too_and_then_all_is_forgotten(guard: Throttle, clock: Clock) -> None:
    """Otherwise an attacker would not have to wait for the answer."""
    await fail(guard, FREE)
    await guard.admit(HERE, RIGHT)
    assert clock.slept == [0.25]
    await guard.admit(HERE, RIGHT)
    await fail(guard, FREE)
    assert clock.slept == [0.25]


async def test_others_do_not_wait(guard: Throttle, clock: Clock) -> None:
    await fail(guard, FREE)
    await guard.admit(THERE, RIGHT)
    assert clock.slept == []


async def test_a_minute_without_a_failure_forgives(guard: Throttle, clock: Clock) -> None:
    await fail(guard, FREE)
    clock.now += WINDOW + 1
    await fail(guard, FREE)
    assert clock.slept == []


async def test_many_connections_are_no_faster_than_one(guard: Throttle, clock: Clock) -> None:
    await fail(guard, FREE)
    outcomes = await asyncio.gather(
        *(guard.admit(HERE, WRONG) for _ in range(WAITING + 20)), return_exceptions=True
    )
    statuses = [outcome.status for outcome in outcomes if isinstance(outcome, RequestRefused)]
    assert (statuses.count(401), statuses.count(429)) == (WAITING, 20)
    assert clock.slept == [0.25, 0.5, 1, 2]


async def test_no_token_is_no_try(guard: Throttle, clock: Clock) -> None:
    for _ in range(FREE + 1):
        with pytest.raises(RequestRefused):
            await guard.admit(HERE, [])
    await guard.admit(HERE, RIGHT)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "not an address", True),
    ],
)
async def test_the_address_that_a_failure_counts_against(
    guard: Throttle, clock: Clock, one: str, other: str, same: bool
) -> None:
    await fail(guard, FREE, one)
    await guard.admit(other, RIGHT)
    assert bool(clock.slept) is same


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(authentication, "ADDRESSES", 3)
    guard = Throttle("right-token-0123", clock=clock, sleep=clock.sleep)
    for number in range(50):
        await fail(guard, 1, f"192.0.2.{number}")
    assert len(guard._peers) == 3
