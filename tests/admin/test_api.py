"""The entry to the admin API, and the form of its refusals."""

import asyncio
import gzip
from pathlib import Path

import pytest

from gateway.demo.embedded import EmbeddedPostgres
from tests.admin.client import TOKEN, Answer, Api
from tests.harness import House, open_house
from tests.sockets import Response, request_bytes

session = pytest.mark.asyncio(loop_scope="session")


@session
async def test_without_a_token_the_api_is_off_and_explains_how_to_turn_it_on(house: House) -> None:
    async with Api.of(house) as api:
        for path in ("/users", "/openapi.json", "/nothing", ""):
            answer = await api.get(path)
            assert (answer.status, answer.code) == (404, "not_found")
            assert "admin.token" in answer.problem["detail"]


@session
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({}, "credentials_missing"),
        ({"Authorization": "Bearer wrong"}, "invalid_token"),
        ({"Authorization": f"Basic {TOKEN}"}, "invalid_token"),
        ({"Authorization": TOKEN}, "invalid_token"),
        ({"Authorization": f"Bearer {TOKEN}x"}, "invalid_token"),
        ({"Authorization": "Bearer t\udcffken"}, "invalid_token"),
    ],
)
async def test_a_request_without_the_token_is_refused(api: Api, sent: dict[str, str], code: str) -> None:
    raw = [f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in sent.items()]
    refused = await exchange(api.house, request_bytes("GET", "/v1/users", *raw, b"Connection: close"))
    assert (refused.status, refused.code) == (401, code)
    challenge = refused.field(b"www-authenticate") or b""
    assert challenge.startswith(b"Bearer ")
    assert (b'error="invalid_token"' in challenge) is (code == "invalid_token")
    assert (await api.get("/users", limit=1)).status == 200


@session
async def test_two_tokens_count_as_none(api: Api) -> None:
    field = f"Authorization: Bearer {TOKEN}".encode()
    sent = request_bytes("GET", "/v1/users", field, field, b"Connection: close")
    assert (await exchange(api.house, sent)).status in {400, 401}


@session
async def test_the_scheme_is_written_in_any_case(api: Api) -> None:
    answer = await api.call("GET", "/users", headers={"Authorization": f"bEARER {TOKEN}"}, token=None)
    assert answer.status == 200


@session
async def test_the_description_needs_no_token(api: Api) -> None:
    assert (await api.call("GET", "/openapi.json", token=None)).status == 200


@session
@pytest.mark.parametrize("path", ["/users", "/openapi.json", "/nothing"])
async def test_no_answer_is_cached_or_sniffed(api: Api, path: str) -> None:
    answer = await api.get(path)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.headers["x-request-id"]) == 32


@session
async def test_unknown_paths_are_404_and_unknown_methods_are_405(api: Api) -> None:
    assert ((await api.get("/nothing")).code) == "not_found"
    refused = await api.call("PUT", "/users")
    assert (refused.status, refused.code, refused.headers["allow"]) == (
        405,
        "method_not_allowed",
        "GET, HEAD, POST",
    )
    options = await api.call("OPTIONS", "/users")
    assert (options.status, options.headers["allow"], options.content) == (
        204,
        "GET, HEAD, OPTIONS, POST",
        b"",
    )
    assert (await api.call("OPTIONS", "/nothing")).status == 404
    head, get = await api.call("HEAD", "/issuers"), await api.get("/issuers")
    assert (head.status, head.content) == (200, b"")
    assert abs(int(head.headers["content-length"]) - len(get.content)) < 50  # ages differ


@session
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("stauts=active", "stauts"),
        ("status=gone", "status"),
        ("status=", "status"),
        ("after=x", "after"),
        ("q=%00", "q"),
        ("q=", "q"),
        ("If-Match=x", "If-Match"),
    ],
)
async def test_a_parameter_that_cannot_be_is_named(api: Api, query: str, field: str) -> None:
    answer = await api.get(f"/users?{query}")
    assert (answer.status, answer.code) == (422, "validation_failed")
    assert [error["field"] for error in answer.problem["errors"]] == [field]


@session
async def test_a_path_that_cannot_be_is_named(api: Api) -> None:
    answer = await api.get("/users/nobody")
    assert (answer.status, answer.problem["errors"][0]["field"]) == (422, "id")


@session
async def test_each_field_of_a_body_that_cannot_be_is_named(api: Api) -> None:
    body = {
        "issuer": "nobody",
        "subject": "a\nb",
        "email": "no address",
        "roles": ["reader", 7, ""],
        "status": "deleted",
        "colour": "red",
    }
    answer = await api.call("POST", "/users", body)
    assert (answer.status, answer.code) == (422, "validation_failed")
    assert {error["field"] for error in answer.problem["errors"]} == {
        "subject",
        "email",
        "roles[1]",
        "roles[2]",
        "status",
        "colour",
    }


