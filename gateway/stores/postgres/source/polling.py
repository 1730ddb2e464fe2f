"""The changes in a source since the last poll, where no triggers can be installed.

By a column that has the time of a row's last change: each look reads the rows behind the latest time, and
those of the minute before it, because a transaction may commit later than one that began after it. And by
comparison: the users that are remembered are read again.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from gateway.core.model import RecordUnusable, User
from gateway.stores.postgres.change_stream.listener import Changed, Everything
from gateway.stores.postgres.pool import Connection
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import SourceDatabase, read_user

_MOST: Final = 5000
"""The most rows of one poll; more count as a change of all users."""
_OVERLAP: Final = " - interval '60 s'"
_NOW: Final = {
    "timestamp with time zone": "now()",
    # Systems write their own time there, or that of UTC.
    "timestamp without time zone": "greatest(localtimestamp, now() AT TIME ZONE 'UTC')",
}
"""By the type of the column: an instant before which no later change is written."""
_VERSION: Final = "(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1) AS version"
"""No transaction with a higher id is in what is read."""
_DIGEST: Final = f"hashtextextended(ROW({relations.STATE})::text, 0) AS digest"


class Poller:
    """Looks for changes. Every method raises `StoreUnavailable`.

    `issuers` maps names to `iss`.
    """

    def __init__(self, database: SourceDatabase, issuers: Mapping[str, str]) -> None:
        self._database = database
        self._source = database.source
        self._issuers = issuers
        self._column_type: str | None = None
        self._latest: str | None = None
        """The latest value of the column, as text."""
        self._seen: dict[str, str] = {}
        """The rows of the last poll: the user's id and the value of the column."""

    async def begin(self) -> Everything:
        """Begin to poll; returns the first report: anything may have changed before."""
        async with self._database.connection() as connection:
            version = int(await connection.fetchval(f"SELECT {_VERSION}"))
            self._seen = {}
            if self._source.poll.column is not None:
                column, table = f"({self._source.poll.column})", self._table()
                typed = f"SELECT pg_typeof((SELECT {column} FROM {table} LIMIT 0))::text"
                self._column_type = str(await connection.fetchval(typed))
                # A row from the future must not hide the changes until then.
                self._latest = await connection.fetchval(
                    f"SELECT max({column})::text FROM {table} WHERE {self._is_past(column)}"
                )
        return Everything(version)

    async def changes(self) -> Changed | Everything | None:
        """Return the changes since the last poll, by the column; None: there are none."""
        if self._source.poll.column is None:
            return None
        async with self._database.connection() as connection:
            column = f"({self._source.poll.column})"
            overlap = _OVERLAP if self._column_type in _NOW else ""
            rows = await connection.fetch(
                f"SELECT ({self._source.id})::text AS id, {column}::text AS changed_at, {_VERSION},"
                f" {self._is_past(column)} AS is_past"
                f" FROM {self._table()} WHERE $1::text IS NULL"
                f" OR {column} > $1::text::{self._column_type}{overlap}"
                f" ORDER BY {column} DESC LIMIT {_MOST + 1}",
                self._latest,
            )
            if not rows:
                return None
            self._latest = next((row["changed_at"] for row in rows if row["is_past"]), self._latest)
            seen, self._seen = self._seen, {row["id"]: row["changed_at"] for row in rows}
            changed = [row["id"] for row in rows if seen.get(row["id"]) != row["changed_at"]]
            version = rows[0]["version"]
            if len(rows) > _MOST:
                return Everything(version)
            return await self._changed(connection, changed, version) if changed else None

    async def _changed(self, connection: Connection, ids: Sequence[str], version: int) -> Changed:
        types = (await self._database.statements(connection)).types
        among = f"= ANY ($1::text[]::{types.key}[])"
        identities = await connection.fetch(
            relations.all_identities(self._source, self._issuers, among), list(ids)
        )
        return Changed(tuple((row["issuer"], row["subject"]) for row in identities), tuple(ids), version)

    async def digests(self, issuer_name: str, subjects: Sequence[str]) -> tuple[dict[str, int | None], int]:
        """Return a number for the state of the user behind each subject, None for no user; the version."""
        rows, version = await self._rows(issuer_name, subjects, _DIGEST)
        found: dict[str, int | None] = {}
        for row in rows:
            # Of several users behind one subject there is no state that equals another.
            ambiguous = row["subject"] in found
            found[row["subject"]] = -1 if ambiguous else row["digest"]
        return found, version

    async def users(
        self, issuer_name: str, subjects: Sequence[str]
    ) -> tuple[dict[str, tuple[User | None, int | None]], int]:
        """Return the user behind each subject, with the number that `digests` gives that state; the version.

        One that cannot be read, or is ambiguous, is left out.
        """
        asked_at = time.time()
        rows, version = await self._rows(issuer_name, subjects, f"{relations.COLUMNS}, {_DIGEST}")
        found: dict[str, tuple[User | None, int | None]] = {}
        unusable: set[str] = set()
        for row in rows:
            subject = row["subject"]
            if subject in found:
                unusable.add(subject)
            try:
                user = None if row["id"] is None else read_user(row, asked_at)
                found[subject] = user, row["digest"]
            except RecordUnusable:
                unusable.add(subject)
        usable = {subject: each for subject, each in found.items() if subject not in unusable}
        return usable, version

    async def _rows(
        self, issuer_name: str, subjects: Sequence[str], selected: str
    ) -> tuple[list[asyncpg.Record], int]:
        """Return something of the user behind each subject, and the version of what was read.

        A user for whom an expression fails is left out, and hides no other.
        """
        rows = await self._usable(issuer_name, subjects, selected)
        async with self._database.connection() as connection:
            return rows, int(await connection.fetchval(f"SELECT {_VERSION}"))

    async def _usable(self, issuer_name: str, subjects: Sequence[str], selected: str) -> list[asyncpg.Record]:
        try:
            async with self._database.connection() as connection:
                statement = await self._each(connection, issuer_name, selected)
                return await connection.fetch(statement, list(subjects), _tenant(issuer_name))
        except RecordUnusable:
            if len(subjects) == 1:
                return []
        half = len(subjects) // 2
        return [
            *await self._usable(issuer_name, subjects[:half], selected),
            *await self._usable(issuer_name, subjects[half:], selected),
        ]

    async def _each(self, connection: Connection, issuer_name: str, selected: str) -> str:
        """Return the statement that reads something of the user behind each subject in $1, of tenant $2."""
        types = (await self._database.statements(connection)).types
        name = issuer_name.partition("/")[0]
        keys = relations.identities(self._source, types.columns, name, "wanted.subject", "$2::text")
        return (
            f"SELECT wanted.subject, $2::text AS tenant_of_issuer, found.*"
            " FROM unnest($1::text[]) AS wanted (subject)"
            f" LEFT JOIN LATERAL (SELECT {selected} FROM ({relations.users(self._source)}) AS u"
            f" WHERE u.key IN ({keys}) LIMIT 2) AS found ON true"
        )

    def _is_past(self, column: str) -> str:
        """Return the condition that no change is to come before this row's."""
        now = _NOW.get(self._column_type or "")
        return f"({column} IS NOT NULL)" if now is None else f"({column} <= {now})"

    def _table(self) -> str:
        table = self._source.table
        return f"{relations.table_of(self._source, table)} AS {relations.alias_of(table)}"


def _tenant(realm: str) -> str | None:
    """Return the tenant of a realm (`core.tokens.issuer_patterns`), if it has one."""
    return realm.partition("/")[2] or None
