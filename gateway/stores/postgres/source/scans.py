"""How the look-ups of a source read its tables: by an index, or as a whole; and which tables at all.

Postgres itself shows that, by EXPLAIN of each statement as it is planned for any values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import orjson

from gateway.core.model import JSON
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import TABLES, Types, kinds_of, look_up
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.triggers import tables_of
from gateway.stores.postgres.statements import Connection

PARTITIONS: Final = """
WITH RECURSIVE found (name, place) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
    UNION
    SELECT name, inhrelid FROM found JOIN pg_inherits ON inhparent = place
)
SELECT name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS place,
    n.nspname::text AS schema, c.relname::text AS relation
FROM found JOIN pg_class c ON c.oid = place JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY name, place
"""
_INDEXED: Final = """
SELECT name, pg_get_indexdef(indexrelid, 1, true) AS leading FROM unnest($1::text[]) AS name
JOIN pg_index ON indrelid = to_regclass(name) WHERE indisvalid AND indpred IS NULL
"""
Read: TypeAlias = Literal["", "rows", "an index"]


@dataclass(frozen=True, slots=True)
class Scan:
    """How a statement reads a table."""

    table: str
    """Quoted, with its schema. For a partition: the table of `users.source` that it is a part of."""
    reads: Read
    """The part that is read as a whole: its rows, or one of its indexes."""


async def of_look_ups(connection: Connection, source: UserSource, types: Types) -> list[Scan]:
    """Return how requests and triggers read tables. Raises the driver's exceptions."""
    found: list[Scan] = []
    for statement, values in _look_ups(source, types):
        found += await of_statement(connection, source, statement, values)
    return found


async def of_statement(
    connection: Connection, source: UserSource, statement: str, values: Sequence[str]
) -> list[Scan]:
    """Return how one statement reads tables, whatever the values of its parameters are.

    `values` has SQL for each parameter. Raises the driver's exceptions.
    """
    async with connection.transaction():
        # Small tables are read as a whole although they have an index, unless that is made dear.
        await connection.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off;"
            " SET LOCAL enable_mergejoin = off; SET LOCAL plan_cache_mode = force_generic_plan"
        )
        await connection.execute(f"PREPARE gateway_explained AS {statement}")
        given = f" ({', '.join(values)})" if values else ""
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE gateway_explained{given}")
        await connection.execute("DEALLOCATE gateway_explained")
        parts = await connection.fetch(PARTITIONS, list(tables_of(source)))
    roots = {(row["schema"], row["relation"]): row["name"] for row in parts}
    return [
        Scan(roots.get((schema, table), f"{quoted(schema)}.{quoted(table)}"), reads)
        for schema, table, reads in _scans_in(orjson.loads(plan))
    ]


@dataclass(frozen=True, slots=True)
class Lacking:
    """The indexes that look-ups lack."""

    tables: tuple[str, ...]
    """Those that are read as a whole. Small tables that are only watched do not count."""
    indexes: tuple[str, ...]
    """What creates the indexes by which users are looked up there."""


async def lacking(connection: Connection, source: UserSource, types: Types, scans: Sequence[Scan]) -> Lacking:
    """Return which of the tables that are read need an index. Raises the driver's exceptions."""
    watched = {relations.table_of(source, table) for table in source.watched}
    read = [scan for scan in scans if scan.reads in ("rows", "an index") and scan.table not in watched]
    needed = await _indexes(connection, source, types, list({scan.table for scan in read}))
    # Of a small table, any index may be read as a whole.
    slow = dict.fromkeys(scan.table for scan in read if scan.reads == "rows" or needed.get(scan.table))
    return Lacking(tuple(slow), tuple(each for table in slow for each in needed.get(table, ())))


