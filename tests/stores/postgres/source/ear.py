"""What the triggers of a source report."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson


@dataclass
class Ear:
    """Listens to a database, and tells what has been reported since the last question."""

    connection: Any
    heard: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    async def changes(self) -> list[dict[str, Any]]:
        """Return the changes that were reported until now."""
        await self.connection.execute("SELECT pg_notify('gateway_changes', 'until here')")
        found = []
        while (payload := await asyncio.wait_for(self.heard.get(), 10)) != "until here":
            found.append(orjson.loads(payload))
        return found

    async def identities(self) -> set[tuple[str, str]]:
        """Return the identities that were reported until now. Fails if all users were."""
        changes = await self.changes()
        assert all(change["kind"] == "identities" for change in changes), changes
        return {tuple(each) for change in changes for each in change["identities"]}


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[Ear]:
    connection = await asyncpg.connect(dsn)
    ear = Ear(connection)
    await connection.add_listener("gateway_changes", lambda *heard: ear.heard.put_nowait(str(heard[3])))
    yield ear
    await connection.close()
