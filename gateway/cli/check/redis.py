"""Checks of Redis: reachable, new enough, with the rights that a gateway needs, no eviction, and our own."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.cli.check.redis_permissions import Inspection, inspect
from gateway.cli.check.result import Check, CheckResult
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import place_of
from gateway.stores.redis.shared_tier import RedisTier

if TYPE_CHECKING:
    from gateway.settings import Settings

_OLDEST: Final = 6
"""The first major version with `CLIENT TRACKING`."""
START: Final = "start it (`docker compose up -d redis`) or correct redis.url"
"""What to do about a Redis that does not answer."""
_NEEDS: Final = "docs/operations.md lists what it needs"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check of Redis, and one of whose data it holds."""
    yield Check("redis", partial(_redis, settings))
    yield Check("redis_owner", partial(_owner, settings))


async def _redis(settings: "Settings") -> CheckResult:
    redis = settings.redis
    try:
        found = await inspect(
            redis.url.get_secret_value(),
            redis.prefix,
            connect_timeout=redis.connect_timeout,
            tls_strict=redis.tls.strict,
            mark=await _mark(settings),
        )
    except StoreUnavailable as error:
        return CheckResult("redis", "fail", error.detail, START, unreachable=True)
    return _judged(found)


async def _mark(settings: "Settings") -> bytes:
    """Return what the owner's key begins with if Redis is one's own; an empty text when that is not known."""
    async with stores(settings) as (postgres, redis):
        with suppress(StoreUnavailable):
            await postgres.identify()
        try:
            return await redis.ownership.mark()
        except StoreUnavailable:
            return b""


@asynccontextmanager
async def stores(settings: "Settings") -> AsyncIterator[tuple[Postgres, RedisTier]]:
    """Open both, for as long as the context lasts; Redis hears which database Postgres is."""
    dsn, schema = settings.postgres.dsn.get_secret_value(), settings.postgres.schema_name
    redis = RedisTier(
        settings.redis.url.get_secret_value(),
        prefix=settings.redis.prefix,
        connect_timeout=settings.redis.connect_timeout,
        place=place_of(dsn, schema),
        tls_strict=settings.redis.tls.strict,
        read_only=True,
    )
    postgres = Postgres(
        dsn,
        schema=schema,
        connect_timeout=settings.postgres.connect_timeout,
        heard=redis.ownership.heard,
        tls_strict=settings.postgres.tls.strict,
    )
    try:
        yield postgres, redis
    finally:
        await postgres.close()
        await redis.close()


async def _owner(settings: "Settings") -> CheckResult:
    """Tell whether what is below the prefix belongs to the database of `postgres.dsn`; claims nothing."""
    async with stores(settings) as (postgres, redis):
        try:
            record = await postgres.identify()
            other = await redis.ownership.other()
            own = await redis.ownership.is_own()
        except StoreUnavailable as error:
            # That a store is away is what its own check says.
            return CheckResult("redis_owner", "warn", f"not known: {error.detail}")
    if other is not None:
        return CheckResult(
            "redis_owner",
            "fail",
            f"{redis.address}: belongs to another database: {other}; this is {record}",
            "set a `redis.prefix` or `redis.url` of its own, or hand it over: gateway redis claim",
        )
    if record.system is None and record.copy is None:
        return CheckResult(
            "redis_owner",
            "fail",
            f"nothing tells {record} from a copy of it, so gateways do not use Redis",
            "gateway migrate; or GRANT EXECUTE ON FUNCTION pg_control_system() to the role of postgres.dsn",
        )
    return CheckResult(
        "redis_owner", "pass", f"{redis.address}: {'belongs to' if own else 'is free for'} {record}"
    )


def _judged(found: Inspection) -> CheckResult:
    where = f"{found.address}: Redis {found.version}"
    if found.major < _OLDEST:
        return CheckResult("redis", "fail", f"{where} has no CLIENT TRACKING", "use Redis 6 or later")
    if found.refused:
        refused = "; ".join(f"{command}: {why}" for command, why in found.refused.items())
        return CheckResult(
            "redis", "fail", f"{where} refuses {refused}", f"allow the user of redis.url that; {_NEEDS}"
        )
    if found.foreign:
        return CheckResult(
            "redis",
            "warn",
            f"{where}: what it holds is another's, so no command was tried that writes",
            "see redis_owner",
        )
    if found.evicts:
        return CheckResult(
            "redis",
            "warn",
            f"{where}, maxmemory-policy {found.policy}: a revocation that is evicted does not count until the"
            " blacklist is filled again",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return CheckResult(
        "redis", "pass", f"{where}, maxmemory-policy {found.policy}: all commands that are needed are allowed"
    )
