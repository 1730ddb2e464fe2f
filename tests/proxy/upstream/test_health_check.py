"""Active health checks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from gateway.proxy.upstream.balancer import Upstream
from gateway.proxy.upstream.endpoints import health_check
from gateway.proxy.upstream.endpoints.endpoint import Endpoint
from gateway.proxy.upstream.options import HealthCheck, UpstreamRules
from tests.proxy.services import ManyUpstreams, exchange, settled
from tests.sockets import OK, Exchange

CHECK = HealthCheck("/healthz?deep=1", interval=0.03, timeout=0.2, healthy_after=2, unhealthy_after=2)


@pytest.fixture
async def many() -> AsyncIterator[ManyUpstreams]:
    async with ManyUpstreams(2) as many:
        yield many


def answering_checks(many: ManyUpstreams, number: int, answer: bytes | None) -> None:
    """Let one server answer health checks with this response, or not at all, and requests with 200."""

    async def answer_one(exchange: Exchange) -> None:
        if not exchange.request.target.startswith(b"/healthz"):
            await exchange.send(OK)
        elif answer is None:
            await exchange.wire.to_end()
        else:
            await exchange.send(answer)

    many.servers[number].behave(answer_one)


def checked(many: ManyUpstreams, check: HealthCheck = CHECK, host: str = "preserve") -> Upstream:
    service = Upstream(UpstreamRules("orders", many.urls, health_check=check, host=host))
    service.start()
    return service


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n\r\n",
        b"nonsense",
        None,
    ],
    ids=["503", "302", "no-http", "silence"],
)
async def test_an_unhealthy_endpoint_gets_no_requests_until_it_is_healthy(
    many: ManyUpstreams, answer: bytes | None
) -> None:
    answering_checks(many, 0, answer)
    service = checked(many)
    try:
        await settled(lambda: service.ejected == 1)
        many.servers[0].requests.clear()
        for _ in range(10):
            await exchange(service)
        assert {request.target for request in many.servers[0].requests} <= {b"/healthz?deep=1"}
        answering_checks(many, 0, OK)
        await settled(lambda: service.ejected == 0)
        await asyncio.gather(*(exchange(service) for _ in range(10)))
        assert b"/" in {request.target for request in many.servers[0].requests}
    finally:
        service.close()


async def test_a_check_is_a_separate_request(many: ManyUpstreams) -> None:
    service = checked(many, host="orders.internal")
    try:
        await settled(lambda: all(server.requests for server in many.servers))
        head = many.servers[0].requests[0].head
        assert head.split(b"\r\n") == [
            b"GET /healthz?deep=1 HTTP/1.1", b"Host: orders.internal",
            b"User-Agent: gateway-health-check", b"Connection: close", b"", b"",
        ]  # fmt: skip
        assert (service.active, service.idle) == (0, 0)
    finally:
        service.close()


async def test_when_all_endpoints_are_unhealthy_requests_are_still_sent(many: ManyUpstreams) -> None:
    for number in range(2):
        answering_checks(many, number, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    service = checked(many)
    try:
        await settled(lambda: service.ejected == 2)
        assert (await exchange(service)).body == b"ok"
    finally:
        service.close()


async def test_a_bug_in_a_check_does_not_end_the_others(
    many: ManyUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, odd = health_check.check, ["first", "second"]

    async def odd_at_first(rules: HealthCheck, endpoint: Endpoint) -> None:
        if odd:
            raise ZeroDivisionError(odd.pop())
        await check(rules, endpoint)

    monkeypatch.setattr(health_check, "check", odd_at_first)
    with capture_logs() as logs:
        service = checked(many)
        try:
            await settled(lambda: all(server.requests for server in many.servers))
        finally:
            service.close()
    assert [entry["event"] for entry in logs] == ["endpoints_not_checked"]


async def test_checks_end_with_the_upstream(many: ManyUpstreams) -> None:
    service = checked(many)
    await settled(lambda: len(many.servers[0].requests) > 2)
    service.close()
    await asyncio.sleep(0.05)
    before = len(many.servers[0].requests)
    await asyncio.sleep(0.1)
    assert len(many.servers[0].requests) == before
