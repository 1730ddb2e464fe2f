from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.admin.client import TOKEN, Api
from tests.conftest import _Databases
from tests.harness import House, house, open_house, standing_house
from tests.systems.fixtures import _system_templates, systems

__all__ = ["_system_templates", "house", "standing_house", "systems"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api_house(
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """A gateway whose admin API is on, for all tests that do not disturb each other through it."""
    folder = tmp_path_factory.mktemp("api")
    admin = {"listen": "127.0.0.1:0", "token": TOKEN}
    async with (
        _databases.copy("gateway_api", _template) as dsn,
        open_house(folder, dsn, standing_redis_url, admin=admin) as house,
    ):
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def api(api_house: House) -> AsyncIterator[Api]:
    api_house.new_log()
    async with Api.of(api_house) as api:
        yield api
