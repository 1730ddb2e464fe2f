import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import monotonic
from types import ModuleType

import pytest
from structlog.testing import capture_logs

from gateway.core.text import json_text
from gateway.core.tokens.jws import KeySet
from gateway.core.tokens.key_material import keyset_from_jwks
from gateway.issuer_keys import sources
from gateway.issuer_keys.demand import (
    FETCH_BURST,
    MAX_ABSENT,
    MAX_WAITING,
    MIN_INTERVAL,
    REFILL_SECONDS,
    AbsentKeys,
)
from gateway.issuer_keys.fetch import Fetcher, FetchError
from gateway.issuer_keys.issuer import MAX_ATTEMPTS, IssuerKeys, retry_delay
from gateway.issuer_keys.keyring import KeyRing
from gateway.issuer_keys.sources import Discovery, JwksUri, KeySource, LoadedKeys, Secret, SecretFile
from tests.fakes import Clock, RecordingKeyObserver
from tests.issuer_keys.issuer import Answer, IssuerServer, public_jwk, serving


class Sleep:
    """A `sleep` that ends when the test says so."""

    def __init__(self) -> None:
        self._sleepers: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        wake = asyncio.Event()
        self._sleepers.put_nowait((seconds, wake))
        await wake.wait()

    async def next(self) -> tuple[float, Callable[[], None]]:
        """Wait until somebody sleeps; return for how long, and what wakes them."""
        seconds, wake = await asyncio.wait_for(self._sleepers.get(), 5)
        return seconds, wake.set


class Rig:
    """A key ring on real HTTP, with a clock and a sleep of its own."""

    def __init__(self, fetcher: Fetcher, sources: dict[str, KeySource], max_stale: float) -> None:
        self._invented = count()
        self.clock = Clock()
        self.sleep = Sleep()
        self.observer = RecordingKeyObserver()
        self.changes: list[tuple[str, list[str | None]]] = []
        self.ring = KeyRing(
            sources,
            fetcher=fetcher,
            observer=self.observer,
            on_change=lambda name, keys: self.changes.append((name, kids(keys))),
            max_stale=max_stale,
            clock=self.clock,
            sleep=self.sleep,
            pause=self._pause,
        )
        self.waiting = 0
        """Requests that wait for their turn."""
        self.turn = asyncio.Event()
        self.turn.set()

    async def _pause(self, seconds: float) -> None:
        until = self.clock.now + seconds
        self.waiting += 1
        await self.turn.wait()
        self.waiting -= 1
        self.clock.now = max(self.clock.now, until)

    async def look_for(self, name: str, kid: str | None = None) -> bool:
        """Ask as a request with an unknown key does: each time for another one, unless it is named."""
        return await self.ring.refresh(name, kid or f"invented-{next(self._invented)}", "ES256")

    def kids(self, name: str = "main") -> list[str | None] | None:
        keys = self.ring.current(name)
        return None if keys is None else kids(keys)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, of which no event tells."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def kids(keys: KeySet) -> list[str | None]:
    return [key.kid for key in keys.keys]


@asynccontextmanager
async def rigged(
    sources: dict[str, KeySource], *, fetch_timeout: float = 5.0, max_stale: float = 86_400.0
) -> AsyncIterator[Rig]:
    async with Fetcher(timeout=fetch_timeout) as fetcher:
        rig = Rig(fetcher, sources, max_stale)
        try:
            yield rig
        finally:
            await rig.ring.close()


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with serving() as issuer:
        issuer.publish(public_jwk("a"))
        yield issuer


@pytest.fixture
async def rig(issuer: IssuerServer) -> AsyncIterator[Rig]:
    async with rigged({"main": JwksUri(f"{issuer.url}/jwks")}) as rig:
        yield rig


