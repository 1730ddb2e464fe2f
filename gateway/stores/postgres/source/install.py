"""Installs and removes the triggers of a source, and tells what it would execute.

Safe to run concurrently: each run waits for an advisory lock. All is one transaction.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg
import orjson

from gateway.core.model import JSON
from gateway.stores.postgres.errors import is_lasting, quoted, said, translated
from gateway.stores.postgres.hosts import Connector, address_of
from gateway.stores.postgres.migrate import MigrationError
from gateway.stores.postgres.source import relations
from gateway.stores.postgres.source.database import Types, describe, look_up, views_among
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.triggers import REMOVE, SCHEMA, Installation, installation, tables_of
from gateway.stores.postgres.statements import Connection

_LOCK: Final = 0x67617465736F7572
"""The advisory lock's number: the bytes of "gatesour"."""
_CONNECT_TIMEOUT: Final = 5.0
_LOCK_TIMEOUT: Final = "5s"
"""Better to fail, and be run again, than to let every writer wait behind one long transaction."""

_ABSENT: Final = "SELECT min(name) FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL"
_PARTITIONS: Final = """
WITH RECURSIVE found (name, place) AS (
    SELECT name, to_regclass(name)::oid FROM unnest($1::text[]) AS name
    UNION
    SELECT name, inhrelid FROM found JOIN pg_inherits ON inhparent = place
)
SELECT name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS place
FROM found JOIN pg_class c ON c.oid = place JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY name, place
"""
_REPLICATED: Final = """
SELECT min(name) FROM unnest($1::text[]) AS name JOIN pg_subscription_rel ON srrelid = to_regclass(name)
"""
_INSTALLED: Final = f"""
SELECT quote_ident(owner.nspname) || '.' || quote_ident(c.relname) AS place,
    t.tgname::text AS name, p.proname::text AS function
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace owner ON owner.oid = c.relnamespace
WHERE n.nspname = '{SCHEMA}' AND t.tgenabled IN ('O', 'A')
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be executed for a source."""

    installation: Installation | None
    """None: changes are not reported by triggers."""
    statements: tuple[str, ...]
    """Empty when all is there."""
    indexes: tuple[str, ...]
    """Statements that look-ups need. They are not executed: they may take long, outside a transaction."""
    tables: tuple[str, ...]
    """Those on which an answer depends."""
    read: tuple[str, ...] = ()
    """Those that look-ups read; a view's own tables are read with its owner's rights."""


async def install(
    dsn: str, source: UserSource, issuers: Mapping[str, str], *, tls_strict: bool = False
) -> bool:
    """Install the triggers; returns whether anything had to be changed.

    Raises `MigrationError` when the tables are not as configured, the role lacks a right or a table stays
    locked, and `StoreUnavailable` when the server does not answer.
    """
    async with _writing(dsn, source, tls_strict=tls_strict) as session:
        plan = await _plan(session, source, issuers)
        for statement in plan.statements:
            await session.execute(statement)
        return bool(plan.statements)


async def plan(dsn: str, source: UserSource, issuers: Mapping[str, str], *, tls_strict: bool = False) -> Plan:
    """Return what `install` would execute. Raises like `install`."""
    async with (
        _session(dsn, source, tls_strict=tls_strict) as session,
        _explained(source),
        session.transaction(readonly=True),
    ):
        return await _plan(session, source, issuers)


async def remove(dsn: str, source: UserSource, *, tls_strict: bool = False) -> bool:
    """Remove the triggers and their functions; returns whether there were any. Raises like `install`."""
    async with _writing(dsn, source, tls_strict=tls_strict) as session:
        there = bool(await session.fetchval("SELECT to_regnamespace($1) IS NOT NULL", SCHEMA))
        if there:
            await session.execute(REMOVE)
        return there


async def unindexed(connection: Connection, source: UserSource) -> list[str]:
    """Return the tables, quoted, that a look-up would read as a whole. Raises the driver's exceptions."""
    watched = {relations.table_of(source, table) for table in source.watched}
    scans = await _scans(connection, source)
    return [
        table for table in dict.fromkeys(scan.table for scan in scans if scan.whole) if table not in watched
    ]


@dataclass(frozen=True, slots=True)
class _Scan:
    """How a look-up reads a table."""

    table: str
    whole: bool


async def _scans(connection: Connection, source: UserSource) -> list[_Scan]:
    types = await describe(connection, source)
    found: list[_Scan] = []
    async with connection.transaction():
        # Small tables are read as a whole although they have an index, unless that is made dear.
        await connection.execute("SET LOCAL enable_seqscan = off")
        for statement in _look_ups(source, types):
            explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON, VERBOSE) {statement}")
            found += _scans_in(orjson.loads(explained))
    return found


def _look_ups(source: UserSource, types: Types) -> Iterator[str]:
    """Yield the statements of requests and of triggers, with values in place of parameters."""
    for name in sorted({name for each in source.identities for name in each.issuer}):
        yield look_up(source, types, name).replace("$1::text", "'x'::text").replace("$2::text", "'x'::text")
    if source.changes == "triggers":
        labels = {name: name for each in source.identities for name in each.issuer}
        yield relations.all_identities(source, labels, f"= ANY (NULL::{types.key}[])")


