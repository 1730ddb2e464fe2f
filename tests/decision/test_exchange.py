"""Questions that wait, whose front leaves, and that meet a bug."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.admission import Admission
from gateway.core.model import JSON, Request
from gateway.memo import Memo
from tests.decision.asking import ROUTES, ask, ext_authz, forward_auth, front
from tests.harness import House, open_house, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_bug_is_answered_counted_and_logged(door: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def buggy(_: Memo, __: Request) -> Admission:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Memo, "admit", buggy)
        response = await ask(door, forward_auth(token=token()))
    assert (response.status, response.code) == (503, "internal_error")
    assert "ZeroDivisionError" in str(door.events("internal_error")[0])
    assert (await ask(door, forward_auth(token=token()))).status == 200


async def test_a_front_that_leaves_is_counted_and_its_question_is_dropped(
    door: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_: Memo, __: Request) -> Admission:
        await asyncio.sleep(0)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    labels = {"route": "unmatched", "method": "GET", "status": "499"}
    before = await door.metric("gateway_requests_total", **labels)
    with monkeypatch.context() as patched:
        patched.setattr(Memo, "admit", slow)
        async with asyncio.timeout(20):
            async with front(door) as client:
                await client.send(ext_authz(token=token()))
                await begun.wait()
                client.reset()
            await ended.wait()
    assert await door.metric("gateway_requests_total", **labels) == before + 1
    assert await door.metric("gateway_in_flight_requests") == 0


async def test_a_body_that_comes_while_a_question_waits_is_not_kept(
    door: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = asyncio.Event()
    admit = Memo.admit

    async def slow(memo: Memo, request: Request) -> Admission:
        await asyncio.sleep(0)
        await goes_on.wait()
        return await admit(memo, request)

    with monkeypatch.context() as patched:
        patched.setattr(Memo, "admit", slow)
        async with asyncio.timeout(20), front(door) as client:
            await client.send(
                ext_authz("POST", "/private/x", b"Content-Length: 100000", token=token()), b"x" * 999
            )
            goes_on.set()
            response = await client.response()
            assert response is not None
            assert (response.status, response.field(b"Connection")) == (200, b"close")


async def test_questions_in_flight_are_finished_when_the_gateway_ends(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()
    admit = Memo.admit

    async def slow(memo: Memo, request: Request) -> Admission:
        await asyncio.sleep(0)
        begun.set()
        await goes_on.wait()
        return await admit(memo, request)

    monkeypatch.setattr(Memo, "admit", slow)
    decision: dict[str, JSON] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    async with open_house(tmp_path, dsn, redis_url, decision=decision, routes=ROUTES) as house:
        asking = asyncio.create_task(ask(house, forward_auth("GET", "/optional/x")))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.2, goes_on.set)
    response = await asking
    assert (response.status, response.field(b"Connection")) == (200, b"close")