async def _indexes(
    connection: Connection, source: UserSource, types: Types, tables: Sequence[str]
) -> dict[str, list[str]]:
    """Return for some tables what creates the indexes by which users are looked up, and which are missing."""
    kinds = await kinds_of(connection, tables)
    indexed = await connection.fetch(_INDEXED, list(tables))
    there = {(row["name"], _comparable(row["leading"])) for row in indexed}
    wanted: dict[tuple[str, str], None] = {}
    for each in source.identities:
        table = relations.table_of(source, each.table or source.table)
        column_type = types.columns.get(relations.type_key(source, each, each.subject))
        wanted[table, relations.indexed_subject(each, column_type)] = None
        if each.user is not None:
            wanted[table, f"({each.user})"] = None
    wanted[relations.table_of(source, source.table), f"({source.id})"] = None
    found: dict[str, list[str]] = {}
    for table, on in wanted:
        if kinds.get(table) in TABLES and (table, _comparable(on)) not in there:
            found.setdefault(table, []).append(create_index(table, kinds[table], on))
    return found


def _comparable(expression: str) -> str:
    """Return an expression without the differences between the spelling of Postgres and that of people."""
    return re.sub(r'[()\s"]', "", expression)


async def index_of_emails(connection: Connection, source: UserSource) -> str | None:
    """Return what creates the index by which an e-mail address is found in any letter case, if it lacks.

    Raises the driver's exceptions.
    """
    table = relations.table_of(source, source.table)
    found = await of_statement(connection, source, relations.statuses_by_email(source), ("NULL",))
    if source.email is None or all(scan.reads == "" for scan in found if scan.table == table):
        return None
    kind = (await kinds_of(connection, [table])).get(table, "")
    if source.email.sql is None or kind not in TABLES:
        return "map `email` to a column of a table, with an index on lower(email)"
    return create_index(table, kind, f"lower(({source.email.sql})::text)")


async def index_for_polling(connection: Connection, source: UserSource) -> str | None:
    """Return what creates the index by which a look finds the latest changes; None: it lacks none.

    Raises the driver's exceptions.
    """
    column, table = source.poll.column, relations.table_of(source, source.table)
    if column is None:
        return None
    latest = f"SELECT max(({column})) FROM {table} AS {relations.alias_of(source.table)}"
    found = await of_statement(connection, source, latest, ())
    # Of the tables that a view joins, the latest row is found by no index alone.
    if not any(scan.reads == "rows" or (scan.reads and scan.table == table) for scan in found):
        return None
    kind = (await kinds_of(connection, [table])).get(table, "")
    if kind not in TABLES:
        return f"create an index on what {column} of {table} is made from"
    return create_index(table, kind, f"({column})")


def create_index(table: str, kind: str, on: str) -> str:
    """Return the statement that creates an index. `kind` is `pg_class.relkind`."""
    # Postgres cannot create one on a partitioned table concurrently.
    how = "" if kind == "p" else " CONCURRENTLY"
    return f"CREATE INDEX{how} ON {table} ({on})"


def _look_ups(source: UserSource, types: Types) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the statements of requests and of triggers, with values for their parameters."""
    for name in sorted({name for each in source.identities for name in each.issuer}):
        yield look_up(source, types, name), ("NULL", "NULL")
    if source.changes == "triggers":
        labels = {name: name for each in source.identities for name in each.issuer}
        yield relations.all_identities(source, labels, f"= ANY ($1::{types.key}[])"), ("NULL",)


def _read_by(node: Mapping[str, JSON]) -> Read:
    match node:
        case {"Node Type": "Seq Scan"}:
            return "rows"
        case {"Node Type": "Index Scan" | "Index Only Scan"} if "Index Cond" not in node:
            return "an index"
        case {"Node Type": "Bitmap Heap Scan", "Plans": [{"Node Type": "Bitmap Index Scan", **of_index}]} if (
            "Index Cond" not in of_index
        ):
            return "an index"
    return ""


def _scans_in(node: JSON) -> Iterator[tuple[str, str, Read]]:
    """Yield schema and name of each table in a plan, and what of it is read as a whole."""
    match node:
        case list(nodes):
            for each in nodes:
                yield from _scans_in(each)
        case dict():
            if "Relation Name" in node:
                yield str(node["Schema"]), str(node["Relation Name"]), _read_by(node)
            for each in node.values():
                if isinstance(each, list | dict):
                    yield from _scans_in(each)
