"""Single flight: one query for all concurrent callers."""

import asyncio

import pytest

from gateway.identity.single_flight import SingleFlight


class Question:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> int:
        self.asked += 1
        return await asyncio.shield(self.answer)


async def test_concurrent_callers_share_one_call() -> None:
    single_flight, question = SingleFlight[str, int](1.0, 1.0), Question()
    asking = [asyncio.create_task(single_flight.do("a", question)) for _ in range(1000)]
    other = asyncio.create_task(single_flight.do("b", question))
    await asyncio.sleep(0)
    question.answer.set_result(7)
    assert await asyncio.gather(*asking) == [7] * 1000
    assert (await other, question.asked) == (7, 2)


async def test_nothing_is_remembered() -> None:
    single_flight, question = SingleFlight[str, int](1.0, 1.0), Question()
    question.answer.set_result(7)
    assert [await single_flight.do("a", question), await single_flight.do("a", question)] == [7, 7]
    assert question.asked == 2


async def test_a_failure_reaches_every_caller_and_is_not_retried() -> None:
    single_flight, question = SingleFlight[str, int](1.0, 1.0), Question()
    asking = [asyncio.create_task(single_flight.do("a", question)) for _ in range(100)]
    await asyncio.sleep(0)
    question.answer.set_exception(ConnectionError("gone"))
    failures = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(failure) for failure in failures] == [ConnectionError] * 100
    assert question.asked == 1


async def test_each_waits_for_a_time_of_its_own() -> None:
    single_flight, question = SingleFlight[str, int](0.2, 10.0), Question()
    first = asyncio.create_task(single_flight.do("a", question))
    await asyncio.sleep(0.15)
    second = asyncio.create_task(single_flight.do("a", question))
    with pytest.raises(TimeoutError, match="no answer within"):
        await first
    assert not second.done()
    question.answer.set_result(7)
    assert (await second, question.asked) == (7, 1)


async def test_a_call_that_takes_too_long_is_given_up_and_the_next_is_another() -> None:
    single_flight, question = SingleFlight[str, int](10.0, 0.05), Question()
    with pytest.raises(TimeoutError):
        await single_flight.do("a", question)
    question.answer.set_result(7)
    assert (await single_flight.do("a", question), question.asked) == (7, 2)


async def test_a_cancelled_caller_does_not_cancel_the_call() -> None:
    single_flight, question = SingleFlight[str, int](1.0, 1.0), Question()
    impatient, patient = (asyncio.create_task(single_flight.do("a", question)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    question.answer.set_result(7)
    assert (await patient, impatient.cancelled()) == (7, True)


async def test_closing_cancels_running_calls() -> None:
    single_flight, question = SingleFlight[str, int](10.0, 10.0), Question()
    asking = asyncio.create_task(single_flight.do("a", question))
    await asyncio.sleep(0)
    await single_flight.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