async def test_keys_are_there_when_the_start_returns(rig: Rig) -> None:
    assert rig.kids() is None
    assert rig.ring.status()["main"].ready is False
    await rig.ring.start()
    assert rig.kids() == ["a"]
    rig.clock.now += 7
    status = rig.ring.status()["main"]
    assert (status.ready, status.keys, status.age, status.last_error) == (True, 1, 7.0, None)
    assert rig.observer.refreshes == [("main", "success")]


@pytest.mark.parametrize(
    ("cache_control", "seconds"),
    [(None, 300), ("max-age=900", 900), ("no-cache", 60), ("max-age=9999", 3600)],
)
async def test_the_next_fetch_follows_cache_control(
    rig: Rig, issuer: IssuerServer, cache_control: str | None, seconds: float
) -> None:
    issuer.publish(public_jwk("a"), cache_control=cache_control)
    await rig.ring.start()
    delay, _ = await rig.sleep.next()
    assert 0.9 * seconds <= delay <= 1.1 * seconds


async def test_keys_are_refreshed_before_they_end(issuer: IssuerServer) -> None:
    issuer.publish(public_jwk("a"), cache_control="max-age=3600")
    async with rigged({"main": JwksUri(f"{issuer.url}/jwks")}, max_stale=120) as rig:
        await rig.ring.start()
        assert (await rig.sleep.next())[0] == 60


async def test_delays_are_spread() -> None:
    delays = set()
    for _ in range(20):
        async with rigged({"main": Secret(b"s" * 32)}) as rig:
            await rig.ring.start()
            delays.add((await rig.sleep.next())[0])
    assert len(delays) > 10


def test_retries_back_off_to_a_minute() -> None:
    assert [retry_delay(failures) for failures in (1, 2, 3, 4, 5, 6, 7, 8, 10_000)] == [
        1, 2, 4, 8, 16, 32, 60, 60, 60,
    ]  # fmt: skip


async def test_rotation_in_the_background(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    issuer.publish(public_jwk("b"), public_jwk("c"))
    _, wake = await rig.sleep.next()
    with capture_logs() as logs:
        wake()
        await rig.sleep.next()
    assert rig.kids() == ["b", "c"]
    assert rig.changes == [("main", ["a"]), ("main", ["b", "c"])]
    (line,) = logs
    assert (line["event"], line["added"], line["removed"]) == ("issuer_keys_changed", ["b", "c"], ["a"])


async def test_the_same_keys_are_no_change(rig: Rig) -> None:
    await rig.ring.start()
    _, wake = await rig.sleep.next()
    wake()
    await rig.sleep.next()
    assert rig.observer.refreshes == [("main", "success")] * 2
    assert rig.changes == [("main", ["a"])]


async def test_a_new_key_under_an_old_kid_is_a_change(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    issuer.publish(public_jwk("a"))
    await rig.look_for("main")
    assert rig.changes == [("main", ["a"]), ("main", ["a"])]


async def test_withdrawn_keys_go(rig: Rig, issuer: IssuerServer) -> None:
    issuer.publish(public_jwk("a"), public_jwk("b"))
    await rig.ring.start()
    issuer.publish(public_jwk("b"))
    await rig.look_for("main")
    assert rig.changes[-1] == ("main", ["b"])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"", 500),
        Answer(b"", 404),
        Answer(b"", 302, {"Location": "/elsewhere"}),
        Answer(b"<html>"),
        Answer(b"[" * 100_000),
        Answer(b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'),
        Answer(b'{"keys": []}'),
        Answer(b'{"keys": [' + b"null," * 40_000 + b"null]}"),
        Answer(b" " * 600_000),
    ],
    ids=["500", "404", "redirect", "html", "deep", "unusable", "empty", "nulls", "oversize"],
)
async def test_an_unusable_answer_leaves_the_old_keys(rig: Rig, issuer: IssuerServer, answer: Answer) -> None:
    await rig.ring.start()
    issuer.answers["/jwks"] = answer
    with capture_logs() as logs:
        await rig.look_for("main")
    assert rig.kids() == ["a"]
    assert rig.changes == [("main", ["a"])]
    error = rig.ring.status()["main"].last_error
    assert error is not None
    assert f"{issuer.url}/jwks" in error
    assert [(line["event"], line["log_level"], line["error"]) for line in logs] == [
        ("issuer_keys_refresh_failed", "warning", error)
    ]
    assert rig.observer.refreshes == [("main", "success"), ("main", "failure")]


