import asyncio
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.availability import Availability
from gateway.stores.redis.batching import MAX_BATCH, BatchedReads


class Store:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.down = False

    async def fetch(self, keys: list[str]) -> list[bytes | None]:
        self.calls.append(keys)
        await self.open.wait()
        if self.down:
            raise StoreUnavailable(Tier.REDIS, "down")
        return [None if key == "absent" else key.encode() for key in keys]


async def test_requests_that_ask_together_share_a_call_and_get_their_own_answers() -> None:
    store = Store()
    reads = BatchedReads(store.fetch, 1.0, "here")
    answers = await asyncio.gather(*(reads.get([f"a{n}", "absent", f"b{n}"]) for n in range(100)))
    assert answers == [[f"a{n}".encode(), None, f"b{n}".encode()] for n in range(100)]
    assert len(store.calls) == 1


async def test_requests_that_come_while_a_call_is_under_way_share_the_next() -> None:
    store = Store()
    store.open.clear()
    reads = BatchedReads(store.fetch, 1.0, "here")
    first = asyncio.create_task(reads.get(["first"]))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(reads.get([f"{n}"])) for n in range(50)]
    await asyncio.sleep(0.01)
    store.open.set()
    assert await first == [b"first"]
    assert await asyncio.gather(*others) == [[f"{n}".encode()] for n in range(50)]
    assert len(store.calls) == 2


async def test_keys_that_follow_from_answers_share_one_more_call() -> None:
    store = Store()
    reads = BatchedReads(store.fetch, 1.0, "here")

    async def get(key: str, following: str | None) -> list[bytes | None]:
        return await reads.get([key], lambda _: following)

    answers = await asyncio.gather(
        *[get("a", "more-a"), get("b", None), get("c", "more"), get("d", "more"), get("e", "absent")],
        reads.get(["f"]),
    )
    assert [*answers] == [
        [b"a", b"more-a"], [b"b", None], [b"c", b"more"], [b"d", b"more"], [b"e", None], [b"f"]
    ]  # fmt: skip
    assert store.calls == [["a", "b", "c", "d", "e", "f"], ["more-a", "more", "absent"]]


async def test_a_second_key_is_chosen_by_the_first_values() -> None:
    reads = BatchedReads(Store().fetch, 1.0, "here")
    seen: list[list[bytes | None]] = []

    def follow(values: list[bytes | None]) -> str:
        seen.append(list(values))
        return "more"

    assert await reads.get(["a", "absent"], follow) == [b"a", None, b"more"]
    assert seen == [[b"a", None]]


async def test_a_failed_follow_up_fails_its_whole_batch() -> None:
    async def fetch(keys: list[str]) -> list[bytes | None]:
        if keys == ["more"]:
            raise StoreUnavailable(Tier.REDIS, "down")
        return [b"x" for _ in keys]

    reads = BatchedReads(fetch, 1.0, "here")
    failures = await asyncio.gather(
        reads.get(["a"], lambda _: "more"), reads.get(["b"]), return_exceptions=True
    )
    assert [type(failure) for failure in failures] == [StoreUnavailable, StoreUnavailable]


async def test_a_batch_is_bounded() -> None:
    store = Store()
    reads = BatchedReads(store.fetch, 1.0, "here")
    await asyncio.gather(*(reads.get([f"{n}"]) for n in range(2 * MAX_BATCH + 1)))
    assert [len(keys) for keys in store.calls] == [MAX_BATCH, MAX_BATCH, 1]


async def test_a_store_that_is_down_fails_all_waiting_requests_at_once() -> None:
    store = Store()
    store.down = True
    store.open.clear()
    reads = BatchedReads(store.fetch, 1.0, "here")
    waiting = [asyncio.create_task(reads.get([f"{n}"])) for n in range(MAX_BATCH + 10)]
    await asyncio.sleep(0.01)
    store.open.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, StoreUnavailable) for failure in failures)
    assert len(store.calls) == 1
    store.down = False
    assert await reads.get(["again"]) == [b"again"]


