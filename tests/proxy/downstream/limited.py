"""A gateway with small limits, and what its clients see."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.app import serve
from gateway.core.model import JSON
from gateway.settings import Settings
from gateway.telemetry import logs
from tests.harness import House, configuration, unused_port
from tests.sockets import RawClient, RawUpstream

session = pytest.mark.asyncio(loop_scope="session")

TIGHT: dict[str, JSON] = {
    "head_size": "4KiB",
    "header_count": 20,
    "field_size": "1KiB",
    "target_length": "100B",
    "header_timeout": "300ms",
    "keepalive_timeout": "600ms",
    "keepalive_requests": 4,
    "body_size": "10KiB",
    "body_min_rate": "1KiB",
    "response_min_rate": "1KiB",
    "rate_grace": "300ms",
}
KIB = 1024


@asynccontextmanager
async def house_with(folder: Path, limits: dict[str, JSON], **server: JSON) -> AsyncIterator[House]:
    """Run a gateway without stores: its public routes need none."""
    dsn, redis = f"postgresql://x@127.0.0.1:{unused_port()}/x", f"redis://127.0.0.1:{unused_port()}"
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        settings = configuration(folder, upstream.url, dsn, redis, "gateway:")
        settings["server"] = {"listen": "127.0.0.1:0", "workers": 1, "limits": limits, **server}
        assert isinstance(settings["routes"], list)
        large: dict[str, JSON] = {
            "name": "large",
            "match": {"path": "/large/**"},
            "upstream": "raw",
            "auth": "none",
        }
        settings["routes"].insert(0, {**large, "max_body": "64MiB"})
        running = await stack.enter_async_context(serve(Settings.model_validate(settings)))
        house = House(running.url, running.admin_url, upstream, dsn, redis, "gateway:")
        logs.configure("info", house.log)
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing_tight(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house_with(tmp_path_factory.mktemp("tight"), TIGHT) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def tight(standing_tight: House) -> AsyncIterator[House]:
    """One gateway with small limits."""
    logs.configure("info", standing_tight.log)
    yield standing_tight
    await standing_tight.upstream.reset()


@asynccontextmanager
async def exceeding(house: House, limit: str) -> AsyncIterator[None]:
    """Expect that exactly one limit is exceeded, once."""

    async def exceeded() -> dict[str, float]:
        return {
            dict(labels)["limit"]: value
            for (name, labels), value in (await house.metrics()).items()
            if name == "gateway_limits_exceeded_total"
        }

    before = await exceeded()
    yield
    after = await exceeded()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {limit: 1}


async def refused(client: RawClient, status: int, code: str) -> None:
    """Expect a refusal and the end of the connection."""
    response = await client.response()
    assert response is not None
    assert (response.status, response.code) == (status, code)
    assert response.field(b"connection") == b"close"
    assert await client.closed()


async def poll(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(300):
        if await condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never became true")
