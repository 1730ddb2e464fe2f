"""Heartbeats for the change stream, sent like a change: by another session, in a transaction.

A notification that the listening connection sends to itself proves nothing. Behind a pooler, or when it leads
to another database, it may receive its own notifications and miss every change.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import asyncpg

from gateway.core.model import StoreUnavailable, Tier
from gateway.stores.postgres.change_stream.triggers import (
    BEAT,
    FEED_AGE,
    Watch,
    Watched,
    unfed,
    unwatched,
    unwatched_in_source,
)
from gateway.stores.postgres.errors import translated
from gateway.stores.postgres.hosts import Connector, address_of

CHANNEL: Final = "gateway_heartbeats"

# Two servers may be copies of one another, but they did not start in the same microsecond.
_PLACE: Final = "SELECT pg_postmaster_start_time()::text AS server, current_database()::text AS database"

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session is."""

    server: str
    """When the server started. This distinguishes it from all others."""
    database: str


class Heartbeats:
    """Sends heartbeats through `dsn` on its own connection, which it reopens when it breaks.

    The connection is outside the pool of requests, so that a busy pool does not look like a silent stream.
    """

    def __init__(self, dsn: str, watch: Watch, *, connect_timeout: float, tls_strict: bool = False) -> None:
        """`watch` is asked for the triggers that must be there, whenever a connection is opened."""
        self.address = address_of(dsn)
        """Hosts and ports, for messages."""
        self._connector = Connector(dsn, primary=True, timeout=connect_timeout, tls_strict=tls_strict)
        self._watch = watch
        self._watched = Watched()
        self._connect_timeout = connect_timeout
        self._session: Session | None = None
        self.place: Place | None = None
        """Where the latest session is."""

    async def connect(self) -> None:
        """Open the connection ahead of the first heartbeat. Raises `StoreUnavailable`."""
        if self._session is None or self._session.is_closed():
            await self._opened()

    async def _opened(self) -> Session:
        self._watched = await self._watch()
        with translated(self.address):
            self._session = await opened(self._connector, self._connect_timeout, "gateway heartbeats")
        self.place = await place_of(self._session, self.address)
        return self._session

    async def send(self, heartbeat: str) -> int | None:
        """Commit a heartbeat; return the mark of the triggers, which changes when the triggers are changed.

        Raises `StoreUnavailable`, also when a trigger is missing.
        """
        if self._session is not None:
            try:
                return await self._send(self._session, heartbeat)
            except StoreUnavailable:
                # Replace a connection that was closed while idle. Sending a heartbeat twice does no harm.
                was_closed = self._session.is_closed()
                self.close()
                if not was_closed:
                    raise
        return await self._send(await self._opened(), heartbeat)

    async def _send(self, session: Session, heartbeat: str) -> int | None:
        watched = self._watched
        with translated(self.address):
            async with session.transaction():
                age = await session.fetchval(FEED_AGE) if watched.feed_patience else 0.0
                row = await session.fetchrow(
                    BEAT, CHANNEL, heartbeat, watched.schema, watched.tables, watched.names, watched.functions
                )
        if row is None:
            raise ValueError("a query that always has one row had none")
        if row["unwatched"] is not None:
            raise StoreUnavailable(Tier.POSTGRES, f"{self.address}: {unwatched(row['unwatched'])}")
        if age is None or age > watched.feed_patience:
            raise StoreUnavailable(Tier.POSTGRES, unfed(watched.feed_patience))
        if row["unwatched_in_source"] is not None:
            detail = unwatched_in_source(row["unwatched_in_source"])
            raise StoreUnavailable(Tier.POSTGRES, f"{self.address}: {detail}")
        mark: int | None = row["mark"]
        return mark

    def close(self) -> None:
        """Close the connection. The next heartbeat opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.terminate()


async def opened(connector: Connector, command_timeout: float, name: str) -> Session:
    """Connect without session state, which a pooler would not keep between two transactions."""
    return await connector(
        command_timeout=command_timeout, statement_cache_size=0, server_settings={"application_name": name}
    )


async def place_of(session: Session, address: str) -> Place:
    """Ask where a session is. Raises `StoreUnavailable`."""
    with translated(address):
        async with session.transaction():
            row = await session.fetchrow(_PLACE)
    if row is None:
        raise ValueError("a query that always has one row had none")
    return Place(row["server"], row["database"])
