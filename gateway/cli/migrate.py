"""`gateway migrate`: creates or upgrades the tables, and installs the triggers of a source of users."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json, settings_or_exit
from gateway.cli.stores import refuse
from gateway.cli.terminal import output
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.stores.postgres.source.definition import UserSource
    from gateway.stores.postgres.source.install import Plan


def migrate(
    *,
    config: ConfigFile = DEFAULT_CONFIG,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print what would be executed, and change nothing.")
    ] = False,
    remove_source: Annotated[
        bool, typer.Option("--remove-source", help="Remove the triggers from the tables of users.source.")
    ] = False,
    json: Json = False,
) -> None:
    """Create or upgrade the tables in Postgres. Safe to run concurrently: one run works, the others wait.

    With users.source, this also installs the triggers that report changes of its tables.
    """
    settings = settings_or_exit(config)
    from gateway.stores.postgres.migrate import MigrationError

    if remove_source and settings.users.source is None:
        output.fail(
            "users.source is not configured", "run this with the configuration that has it", output.USAGE
        )
    try:
        if print_sql:
            asyncio.run(_print_sql(settings))
        elif remove_source:
            _report_removal(removed=asyncio.run(_remove(settings)), json=json)
        else:
            _report(asyncio.run(_migrate(settings)), json=json)
    except StoreUnavailable as error:
        refuse(error)
    except MigrationError as error:
        output.fail(str(error))


@dataclass(frozen=True, slots=True)
class _Done:
    applied: list[str]
    source_changed: bool | None
    """Whether triggers of a source were installed; None: there is no source."""
    indexes: tuple[str, ...] = ()
    """Those that the source lacks."""
    unwatched: tuple[str, ...] = ()
    """Tables that look-ups read, and whose changes no trigger reports."""


async def _migrate(settings: "Settings") -> _Done:
    from gateway import translation
    from gateway.stores.postgres import migrate as migrations
    from gateway.stores.postgres.source import install

    dsn, schema = settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name
    strict = settings.postgres.tls.strict
    applied = await migrations.migrate(dsn, schema, tls_strict=strict)
    source = _source(settings)
    if source is None:
        return _Done(applied, None)
    defined, source_dsn, issuers = source
    owner = translation.own_tables(settings)
    changed = await install.install(source_dsn, defined, issuers, owner=owner, tls_strict=strict)
    plan = await install.plan(source_dsn, defined, issuers, owner=owner, tls_strict=strict)
    return _Done(applied, changed, plan.lacking.indexes, plan.unwatched)


async def _remove(settings: "Settings") -> bool:
    from gateway import translation
    from gateway.stores.postgres.source import install

    source = _source(settings)
    if source is None:
        return False
    owner, strict = translation.own_tables(settings), settings.postgres.tls.strict
    return await install.remove(source[1], source[0], owner=owner, tls_strict=strict)


def _source(settings: "Settings") -> "tuple[UserSource, str, dict[str, str]] | None":
    """Return the source, its DSN, and the issuers by name."""
    from gateway import translation

    defined, source = translation.user_source(settings), settings.users.source
    if defined is None or source is None:
        return None
    dsn = (source.dsn or settings.postgres.dsn).get_secret_value()
    return defined, dsn, {issuer.name: issuer.issuer for issuer in settings.issuers}


async def _print_sql(settings: "Settings") -> None:
    from gateway import translation
    from gateway.stores.postgres import migrate as migrations
    from gateway.stores.postgres.source import install

    dsn, schema = settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name
    strict = settings.postgres.tls.strict
    pending = await migrations.pending(dsn, schema, tls_strict=strict)
    if pending:
        first = len(pending) == len(migrations.migrations())
        output.out.out(f"-- postgres.dsn, schema {schema}: the gateway's own tables", highlight=False)
        output.out.out(migrations.script(pending, schema, first=first), highlight=False)
    source = _source(settings)
    if source is None:
        return
    defined, source_dsn, issuers = source
    owner = translation.own_tables(settings)
    plan = await install.plan(source_dsn, defined, issuers, owner=owner, tls_strict=strict)
    for line in _script(defined, plan, elsewhere=source_dsn != dsn):
        output.out.out(line, highlight=False)


def _script(source: "UserSource", plan: "Plan", *, elsewhere: bool) -> Iterator[str]:
    """Yield the part of the script that is about a source."""
    from gateway.stores.postgres.source.notices import SCHEMA
    from gateway.stores.postgres.source.triggers import REMOVE

    yield f"-- {'users.source.dsn' if elsewhere else 'postgres.dsn'}: users.source, changes: {source.changes}"
    yield "-- Nothing below writes a row of these tables, adds a column, or changes a type or a constraint."
    if source.changes != "triggers":
        yield "-- Nothing is installed: the gateway only reads these tables."
    elif not plan.statements:
        yield "-- The triggers are there, and are those of this configuration."
    else:
        count = f"{len(plan.tables)} table{'s' * (len(plan.tables) > 1)}"
        yield f"-- Functions in a schema of their own, {SCHEMA}; statement-level triggers on {count}."
        yield f"-- To remove all of it: {REMOVE};  (gateway migrate --remove-source)"
        yield "BEGIN;"
        yield "SET LOCAL lock_timeout = '5s';"
        for statement in plan.statements:
            yield statement.rstrip().removesuffix(";") + ";"
        yield "COMMIT;"
    if plan.unwatched:
        yield f"-- Note: {_unwatched(plan.unwatched)}."
    if plan.lacking.indexes:
        yield "-- Indexes that look-ups need and that are missing. `gateway migrate` does not create them:"
        yield "-- each may take long, and cannot be created in a transaction."
        yield from (f"{statement};" for statement in plan.lacking.indexes)
    yield "-- What the gateway's role needs to read the users, and no more:"
    for schema in sorted({table.partition('".')[0] + '"' for table in plan.read}):
        yield f"GRANT USAGE ON SCHEMA {schema} TO gateway_runtime;"
    yield f"GRANT SELECT ON {', '.join(plan.read)} TO gateway_runtime;"


def _unwatched(tables: Iterable[str]) -> str:
    return (
        f"look-ups also read {', '.join(tables)}, and no trigger reports changes there: name each under"
        """ `watch`, with its column of user ids, or "*\""""
    )


def _report(done: _Done, *, json: bool) -> None:
    if json:
        report: dict[str, object] = {"applied": done.applied}
        if done.source_changed is not None:
            report["source"] = {
                "installed": done.source_changed,
                "missing_indexes": list(done.indexes),
                "unwatched_tables": list(done.unwatched),
            }
        output.emit_json(report)
        return
    for name in done.applied:
        output.out.print(f"applied {name}", markup=False)
    if done.source_changed:
        output.out.print("installed the triggers of users.source", markup=False)
    if done.unwatched:
        output.out.print(_unwatched(done.unwatched), markup=False)
    for statement in done.indexes:
        output.out.print(f"a look-up of users reads a whole table; create: {statement};", markup=False)
    output.out.print("The tables are up to date.", style="green")


def _report_removal(*, removed: bool, json: bool) -> None:
    if json:
        output.emit_json({"removed": removed})
    else:
        output.out.print(
            "Removed the triggers of users.source." if removed else "There are no triggers of users.source."
        )
