"""A listener that records the events of a change stream, and a database to change."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

import asyncpg

from gateway.stores.postgres.change_stream.listener import Change, PostgresStream
from tests.stores.examples import ISS, eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass
class Ear:
    """Keeps what a stream tells."""

    events: list[Change | str] = field(default_factory=list)
    heartbeats: list[tuple[str, bool]] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    on_change: Callable[[Change], None] = lambda _: None

    def listening(self) -> None:
        self.events.append("listening")

    def changed(self, change: Change) -> None:
        self.on_change(change)
        self.events.append(change)

    def heard(self, heartbeat: str, own: bool) -> None:
        self.heartbeats.append((heartbeat, own))

    def lost(self, detail: str) -> None:
        self.events.append("lost")
        self.details.append(detail)

    async def has(self, *events: str) -> None:
        async def arrived() -> bool:
            return [event for event in self.events if isinstance(event, str)] == list(events)

        await eventually(arrived)


@dataclass
class Rig:
    db: Connection
    ear: Ear

    async def told(self, *statements: str, db: "Connection | None" = None) -> list[Change]:
        """Run statements, and return what is told of them and of nothing before."""
        await self.settle()
        before = len(self.ear.events)
        for statement in statements:
            await (db or self.db).execute(statement)
        await self.settle()
        return [event for event in self.ear.events[before:] if not isinstance(event, str)]

    async def settle(self) -> None:
        """Wait for a mark that comes after everything that is committed."""
        mark = secrets.token_hex(16)
        await self.db.execute(f"NOTIFY gateway_heartbeats, '{mark}'")

        async def marked() -> bool:
            return (mark, False) in self.ear.heartbeats

        await eventually(marked)

    async def user(self, *subjects: str) -> UUID:
        user_id: UUID = await self.db.fetchval("INSERT INTO users DEFAULT VALUES RETURNING id")
        for subject in subjects:
            await self.db.execute("INSERT INTO identities VALUES ($1, $2, $3)", ISS, subject, user_id)
        return user_id


@asynccontextmanager
async def rigged(dsn: str) -> AsyncIterator[Rig]:
    """Listen to a database, and have a connection that is not listened on."""
    ear = Ear()
    stream = PostgresStream(dsn, "public", ear, connect_timeout=2)
    db = await asyncpg.connect(dsn)
    try:
        stream.start()
        await ear.has("listening")
        yield Rig(db, ear)
    finally:
        await stream.close()
        await db.close()
