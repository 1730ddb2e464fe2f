"""Installs and removes the triggers of a source, and returns what it would execute.

Safe to run concurrently: each run waits for an advisory lock. All is one transaction.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from gateway.stores.postgres.errors import is_lasting, quoted, said, translated
from gateway.stores.postgres.hosts import Connector, address_of
from gateway.stores.postgres.migrate import MigrationError
from gateway.stores.postgres.source import relations, scans, trial
from gateway.stores.postgres.source.database import describe, kinds_of, views_among
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.notices import SCHEMA
from gateway.stores.postgres.source.scans import Lacking, Scan
from gateway.stores.postgres.source.triggers import REMOVE, Installation, installation, tables_of
from gateway.stores.postgres.statements import Connection

_LOCK: Final = 0x67617465736F7572
"""The advisory lock's number: the bytes of "gatesour"."""
_CONNECT_TIMEOUT: Final = 5.0
_LOCK_TIMEOUT: Final = "5s"
_IMPATIENT: Final = f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"
"""Better to fail, and be run again, than to let every writer wait behind one long transaction."""

_OWNED_BY: Final = "Triggers of the gateway whose own tables are in "
"""The beginning of the comment on the schema of the functions."""
_THERE: Final = "SELECT obj_description(oid, 'pg_namespace') AS mark FROM pg_namespace WHERE nspname = $1"
_NEVER_REPORTED: Final = {"m": "materialized view", "f": "foreign table"}
"""By `pg_class.relkind`."""
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
    """The statements to be executed for a source."""

    installation: Installation | None
    """None: changes are not reported by triggers."""
    statements: tuple[str, ...]
    """Empty if the triggers are installed already."""
    lacking: Lacking
    """Indexes that look-ups need. They are not created: that may take long, outside a transaction."""
    tables: tuple[str, ...]
    """Those on which an answer depends."""
    read: tuple[str, ...] = ()
    """Those that look-ups read; a view's own tables are read with its owner's rights."""
    unwatched: tuple[str, ...] = ()
    """Those of `read` whose changes no trigger reports."""


async def install(
    dsn: str,
    source: UserSource,
    issuers: Mapping[str, str],
    *,
    owner: str = "",
    tls_strict: bool = False,
) -> bool:
    """Install the triggers; returns whether anything had to be changed.

    `owner` names the gateway's own tables, so that two gateways do not replace each other's triggers.
    Raises `MigrationError` when the tables are not as configured, the role lacks a right, a table stays
    locked, or the triggers there are another gateway's; `StoreUnavailable` when the server does not answer.
    """
    async with _session(dsn, source, tls_strict=tls_strict) as session, _explained(source):
        async with session.transaction(readonly=True):
            await _check(session, source)
        async with _alone(session):
            plan = await _plan(session, source, issuers, owner)
            for statement in plan.statements:
                await session.execute(statement)
            return bool(plan.statements)


async def plan(
    dsn: str,
    source: UserSource,
    issuers: Mapping[str, str],
    *,
    owner: str = "",
    tls_strict: bool = False,
) -> Plan:
    """Return what `install` would execute. Raises like `install`."""
    async with (
        _session(dsn, source, tls_strict=tls_strict) as session,
        _explained(source),
        session.transaction(readonly=True),
    ):
        await _check(session, source)
        return await _plan(session, source, issuers, owner)


async def remove(dsn: str, source: UserSource, *, owner: str = "", tls_strict: bool = False) -> bool:
    """Remove the triggers and their functions; returns whether there were any. Raises like `install`."""
    async with (
        _session(dsn, source, tls_strict=tls_strict) as session,
        _explained(source),
        _alone(session),
    ):
        there = await _is_there(session, owner)
        if there:
            await session.execute(REMOVE)
        return there


async def _check(session: Connection, source: UserSource) -> None:
    """Raise `MigrationError` for mistakes in the tables and expressions, in a transaction."""
    await session.execute(_IMPATIENT)
    faults = await trial.faults(session, source)
    if faults:
        raise MigrationError("; ".join(f"{fault}: {fault.fix}" for fault in faults))


async def _plan(session: Connection, source: UserSource, issuers: Mapping[str, str], owner: str) -> Plan:
    tables = tables_of(source)
    types = await describe(session, source)
    found = await scans.of_look_ups(session, source, types)
    lacking = await scans.lacking(session, source, types, found)
    plan = Plan(None, (), lacking, tables, _read(source, found))
    if source.changes != "triggers":
        return plan
    kinds = await kinds_of(session, tables)
    _refuse_views(source, kinds)
    wanted = installation(source, issuers, types.key, views_among(kinds))
    unwatched = tuple(dict.fromkeys(scan.table for scan in found if scan.table not in tables))
    plan = replace(plan, installation=wanted, unwatched=unwatched)
    places = await session.fetch(scans.PARTITIONS, list(tables))
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
        return plan
    there = await _is_there(session, owner)
    marked = f"COMMENT ON SCHEMA {SCHEMA} IS {relations.literal(_OWNED_BY + owner)}"
    statements = (*((REMOVE,) if there else ()), wanted.functions, marked, *needed.values())
    return replace(plan, statements=statements)


def _read(source: UserSource, found: Sequence[Scan]) -> tuple[str, ...]:
    """Return the tables that look-ups read, and the views by which they read them."""
    named = (source.table, *(each.table for each in source.identities if each.table))
    return tuple(
        dict.fromkeys(
            (*(relations.table_of(source, table) for table in named), *(scan.table for scan in found))
        )
    )


async def _is_there(session: Connection, owner: str) -> bool:
    """Return whether functions and triggers are there.

    Raises `MigrationError` if they are those of a gateway with other tables of its own.
    """
    row = await session.fetchrow(_THERE, SCHEMA)
    mark = "" if row is None else str(row["mark"] or "")
    if mark.startswith(_OWNED_BY) and mark != _OWNED_BY + owner:
        raise MigrationError(
            "users.source: the triggers in this database are those of another gateway, with its own tables in"
            f" {mark.removeprefix(_OWNED_BY)}, and there is room for one users.source with triggers: give"
            " both gateways the same one, or write changes: poll in one of them; if that gateway is no more,"
            f" run {REMOVE}"
        )
    return row is not None


def _refuse_views(source: UserSource, kinds: Mapping[str, str]) -> None:
    """Raise `MigrationError` where no trigger would report changes."""
    views = views_among(kinds)
    watched = {relations.table_of(source, table) for table in source.watched} - views
    for table in sorted(views):
        if kinds[table] in _NEVER_REPORTED:
            raise MigrationError(
                f"users.source: {table} is a {_NEVER_REPORTED[kinds[table]]}, which reports no changes: write"
                " changes: poll, or read the tables that it is made from"
            )
        if not watched:
            raise MigrationError(
                f"users.source: {table} is a view, which reports no changes: give the tables that it reads"
                " as users.source.watch, each with its column of user ids, or write changes: poll"
            )


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
async def _alone(session: Connection) -> AsyncIterator[None]:
    """Begin a transaction in which no other run changes anything, and which keeps no writer waiting."""
    async with session.transaction():
        await session.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await session.execute(_IMPATIENT)
        yield


@asynccontextmanager
async def _explained(source: UserSource) -> AsyncIterator[None]:
    """Translate the errors of Postgres about the operator's tables and expressions."""
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
