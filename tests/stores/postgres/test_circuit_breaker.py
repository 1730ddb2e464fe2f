from gateway.stores.postgres.circuit_breaker import FAILURES, PROBE_INTERVAL, CircuitBreaker
from tests.fakes import Clock


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock)
    assert [breaker.failed(clock()) for _ in range(FAILURES)] == [False, False, True]
    return breaker


def test_failures_one_after_the_other_open_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for _ in range(5):
        assert [breaker.failed(clock()), breaker.failed(clock())] == [False, False]
        assert breaker.admits()
        breaker.answered()
    assert not breaker.open
    assert opened(Clock()).open


def test_an_open_one_lets_single_calls_through() -> None:
    clock = Clock()
    breaker = opened(clock)
    admitted = 0
    for _ in range(1000):
        clock.now += PROBE_INTERVAL / 100
        admitted += breaker.admits()
    assert 9 <= admitted <= 10


def test_a_failed_host_is_not_asked_again_at_once() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.admits()
    clock.now += PROBE_INTERVAL
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_a_probe_that_fails_leaves_it_open_and_one_that_succeeds_closes_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += PROBE_INTERVAL
    assert breaker.admits()
    assert breaker.failed(clock()) is False
    assert not breaker.admits()
    breaker.answered()
    assert all(breaker.admits() for _ in range(10))
    assert [breaker.failed(clock()) for _ in range(FAILURES)] == [False, False, True]


def test_calls_that_began_before_the_last_answer_are_no_news() -> None:
    clock = Clock()
    breaker = opened(clock)
    began = clock.now
    clock.now += 1
    breaker.answered()
    assert [breaker.failed(began) for _ in range(2 * FAILURES)] == [False] * 2 * FAILURES
    assert not breaker.open