async def test_a_silent_store_is_unavailable_and_named() -> None:
    store = Store()
    store.open.clear()
    reads = BatchedReads(store.fetch, 0.02, "redis.test:6379")
    with pytest.raises(StoreUnavailable, match=r"redis\.test:6379: no answer in time"):
        await reads.get(["key"])


async def test_a_store_that_misses_that_it_was_given_up_is_given_up_again() -> None:
    async def fetch(_: list[str]) -> list[bytes | None]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)
        return []

    reads = BatchedReads(fetch, 0.02, "here")
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            await reads.get(["key"])


async def test_an_answer_that_comes_as_it_is_given_up_is_an_answer() -> None:
    async def fetch(keys: list[str]) -> list[bytes | None]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return [b"x" for _ in keys]

    reads = BatchedReads(fetch, 0.02, "here")
    assert await reads.get(["key"]) == [b"x"]
    # Nothing is left of the cancellation for the next.
    assert await reads.get(["key"]) == [b"x"]


async def test_an_event_loop_that_was_busy_is_no_silent_store() -> None:
    import time

    loop = asyncio.get_running_loop()

    async def fetch(keys: list[str]) -> list[bytes | None]:
        answer = loop.create_future()
        # The answer comes in time, and what would notice it is held up beyond the time.
        loop.call_later(0.01, answer.set_result, None)
        loop.call_soon(time.sleep, 0.05)
        await answer
        await asyncio.sleep(0)
        return [b"x" for _ in keys]

    assert await BatchedReads(fetch, 0.02, "here").get(["key"]) == [b"x"]


async def test_a_cancelled_reader_does_not_cancel_the_others() -> None:
    store = Store()
    store.open.clear()
    reads = BatchedReads(store.fetch, 1.0, "here")
    leaving = asyncio.create_task(reads.get(["leaving"]))
    staying = asyncio.create_task(reads.get(["staying"]))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0)
    store.open.set()
    assert await staying == [b"staying"]


@pytest.mark.parametrize("seconds", [0, 0.01])
async def test_closing_lets_no_caller_wait_for_ever(seconds: float) -> None:
    store = Store()
    store.open.clear()
    reads = BatchedReads(store.fetch, 10.0, "here")
    waiting = asyncio.create_task(reads.get(["key"]))
    # At first the command has not even been sent.
    await asyncio.sleep(seconds)
    await reads.close()
    with pytest.raises(StoreUnavailable, match="here: closed"):
        await waiting


async def test_every_end_of_a_call_ends_the_wait_of_its_callers() -> None:
    async def fetch(_: list[str]) -> list[bytes | None]:
        raise asyncio.CancelledError

    reads = BatchedReads(fetch, 1.0, "here")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="here: closed"):
            await reads.get(["key"])


async def test_a_defect_fails_all_waiting_requests_and_is_logged_once() -> None:
    async def fetch(_: list[str]) -> list[bytes | None]:
        raise ZeroDivisionError("odd")

    reads = BatchedReads(fetch, 1.0, "here")
    with capture_logs() as logs:
        waiting = [reads.get([f"{n}"]) for n in range(MAX_BATCH + 10)]
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(StoreUnavailable, match="here: cannot be asked") as caught:
            await reads.get(["again"])
    assert {type(failure) for failure in failures} == {StoreUnavailable}
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [(entry["event"], type(entry["exc_info"])) for entry in logs] == [
        ("redis_batch_failed", ZeroDivisionError)
    ]


async def test_each_outcome_is_reported() -> None:
    store, told = Store(), []
    availability = Availability(lambda detail: told.append(detail))
    reads = BatchedReads(store.fetch, 0.02, "here", availability)
    await reads.get(["key"])
    store.open.clear()
    with pytest.raises(StoreUnavailable):
        await reads.get(["key"])
    assert told == ["here: no answer in time"]
