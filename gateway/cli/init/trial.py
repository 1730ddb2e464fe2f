"""Tries each dependency that a new configuration names, and says what failed and what to do."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from gateway.cli.check import live, network, redis
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import advice_for_postgres
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres import migrate
from gateway.stores.postgres.hosts import address_of

if TYPE_CHECKING:
    from gateway.settings import Settings

Trial: TypeAlias = Callable[["Settings"], CheckResult]
"""Tries one dependency of the settings."""


def _issuer(settings: "Settings") -> CheckResult:
    (check,) = (each for each in network.checks(settings) if each.name.startswith("issuer:"))
    return live.try_one(check)


def _upstream(settings: "Settings") -> CheckResult:
    (check,) = (each for each in network.checks(settings) if each.name.startswith("upstream:"))
    return live.try_one(check)


def _redis(settings: "Settings") -> CheckResult:
    (check,) = (each for each in redis.checks(settings) if each.name == "redis")
    return live.try_one(check)


def _postgres(settings: "Settings") -> CheckResult:
    return live.try_one(Check("postgres", partial(_tables, settings)))


async def _tables(settings: "Settings") -> CheckResult:
    """Tell whether the database answers, and what `gateway migrate` would do there."""
    postgres = settings.postgres
    dsn = postgres.dsn.get_secret_value()
    try:
        todo = await migrate.pending(dsn, postgres.schema_name, tls_strict=postgres.tls.strict)
    except StoreUnavailable as error:
        return CheckResult("postgres", "fail", error.detail, *advice_for_postgres(error, "the DSN"))
    except migrate.MigrationError as error:
        return CheckResult("postgres", "fail", str(error))
    state = "the tables are up to date" if not todo else "`gateway migrate` has tables to create or upgrade"
    return CheckResult("postgres", "pass", f"{address_of(dsn)}: it answers; {state}")


TRIALS: Final[Mapping[str, Trial]] = {
    "issuer": _issuer,
    "upstream": _upstream,
    "postgres": _postgres,
    "redis": _redis,
}
"""By what is asked for, in the order in which `gateway init` asks."""