def _scans_in(node: JSON) -> Iterator[_Scan]:
    match node:
        case list(nodes):
            for each in nodes:
                yield from _scans_in(each)
        case dict():
            if "Relation Name" in node:
                table = f"{quoted(str(node['Schema']))}.{quoted(str(node['Relation Name']))}"
                yield _Scan(table, node.get("Node Type") == "Seq Scan" and "Filter" in node)
            for each in node.values():
                if isinstance(each, list | dict):
                    yield from _scans_in(each)


async def _plan(session: Connection, source: UserSource, issuers: Mapping[str, str]) -> Plan:
    tables = tables_of(source)
    absent = await session.fetchval(_ABSENT, list(tables))
    if absent is not None:
        raise MigrationError(f"users.source: there is no table {absent}: correct its name, or its schema")
    types = await describe(session, source)
    slow = await unindexed(session, source)
    named = (
        relations.table_of(source, t)
        for t in (source.table, *(i.table for i in source.identities if i.table))
    )
    read = tuple(dict.fromkeys((*named, *(scan.table for scan in await _scans(session, source)))))
    indexes = tuple(statement for statement in _indexes(source) if _table_in(statement, slow))
    if source.changes != "triggers":
        return Plan(None, (), indexes, tables, read)
    views = await views_among(session, tables)
    _refuse_views(source, views)
    wanted = installation(source, issuers, types.key, views)
    places = await session.fetch(_PARTITIONS, list(tables))
    replicated = await session.fetchval(_REPLICATED, [row["place"] for row in places])
    if replicated is not None:
        raise MigrationError(
            f"users.source: {replicated} is filled by a subscription, and logical replication fires no"
            " statement-level triggers: write changes: poll, or read the users where they are written"
        )
    needed = {
        (row["place"], trigger.name, trigger.function): wanted.create(trigger, row["place"])
        for trigger in wanted.triggers
        for row in places
        if row["name"] == trigger.table
    }
    installed = {tuple(row.values()) for row in await session.fetch(_INSTALLED)}
    if installed == needed.keys():
        return Plan(wanted, (), indexes, tables, read)
    there = await session.fetchval("SELECT to_regnamespace($1) IS NOT NULL", SCHEMA)
    statements = (*((REMOVE,) if there else ()), wanted.functions, *needed.values())
    return Plan(wanted, statements, indexes, tables, read)


def _refuse_views(source: UserSource, views: frozenset[str]) -> None:
    watched = {relations.table_of(source, table) for table in source.watched} - views
    for table in sorted(views):
        if not watched:
            raise MigrationError(
                f"users.source: {table} is a view, which reports no changes: give the tables that it reads"
                " as users.source.watch, each with its column of user ids, or write changes: poll"
            )


def _indexes(source: UserSource) -> Iterator[str]:
    """Yield an index for each column or expression by which users are looked up."""
    for each in source.identities:
        table = relations.table_of(source, each.table or source.table)
        where = "" if each.where is None else f" WHERE {each.where}"
        yield f"CREATE INDEX CONCURRENTLY ON {table} (({each.subject})){where}"
        if each.user is not None:
            yield f"CREATE INDEX CONCURRENTLY ON {table} (({each.user}))"
    yield f"CREATE INDEX CONCURRENTLY ON {relations.table_of(source, source.table)} (({source.id}))"


def _table_in(statement: str, tables: list[str]) -> bool:
    return any(f" ON {table} " in statement for table in tables)


@asynccontextmanager
async def _session(dsn: str, source: UserSource, *, tls_strict: bool) -> AsyncIterator[Connection]:
    connector = Connector(dsn, primary=True, timeout=_CONNECT_TIMEOUT, tls_strict=tls_strict)
    with translated(address_of(dsn)):
        session = await connector(
            statement_cache_size=0,
            server_settings={
                "application_name": "gateway migrate",
                "search_path": f"{quoted(source.schema_name)}, pg_temp",
            },
        )
        try:
            yield session
        finally:
            await session.close(timeout=_CONNECT_TIMEOUT)


@asynccontextmanager
async def _writing(dsn: str, source: UserSource, *, tls_strict: bool) -> AsyncIterator[Connection]:
    """Begin a transaction in which no other run changes anything, and which keeps no writer waiting."""
    async with (
        _session(dsn, source, tls_strict=tls_strict) as session,
        _explained(source),
        session.transaction(),
    ):
        await session.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await session.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        yield session


@asynccontextmanager
async def _explained(source: UserSource) -> AsyncIterator[None]:
    """Translate what Postgres says of the operator's tables and expressions."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(
            f"users.source: another transaction kept a table locked for {_LOCK_TIMEOUT}: run this again when"
            " it has ended"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"users.source: {said(error)}: run this as the owner of the tables, with CREATE on the database;"
            " or have it run what `gateway migrate --print-sql` prints; or write changes: poll"
        ) from error
    except asyncpg.PostgresError as error:
        if not is_lasting(error):
            raise
        raise MigrationError(
            f"users.source: {said(error)}: correct the table {source.table} or the expressions"
        ) from error