async def test_an_outage_is_waited_out_and_ended(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    good = issuer.answers["/jwks"]
    issuer.answers["/jwks"] = Answer(b"", 503)
    _, wake = await rig.sleep.next()
    for expected in (1, 2, 4):
        rig.clock.now += 1000
        wake()
        delay, wake = await rig.sleep.next()
        assert 0.9 * expected <= delay <= 1.1 * expected
        assert rig.kids() == ["a"]
    assert rig.ring.status()["main"].age == 3000
    issuer.answers["/jwks"] = good
    wake()
    delay, wake = await rig.sleep.next()
    assert 270 <= delay <= 330
    assert rig.ring.status()["main"].last_error is None
    issuer.answers["/jwks"] = Answer(b"", 503)
    wake()
    delay, _ = await rig.sleep.next()
    assert delay <= 1.1


async def test_keys_end_when_their_issuer_was_silent_for_too_long(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    good = issuer.answers["/jwks"]
    issuer.answers["/jwks"] = Answer(b"", 503)
    rig.clock.now += 86_400
    assert rig.kids() == ["a"]
    rig.clock.now += 1
    assert rig.kids() is None
    assert rig.ring.status()["main"].ready is False
    assert rig.changes == [("main", ["a"])]
    _, wake = await rig.sleep.next()
    wake()
    _, wake = await rig.sleep.next()
    assert rig.changes == [("main", ["a"]), ("main", [])]
    issuer.answers["/jwks"] = good
    wake()
    await rig.sleep.next()
    assert rig.kids() == ["a"]
    assert rig.changes == [("main", ["a"]), ("main", []), ("main", ["a"])]


async def test_a_thousand_unknown_kids_are_one_fetch(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    issuer.publish(public_jwk("a"), public_jwk("b"))
    await asyncio.gather(*(rig.look_for("main") for _ in range(1000)))
    assert issuer.requests["/jwks"] == 2
    assert rig.kids() == ["a", "b"]


async def test_fetches_for_unknown_kids_are_bounded_however_many_are_invented(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    began = rig.clock.now
    for _ in range(600):
        rig.clock.now += 0.1
        assert await rig.look_for("main") is True
    assert (
        FETCH_BURST <= issuer.requests["/jwks"] - 1 <= FETCH_BURST + (rig.clock.now - began) / REFILL_SECONDS
    )


async def test_a_rotation_in_the_midst_of_invented_kids_is_noticed_within_seconds(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    for _ in range(300):
        rig.clock.now += 0.1
        await rig.look_for("main")
    issuer.publish(public_jwk("a"), public_jwk("b"))
    began = rig.clock.now
    while rig.kids() != ["a", "b"]:
        rig.clock.now += 0.1
        await rig.look_for("main")
        await rig.look_for("main", "b")
    assert rig.clock.now - began <= REFILL_SECONDS + 0.2


async def test_a_new_kid_right_after_an_invented_one_waits_for_its_turn(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    await rig.look_for("main")
    issuer.publish(public_jwk("a"), public_jwk("b"))
    began = rig.clock.now
    assert await rig.look_for("main", "b") is True
    assert rig.kids() == ["a", "b"]
    assert rig.clock.now - began <= MIN_INTERVAL + 0.1


async def test_a_flood_of_invented_kids_is_no_flood_of_requests_that_wait(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    await rig.look_for("main")
    rig.turn.clear()
    requests = [asyncio.create_task(rig.look_for("main")) for _ in range(10 * MAX_WAITING)]
    await until(lambda: sum(request.done() for request in requests) == 9 * MAX_WAITING)
    assert rig.waiting == MAX_WAITING
    requests[0].cancel()
    await until(requests[0].done)
    rig.turn.set()
    assert all(await asyncio.gather(*requests[1:]))
    # Those that waited share one fetch.
    assert issuer.requests["/jwks"] == 3


async def test_a_new_kid_whose_turn_meets_an_outage_is_not_called_unknown(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    await rig.look_for("main")
    issuer.answers["/jwks"] = Answer(b"", 503)
    assert await rig.look_for("main", "b") is False


async def test_a_few_invented_kids_delay_nothing(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    await rig.look_for("main")
    issuer.publish(public_jwk("b"))
    rig.clock.now += MIN_INTERVAL
    assert await rig.look_for("main", "b") is True
    assert rig.kids() == ["b"]


async def test_a_kid_that_was_not_there_causes_no_fetch_for_a_while(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    fetched_at = []
    for second in range(300):
        before = issuer.requests["/jwks"]
        assert await rig.look_for("main", "x") is True
        if issuer.requests["/jwks"] > before:
            fetched_at.append(second)
        rig.clock.now += 1
    assert fetched_at == list(range(0, 300, 5))


async def test_a_kid_that_was_often_too_early_is_known_within_seconds(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    for _ in range(120):
        await rig.look_for("main", "early")
        rig.clock.now += 0.5
    issuer.publish(public_jwk("a"), public_jwk("early"))
    published = rig.clock.now
    while "early" not in (rig.kids() or ()):
        await rig.look_for("main", "early")
        rig.clock.now += 0.5
    assert rig.clock.now - published <= REFILL_SECONDS + 0.5


async def test_the_same_kid_is_another_key_for_another_algorithm(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    for algorithm in ("ES256", "RS256"):
        rig.clock.now += MIN_INTERVAL
        await rig.ring.refresh("main", None, algorithm)
        await rig.ring.refresh("main", "", algorithm)
    # The one key there is fits the first without a name; the others are looked for.
    assert issuer.requests["/jwks"] >= 3


async def test_a_kid_that_was_not_there_is_looked_at_anew_when_the_set_changes(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    for _ in range(4):
        await rig.look_for("main", "late")
        rig.clock.now += 60
    await rig.look_for("main", "late")
    before = issuer.requests["/jwks"]
    issuer.publish(public_jwk("a"), public_jwk("b"))
    await rig.ring.reload("main")
    rig.clock.now += MIN_INTERVAL
    issuer.publish(public_jwk("a"), public_jwk("b"), public_jwk("late"))
    await rig.look_for("main", "late")
    assert issuer.requests["/jwks"] == before + 2
    assert rig.kids() == ["a", "b", "late"]


async def test_kids_that_are_not_there_are_remembered_within_bounds() -> None:
    absent = AbsentKeys()
    for number in range(MAX_ABSENT + 10):
        absent.add("k" * 10_000 + f"{number}", "ES256", 0.0)
    assert not absent.has("k" * 10_000 + "9", "ES256", 1.0)
    assert absent.has("k" * 10_000 + "10", "ES256", 1.0)
    absent.add("\ud800", "ES256", 0.0)
    assert absent.has("\ud800", "ES256", 1.0)
    assert not absent.has(None, "ES256", 1.0)


async def test_an_issuer_that_fails_is_asked_again_each_second(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    good = issuer.answers["/jwks"]
    issuer.answers["/jwks"] = Answer(b"", 503)
    for _ in range(100):
        assert await rig.look_for("main") is False
        assert await rig.look_for("main", "b") is False
        rig.clock.now += 0.1
    assert 8 <= issuer.requests["/jwks"] - 1 <= 11
    assert len([result for _, result in rig.observer.refreshes if result == "failure"]) <= 11

    issuer.answers["/jwks"] = good
    issuer.publish(public_jwk("a"), public_jwk("b"))
    began = rig.clock.now
    while not await rig.look_for("main", "b"):
        rig.clock.now += 0.1
    assert rig.clock.now - began <= 1.5
    assert rig.kids() == ["a", "b"]
    # What failed took nothing from the allowance.
    issuer.publish(public_jwk("c"))
    await rig.look_for("main", "c")
    assert rig.kids() == ["c"]


async def test_a_long_outage_is_one_line_for_each_reason(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    with capture_logs() as logs:
        for status in (503, 503, 500, 500):
            issuer.answers["/jwks"] = Answer(b"", status)
            rig.clock.now += 2
            await rig.look_for("main")
    assert [line["error"].rpartition(" ")[2] for line in logs] == ["503", "500"]


async def test_an_issuer_that_hangs_is_not_waited_for_and_found_again_at_once(issuer: IssuerServer) -> None:
    """With real time: hanging fetches stand in nobody's way."""
    async with Fetcher(timeout=30) as fetcher:
        ring = KeyRing(
            {"main": JwksUri(f"{issuer.url}/jwks")}, fetcher=fetcher, observer=RecordingKeyObserver()
        )
        try:
            await ring.start()
            good = issuer.answers["/jwks"]
            issuer.answers["/jwks"] = Answer(b"", hangs=True)
            began = monotonic()
            assert await ring.refresh("main", "b", "ES256") is False
            assert monotonic() - began < 3
            # From here on it is known.
            began = monotonic()
            answers = [await ring.refresh("main", "b", "ES256") for _ in range(50)]
            assert not any(answers)
            assert monotonic() - began < 3
            assert issuer.requests["/jwks"] <= 5

            issuer.answers["/jwks"] = good
            issuer.publish(public_jwk("a"), public_jwk("b"))
            began = monotonic()
            for _ in range(1000):
                if await ring.refresh("main", "b", "ES256"):
                    break
                await asyncio.sleep(0.05)
            assert monotonic() - began < 4
            assert ring.status()["main"].keys == 2
        finally:
            await ring.close()


async def test_hanging_fetches_are_bounded() -> None:
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        await rig.ring.start(timeout=0)
        for _ in range(20):
            rig.clock.now += 2
            await rig.look_for("main")
            assert source.under_way <= MAX_ATTEMPTS
        assert source.under_way == MAX_ATTEMPTS
        source.open.set()


async def test_a_new_attempt_gets_the_answer_of_an_issuer_that_hung() -> None:
    """However long an attempt may take: those that hang leave room for new ones."""
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        await rig.ring.start(timeout=0)
        for _ in range(20):
            rig.clock.now += 2
            await rig.look_for("main")
        source.answers_from_now_on = True
        rig.clock.now += 2
        assert await rig.look_for("main") is True
        assert rig.kids() == []


async def test_the_answer_of_a_slow_issuer_counts_however_many_attempts_begin() -> None:
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        await rig.ring.start(timeout=0)
        for _ in range(20):
            rig.clock.now += 2
            await rig.look_for("main")
        source.first.set()
        await until(lambda: rig.kids() == [])


async def test_a_late_answer_does_not_replace_a_later_one() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    answers: list[LoadedKeys | FetchError] = []

    class Scripted:
        calls = 0

        async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
            number = self.calls
            self.calls += 1
            await gates[number].wait()
            answer = answers[number]
            if isinstance(answer, FetchError):
                raise answer
            return answer

    async with rigged({"main": Scripted()}) as rig:
        old, new = (keyset_from_jwks({"keys": [public_jwk(kid)]}).keys for kid in ("old", "new"))
        answers += LoadedKeys(old, 300), LoadedKeys(new, 300), FetchError("late")
        await rig.ring.start(timeout=0)
        for _ in range(2):
            rig.clock.now += 2
            await asyncio.wait_for(rig.look_for("main"), 2)
        gates[1].set()
        await until(lambda: rig.kids() == ["new"])
        gates[0].set()
        await rig.sleep.next()
        assert rig.kids() == ["new"]
        gates[2].set()
        await until(lambda: len(rig.observer.refreshes) == 3)
        assert rig.kids() == ["new"]
        # The failure was of an attempt that began after the one that succeeded.
        assert rig.ring.status()["main"].last_error == "late"


async def test_an_empty_set_at_the_start_is_no_set(issuer: IssuerServer) -> None:
    issuer.publish()
    async with rigged({"main": JwksUri(f"{issuer.url}/jwks")}) as rig:
        await rig.ring.start()
        status = rig.ring.status()["main"]
        assert (rig.kids(), status.ready) == (None, False)
        assert "its list `keys` is empty" in str(status.last_error)
        issuer.publish(public_jwk("a"))
        rig.clock.now += 2
        assert await rig.look_for("main", "a") is True
        assert rig.kids() == ["a"]


async def test_keys_that_are_left_out_are_reported(rig: Rig, issuer: IssuerServer) -> None:
    issuer.publish(*(public_jwk(f"{number}") for number in range(110)))
    with capture_logs() as logs:
        await rig.ring.start()
        await rig.ring.reload("main")
    assert rig.ring.status()["main"].left_out == 10
    (line,) = [line for line in logs if line["event"] == "issuer_keys_left_out"]
    assert (line["kept"], line["left_out"], line["log_level"]) == (100, 10, "warning")


async def test_a_key_that_was_left_out_is_not_called_unknown(rig: Rig, issuer: IssuerServer) -> None:
    issuer.publish(*(public_jwk(f"{number}") for number in range(101)))
    await rig.ring.start()
    for _ in range(2):
        assert await rig.look_for("main", "100") is False
        assert await rig.look_for("main", "nowhere") is True
        rig.clock.now += REFILL_SECONDS
    issuer.publish(public_jwk("1"))
    assert await rig.look_for("main", "100") is True
    assert rig.kids() == ["1"]


async def test_the_first_failure_brings_the_next_attempt_nearer(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    assert (await rig.sleep.next())[0] > 200
    good = issuer.answers["/jwks"]
    issuer.answers["/jwks"] = Answer(b"", 503)
    assert await rig.look_for("main") is False
    delay, wake = await rig.sleep.next()
    assert delay <= 1.1
    issuer.answers["/jwks"] = good
    wake()
    assert (await rig.sleep.next())[0] > 200
    assert rig.ring.status()["main"].last_error is None


@pytest.mark.parametrize("step", [(json_text, "read"), (sources, "keyset_from_jwks")], ids=["read", "build"])
async def test_a_huge_set_delays_no_other_issuer(
    issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch, step: tuple[ModuleType, str]
) -> None:
    """While it is read, and its keys are built, the event loop loads the keys of another."""
    module, name = step
    begun, other_loaded, delayed = threading.Event(), threading.Event(), []
    real = getattr(module, name)

    def watched(given: object, *others: object) -> object:
        if len(str(given)) > 100_000:
            begun.set()
            delayed.append(not other_loaded.wait(5))
        return real(given, *others)

    async with serving() as huge:
        huge.publish(*(public_jwk(f"{number}") for number in range(120)), *[None] * 40_000)
        async with rigged(
            {"huge": JwksUri(f"{huge.url}/jwks"), "main": JwksUri(f"{issuer.url}/jwks")}
        ) as rig:
            await rig.ring.start()
            assert len(rig.kids("huge") or ()) == 100
            monkeypatch.setattr(module, name, watched)
            loading = asyncio.create_task(rig.ring.reload("huge"))
            await asyncio.wait_for(asyncio.to_thread(begun.wait), 10)
            await rig.ring.reload("main")
            other_loaded.set()
            await loading
    assert delayed == [False]


async def test_an_operator_gets_a_fetch_however_recent_the_last_one_is(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    for number, kid in enumerate(("b", "c"), start=2):
        issuer.publish(public_jwk(kid))
        await rig.ring.reload("main")
        assert rig.kids() == [kid]
        assert issuer.requests["/jwks"] == number
    # It takes nothing from the requests that name a key nobody knows.
    await rig.look_for("main")
    assert issuer.requests["/jwks"] == 4


async def test_operators_who_ask_at_once_share_one_fetch(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    await asyncio.gather(*(rig.ring.reload("main") for _ in range(100)))
    assert issuer.requests["/jwks"] == 2


async def test_an_operators_fetch_that_fails_is_reported_and_costs_no_key(
    rig: Rig, issuer: IssuerServer
) -> None:
    await rig.ring.start()
    issuer.answers["/jwks"] = Answer(b"", 503)
    await rig.ring.reload("main")
    assert rig.kids() == ["a"]
    assert "503" in str(rig.ring.status()["main"].last_error)


async def test_it_is_known_which_keys_left_and_when(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    assert rig.ring.status()["main"].withdrawn == {}
    issuer.publish(public_jwk("b"), public_jwk())
    await rig.ring.reload("main")
    rig.clock.now += 90
    assert rig.ring.status()["main"].withdrawn == {"a": 90}
    for number in range(100):
        issuer.publish(public_jwk(f"{number}"))
        await rig.ring.reload("main")
    withdrawn = rig.ring.status()["main"].withdrawn
    assert len(withdrawn) == 32
    assert "98" in withdrawn


async def test_a_key_that_came_back_has_not_left(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    published = issuer.answers["/jwks"]
    issuer.publish(public_jwk())
    await rig.ring.reload("main")
    assert list(rig.ring.status()["main"].withdrawn) == ["a"]
    issuer.answers["/jwks"] = published
    await rig.ring.reload("main")
    assert rig.ring.status()["main"].withdrawn == {}


async def test_a_look_leaves_no_trace(rig: Rig, issuer: IssuerServer) -> None:
    await rig.ring.start()
    before = (rig.ring.status(), rig.kids(), list(rig.observer.refreshes), list(rig.changes))
    issuer.publish(public_jwk("b"))
    assert kids((await rig.ring.look("main")).keys) == ["b"]
    issuer.answers["/jwks"] = Answer(b"", 503)
    with pytest.raises(FetchError, match="503"):
        await rig.ring.look("main")
    assert (rig.ring.status(), rig.kids(), rig.observer.refreshes, rig.changes) == before
    # The next request that names a key nobody knows gets its fetch.
    issuer.publish(public_jwk("b"))
    await rig.look_for("main")
    assert rig.kids() == ["b"]


class GatedSource:
    """A source whose loads wait for the test; `first` lets the first one alone go on."""

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys
        self.loads = 0
        self.under_way = 0
        self.open = asyncio.Event()
        self.first = asyncio.Event()
        self.answers_from_now_on = False

    async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
        self.loads += 1
        self.under_way += 1
        try:
            if not self.answers_from_now_on:
                gates = [self.open, self.first] if self.loads == 1 else [self.open]
                waits = [asyncio.create_task(gate.wait()) for gate in gates]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
        finally:
            self.under_way -= 1
        return LoadedKeys(self.keys, 300)


async def test_a_cancelled_waiter_leaves_the_fetch_to_the_others() -> None:
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        first, second = (asyncio.create_task(rig.look_for("main")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not second.done()
        source.open.set()
        await second
        assert source.loads == 1
        assert rig.kids() == []


async def test_a_waiter_does_not_wait_for_ever() -> None:
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        assert await asyncio.wait_for(rig.look_for("main"), 10) is False
        assert rig.kids() is None
        source.open.set()
        await rig.look_for("main")
        assert rig.kids() == []


async def test_a_refresh_joins_the_fetch_that_is_under_way() -> None:
    source = GatedSource(KeySet(()))
    async with rigged({"main": source}) as rig:
        await rig.ring.start(timeout=0)
        joined = asyncio.create_task(rig.look_for("main"))
        await asyncio.sleep(0)
        source.open.set()
        await joined
        assert source.loads == 1
        await rig.look_for("main")
        assert source.loads == 2


async def test_the_background_joins_the_fetch_that_a_request_caused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = GatedSource(KeySet(()))
    source.open.set()
    async with rigged({"main": source}) as rig:
        await rig.ring.start()
        _, wake = await rig.sleep.next()
        source.open.clear()
        refreshing = asyncio.create_task(rig.look_for("main"))
        await until(lambda: source.loads == 2)
        joined = asyncio.Event()
        (keys,) = rig.ring._realms.values()
        assert isinstance(keys, IssuerKeys)
        load = keys.load

        def told() -> object:
            joined.set()
            return load()

        monkeypatch.setattr(keys, "load", told)
        wake()
        await asyncio.wait_for(joined.wait(), 5)
        source.open.set()
        await refreshing
        await rig.sleep.next()
        assert source.loads == 2


async def test_an_issuer_that_hangs_delays_no_other(issuer: IssuerServer) -> None:
    async with serving() as hanging:
        hanging.answers["/jwks"] = Answer(b"", hangs=True)
        sources: dict[str, KeySource] = {
            "hanging": JwksUri(f"{hanging.url}/jwks"),
            "main": Discovery(issuer.url),
        }
        async with rigged(sources) as rig:
            began = monotonic()
            await rig.ring.start(timeout=0.3)
            assert monotonic() - began < 2
            assert rig.kids("main") == ["a"]
            assert rig.kids("hanging") is None
            stuck = asyncio.create_task(rig.look_for("hanging"))
            issuer.publish(public_jwk("b"))
            await asyncio.wait_for(rig.look_for("main"), 2)
            assert rig.kids("main") == ["b"]
            assert not stuck.done()
            assert hanging.requests["/jwks"] == 1
            stuck.cancel()


async def test_an_issuer_that_is_down_at_the_start_is_found_later(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with rigged({"main": Discovery(url)}) as rig:
        await rig.ring.start()
        assert rig.kids() is None
        status = rig.ring.status()["main"]
        assert (status.ready, status.age) == (False, None)
        assert "cannot connect" in (status.last_error or "")
        delay, wake = await rig.sleep.next()
        assert delay <= 1.1
        async with serving(port=unused_tcp_port) as issuer:
            issuer.publish(public_jwk("a"))
            wake()
            await rig.sleep.next()
        assert rig.kids() == ["a"]


async def test_a_changed_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 32)
    async with rigged({"main": SecretFile(file)}) as rig:
        await rig.ring.start()
        before = rig.ring.current("main")
        delay, wake = await rig.sleep.next()
        assert delay <= 11
        file.write_bytes(b"t" * 32)
        wake()
        await rig.sleep.next()
        after = rig.ring.current("main")
    assert before is not None
    assert after is not None
    assert before.keys != after.keys


async def test_a_defect_does_not_end_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    class Defective:
        async def load(self, fetcher: Fetcher) -> LoadedKeys:  # noqa: ARG002 -- the signature of the Protocol
            raise ZeroDivisionError

    async with rigged({"main": Defective()}) as rig:
        with caplog.at_level(logging.CRITICAL, logger="asyncio"):
            await rig.ring.start()
            for _ in range(2):
                _, wake = await rig.sleep.next()
                wake()
        assert rig.ring.status()["main"].last_error == "unexpected ZeroDivisionError"


async def test_secrets_leave_no_trace_in_the_log() -> None:
    with capture_logs() as logs:
        async with rigged({"main": Secret(b"hush" * 10)}) as rig:
            await rig.ring.start()
    (line,) = logs
    assert line["added"] == ["without kid"]
    assert "hush" not in repr(logs)


async def test_close_ends_all_tasks(rig: Rig, issuer: IssuerServer) -> None:
    issuer.answers["/jwks"] = Answer(b"", hangs=True)
    before = asyncio.all_tasks()
    await rig.ring.start(timeout=0.05)
    await rig.ring.close()
    assert {task for task in asyncio.all_tasks() - before if "keys of" in task.get_name()} == set()
