from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.demo.embedded import EmbeddedRedis
from tests.conftest import _Databases
from tests.explain.scenarios.stage import Stage


@pytest.fixture(scope="module")
def stage_redis(request: pytest.FixtureRequest) -> str:
    server: EmbeddedRedis = request.getfixturevalue("_redis")
    return server.url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing_stage(
    tmp_path_factory: pytest.TempPathFactory, _databases: _Databases, _template: str, stage_redis: str
) -> AsyncIterator[Stage]:
    """The stores, one database for all scenarios of a module."""
    async with _databases.copy("gateway_stage", _template) as dsn:
        stage = Stage(tmp_path_factory.mktemp("stage"), dsn, stage_redis)
        async with stage.opened():
            yield stage


@pytest.fixture
def stage(standing_stage: Stage) -> Stage:
    standing_stage.reset()
    return standing_stage
