from gateway.stores.availability import HOLD, Availability
from tests.fakes import Clock


def test_each_change_is_reported_once() -> None:
    told: list[str | None] = []
    clock = Clock()
    availability = Availability(told.append, clock)
    assert not availability.up
    availability.answered()
    availability.answered()
    assert (told, availability.up) == ([], True)
    availability.failed("refused")
    availability.failed("no answer in time")
    assert (told, availability.up) == (["refused"], False)
    clock.now += HOLD
    availability.answered()
    assert (told, availability.up) == (["refused", None], True)


def test_down_from_the_start_is_reported() -> None:
    told: list[str | None] = []
    availability = Availability(told.append)
    availability.failed("refused")
    assert (told, availability.up) == (["refused"], False)


def test_a_store_that_answers_now_and_then_is_down() -> None:
    told: list[str | None] = []
    clock = Clock()
    availability = Availability(told.append, clock)
    for _ in range(10):
        availability.failed("refused")
        clock.now += HOLD / 2
        availability.answered()
    assert (told, availability.up) == (["refused"], False)


def test_a_refusal_ends_with_a_proof_and_not_with_other_answers() -> None:
    told: list[str | None] = []
    clock = Clock()
    availability = Availability(told.append, clock)
    availability.answered()
    assert not availability.ever_served
    availability.failed("permission denied", until_proven=True)
    clock.now += 2 * HOLD
    availability.answered()
    assert (availability.up, availability.down_for) == (False, 2 * HOLD)
    availability.proven()
    assert (told, availability.up, availability.down_for) == (["permission denied", None], True, 0)
    assert availability.ever_served
