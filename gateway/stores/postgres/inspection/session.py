"""A session that reads a live database, and cannot change it.

Each query is a transaction of its own, READ ONLY, with a time limit, which waiting for a lock counts towards.
The session asks the server for `default_transaction_read_only`, too, unless a pooler refuses such settings.
Names without a schema are found in `pg_catalog` alone.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeAlias

import asyncpg

from gateway.stores.postgres.errors import is_silence, translated
from gateway.stores.postgres.hosts import Connector, address_of
from gateway.stores.postgres.inspection import catalog
from gateway.stores.postgres.inspection.catalog import Column, Relation, Server

Comparable: TypeAlias = Literal["text", "uuid", "bigint"]

_CONNECT_TIMEOUT: Final = 5.0
_GRACE: Final = 2.0
"""Seconds that the client waits longer than the server's own time limit."""
_SAMPLE_ROWS: Final = 10_000
_MAX_SCANNED: Final = 1_000_000
"""Rows. Of a table with more, a sample is read where no index helps."""

_LIMITS: Final = """
SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true),
    set_config('search_path', 'pg_catalog', true), set_config('row_security', 'off', true)
"""
_TYPES: Final[Mapping[str, Comparable]] = {
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "citext": "text",
    "name": "text",
    "uuid": "uuid",
    "int2": "bigint",
    "int4": "bigint",
    "int8": "bigint",
}


