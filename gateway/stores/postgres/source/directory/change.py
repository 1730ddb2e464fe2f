"""One change of users in a source.

It is one transaction in the source, with its entry in the audit log. Where the gateway's own tables are in
another database, the entry is written there before the change is committed, and committed right after it.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack

from gateway.core.model import JSON
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory import audit
from gateway.stores.postgres.directory.audit import Author
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.pool import Connection
from gateway.stores.postgres.source.database import Types


class Change:
    """A transaction in the source; and one for the audit log if that is elsewhere, which ends behind it."""

    def __init__(
        self, connection: Connection, types: Types, own: Postgres | str, behind: AsyncExitStack
    ) -> None:
        """`own` has the audit log, or is its schema in the source's database."""
        self.connection = connection
        self.types = types
        self._own = own
        self._behind = behind
        self._log: Connection | None = None

    async def record(
        self, author: Author | None, action: str, user: UserRecord, detail: Mapping[str, JSON]
    ) -> None:
        """Write an entry of the audit log, which is committed with the change, or right after it."""
        if author is None:
            return
        target = f"user:{user.user.id}"
        if isinstance(self._own, str):
            table = f"{quoted(self._own)}.audit"
            await audit.record(self.connection, author, action, target, detail, table=table)
            return
        if self._log is None:
            self._log = await self._behind.enter_async_context(self._own.connection())
            await self._behind.enter_async_context(self._log.transaction())
        await audit.record(self._log, author, action, target, detail)
