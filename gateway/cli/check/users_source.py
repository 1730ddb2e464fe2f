"""Checks of the tables of another system that has the users (`users.source`)."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway import translation
from gateway.builders import directories
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import advice_for_postgres
from gateway.core.model import Identity, StoreUnavailable
from gateway.core.tokens.issuer_patterns import is_pattern
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.migrate import MigrationError
from gateway.stores.postgres.source import install, relations, scans, trial
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.definition import UserSource
from gateway.stores.postgres.source.directory import provisioning, writable
from gateway.stores.postgres.source.directory.users import SourceDirectory

if TYPE_CHECKING:
    from gateway.settings import Settings

NAME: Final = "users_source"
_REPLICA: Final = f"{NAME}_replica"
_INDEXES: Final = f"{NAME}:indexes"
_CHANGES: Final = f"{NAME}:changes"
_IDENTITIES: Final = f"{NAME}:identities"
_CHANGES_BY_US: Final = f"{NAME}:writable"
_STATEMENT_TIMEOUT: Final = 5.0
"""Seconds. A look-up that takes longer than `postgres.statement_timeout` is reported by its missing index."""


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the checks; none if users are in the gateway's own tables."""
    source = translation.user_source(settings)
    if source is None:
        return
    yield Check(NAME, partial(_primary, settings, source))
    if _replica_dsn(settings) is not None:
        yield Check(_REPLICA, partial(_replica, settings, source))
    yield Check(_INDEXES, partial(_indexes, settings, source))
    yield Check(_CHANGES, partial(_changes, settings, source))
    yield Check(_IDENTITIES, partial(_identities, settings, source))
    if source.writable:
        yield Check(_CHANGES_BY_US, partial(_writes, settings, source))


async def _primary(settings: "Settings", source: UserSource) -> CheckResult:
    async with _opened(settings, source) as database:
        try:
            async with database.connection() as connection:
                faults = await trial.faults(connection, source)
            if faults:
                found = "; ".join(map(str, faults))
                fix = "; ".join(dict.fromkeys(fault.fix for fault in faults))
                return CheckResult(NAME, "fail", f"{database.address}: {found}", fix)
            await database.ping()
            async with database.connection() as connection:
                version = await connection.fetchval("SELECT current_setting('server_version')")
                rights = await trial.rights(connection, source)
        except StoreUnavailable as error:
            return CheckResult(NAME, "fail", error.detail, *advice_for_postgres(error, _setting(settings)))
        found = (
            f"{database.address}: {source.table}: the statements of requests run, and write nothing;"
            f" PostgreSQL {version}, role {rights.role}"
        )
    if rights.writable and not source.writable:
        tables = ", ".join(rights.writable)
        return CheckResult(
            NAME,
            "pass",
            f"{found}, which may also change {tables}",
            "advice: give look-ups a role of their own that may only read; `gateway migrate --print-sql`"
            " prints its rights",
        )
    return CheckResult(NAME, "pass", found)


async def _replica(settings: "Settings", source: UserSource) -> CheckResult:
    async with _opened(settings, source) as database:
        try:
            await database.ping_replica()
        except StoreUnavailable as error:
            fix, _ = advice_for_postgres(error, _setting(settings, "replica_dsn"))
            found = f"{error.detail}; the gateway asks the primary instead"
            return CheckResult(_REPLICA, "warn", found, fix)
    return CheckResult(_REPLICA, "pass", "the statements that find users run")


async def _indexes(settings: "Settings", source: UserSource) -> CheckResult:
    planned = await _planned(_INDEXES, settings, source)
    if isinstance(planned, CheckResult):
        return planned
    lacking = planned.lacking
    if not lacking.tables:
        return CheckResult(_INDEXES, "pass", "look-ups read every table by an index")
    return CheckResult(
        _INDEXES,
        "warn",
        f"look-ups read all of {', '.join(lacking.tables)}",
        "; ".join(lacking.indexes) or "create an index for the query that reads it",
    )


