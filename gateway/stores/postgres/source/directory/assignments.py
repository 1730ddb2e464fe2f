"""Values for columns of a source: how a row is changed and inserted."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import asyncpg

from gateway.stores.postgres.directory.user_rows import NotWritable
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.pool import Connection
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import Types
from gateway.stores.postgres.source.definition import UserSource

Kind: TypeAlias = Literal["null", "true", "false", "now", "past", "future", "sql", "text", "texts", "instant"]
Columns: TypeAlias = Mapping[str, asyncpg.Record]
"""The columns of a table by name, with `type`, `required` and `filled` (Postgres fills them itself)."""

# Without its length, which a cast would cut a value to.
_COLUMNS: Final = """
SELECT a.attname::text AS name, format_type(a.atttypid, -1) AS type, a.attnotnull AS required,
    a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '' AS filled
FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_INSTANTS: Final = {
    "now": "now()",
    "past": "now() - interval '1 second'",
    # Not every system can read `infinity`.
    "future": "now() + interval '100 years'",
}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value for a column."""

    column: str
    """As the catalogs have it."""
    kind: Kind
    value: object = None
    """For `sql` a literal; for `text`, `texts` and `instant` (Unix seconds) a parameter."""


async def columns_of(connection: Connection, table: str) -> Columns:
    """Return the columns of a table, whose name is quoted."""
    return {row["name"]: row for row in await connection.fetch(_COLUMNS, table)}


async def assign(
    connection: Connection, source: UserSource, types: Types, user_id: str, plan: Iterable[Assignment]
) -> None:
    """Change columns of a user. Raises `NotWritable`."""
    assignments = list(plan)
    if not assignments:
        return
    table = relations.table_of(source, source.table)
    columns = await columns_of(connection, table)
    values: list[object] = [user_id]
    sets = ", ".join(f"{quoted(each.column)} = {_sql(each, columns, values)}" for each in assignments)
    await connection.execute(
        f"UPDATE {table} AS {relations.alias_of(source.table)} SET {sets}"
        f" WHERE {relations.is_key(types.key, f'({source.id})', '$1::text')}",
        *values,
    )


async def insert(
    connection: Connection,
    source: UserSource,
    table: str,
    plan: Iterable[Assignment],
    *,
    generated: Mapping[str, str] | None = None,
    returning: str = "true",
) -> str:
    """Insert a row; return an expression over it, as text. `generated` has SQL for columns.

    Raises `NotWritable` when the row needs values that are not known here.
    """
    columns = await columns_of(connection, relations.table_of(source, table))
    values: list[object] = []
    given = {each.column: _sql(each, columns, values) for each in plan} | dict(generated or {})
    _check(columns, table, given.keys())
    filled = f"({', '.join(map(quoted, given))}) VALUES ({', '.join(given.values())})"
    row: str = await connection.fetchval(
        f"INSERT INTO {relations.table_of(source, table)} AS {relations.alias_of(table)}"
        f" {filled if given else 'DEFAULT VALUES'} RETURNING ({returning})::text",
        *values,
    )
    return row


async def check_row(connection: Connection, source: UserSource, table: str, given: Set[str]) -> None:
    """Raise `NotWritable` when a row needs more values than those of the given columns."""
    _check(await columns_of(connection, relations.table_of(source, table)), table, given)


def _check(columns: Columns, table: str, given: Set[str]) -> None:
    missing = [
        name
        for name, column in columns.items()
        if column["required"] and not column["filled"] and name not in given
    ]
    if missing:
        raise NotWritable(
            f"a row of {table} needs values for {', '.join(missing)}, which are not known here: create it"
            " with the system's own means"
        )


def _sql(each: Assignment, columns: Columns, values: list[object]) -> str:
    """Return the SQL of a value, with its parameter appended to `values`."""
    column = columns.get(each.column)
    if column is None:
        raise NotWritable(f"there is no column {each.column} that can be changed")
    kind = str(column["type"])
    temporal = kind.startswith(("timestamp", "date"))
    if each.kind in _INSTANTS and not temporal:
        raise NotWritable(f"column {each.column} is no instant, and what it should be is not known here")
    match each.kind:
        case "null" if not column["required"]:
            return "NULL"
        case "null" if temporal:
            return "now()"
        case "null":
            raise NotWritable(f"column {each.column} must have a value")
        case "now" | "past" | "future":
            return f"({_INSTANTS[each.kind]})::{kind}"
        case "true" | "false" | "sql":
            return f"({each.value if each.kind == 'sql' else each.kind})::{kind}"
        case "instant" | "text" | "texts":
            if each.value is None and column["required"]:
                raise NotWritable(f"column {each.column} must have a value")
            values.append(each.value)
            return f"{_parameter(each.kind, kind, len(values))}::{kind}"


def _parameter(given: Literal["instant", "text", "texts"], kind: str, number: int) -> str:
    if given == "instant":
        return f"to_timestamp(${number}::float8)"
    if given == "text":
        return f"${number}::text"
    return f"to_jsonb(${number}::text[])" if kind in ("json", "jsonb") else f"${number}::text[]"