@session
async def test_errors_do_not_repeat_refused_values(api: Api) -> None:
    """A token that was put into a field too many, or is too long, stays out of answer and log."""
    for body in ({"token": 7, "url": "secret\x00"}, {"token": "secret" * 10_000}, {"token": ["secret"]}):
        answer = await api.call("POST", "/explain", body)
        assert answer.status == 422
        assert b"secret" not in answer.content
    assert "secret" not in api.house.log.getvalue()


@session
@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "request_malformed"),
        (b"", "application/json", 400, "request_malformed"),
        (b"\xff", "application/json", 400, "request_malformed"),
        (b'"\\ud800"', "application/json", 400, "request_malformed"),
        (b"[" * 5000, "application/json", 400, "request_malformed"),
        (b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", "application/json", 400, "request_malformed"),
        (b"[]", "application/json", 422, "validation_failed"),
        (b"null", "application/json", 422, "validation_failed"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b" " * 65_537, "application/json", 413, "body_too_large"),
    ],
)
async def test_a_body_that_cannot_be_read(
    api: Api, data: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await api.call("POST", "/users", data=data, headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (status, code)


@session
@pytest.mark.parametrize("coding", ["gzip", "identity, gzip", "br"])
async def test_a_compressed_body_is_not_unpacked(api: Api, coding: str) -> None:
    """Otherwise a few bytes from any client would be expanded to many before the token is checked."""
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await api.call("POST", "/users", data=gzip.compress(b" " * 50_000_000), headers=headers)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert "compressed" in answer.problem["detail"]
    unpacked = {**headers, "Content-Encoding": "identity"}
    assert (await api.call("POST", "/users", data=b"{}", headers=unpacked)).status == 422


@session
async def test_a_body_that_ends_early_or_is_framed_wrongly_is_no_defect(api: Api) -> None:
    fields = (f"Authorization: Bearer {TOKEN}".encode(), b"Content-Type: application/json")
    early = request_bytes("POST", "/v1/users", *fields, b"Content-Length: 50") + b"{"
    async with api.house.connect(admin=True) as client:
        await client.send(early)
    await asyncio.sleep(0.05)
    assert not api.house.events("library")
    chunked = request_bytes("POST", "/v1/users", *fields, b"Transfer-Encoding: chunked", b"Connection: close")
    assert (await exchange(api.house, chunked + b"zz\r\n{}\r\n0\r\n\r\n")).status == 400
    assert not api.house.events("internal_error")


@session
async def test_a_body_that_does_not_come_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.api.operations.BODY_SECONDS", 0.05)
    fields = (f"Authorization: Bearer {TOKEN}".encode(), b"Content-Type: application/json")
    refused = await exchange(api.house, request_bytes("POST", "/v1/users", *fields, b"Content-Length: 5"))
    assert (refused.status, refused.code) == (408, "request_timeout")


@session
async def test_a_bug_is_reported_with_its_id_and_logged(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr("gateway.stores.postgres.directory.users.UserDirectory.search", broken)
    answer = await api.get("/users")
    assert (answer.status, answer.code) == (503, "internal_error")
    assert "odd" not in answer.content.decode()
    (event,) = api.house.events("internal_error")
    assert event["request_id"] == answer.problem["request_id"]
    assert "ZeroDivisionError" in str(event["exception"])


async def test_a_store_that_is_down_is_no_answer_about_users(
    tmp_path: Path, dsn: str, redis_url: str, postgres_server: EmbeddedPostgres
) -> None:
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with open_house(tmp_path, dsn, redis_url, admin=admin) as house, Api.of(house) as api:
        user = await api.new_user("before")
        postgres_server.stop()
        for answer in (
            await api.get("/users"),
            await api.get(f"/users/{user.json['id']}"),
            await api.call("POST", "/cache/flush"),
            await api.call("POST", "/issuers/main/refresh"),
        ):
            assert (answer.status, answer.code) == (503, "store_unavailable")
            assert answer.headers["retry-after"] == "5"
            assert "gateway@" not in answer.content.decode()
        assert (await api.get("/issuers")).status == 200
        assert (await api.get("/overview")).status == 200
        postgres_server.start()


async def exchange(house: House, sent: bytes) -> Response:
    async with house.connect(admin=True) as client:
        await client.send(sent)
        response = await client.response()
        assert response is not None
        return response


@session
async def test_users_are_read_by_no_one_else(api: Api) -> None:
    answers: list[Answer] = [
        await api.call(method, path, token=None)
        for method, path in [
            ("GET", "/users"),
            ("POST", "/users"),
            ("GET", "/audit"),
            ("GET", "/denials"),
            ("POST", "/explain"),
            ("POST", "/cache/flush"),
            ("GET", "/nothing"),
        ]
    ]
    assert {answer.status for answer in answers} == {401}
