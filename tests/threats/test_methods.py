"""Threats: message framing: unusual methods are forwarded where they are named, and reflect nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import JSON
from tests.harness import House, open_house, token
from tests.sockets import request_bytes

UNUSUAL: list[JSON] = ["LABEL", "VERSION-CONTROL", "FOO", "GET"]


@pytest.fixture
async def unusual(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    def route(name: str, *methods: JSON) -> JSON:
        match: JSON = {"path": f"/{name}/**", "methods": [*methods]}
        return {"name": name, "match": match, "upstream": "raw", "auth": "none"}

    routes = [
        route("any"),
        route("named", *UNUSUAL),
        route("trace", "TRACE"),
        route("read", "GET", "OPTIONS"),
    ]
    async with open_house(tmp_path, dsn, redis_url, routes=routes) as house:
        yield house


@pytest.mark.parametrize("method", ["LABEL", "VERSION-CONTROL", "FOO"])
async def test_a_named_method_is_forwarded_as_it_came(unusual: House, method: str) -> None:
    for body in (None, b"hello"):
        # The second one without a body is remembered.
        for _ in range(2):
            received = await unusual.forwarded("/named/x", method=method, body=body)
            assert received.head.startswith(f"{method} /named/x HTTP/1.1\r\n".encode())
            assert received.body == (body or b"")


@pytest.mark.parametrize("method", ["LABEL", "FOO", "get", "UPDATE"])
async def test_an_unknown_method_that_is_not_named_is_501(unusual: House, method: str) -> None:
    for target in ("/any/x", "/read/x"):
        response = await unusual.request(target, method=method, token=token())
        assert (response.status, response.code) == (501, "method_not_implemented")
    response = await unusual.request("/nowhere", method=method)
    assert response.status == 404
    assert unusual.upstream.wires == []


async def test_trace_is_refused_where_it_is_not_named(unusual: House) -> None:
    response = await unusual.request("/any/x", method="TRACE", token=token())
    assert (response.status, response.code) == (405, "method_not_allowed")
    assert response.field(b"allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    assert unusual.upstream.wires == []
    received = await unusual.forwarded("/trace/x", method="TRACE")
    assert received.head.startswith(b"TRACE /trace/x HTTP/1.1\r\n")


async def test_max_forwards_counts_down_and_ends_here(unusual: House) -> None:
    received = await unusual.forwarded("/any/x", b"max-forwards: 3", method="OPTIONS")
    assert received.values(b"max-forwards") == [b"2"]
    received = await unusual.forwarded("/trace/x", b"Max-Forwards: 1", method="TRACE")
    assert received.values(b"max-forwards") == [b"0"]
    # For other methods it has no meaning.
    received = await unusual.forwarded("/any/x", b"Max-Forwards: 0")
    assert received.values(b"max-forwards") == [b"0"]
    before = len(unusual.upstream.requests)
    response = await unusual.request("/read/x", b"Max-Forwards: 0", method="OPTIONS")
    assert (response.status, response.field(b"allow")) == (204, b"GET, OPTIONS")
    response = await unusual.request("/trace/x", b"Max-Forwards: 0", method="TRACE", token=token())
    assert response.status == 405
    assert token() not in response.body
    for value in (b"-1", b"x", b"", b"1, 2", b"9" * 30):
        response = await unusual.request("/any/x", b"Max-Forwards: " + value, method="OPTIONS")
        assert (response.status, response.code) == (400, "request_malformed")
    response = await unusual.request("/any/x", b"Max-Forwards: 1", b"Max-Forwards: 1", method="OPTIONS")
    assert response.status == 400
    assert len(unusual.upstream.requests) == before


async def test_a_higher_minor_version_is_answered_as_1_1(unusual: House) -> None:
    request = request_bytes("GET", "/any/x").replace(b"HTTP/1.1", b"HTTP/1.2")
    response = await unusual.exchange(request)
    assert response.status == 200
    assert unusual.upstream.requests[-1].head.startswith(b"GET /any/x HTTP/1.1\r\n")


async def test_no_request_is_smuggled_behind_an_unknown_method(unusual: House) -> None:
    inner = b"GET /any/smuggled HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
    both = (
        b"FOO /named/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: %d\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(inner) + 5)
    )
    response = await unusual.exchange(both + inner)
    assert response.status == 400
    assert unusual.upstream.wires == []
    response = await unusual.exchange(
        b"FOO /named/x HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    )
    assert response.status == 200
    assert [received.target for received in unusual.upstream.requests] == [b"/named/x"]