class Unread(Exception):
    """One query got no answer, for example for lack of rights. The text says why, and quotes no value."""

    def __init__(self, reason: str, *, timed_out: bool = False, denied: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.denied = denied


def comparable(column: Column) -> Comparable | None:
    """Return as what a column's values can be compared with subjects; None if they cannot."""
    return _TYPES.get(column.type)


class Inspection:
    """Asks a database. Every method raises `Unread`, or `StoreUnavailable` when the connection is lost."""

    def __init__(
        self, connection: "asyncpg.Connection[asyncpg.Record]", address: str, statement_timeout: float
    ) -> None:
        self._connection = connection
        self._timeout = statement_timeout
        self.address = address
        """Hosts and ports, for messages."""

    async def server(self) -> Server:
        """Return the server's description of itself."""
        (row,) = await self._ask(catalog.SERVER)
        return Server(row["database"], row["role"], row["version"], row["replica"])

    async def relations(self) -> tuple[Relation, ...]:
        """Return the tables and views that are not Postgres's own, those of schema `public` first."""
        relations = await self._ask(catalog.RELATIONS, catalog.MAX_RELATIONS)
        oids = [row["oid"] for row in relations]
        return catalog.relations_from(
            relations,
            await self._ask(catalog.COLUMNS, oids),
            await self._ask(catalog.INDEXES, oids),
            await self._ask(catalog.FOREIGN_KEYS, oids),
        )

    async def found(
        self, relation: Relation, column: Column, texts: Sequence[str], *, folded: bool = False
    ) -> list[int]:
        """Return the places of those texts, counted from 0, that are values of a column.

        With `folded`, the texts are in lower case, and values count in lower case; no index helps with that.
        """
        kind = comparable(column)
        value = _value(column)
        if folded:
            kind, value = "text", f"lower(r.{column.sql}::text)"
        rows = await self._ask(
            f"SELECT given.place FROM unnest($1::{kind}[]) WITH ORDINALITY AS given (value, place)"  # noqa: S608 -- names as Postgres quotes them
            f" WHERE EXISTS (SELECT FROM {relation.sql} r WHERE {value} = given.value)",
            [int(text) for text in texts] if kind == "bigint" else texts,
        )
        return [row["place"] - 1 for row in rows]

    async def estimated(self, relation: Relation, column: Column, texts: Sequence[str]) -> int:
        """Return about how many rows have one of those texts, by a sample of a large table."""
        kind = comparable(column)
        share = _SAMPLE_ROWS * 10 / max(relation.estimate or 0, _SAMPLE_ROWS * 10)
        value = _value(column)
        (row,) = await self._ask(
            f"SELECT count(*) AS n FROM {relation.sql} r TABLESAMPLE SYSTEM ({100 * share:.6f})"  # noqa: S608 -- names as Postgres quotes them
            f" WHERE {value} = ANY ($1::{kind}[])",
            [int(text) for text in texts] if kind == "bigint" else texts,
        )
        return round(int(row["n"]) / share)

    async def values(
        self, relation: Relation, column: Column, *, at_most: int, of: Iterable[str] | None = None,
        by: Column | None = None,
    ) -> list[tuple[str, int]]:  # fmt: skip
        """Return the most frequent values of a column in a sample of rows, with their numbers.

        Only of the rows that have one of the texts `of` in the column `by`, if both are given.
        """
        among = "" if by is None else f"WHERE r.{by.sql}::text = ANY ($2::text[])"
        sampled = is_large(relation) and by is None and relation.kind != "view"
        share = f"TABLESAMPLE SYSTEM ({100 * _SAMPLE_ROWS / max(relation.estimate or 1, 1):.6f})"
        rows = await self._ask(
            f"SELECT value, count(*) AS n FROM (SELECT r.{column.sql}::text AS value FROM {relation.sql} r"  # noqa: S608 -- names as Postgres quotes them
            f" {share if sampled else ''} {among} LIMIT {_SAMPLE_ROWS}) AS sample"
            " WHERE value IS NOT NULL GROUP BY value ORDER BY n DESC, value LIMIT $1",
            *((at_most,) if by is None else (at_most, list(of or ()))),
        )
        return [(row["value"], row["n"]) for row in rows]

    async def try_reading(self, relation: Relation) -> None:
        """Read no row of a table. Raises `Unread` if the role may not, or if rows would be hidden from it."""
        columns = ", ".join(column.sql for column in relation.columns.values() if column.readable) or "1"
        await self._ask(f"SELECT {columns} FROM {relation.sql} LIMIT 0")  # noqa: S608 -- names as Postgres quotes them

    async def _ask(self, statement: str, *values: object) -> list[asyncpg.Record]:
        with translated(self.address):
            try:
                async with self._connection.transaction(readonly=True):
                    await self._connection.execute(_LIMITS, str(round(self._timeout * 1000)))
                    return await self._connection.fetch(statement, *values, timeout=self._timeout + _GRACE)
            except asyncpg.PostgresError as error:
                if is_silence(error) and not isinstance(error, asyncpg.QueryCanceledError):
                    raise
                raise _unread(error, self._timeout) from error


def _value(column: Column) -> str:
    # The operators of citext are found by the search path, which has none of the database's own schemas.
    return f"r.{column.sql}::text" if column.type in {"citext", "bpchar"} else f"r.{column.sql}"


def is_large(relation: Relation) -> bool:
    """Return whether a table is read in part where no index helps."""
    return (relation.estimate or 0) > _MAX_SCANNED


def _unread(error: asyncpg.PostgresError, timeout: float) -> Unread:
    match error:
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return Unread(f"no answer within {timeout:g} s", timed_out=True)
        case asyncpg.InsufficientPrivilegeError() if "row-level security" in str(error.args[0]):
            return Unread("row-level security hides rows from this role", denied=True)
        case asyncpg.InsufficientPrivilegeError():
            return Unread("this role may not read it", denied=True)
        case _:
            # A view may raise an error whose text has a value.
            return Unread(f"Postgres refused it (SQLSTATE {error.sqlstate})")


@asynccontextmanager
async def inspection(dsn: str, *, statement_timeout: float) -> AsyncIterator[Inspection]:
    """Open a session, and close it. `statement_timeout` is seconds for one query.

    Raises `StoreUnavailable`, whose text has no password.
    """
    address = address_of(dsn)
    with translated(address):
        connector = Connector(dsn, primary=False, timeout=_CONNECT_TIMEOUT)
        settings = {"default_transaction_read_only": "on", "application_name": "gateway adopt"}
        try:
            connection = await connector(statement_cache_size=0, server_settings=settings)
        except asyncpg.ProtocolViolationError:
            # PgBouncer refuses settings that it does not keep. Each transaction is READ ONLY all the same.
            connection = await connector(statement_cache_size=0)
    try:
        yield Inspection(connection, address, statement_timeout)
    finally:
        await connection.close(timeout=_CONNECT_TIMEOUT)
