"""Look-ups of issuers' hosts, with a name service that hangs."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

import pytest

from gateway.issuer_keys.dns import SystemLookups
from gateway.issuer_keys.fetch import Fetcher, FetchError
from tests.issuer_keys.issuer import Answer, IssuerServer, serving

MANY = 40
"""More than any loop has threads for look-ups."""


class NameService:
    """Stands in for the system's: names that begin with `hanging` get no answer until the test lets them."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answer = threading.Event()

    def __call__(self, host: str, port: object, *rest: Any, **named: Any) -> list[Any]:  # noqa: ARG002, ANN401 -- the signature of `socket.getaddrinfo`
        self.asked[host] += 1
        if host.startswith("hanging"):
            assert self.answer.wait(60)
        if host.startswith("missing"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port or 0))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    service = NameService()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    yield service
    service.answer.set()


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with serving() as issuer:
        issuer.answers["/doc"] = Answer(b"{}")
        yield issuer


def at(issuer: IssuerServer, host: str) -> str:
    return f"{issuer.url.replace('127.0.0.1', host)}/doc"


def looking_up(host: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"look-up of {host}"]


async def test_a_host_that_hangs_is_looked_up_once_and_delays_no_other(
    issuer: IssuerServer, names: NameService
) -> None:
    async with Fetcher(timeout=5) as fetcher, Fetcher(timeout=0.2) as hasty:
        for _ in range(2):
            failed = await asyncio.gather(
                *(hasty.get(at(issuer, "hanging.test")) for _ in range(MANY)), return_exceptions=True
            )
            assert {type(error) for error in failed} == {FetchError}
        assert (await fetcher.get(at(issuer, "good.test"))).content == {}
        assert names.asked["hanging.test"] == 1


async def test_many_hosts_that_hang_delay_no_other(issuer: IssuerServer, names: NameService) -> None:
    async with Fetcher(timeout=5) as fetcher, Fetcher(timeout=0.2) as hasty:
        await asyncio.gather(
            *(hasty.get(at(issuer, f"hanging-{number}.test")) for number in range(MANY)),
            return_exceptions=True,
        )
        assert (await fetcher.get(at(issuer, "good.test"))).content == {}
        assert names.asked.total() == MANY + 1


async def test_a_look_up_that_takes_too_long_is_reported_and_fails_the_others_at_once(
    issuer: IssuerServer, names: NameService
) -> None:
    async with Fetcher(timeout=1) as fetcher:
        with pytest.raises(FetchError, match=r"cannot be resolved: no answer within 0\.9 s"):
            await fetcher.get(at(issuer, "hanging.test"))
        began = monotonic()
        for _ in range(20):
            with pytest.raises(FetchError, match=r"cannot be resolved: no answer within 0\.9 s"):
                await fetcher.get(at(issuer, "hanging.test"))
        # Twenty would have been twenty seconds.
        assert monotonic() - began < 10
        assert names.asked["hanging.test"] == 1


async def test_a_host_is_looked_up_anew_when_its_look_up_has_ended(names: NameService) -> None:
    lookups = SystemLookups(patience=0.05)
    with pytest.raises(TimeoutError):
        await lookups.resolve("hanging.test", 80)
    names.answer.set()
    for thread in looking_up("hanging.test"):
        await asyncio.to_thread(thread.join, 10)
    (found,) = await lookups.resolve("hanging.test", 80)
    assert (found["hostname"], found["host"], found["port"]) == ("hanging.test", "127.0.0.1", 80)
    (found,) = await lookups.resolve("hanging.test", 81)
    assert found["port"] == 81
    assert names.asked["hanging.test"] == 3


async def test_a_cancelled_caller_does_not_cancel_the_others(names: NameService) -> None:
    lookups = SystemLookups(patience=30)
    first, second = (asyncio.create_task(lookups.resolve("hanging.test", port)) for port in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    names.answer.set()
    assert [found["port"] for found in await second] == [2]
    assert names.asked["hanging.test"] == 1


async def test_all_callers_learn_that_a_name_does_not_exist(names: NameService) -> None:
    lookups = SystemLookups(patience=30)
    outcomes = await asyncio.gather(
        *(lookups.resolve("missing.test", 1) for _ in range(3)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {socket.gaierror}
    assert names.asked["missing.test"] == 1


async def test_without_a_thread_a_look_up_fails_and_the_next_one_is_made(
    names: NameService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = SystemLookups(patience=30)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(OSError, match="cannot start a thread"):
            await lookups.resolve("good.test", 1)
    assert len(await lookups.resolve("good.test", 1)) == 1
    assert names.asked["good.test"] == 1


def test_a_hanging_look_up_outlives_its_loop_without_a_word(names: NameService) -> None:
    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await SystemLookups(patience=0.01).resolve("hanging.test", 1)

    asyncio.run(leave())
    names.answer.set()
    for thread in looking_up("hanging.test"):
        thread.join(10)
        assert not thread.is_alive()