async def _changes(settings: "Settings", source: UserSource) -> CheckResult:
    ttl = settings.cache.user_ttl
    if source.changes == "none":
        return CheckResult(
            _CHANGES,
            "warn",
            f"changes: none: a user who is suspended is served for up to {ttl:g} s (`cache.user_ttl`)",
            "write changes: triggers, or changes: poll where no trigger may be installed",
        )
    if source.changes == "poll":
        return await _polls(settings, source)
    planned = await _planned(_CHANGES, settings, source)
    if isinstance(planned, CheckResult):
        return planned
    if planned.statements:
        return CheckResult(
            _CHANGES,
            "fail",
            f"triggers that report changes are missing, disabled or of another configuration on"
            f" {', '.join(planned.tables)}: the gateway asks the database for each request",
            "run `gateway migrate` with this configuration; with --print-sql it prints what it would do",
        )
    found = f"the triggers of this configuration are on {', '.join(planned.tables)}"
    if planned.unwatched:
        return CheckResult(
            _CHANGES,
            "warn",
            f"{found}; look-ups also read {', '.join(planned.unwatched)}, and no trigger reports changes"
            f" there: they count after {ttl:g} s (`cache.user_ttl`)",
            'name each under `watch`, with its column of user ids or "*", and run `gateway migrate`',
        )
    return CheckResult(_CHANGES, "pass", found)


async def _polls(settings: "Settings", source: UserSource) -> CheckResult:
    poll = source.poll
    bound = f"changes: poll, every {poll.interval:g} s: a change counts within that time, and that of reading"
    if poll.column is None:
        return CheckResult(_CHANGES, "pass", f"{bound} the remembered users")
    bound += f" the rows behind the last {poll.column}; one that does not touch it, within {poll.compare:g} s"
    async with _opened(settings, source) as database:
        try:
            async with database.connection() as connection:
                index = await scans.index_for_polling(connection, source)
        except StoreUnavailable as error:
            fix, unreachable = advice_for_postgres(error, _setting(settings))
            return CheckResult(_CHANGES, "fail", error.detail, fix, unreachable)
    if index is not None:
        return CheckResult(_CHANGES, "warn", f"{bound}; each look reads all of {source.table}", index)
    return CheckResult(_CHANGES, "pass", bound)


async def _identities(settings: "Settings", source: UserSource) -> CheckResult:
    without = [issuer.name for issuer in settings.issuers if not source.identities_of(issuer.name)]
    if without:
        return CheckResult(
            _IDENTITIES,
            "warn",
            f"no identities are configured for {', '.join(without)}: every token of theirs is 401"
            " user_not_found",
            "name the issuer in an entry of users.source.identities, or remove it",
        )
    several = {
        issuer.name: entries
        for issuer in settings.issuers
        if len(entries := source.identities_of(issuer.name)) > 1
    }
    if several:
        told = "; ".join(
            f"{name}: {', '.join(f'{each.table or source.table}.{each.subject}' for each in entries)}"
            for name, entries in several.items()
        )
        return CheckResult(
            _IDENTITIES,
            "pass",
            f"subjects are looked up in several places: {told}; a subject that leads to two users is 503"
            " user_store_unavailable",
        )
    return CheckResult(_IDENTITIES, "pass", "every issuer has its identities")


async def _writes(settings: "Settings", source: UserSource) -> CheckResult:
    """Report what can be changed, what prevents the rest, and whether users can be provisioned."""
    possible, impossible = writable.possibilities(source)
    async with _directory(settings) as directory:
        try:
            async with directory.database.connection() as connection:
                rights = await trial.rights(connection, source)
            for issuer in settings.issuers:
                if not source.identities_of(issuer.name) or is_pattern(issuer.issuer):
                    continue
                obstacle = await directory.obstacle_to_link(Identity(issuer.issuer, "example"))
                what = f"identities of {issuer.name}"
                possible += [what] if obstacle is None else []
                impossible += [] if obstacle is None else [f"{what}: {obstacle}"]
            refusals = await _unprovisioned(settings, directory)
            slow = await _slow_emails(settings, directory)
        except StoreUnavailable as error:
            fix, unreachable = advice_for_postgres(error, _setting(settings))
            return CheckResult(_CHANGES_BY_US, "fail", error.detail, fix, unreachable)
    table = relations.table_of(source, source.table)
    if table not in rights.writable:
        return CheckResult(
            _CHANGES_BY_US,
            "warn",
            f"role {rights.role} may not change {table}, although users.source.writable is true",
            f"let the owner of {table} grant UPDATE to {rights.role}; or write writable: false",
        )
    found = f"can be changed: {', '.join(possible) or 'nothing'}"
    if impossible:
        found += f"; cannot: {'; '.join(impossible)}"
    if refusals:
        return CheckResult(
            _CHANGES_BY_US,
            "fail",
            f"no user can be created at the first request: {'; '.join(refusals)}",
            "let the system create users, and write missing_user: forward; or give the columns defaults",
        )
    if slow is not None:
        found += "; each user that is created costs a look at all e-mail addresses"
        return CheckResult(_CHANGES_BY_US, "warn", found, slow)
    return CheckResult(_CHANGES_BY_US, "pass", found)


