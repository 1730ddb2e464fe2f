"""`/v1/denials`: the denied requests, without personal data."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.telemetry.logs import hash_subject
from tests.admin.client import TOKEN, Api
from tests.harness import token
from tests.sockets import RawUpstream
from tests.workers.program import connected, eventually, route, running

session = pytest.mark.asyncio(loop_scope="session")


@session
async def test_a_denial_is_listed_without_token_query_or_subject(api: Api) -> None:
    subject = f"ghost-{uuid.uuid4().hex}"
    raw = token(subject)
    refused = await api.house.request("/private/x?access_token=secret", token=raw)
    answer = await api.get("/denials", limit=1)
    (denial,) = answer.json["items"]
    assert denial == {
        "id": denial["id"],
        "at": denial["at"],
        "reason": "user_not_found",
        "status": 401,
        "route": "private",
        "issuer": "main",
        "subject_hash": hash_subject(subject),
        "method": "GET",
        "path": "/private/x",
        "client": "127.0.0.1",
        "request_id": refused.problem["request_id"],
        "detail": denial["detail"],
        "tier": "postgres",
        "user_id": None,
        "shadow": False,
        "token": denial["token"],
    }
    assert denial["token"]["digest"] == hashlib.sha256(raw).hexdigest()[:16]
    assert denial["token"]["iss"] == "https://idp.example.com/"
    for secret in (subject, raw.decode(), "secret"):
        assert secret not in answer.content.decode()


@session
async def test_denials_are_filtered_and_paged_newest_first(api: Api) -> None:
    for _ in range(3):
        await api.house.request("/private/x", token=token("suspended"))
        await api.house.request("/orders/x", token=token("member"))
    page = (await api.get("/denials", reason="user_suspended", route="private", issuer="main", limit=2)).json
    assert [each["reason"] for each in page["items"]] == ["user_suspended"] * 2
    older = (await api.get("/denials", reason="user_suspended", limit=1, after=page["next"])).json
    ids = [each["id"] for each in [*page["items"], *older["items"]]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 3
    assert {each["route"] for each in (await api.get("/denials", route="orders")).json["items"]} == {"orders"}
    assert (await api.get("/denials", issuer="nobody")).json == {"items": [], "next": None}


@session
async def test_a_denial_is_found_by_the_data_of_a_complaint(api: Api) -> None:
    subject = f"complains-{uuid.uuid4().hex}"
    user = (await api.new_user(subject)).json["id"]
    await api.house.sql("UPDATE users SET status = 'suspended' WHERE id = $1", uuid.UUID(user))
    before = datetime.now(UTC)

    async def refused() -> str | None:
        response = await api.house.request("/private/complaint", token=token(subject))
        return str(response.problem["request_id"]) if response.status == 401 else None

    request_id = await eventually(refused)
    await api.house.request("/private/complaint", token=token("locked"))

    for question in (
        {"request_id": request_id},
        {"subject": subject},
        {"subject": hash_subject(subject), "client": "127.0.0.1"},
        {"user_id": user, "reason": "user_suspended", "route": "private"},
        {"subject": subject, "since": before.isoformat()},
    ):
        found = (await api.get("/denials", **question)).json["items"]
        assert [(each["request_id"], each["user_id"]) for each in found] == [(request_id, user)], question
    for nobody in (
        {"request_id": request_id, "subject": "locked"},
        {"user_id": user, "client": "192.0.2.1"},
        {"subject": subject, "since": (before + timedelta(hours=1)).isoformat()},
    ):
        assert (await api.get("/denials", **nobody)).json["items"] == [], nobody


@session
async def test_a_request_id_is_enough_for_an_explanation(api: Api) -> None:
    raw = token(f"ghost-{uuid.uuid4().hex}")
    refused = await api.house.request("/private/x", token=raw)
    request_id = str(refused.problem["request_id"])

    answer = await api.get("/denials/explanation", request_id=request_id)

    assert answer.json["denial"]["request_id"] == request_id
    explanation = answer.json["explanation"]
    assert (explanation["decision"], explanation["reason"]) == ("deny", "user_not_found")
    assert explanation["fix"]["command"].endswith("orphans --from-api")
    assert explanation["steps"][-1]["name"] == "token"
    assert raw.decode() not in answer.content.decode()
    assert (await api.get("/denials/explanation", request_id="of-nobody")).status == 404
    assert (await api.get("/denials/explanation")).status == 422


@session
async def test_data_that_is_no_request_is_listed_too(api: Api) -> None:
    await api.house.exchange(b"NONSENSE\r\n\r\n")
    (denial,) = (await api.get("/denials", limit=1)).json["items"]
    assert (denial["reason"], denial["route"], denial["issuer"]) == ("request_malformed", "unmatched", "none")


@asynccontextmanager
async def stream(api: Api, **query: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:  # Any: JSON
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    async with api.session.get("/v1/denials", headers=headers, params=query) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        assert (await response.content.readline()).startswith(b":")

        async def events() -> AsyncIterator[dict[str, Any]]:  # Any: JSON
            fields: dict[str, str] = {}
            async for line in response.content:
                name, _, value = line.decode().strip().partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    assert fields["event"] == "denial"
                    assert fields["id"] == json.loads(fields["data"])["id"]
                    yield json.loads(fields["data"])
                    fields = {}

        yield events()


@session
async def test_a_stream_has_new_denials_only(api: Api) -> None:
    await api.house.request("/private/x", token=token("locked"))
    async with asyncio.timeout(10), stream(api, reason="user_locked") as events:
        await api.house.request("/private/x", token=token("suspended"))
        refused = [await api.house.request("/private/x", token=token("locked")) for _ in range(3)]
        told = [(await anext(events))["request_id"] for _ in refused]
    assert told == [response.problem["request_id"] for response in refused]


@session
async def test_a_stream_continues_where_another_ended(api: Api) -> None:
    ids = []
    for _ in range(3):
        await api.house.request("/private/x", token=token("pending"))
        ids.append((await api.get("/denials", limit=1)).json["items"][0]["id"])
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream", "Last-Event-ID": ids[0]}
    async with asyncio.timeout(10), api.session.get("/v1/denials", headers=headers) as response:
        seen = [line async for line in take(response.content, b"id: ", 2)]
    assert seen == [f"id: {each}\n".encode() for each in ids[1:]]


async def take(lines: AsyncIterable[bytes], prefix: bytes, number: int) -> AsyncIterator[bytes]:
    async for line in lines:
        if line.startswith(prefix):
            yield line
            number -= 1
            if not number:
                return


@session
async def test_a_defect_breaks_a_stream_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal would stand in the midst of the body, whose head has been sent."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("gateway.admin.endpoints.denials.Denials._gather", broken)
    async with asyncio.timeout(10), stream(api) as events:
        with pytest.raises(aiohttp.ClientPayloadError):
            await anext(events)
    (event,) = api.house.events("internal_error")
    assert "ZeroDivisionError" in str(event["exception"])


@session
async def test_a_silent_stream_sends_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.endpoints.denials.HEARTBEAT", 0.1)
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    async with asyncio.timeout(10), api.session.get("/v1/denials", headers=headers) as response:
        beats = [line async for line in take(response.content, b":", 4)]
    assert beats[1:] == [b":\n"] * 3


@session
async def test_streams_are_bounded_and_those_that_are_left_make_room(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.endpoints.denials.MAX_STREAMS", 1)
    monkeypatch.setattr("gateway.admin.endpoints.denials.HEARTBEAT", 0.1)

    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {TOKEN}"}

    async def open_one() -> aiohttp.ClientResponse | None:
        response = await api.session.get("/v1/denials", headers=headers)
        if response.status == 200:
            return response
        assert (response.status, (await response.json())["code"]) == (429, "too_many_streams")
        return None

    for _ in range(2):
        # The streams of other tests end when the gateway notices that no client reads them.
        held = await eventually(open_one)
        assert held is not None
        assert await open_one() is None
        held.close()


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server


async def test_each_worker_lists_the_denials_of_all(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    private = {**route("private", "/private/**"), "auth": "required"}  # type: ignore[dict-item] # a route is an object
    async with running(
        tmp_path, upstream, dsn, redis_url, admin={"token": TOKEN}, routes=[private]
    ) as program:
        bearer = b"Authorization: Bearer " + TOKEN.encode()

        async def listed() -> list[dict[str, Any]]:  # Any: JSON
            async with connected(program.admin_url) as client:
                response = await client.get("/v1/denials?limit=500", bearer, b"Connection: close")
                items: list[dict[str, Any]] = json.loads(response.content)["items"]
                return items

        async with connected(program.admin_url) as client:
            await client.send(
                b"GET /v1/denials HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n" + bearer + b"\r\n\r\n"
            )
            await client.until(b"from now on")
            ids = {str((await program.get("/private/x")).problem["request_id"]) for _ in range(60)}
            for _ in range(6):
                items = await listed()
                assert {each["request_id"] for each in items} == ids
                assert [each["id"] for each in items] == sorted((each["id"] for each in items), reverse=True)
                assert len({each["id"][14:] for each in items}) == 2
            told = ""
            async with asyncio.timeout(15):
                while not all(each in told for each in ids):
                    told += (await client.until(b"\n\n")).decode()
            assert told.count("event: denial") == len(ids)

        # A stream does not hold up the end.
        async with connected(program.admin_url) as client:
            await client.send(
                b"GET /v1/denials HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n" + bearer + b"\r\n\r\n"
            )
            await client.until(b"from now on")
            program.process.terminate()
            await client.to_end()
            assert await program.ended() == 0


async def test_a_refresh_reaches_all_workers(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url, admin={"token": TOKEN}) as program:
        before = await program.metric("gateway_jwks_refreshes_total")
        async with connected(program.admin_url) as client:
            await client.send(
                b"POST /v1/issuers/main/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                b"Authorization: Bearer " + TOKEN.encode() + b"\r\nConnection: close\r\n\r\n"
            )
            assert (await client.answer()).status == 200

        async def both() -> bool:
            return await program.metric("gateway_jwks_refreshes_total") == before + 2

        await eventually(both)
