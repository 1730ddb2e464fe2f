import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.core.model import JSON
from gateway.telemetry import logs
from tests.conftest import _Databases
from tests.harness import House, open_house
from tests.telemetry.tracing.collector import Collector


@dataclass
class Chain:
    """A gateway that forwards to another one, and the collector of both."""

    front: House
    """It samples every trace that begins with it."""
    back: House
    """It samples none; its routes are also for decisions."""
    collector: Collector


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_chain(
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Chain]:
    """Two traced gateways for all tests of this folder."""
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(_databases.copy("gateway_chain", _template))
        collector = await stack.enter_async_context(Collector())
        # Gateways of other tests that begin later are not traced.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=collectors-secret")
            patch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
            patch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
            patch.setenv("OTEL_SERVICE_NAME", "back")
            back = await stack.enter_async_context(
                open_house(
                    tmp_path_factory.mktemp("back"),
                    dsn,
                    standing_redis_url,
                    decision={
                        "listen": "127.0.0.1:0",
                        "grpc_listen": "127.0.0.1:0",
                        "trusted_proxies": ["127.0.0.1/32"],
                    },
                    headers={"forward_authorization": True},
                    tracing={"user_id": True},
                    routes=[
                        {"name": "both", "match": {"path": "/both/**"}, "upstream": "raw"},
                        {"name": "all", "match": {"path": "/**"}, "upstream": "raw", "auth": "none"},
                    ],
                )
            )
            patch.delenv("OTEL_SERVICE_NAME")
            patch.delenv("OTEL_TRACES_SAMPLER")
            upstreams: dict[str, JSON] = {"raw": {"urls": [back.url]}}
            front = await stack.enter_async_context(
                open_house(
                    tmp_path_factory.mktemp("front"),
                    dsn,
                    standing_redis_url,
                    seeded=False,
                    headers={"forward_authorization": True},
                    upstreams=upstreams,
                )
            )
        yield Chain(front, back, collector)


@pytest_asyncio.fixture(loop_scope="session")
async def chain(standing_chain: Chain) -> AsyncIterator[Chain]:
    """The gateways that all tests share, with a log and an upstream that remember nothing of other tests."""
    await standing_chain.front.ready()
    standing_chain.front.log = standing_chain.back.log = io.StringIO()
    logs.configure("info", standing_chain.front.log)
    standing_chain.collector.status = 200
    yield standing_chain
    await standing_chain.back.upstream.reset()
