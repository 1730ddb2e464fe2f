"""The lease of the process that reads the changes of a source, and how that process reports them.

A report looks like that of a trigger, on the channel of the gateway's own tables, so that each worker
receives it in order with all other changes. The lease and the time of the last report are in
`gateway_source_feed`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import orjson

from gateway.stores.postgres.change_stream.listener import (
    CHANGES,
    SOURCE_SCHEMA,
    Changed,
    Everything,
)
from gateway.stores.postgres.database import Postgres

_HOLD: Final = "SELECT gateway_hold_feed($1, $2, $3)"
_MOST: Final = 500
"""Identities, or users, that are reported by name; more are reported as a change of all users."""
_ROOM: Final = 3300
"""Bytes of identities, and as many of ids, in one notification, which has less than 8000."""


class Feed:
    """The lease and the reports of one process, through the gateway's own tables.

    `process` is unique. Every method raises `StoreUnavailable`.
    """

    def __init__(self, postgres: Postgres, process: str) -> None:
        self._postgres = postgres
        self._process = process

    async def hold(self, seconds: float, age: float | None = None) -> bool:
        """Take or keep the lease for some seconds; returns whether this process holds it.

        `age` is how many seconds ago this process began to read the changes that it has reported all.
        """
        async with self._postgres.connection() as connection:
            return bool(await connection.fetchval(_HOLD, self._process, seconds, age))

    async def release(self) -> None:
        """Give the lease up: another process may take it at once."""
        await self.hold(0.0)

    async def report(self, change: Changed | Everything) -> None:
        """Report a change to all workers of all gateways."""
        async with self._postgres.connection() as connection:
            for payload in payloads(change):
                await connection.execute("SELECT pg_notify($1, $2)", CHANGES, payload)


def payloads(change: Changed | Everything) -> Iterator[str]:
    """Yield the notifications of a change."""
    everything = {"kind": "all", "schema": SOURCE_SCHEMA, "version": change.version}
    if isinstance(change, Everything) or len(change.identities) > _MOST or len(change.users) > _MOST:
        yield orjson.dumps(everything).decode()
        return
    identities = list(_parts([list(each) for each in change.identities]))
    users = list(_parts(list(change.users)))
    if any(len(orjson.dumps(part)) > 2 * _ROOM for part in (*identities, *users)):
        yield orjson.dumps(everything).decode()
        return
    for number in range(max(len(identities), len(users))):
        message = {
            "kind": "identities",
            "schema": SOURCE_SCHEMA,
            "version": change.version,
            "identities": identities[number] if number < len(identities) else [],
            "users": users[number] if number < len(users) else [],
        }
        yield orjson.dumps(message).decode()


def _parts(items: Sequence[object]) -> Iterator[list[object]]:
    """Divide items into parts of `_ROOM` bytes, or one item more."""
    part: list[object] = []
    room = _ROOM
    for item in items:
        part.append(item)
        room -= len(orjson.dumps(item)) + 1
        if room <= 0:
            yield part
            part, room = [], _ROOM
    if part:
        yield part