async def _slow_emails(settings: "Settings", directory: SourceDirectory) -> str | None:
    """Return the index that provisioning lacks to look for an e-mail address; None: it lacks none."""
    if all(each.provisioning is None or each.provisioning.email is None for each in settings.issuers):
        return None
    async with directory.database.connection() as connection:
        return await scans.index_of_emails(connection, directory.source)


async def _unprovisioned(settings: "Settings", directory: SourceDirectory) -> list[str]:
    """Return why tokens of issuers with `provisioning` could not create their users."""
    found = []
    for issuer in settings.issuers:
        rules = issuer.provisioning
        if rules is None or is_pattern(issuer.issuer):
            continue
        user = provisioning.example(
            issuer.name,
            issuer.issuer,
            email=rules.email is not None,
            name=rules.display_name is not None,
            tenant=rules.tenant is not None,
            roles=bool(rules.roles),
        )
        obstacle = await provisioning.obstacle_to_create(directory, user)
        found += [] if obstacle is None else [f"{issuer.name}: {obstacle}"]
    return found


@asynccontextmanager
async def _directory(settings: "Settings") -> AsyncIterator[SourceDirectory]:
    """Open the source as operators do."""
    postgres = settings.postgres
    own = Postgres(postgres.dsn.get_secret_value(), schema=postgres.schema_name)
    try:
        async with AsyncExitStack() as stack:
            opened = directories.user_directory(settings, own, stack, statement_timeout=_STATEMENT_TIMEOUT)
            if not isinstance(opened, SourceDirectory):
                raise TypeError("users.source is not configured")
            yield opened
    finally:
        await own.close()


async def _planned(name: str, settings: "Settings", source: UserSource) -> "install.Plan | CheckResult":
    """Return what `gateway migrate` would do; or a failure, which the first check explains."""
    dsn = _dsn(settings)
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    try:
        return await install.plan(
            dsn,
            source,
            issuers,
            owner=translation.own_tables(settings),
            tls_strict=settings.postgres.tls.strict,
        )
    except StoreUnavailable as error:
        return CheckResult(name, "fail", error.detail, *advice_for_postgres(error, _setting(settings)))
    except MigrationError as error:
        return CheckResult(name, "fail", str(error), f"see {NAME}")


@asynccontextmanager
async def _opened(settings: "Settings", source: UserSource) -> AsyncIterator[SourceDatabase]:
    """Open the tables as `gateway run` does, with one connection."""
    postgres = settings.postgres
    database = SourceDatabase(
        source,
        {issuer.name: issuer.issuer for issuer in settings.issuers},
        _dsn(settings),
        replica_dsn=_replica_dsn(settings),
        pool_max=1,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=_STATEMENT_TIMEOUT,
        prepared_statements=postgres.prepared_statements,
        tls_strict=postgres.tls.strict,
    )
    try:
        yield database
    finally:
        await database.close()


def _dsn(settings: "Settings") -> str:
    source = settings.users.source
    dsn = None if source is None else source.dsn
    return (dsn or settings.postgres.dsn).get_secret_value()


def _replica_dsn(settings: "Settings") -> str | None:
    source = settings.users.source
    elsewhere = source is not None and source.dsn is not None
    replica = source.replica_dsn if source is not None and elsewhere else settings.postgres.replica_dsn
    return None if replica is None else replica.get_secret_value()


def _setting(settings: "Settings", name: str = "dsn") -> str:
    source = settings.users.source
    return f"postgres.{name}" if source is None or source.dsn is None else f"users.source.{name}"
