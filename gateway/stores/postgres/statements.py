"""How statements are sent: prepared under names that a session keeps, or each in its own transaction.

Behind a pooler with another session for each transaction (PgBouncer in transaction mode, Supavisor), one
session knows a prepared name and the next does not. Names save a round trip and the planning of each
statement. Without them, a transaction keeps related commands together, and sets the search path and the time
limit itself, which a session would keep.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, TypeAlias

import asyncpg
import structlog

from gateway.stores.postgres.hosts import Connector

PreparedStatements: TypeAlias = Literal["auto", "named", "unnamed"]
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

_APPLICATION: Final = {"application_name": "gateway"}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Statements:
    """How one pool of connections may send statements.

    `kept` has the settings of a session by name, with their values in SQL. With `auto`, the first connection
    detects a pooler: its process ids differ from those of its sessions with Postgres, or it refuses a
    setting.
    """

    def __init__(
        self, setting: PreparedStatements, connector: Connector, kept: Mapping[str, str], timeout: float
    ) -> None:
        self.named: bool | None = None if setting == "auto" else setting == "named"
        """None until it has been detected."""
        self._auto = setting == "auto"
        self._connector = connector
        self._kept = kept
        self._timeout = timeout
        self._told = False
        self._finding: asyncio.Task[None] | None = None

    async def find_out(self) -> None:
        """Decide with a temporary connection. Raises the driver's exceptions.

        Concurrent callers share one attempt, so that no caller waits for the failures of others.
        """
        if self._finding is None:
            self._finding = asyncio.create_task(self._find_out())
            self._finding.add_done_callback(self._found)
        await asyncio.shield(self._finding)

    def _found(self, finding: "asyncio.Task[None]") -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # the waiting callers receive it, if there are any

    async def _find_out(self) -> None:
        options = _options(self._kept, named=False)
        try:
            session = await self._connector(command_timeout=self._timeout, **options)
        except asyncpg.ProtocolViolationError as error:
            # Either a pooler refuses a setting, or the next attempt fails, too.
            self._change_over(str(error.args[0]))
            return
        try:
            straight = await session.fetchval("SELECT pg_backend_pid()") == session.get_server_pid()
        finally:
            session.terminate()
        if straight:
            self.named = True
        else:
            self._change_over("there is a pooler")

    def options(self) -> dict[str, Any]:  # Any: the driver's own, of many types
        """Return the arguments for a connection that sends statements in this way."""
        if self.named:
            return _options(self._kept, named=True)
        return _options({}, named=False)

    @asynccontextmanager
    async def scope(self, connection: Connection) -> AsyncIterator[None]:
        """Keep unnamed statements together on one session of Postgres."""
        async with connection.transaction():
            await connection.execute("; ".join(f"SET LOCAL {name} = {kept}" for name, kept in self._all()))
            if "default_transaction_read_only" in self._kept:
                # The default is for the transactions that begin later.
                await connection.execute("SET TRANSACTION READ ONLY")
            yield

    def _all(self) -> list[tuple[str, str]]:
        return [*self._kept.items(), ("row_security", "off")]

    def betrayed(self, error: BaseException | None) -> bool:
        """Return whether a pooler lost a name; if so, change to `unnamed` in the mode `auto`."""
        if not self._auto or not is_lost_name(error):
            return False
        if self.named:
            self._change_over(str(error))
        return True

    def _change_over(self, why: str) -> None:
        self.named = False
        # Commands have no log, because their output may be JSON.
        if not self._told and structlog.is_configured():
            self._told = True
            names = ", ".join(name for name, _ in self._all())
            log.warning(
                "prepared_statements_unnamed",
                error=why,
                effect="each statement runs in its own transaction, which costs three more round trips",
                advice="none needed; or, if PgBouncer keeps prepared statements (max_prepared_statements,"
                f" 1.21) or pools sessions: set ignore_startup_parameters = {names}"
                " there, set these for the role, and set `postgres.prepared_statements: named`",
            )


def is_lost_name(error: BaseException | None) -> bool:
    """Return whether a session did not know a statement that another session has prepared."""
    return isinstance(error, asyncpg.InvalidSQLStatementNameError | asyncpg.DuplicatePreparedStatementError)


def _options(
    kept: Mapping[str, str], *, named: bool
) -> dict[str, Any]:  # Any: the driver's own, of many types
    options: dict[str, Any] = {"server_settings": {**_APPLICATION, **kept}}
    if not named:
        options["statement_cache_size"] = 0
    return options
