"""The fixture `systems`: a system by its name, with its tables, on a database of the test's own.

A folder's conftest imports the fixtures. A system's tables are created once per process, and copied for
each test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from tests.systems.aspnet_identity import AspNetIdentity
from tests.systems.authjs import AuthJs
from tests.systems.django import Django, DjangoAllauth, DjangoCustom
from tests.systems.keycloak import Keycloak
from tests.systems.supabase import Supabase
from tests.systems.system import System

if TYPE_CHECKING:
    from tests.conftest import _Databases

SYSTEMS: Final[dict[str, type[System]]] = {
    system.name: system
    for system in (Django, DjangoAllauth, DjangoCustom, Supabase, Keycloak, AuthJs, AspNetIdentity)
}
SUSPENDING: Final = [name for name, system in SYSTEMS.items() if system.suspends]
WITH_ROLES: Final = [name for name, system in SYSTEMS.items() if system.has_roles]

Systems: TypeAlias = Callable[[str], Awaitable[System]]


@pytest.fixture(scope="session")
def _system_templates(_databases: "_Databases") -> Iterator[dict[str, str]]:
    """Databases with a system's tables, by the system's name."""
    templates: dict[str, str] = {}
    yield templates
    for template in templates.values():
        asyncio.run(_databases.drop(template))


@pytest.fixture
async def systems(_databases: "_Databases", _system_templates: dict[str, str]) -> AsyncIterator[Systems]:
    """Open a system: `system = await systems("django")`. It is closed after the test."""
    async with AsyncExitStack() as stack:

        async def opened(name: str) -> System:
            kind = SYSTEMS[name]
            if name not in _system_templates:
                template = await _databases.create("system_template")
                async with kind(_databases.dsn(template)) as system:
                    await system.create()
                _system_templates[name] = template
            dsn = await stack.enter_async_context(_databases.copy("system", _system_templates[name]))
            return await stack.enter_async_context(kind(dsn))

        yield opened


@pytest.fixture
async def system(request: pytest.FixtureRequest, systems: Systems) -> System:
    """The system that `@pytest.mark.parametrize("system", SYSTEMS, indirect=True)` names."""
    return await systems(request.param)
