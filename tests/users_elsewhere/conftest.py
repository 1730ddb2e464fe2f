import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from gateway.stores.postgres.migrate import migrate
from tests.sockets import RawUpstream
from tests.systems.fixtures import _system_templates, system, systems
from tests.users_elsewhere.gateways import OWN_SCHEMA

if TYPE_CHECKING:
    from tests.conftest import _Databases

__all__ = ["_system_templates", "system", "systems"]


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as server:
        yield server


@pytest.fixture(scope="session")
def _shared_template(_databases: "_Databases") -> Iterator[str]:
    """A database in which the gateway's own tables are in a schema of their own."""

    async def create() -> str:
        name = await _databases.create("users_elsewhere_template")
        await migrate(_databases.dsn(name), OWN_SCHEMA)
        return name

    name = asyncio.run(create())
    yield name
    asyncio.run(_databases.drop(name))


@pytest.fixture
async def shared_dsn(_databases: "_Databases", _shared_template: str) -> AsyncIterator[str]:
    """A database of the test's own, in which `public` is empty."""
    async with _databases.copy("users_elsewhere", _shared_template) as dsn:
        yield dsn
