"""Tries each expression of a source on its own, so that an error names the setting that has it.

All runs in transactions that may not write. An expression is parsed, and then evaluated on one row: with NULL
in all columns where the table is empty, so that a function that writes is noticed there, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from gateway.core.text import sql_text
from gateway.stores.postgres.errors import said
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import describe
from gateway.stores.postgres.source.definition import ALL_USERS, UserSource, Value
from gateway.stores.postgres.source.triggers import tables_of
from gateway.stores.postgres.statements import Connection

_TABLES: Final = """
SELECT name, to_regclass(name) IS NOT NULL AS found,
    coalesce(has_table_privilege(to_regclass(name), 'SELECT'), false) AS readable,
    coalesce(row_security_active(to_regclass(name)::oid), false) AS filtered
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) ORDER BY place
"""
_SCHEMAS: Final = """
SELECT name, coalesce(has_schema_privilege(to_regnamespace(name), 'USAGE'), true) AS usable
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place) ORDER BY place
"""
_WRITABLE: Final = """
SELECT current_user::text AS role, ARRAY(
    SELECT name FROM unnest($1::text[]) AS name
    WHERE has_table_privilege(to_regclass(name), 'INSERT, UPDATE, DELETE')
        OR has_any_column_privilege(to_regclass(name), 'INSERT, UPDATE')
) AS tables
"""
_ALWAYS: Final = "gateway_always.column1"
_TYPE: Final = "SELECT pg_typeof((SELECT ({}) FROM {} LIMIT 0))::text"


@dataclass(frozen=True, slots=True)
class Trial:
    """A statement that one setting needs to be correct."""

    field: str
    """The setting, such as `users.source.status[0].when`."""
    statement: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in a setting."""

    field: str
    found: str
    fix: str
    grant: str | None = None
    """What the owner of the table may execute, if that is enough."""

    def __str__(self) -> str:
        return f"{self.field}: {self.found}"


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role of look-ups may do beyond reading."""

    role: str
    writable: tuple[str, ...]
    """The tables that it may change."""


async def faults(connection: Connection, source: UserSource) -> list[Fault]:
    """Return the mistakes in a source's tables and expressions. Raises the driver's exceptions."""
    found = await _of_tables(connection, source) or await _tried(connection, trials(source))
    if found:
        return found
    found = await _unusable(connection, source)
    if found or not source.watched:
        return found
    # The columns of ids are there; their values must also be ids.
    return await _tried(connection, _watches(source, (await describe(connection, source)).key))


async def _tried(connection: Connection, statements: Iterable[Trial]) -> list[Fault]:
    found = []
    for each in statements:
        try:
            async with connection.transaction(readonly=True):
                await connection.fetch(each.statement)
        except asyncpg.PostgresError as error:
            fault = _fault(each.field, error)
            if fault is None:
                raise
            found.append(fault)
    return found


async def rights(connection: Connection, source: UserSource) -> Rights:
    """Ask what the role may change."""
    row = await connection.fetchrow(_WRITABLE, list(tables_of(source)))
    if row is None:
        raise ValueError("a query that always has one row had none")
    return Rights(row["role"], tuple(row["tables"]))


def trials(source: UserSource) -> Iterator[Trial]:
    """Yield the statements, in the order of the settings."""
    of_user = _row(source, source.table)
    yield Trial("users.source.id", f"SELECT {_of_row(source.id)}::text FROM {of_user}")
    for index, rule in enumerate(source.status):
        where = f"users.source.status[{index}]"
        yield _condition(f"{where}.when", rule.when, of_user)
        if rule.until is not None:
            yield Trial(f"{where}.until", f"SELECT {_of_row(rule.until)}::timestamptz FROM {of_user}")
    for name, value in source.values.items():
        yield from _value(source, f"users.source.{name}", name, value, of_user)
    for index, each in enumerate(source.identities):
        where, rows = f"users.source.identities[{index}]", _row(source, each.table or source.table)
        yield Trial(f"{where}.subject", f"SELECT {_of_row(each.subject)}::text FROM {rows}")
        if each.user is not None:
            key = f"(SELECT ({source.id}) FROM {of_user} LIMIT 0)"
            yield Trial(f"{where}.user", f"SELECT {_of_row(each.user)} = {key} FROM {rows}")
        if each.tenant is not None:
            yield Trial(f"{where}.tenant", f"SELECT {_of_row(each.tenant)}::text FROM {rows}")
        if each.where is not None:
            yield _condition(f"{where}.where", each.where, rows)
    yield from _watches(source)
    if source.changes == "poll" and source.poll.column is not None:
        yield Trial("users.source.poll.column", f"SELECT {_of_row(source.poll.column)} FROM {of_user}")


def _of_row(expression: str) -> str:
    """Return an expression in a place where neither an aggregate nor several rows are allowed."""
    return f"(CASE WHEN {_ALWAYS} THEN ({expression}) END)"


def _condition(field: str, condition: str, rows: str) -> Trial:
    return Trial(field, f"SELECT CASE WHEN {_ALWAYS} AND ({condition}) THEN 1 END FROM {rows}")


def _value(source: UserSource, field: str, name: str, value: Value, of_user: str) -> Iterator[Trial]:
    kind = {"tokens_valid_after": "::timestamptz", "created_at": "::timestamptz"}.get(name, "::text")
    if name == "roles" or name.startswith("attributes."):
        kind = ""
    if value.query is None:
        yield Trial(field, f"SELECT {_of_row(value.sql or 'NULL')}{kind} FROM {of_user}")
        return
    query = sql_text.with_parameter(value.query, "gateway_key")
    # Of roles there may be several; an array is made of them, for which there must be one column.
    found = f"ARRAY({query})" if name == "roles" else f"({query}){kind}"
    yield Trial(
        f"{field}.query",
        f"SELECT {found} FROM (SELECT ({source.id}) AS gateway_key FROM {of_user}) AS keyed LIMIT 1",
    )


def _watches(source: UserSource, key_type: str | None = None) -> Iterator[Trial]:
    """Yield the statements of the columns that are watched, as ids if their type is given."""
    yield from _watch(source, "users.source.watch", source.watch, key_type)
    for name, value in source.values.items():
        field = f"users.source.{name}" + ("" if value.query is None else ".watch")
        yield from _watch(source, field, value.watch, key_type)


def _watch(
    source: UserSource, field: str, watched: Mapping[str, str], key_type: str | None
) -> Iterator[Trial]:
    for table, column in watched.items():
        expression = "true" if column == ALL_USERS else f"({column})"
        cast = "" if key_type is None or column == ALL_USERS else f"::{key_type}"
        yield Trial(f"{field}.{table}", f"SELECT {_of_row(f'{expression}{cast}')} FROM {_row(source, table)}")


async def _unusable(connection: Connection, source: UserSource) -> list[Fault]:
    """Return the mistake in values whose type can be read, but has no meaning there."""
    found = []
    of_user = _row(source, source.table)
    column, roles = source.poll.column, source.roles
    if source.changes == "poll" and column is not None:
        kind = await connection.fetchval(_TYPE.format(column, of_user))
        if kind in ("date", "time without time zone", "time with time zone"):
            fix = "give a column of the type timestamptz, or leave it out: all that is remembered is compared"
            told = f"it is a {kind}, which is the same for several changes"
            found.append(Fault("users.source.poll.column", told, fix))
    if roles is not None and roles.sql is not None:
        kind = await connection.fetchval(_TYPE.format(roles.sql, of_user))
        if kind == "boolean":
            fix = f"write the name of the role, as in CASE WHEN {roles.sql} THEN 'admin' END"
            found.append(Fault("users.source.roles", "it is a boolean, and no name of a role", fix))
    return found


def _row(source: UserSource, table: str) -> str:
    """Return one row of a table under its name; all of its columns are NULL if it has none."""
    rows = relations.table_of(source, table)
    return (
        f"(VALUES (true)) AS gateway_always LEFT JOIN LATERAL (SELECT * FROM {rows} LIMIT 1)"
        f" AS {relations.alias_of(table)} ON true"
    )


async def _of_tables(connection: Connection, source: UserSource) -> list[Fault]:
    tables = tables_of(source)
    role = str(await connection.fetchval("SELECT quote_ident(current_user)"))
    schemas = list(dict.fromkeys(table.partition('".')[0] + '"' for table in tables))
    closed = [row["name"] for row in await connection.fetch(_SCHEMAS, schemas) if not row["usable"]]
    if closed:
        # Its tables cannot be looked for.
        grant = f"GRANT USAGE ON SCHEMA {', '.join(closed)} TO {role}"
        return [_lacks(role, "USAGE on schema", closed, grant)]
    rows = await connection.fetch(_TABLES, list(tables))
    missing = [
        Fault("users.source", f"there is no table {row['name']}", "correct its name, or its schema")
        for row in rows
        if not row["found"]
    ]
    if missing:
        return missing
    unreadable = [row["name"] for row in rows if not row["readable"]]
    if unreadable:
        return [_lacks(role, "SELECT on", unreadable, f"GRANT SELECT ON {', '.join(unreadable)} TO {role}")]
    filtered = [row["name"] for row in rows if row["filtered"]]
    if filtered:
        return [
            Fault(
                "users.source",
                f"row-level security applies to role {role} on {', '.join(filtered)}, and what it hides"
                " would look like users who do not exist",
                f"as a superuser: ALTER ROLE {role} BYPASSRLS; a policy that shows all rows is not enough",
            )
        ]
    return []


def _lacks(role: str, right: str, of: Sequence[str], grant: str) -> Fault:
    found = f"role {role} lacks {right} {', '.join(of)}"
    return Fault("users.source", found, f"as the owner of the tables: {grant}", grant)


def _fault(field: str, error: asyncpg.PostgresError) -> Fault | None:
    """Return the mistake in a setting that an error shows; None if it shows none."""
    match error:
        case asyncpg.ReadOnlySQLTransactionError():
            return Fault(field, f"it writes: {said(error)}", "write an expression that only reads")
        case asyncpg.InsufficientPrivilegeError():
            return Fault(field, said(error), "grant it to the role of the look-ups")
        case asyncpg.GroupingError() | asyncpg.FeatureNotSupportedError():
            return Fault(
                field, "it is about several rows", "write an expression that has one value for a row"
            )
        case asyncpg.SyntaxOrAccessError() | asyncpg.InvalidSchemaNameError():
            return Fault(field, said(error), "correct it")
        case asyncpg.DataError() | asyncpg.CardinalityViolationError():
            # The text of the error may have a value of a row.
            return Fault(
                field,
                f"it fails on a row ({type(error).__name__}, SQLSTATE {error.sqlstate})",
                "write an expression that has one value for every row",
            )
    return None
