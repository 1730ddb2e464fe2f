from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import _Databases
from tests.explain.world import World
from tests.harness import house, standing_house
from tests.systems.fixtures import _system_templates, system, systems

__all__ = ["_system_templates", "house", "standing_house", "system", "systems"]


@pytest.fixture
def world(tmp_path: Path, dsn: str, redis_url: str) -> World:
    return World(tmp_path, dsn, redis_url)


@pytest.fixture
async def replica(_databases: _Databases, _template: str) -> AsyncIterator[str]:
    """Another database, which lags behind for ever."""
    async with _databases.copy("gateway_replica", _template) as dsn:
        yield dsn
