"""The audit log: each change with its author, written in the transaction of the change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.pool import Connection

_PAGE: Final = """
SELECT id, extract(epoch FROM at)::float8 AS at, actor, action, target, request_id, detail
FROM audit WHERE ($1::bigint IS NULL OR id < $1) AND ($3::text IS NULL OR target = $3)
ORDER BY id DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Author:
    """The author of a change, and the request or command run."""

    actor: str
    request_id: str
    reason: str | None = None
    """The reason, in the author's words."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change by an operator. `at` is in Unix seconds."""

    id: int
    at: float
    actor: str
    action: str
    target: str
    request_id: str
    detail: dict[str, JSON]


async def record(
    connection: Connection,
    author: Author | None,
    action: str,
    target: str,
    detail: Mapping[str, JSON],
    *,
    table: str = "audit",
) -> None:
    """Record a change in the transaction of `connection`. Without an author, record nothing.

    `table` is SQL, for a connection that looks for tables elsewhere.
    """
    if author is not None:
        if author.reason is not None:
            detail = {**detail, "reason": author.reason}
        await connection.execute(
            f"INSERT INTO {table} (actor, action, target, request_id, detail)"  # noqa: S608 -- a quoted name
            " VALUES ($1, $2, $3, $4, $5)",
            author.actor, action, target, author.request_id, orjson.dumps(detail).decode(),
        )  # fmt: skip


def _detail(text: str) -> dict[str, JSON]:
    """Parse the detail of a change. SQL may write odd values there: they affect only their own row."""
    octets = text.encode()
    try:
        json_text.check_depth(octets)
        detail: dict[str, JSON] = orjson.loads(octets)
    except ValueError as error:
        return {"unreadable": str(error)}
    return detail


class AuditLog:
    """Reads the audit log, and records actions that change no table. May raise `StoreUnavailable`."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def page(
        self, *, target: str | None = None, after: int | None = None, limit: int = 50
    ) -> list[AuditRow]:
        """Return a page, the latest first. `after` is the id of the last entry of the previous page.

        `target` limits it to the changes of one thing.
        """
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_PAGE, after, limit, target)
            return [AuditRow(**{**dict(row), "detail": _detail(row["detail"])}) for row in rows]

    async def record(
        self, author: Author, action: str, target: str, detail: Mapping[str, JSON] | None = None
    ) -> None:
        """Record an action that is about to happen outside Postgres."""
        async with self._postgres.connection() as connection:
            await record(connection, author, action, target, detail or {})

    async def flush(self, author: Author) -> int:
        """Tell every gateway to void what it remembers; return the version of this flush."""
        async with self._postgres.connection() as connection, connection.transaction():
            await record(connection, author, "caches.flush", "caches", {})
            return int(await connection.fetchval("SELECT gateway_flush()"))
