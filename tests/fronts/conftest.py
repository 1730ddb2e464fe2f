from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.conftest import _Databases
from tests.fronts.programs import FRONTS, Front, started
from tests.fronts.scene import ROUTES, Scene
from tests.harness import House, open_house


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_gateway(
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """One gateway that all fronts ask."""
    async with (
        _databases.copy("gateway_fronts", _template) as dsn,
        open_house(
            tmp_path_factory.mktemp("fronts"),
            dsn,
            standing_redis_url,
            decision={
                "listen": "127.0.0.1:0",
                "grpc_listen": "127.0.0.1:0",
                "trusted_proxies": ["127.0.0.1/32"],
            },
            routes=ROUTES,
        ) as house,
    ):
        await house.ready()
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=FRONTS, ids=lambda front: front.name)
async def standing_scene(
    request: pytest.FixtureRequest, standing_gateway: House, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """One program, for all tests of a module."""
    front: Front = request.param
    url = standing_gateway.grpc_url if front.asks_by_grpc else standing_gateway.decision_url
    gateway = urlsplit(url).port or 0
    folder = tmp_path_factory.mktemp(front.name)
    async with started(front, folder, gateway, standing_gateway.upstream.port) as port:
        yield Scene(front, port, standing_gateway)


@pytest_asyncio.fixture(loop_scope="session")
async def scene(standing_scene: Scene) -> AsyncIterator[Scene]:
    await standing_scene.house.ready()
    yield standing_scene
    await standing_scene.house.upstream.reset()
