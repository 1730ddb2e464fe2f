"""How statements are sent: prepared under names that a session keeps, or each in a transaction of its own.

Behind a pooler that hands out another session for each transaction (PgBouncer in transaction mode,
Supavisor), a name that was prepared is known to the one session and not to the next. Names are worth
a round trip and the planning of each statement. Without them, a transaction keeps together what belongs
together, and sets for itself what a session would have kept: the search path and the time limit.
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
    """What one pool of connections knows of how it may send statements.

    `kept` are the settings of a session by name, as SQL writes their values. With `auto` the first connection
    finds out: a pooler gives clients process ids that are not those of its sessions with Postgres, or
    refuses what a session is to keep.
    """

    def __init__(
        self, setting: PreparedStatements, connector: Connector, kept: Mapping[str, str], timeout: float
    ) -> None:
        self.named: bool | None = None if setting == "auto" else setting == "named"
        """None until it has been found out."""
        self._auto = setting == "auto"
        self._connector = connector
        self._kept = kept
        self._timeout = timeout
        self._told = False
        self._finding: asyncio.Task[None] | None = None

    async def find_out(self) -> None:
        """Decide, by a connection that is closed again. Raises what the driver raises.

        Those who ask at the same time share it, so that none waits for the failures of others.
        """
        if self._finding is None:
            self._finding = asyncio.create_task(self._find_out())
            self._finding.add_done_callback(self._found)
        await asyncio.shield(self._finding)

    def _found(self, finding: "asyncio.Task[None]") -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # the callers that waited have it; there may be none

    async def _find_out(self) -> None:
        options = _options(self._kept, named=False)
        try:
            session = await self._connector(command_timeout=self._timeout, **options)
        except asyncpg.ProtocolViolationError as error:
            # Either it is a pooler that refuses what it cannot keep, or the next attempt fails as well.
            self._change_over(str(error.args[0]))
            return
        try:
            straight = await session.fetchval("SELECT pg_backend_pid()") == session.get_server_pid()
        finally:
            session.terminate()
        if straight:
            self.named = True
        else:
            self._change_over("a pooler stands between")

    def options(self) -> dict[str, Any]:  # Any: the driver's own, of many types
        """Return the arguments of a connection that is to send statements in this way."""
        if self.named:
            return _options(self._kept, named=True)
        return _options({}, named=False)

    @asynccontextmanager
    async def scope(self, connection: Connection) -> AsyncIterator[None]:
        """Keep together, on one session of Postgres, what is sent by an unnamed way."""
        async with connection.transaction():
            await connection.execute("; ".join(f"SET LOCAL {name} = {kept}" for name, kept in self._all()))
            yield

    def _all(self) -> list[tuple[str, str]]:
        return [*self._kept.items(), ("row_security", "off")]

    def betrayed(self, error: BaseException | None) -> bool:
        """Tell whether a pooler lost a name, and change over then if that is left to us."""
        if not self._auto or not is_lost_name(error):
            return False
        if self.named:
            self._change_over(str(error))
        return True

    def _change_over(self, why: str) -> None:
        self.named = False
        # A command, whose output may be JSON, has no log.
        if not self._told and structlog.is_configured():
            self._told = True
            names = ", ".join(name for name, _ in self._all())
            log.warning(
                "prepared_statements_unnamed",
                error=why,
                effect="each statement runs in a transaction of its own, which costs three round trips",
                advice="nothing; or, where PgBouncer keeps prepared statements (max_prepared_statements,"
                f" 1.21) or pools sessions: set ignore_startup_parameters = {names}"
                " there, give these to the role, and set `postgres.prepared_statements: named`",
            )


def is_lost_name(error: BaseException | None) -> bool:
    """Tell whether a session was asked for a statement that another one has prepared."""
    return isinstance(error, asyncpg.InvalidSQLStatementNameError | asyncpg.DuplicatePreparedStatementError)


def _options(
    kept: Mapping[str, str], *, named: bool
) -> dict[str, Any]:  # Any: the driver's own, of many types
    options: dict[str, Any] = {"server_settings": {**_APPLICATION, **kept}}
    if not named:
        options["statement_cache_size"] = 0
    return options
