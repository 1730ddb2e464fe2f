"""Opens the users of a source for operators."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gateway.builders import directories
from gateway.settings import Settings
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.audit import AuditLog
from gateway.stores.postgres.migrate import migrate
from gateway.stores.postgres.source.directory.users import SourceDirectory
from tests.systems.sources import configuration

OWN = "gateway_own"
"""The schema of the gateway's own tables. The role of the tests is called `gateway`, as a schema may be."""


@asynccontextmanager
async def directory(
    dsn: str, block: Mapping[str, Any], **sections: object
) -> AsyncIterator[tuple[SourceDirectory, AuditLog]]:
    """Open a source whose server has the gateway's own tables too, and the audit log in them."""
    await migrate(dsn, OWN)
    given = configuration(block, **{"postgres": {"dsn": dsn, "schema": OWN}, **sections})
    settings = Settings.model_validate(given)
    own = Postgres(dsn, schema=OWN, statement_timeout=10)
    try:
        async with AsyncExitStack() as stack:
            opened = directories.user_directory(settings, own, stack, statement_timeout=10)
            assert isinstance(opened, SourceDirectory)
            yield opened, AuditLog(own)
    finally:
        await own.close()
