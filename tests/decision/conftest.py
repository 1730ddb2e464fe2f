from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import _Databases
from tests.decision.asking import ROUTES
from tests.harness import House, open_house


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_front_door(
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """One gateway with a decision listener, for all tests of this folder that do not change its settings."""
    async with (
        _databases.copy("gateway_front_door", _template) as dsn,
        open_house(
            tmp_path_factory.mktemp("front_door"),
            dsn,
            standing_redis_url,
            decision={
                "listen": "127.0.0.1:0",
                "grpc_listen": "127.0.0.1:0",
                "trusted_proxies": ["127.0.0.1/32", "10.0.0.0/8"],
            },
            routes=ROUTES,
        ) as house,
    ):
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def door(standing_front_door: House) -> AsyncIterator[House]:
    """The gateway that all tests share, for one test."""
    async with standing_front_door.lent():
        yield standing_front_door
