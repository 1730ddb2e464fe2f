"""The health path of the data plane: answered without a token, and never forwarded."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.model import JSON
from gateway.proxy import health
from gateway.telemetry.metrics import Metrics
from tests.harness import House, open_house, token
from tests.sockets import request_bytes


@pytest.fixture
async def house(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setattr(health, "_FRESH_SECONDS", 0.0)
    routes: list[JSON] = [
        {"name": "all", "match": {"path": "/**"}, "upstream": "raw", "auth": "none"},
    ]
    server: dict[str, JSON] = {"listen": "127.0.0.1:0", "health_path": "/healthz"}
    async with open_house(tmp_path, dsn, redis_url, server=server, routes=routes) as house:
        await house.ready()
        yield house


async def test_it_answers_without_a_token_and_is_not_forwarded(house: House) -> None:
    async with house.connect() as client:
        for target, method in (("/healthz", "GET"), ("/healthz?x=1", "GET"), ("/healthz", "HEAD")):
            await client.send(request_bytes(method, target))
            response = await client.response(to_head=method == "HEAD")
            assert response is not None
            assert response.status == 200
            assert response.content == (b"" if method == "HEAD" else b'{"status":"ready"}')
            assert len(response.values(b"date")) == len(response.values(b"x-request-id")) == 1
        # The connection goes on.
        await client.send(request_bytes("GET", "/other"))
        forwarded = await client.response()
        assert forwarded is not None
        assert forwarded.status == 200
    assert [received.target for received in house.upstream.requests] == [b"/other"]
    assert await house.metric("gateway_requests_total", route="health_path", method="GET", status="200") == 2


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/healthz"),
        ("GET", "/%68ealthz"),
        ("GET", "http://gateway.test/healthz"),
        ("OPTIONS", "/healthz"),
    ],
)
async def test_no_other_method_or_spelling_reaches_a_route(house: House, method: str, target: str) -> None:
    response = await house.request(target, method=method, token=token())
    assert (response.status, response.code) == (404, "route_not_found")
    assert house.upstream.wires == []


async def test_a_body_that_belongs_to_it_ends_the_connection(house: House) -> None:
    async with house.connect() as client:
        await client.send(request_bytes("GET", "/healthz", b"Content-Length: 5"), b"ab")
        response = await client.response()
        assert response is not None
        assert (response.status, response.values(b"connection")) == (200, [b"close"])


async def test_it_says_503_when_the_gateway_stops_or_cannot_serve() -> None:
    serving, draining, asked = True, False, 0

    async def serves() -> bool:
        nonlocal asked
        asked += 1
        return serving

    path = health.HealthPath("/healthz", serves=serves, draining=lambda: draining, metrics=Metrics())
    assert path.recall() is None
    assert await path.ask() is True
    serving = False
    # The dependencies are not asked again within a second.
    assert path.recall() is True
    assert asked == 1
    draining = True
    assert path.recall() is False
    assert await path.ask() is False
