"""Active health checks: each endpoint is checked periodically, even without requests."""

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog

from gateway.core.reasons import Denial
from gateway.proxy.upstream.endpoints.endpoint import Endpoint
from gateway.proxy.upstream.options import HealthCheck
from gateway.proxy.upstream.parser import ResponseParser

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def keep_checking(rules: HealthCheck, endpoints: Callable[[], Iterable[Endpoint]]) -> None:
    """Check all current endpoints every `interval`, for ever."""
    while True:
        try:
            await asyncio.gather(*(check(rules, endpoint) for endpoint in endpoints()))
        except Exception:
            # No caller awaits this task. If it ended, ejected endpoints would stay ejected.
            log.exception("endpoints_not_checked")
        # Workers that started together should not check at the same time.
        await asyncio.sleep(rules.interval * random.uniform(0.9, 1.1))  # noqa: S311 -- no secret


async def check(rules: HealthCheck, endpoint: Endpoint) -> None:
    """Check an endpoint once, on a separate connection. Only a 2xx in time is healthy."""
    try:
        async with asyncio.timeout(rules.timeout):
            status = await _ask(rules.path, endpoint)
    except TimeoutError:
        endpoint.checked(healthy=False, detail="its health check was not answered in time")
    except Denial as denial:
        endpoint.checked(healthy=False, detail=denial.detail)
    else:
        healthy = 200 <= status < 300
        endpoint.checked(healthy=healthy, detail=None if healthy else f"its health check answered {status}")


async def _ask(path: str, endpoint: Endpoint) -> int:
    connection = await endpoint.dial()
    answer = _Status()
    try:
        connection.begin(
            b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: gateway-health-check\r\nConnection: close\r\n\r\n"
            % (path.encode("ascii"), endpoint.host or endpoint.origin.authority),
            ResponseParser(bodiless=False),
            answer,
        )
        return await answer.status
    finally:
        connection.abort()


class _Status:
    """Receives the status of a response, and drops the rest of it."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def arrived(self, parser: ResponseParser, body: bytes) -> None:  # noqa: ARG002 -- a receiver's signature
        for head in parser.heads:
            if not (head.interim or self.status.done()):
                self.status.set_result(head.status)

    def failed(self, denial: Denial) -> None:
        if not self.status.done():
            self.status.set_exception(denial)

    def writable(self) -> None:
        return
