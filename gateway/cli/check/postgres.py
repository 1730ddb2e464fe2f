"""Checks of Postgres: whether the statements of requests run on the primary and on the replica."""

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from gateway.cli.check.clock import FIX, difference_noted
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import advice_for_postgres, postgres_tier
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.diagnostics import Diagnostics
from gateway.stores.postgres.directory.provisioning import FUNCTION
from gateway.stores.postgres.errors import quoted
from gateway.stores.postgres.quotas import FUNCTIONS

if TYPE_CHECKING:
    from gateway.settings import Settings


def checks(settings: "Settings") -> Iterable[Check]:
    """Return a check of the primary, and a check of the replica if one is configured."""
    yield Check("postgres", partial(_primary, settings))
    if settings.postgres.replica_dsn is not None:
        yield Check("postgres_replica", partial(_replica, settings))


async def _primary(settings: "Settings") -> CheckResult:
    postgres = postgres_tier(settings)
    try:
        await postgres.ping()
        found = await _described(postgres, named=settings.postgres.prepared_statements == "named")
        flaws = await postgres.shortcomings()
        writes = await _takes_writes(postgres)
        asked = [await _creates_users(postgres, settings), await _keeps_quotas(postgres, settings)]
        lacks = [lack for lack in asked if lack is not None]
        clock = difference_noted(await _clock_ahead(postgres))
    except StoreUnavailable as error:
        return CheckResult("postgres", "fail", error.detail, *advice_for_postgres(error, "postgres.dsn"))
    finally:
        await postgres.close()
    # The gateway still serves requests. Each is told: one may be why another matters.
    warnings = [(flaw.found, flaw.fix) for flaw in flaws]
    if not flaws and (version := postgres.version_difference) is not None:
        warnings.append((version.found, version.fix))
    warnings += lacks
    if not writes:
        unwritten = "it is read-only: neither the admin API nor the copy of revocations from Redis can write"
        warnings.append(
            (unwritten, "point `postgres.dsn` at the primary, with `default_transaction_read_only` off")
        )
    if clock is not None:
        warnings.append((clock, FIX))
    if warnings:
        told = "; ".join([found, *(warning for warning, _ in warnings)])
        return CheckResult("postgres", "warn", told, "; ".join(_distinct([fix for _, fix in warnings])))
    return CheckResult("postgres", "pass", found)


def _distinct(fixes: list[str]) -> list[str]:
    """Return each fix once, without those that another says more exactly."""
    once = list(dict.fromkeys(fixes))
    return [fix for fix in once if not any(other != fix and other.startswith(fix) for other in once)]


async def _clock_ahead(postgres: Postgres) -> float:
    """Return the seconds by which the server's clock is ahead of this machine's."""
    began = time.time()
    there = await Diagnostics(postgres).clock()
    return there - (began + time.time()) / 2


async def _replica(settings: "Settings") -> CheckResult:
    postgres = postgres_tier(settings)
    try:
        await postgres.ping_replica()
    except StoreUnavailable as error:
        fix, _ = advice_for_postgres(error, "postgres.replica_dsn")
        # The primary answers instead.
        return CheckResult(
            "postgres_replica", "warn", f"{error.detail}; the gateway asks the primary instead", fix
        )
    finally:
        await postgres.close()
    return CheckResult("postgres_replica", "pass", "the statement that finds users runs")


async def _takes_writes(postgres: Postgres) -> bool:
    """Return whether transactions may write. Requests only read, so they do not show it."""
    async with postgres.connection() as connection:
        setting: str = await connection.fetchval("SELECT current_setting('transaction_read_only')")
    return setting == "off"


async def _creates_users(postgres: Postgres, settings: "Settings") -> tuple[str, str] | None:
    """Return why users cannot be created at their first request, and the fix; None if all is well."""
    own_tables = settings.users.source is None
    if not own_tables or all(issuer.provisioning is None for issuer in settings.issuers):
        return None
    allowed = await Diagnostics(postgres).may_execute(FUNCTION)
    if allowed is None:
        return f"there is no function {FUNCTION}, which creates users", "run `gateway migrate`"
    if allowed:
        return None
    return (
        "its role may not create users, as `issuers[].provisioning` says",
        await grant(postgres, settings, FUNCTION),
    )


async def _keeps_quotas(postgres: Postgres, settings: "Settings") -> tuple[str, str] | None:
    """Return why quotas cannot be copied, and the fix; None if all is well."""
    if all(limit.quota is None for limit in settings.limits):
        return None
    allowed = await Diagnostics(postgres).may_execute(*FUNCTIONS)
    if allowed is None:
        return (
            "there are no functions for quotas, so requests under them are refused",
            "run `gateway migrate`",
        )
    if allowed:
        return None
    return (
        "its role may not copy the quotas of `limits`, nor read them when Redis has lost them",
        await grant(postgres, settings, *FUNCTIONS),
    )


async def grant(postgres: Postgres, settings: "Settings", *functions: str) -> str:
    """Return the advice to allow the gateway's role some functions."""
    role = quoted((await Diagnostics(postgres).login()).role)
    schema = quoted(settings.postgres.schema_name)
    named = ", ".join(f"{schema}.{function}" for function in functions)
    return f"as the owner of the tables: GRANT EXECUTE ON FUNCTION {named} TO {role}"


async def _described(postgres: Postgres, *, named: bool) -> str:
    """Return what answers. `named`: whether statements get names, whatever is between."""
    async with postgres.connection() as connection:
        version = await connection.fetchval("SELECT current_setting('server_version')")
        # A pooler tells process ids of its own.
        straight = await connection.fetchval("SELECT pg_backend_pid()") == connection.get_server_pid()
    login = await Diagnostics(postgres).login()
    described = (
        f"{postgres.address}: the statements of requests run; PostgreSQL {version},"
        f" database {login.database}, role {login.role}"
    )
    if straight:
        return described
    how = "with names, which it must keep (`prepared_statements: named`)" if named else "without names"
    return f"{described}; a pooler is in between, and gets statements {how}"
