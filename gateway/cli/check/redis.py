"""Checks of Redis: whether it answers, its version, permissions, eviction policy, and owner."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.cli.check.redis_permissions import Inspection, inspect
from gateway.cli.check.result import Check, CheckResult
from gateway.cli.stores import postgres_tier, redis_tier
from gateway.core.model import StoreUnavailable
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.shared_tier import RedisTier

if TYPE_CHECKING:
    from gateway.settings import Settings

_OLDEST: Final = 6
"""The first major version with `CLIENT TRACKING`."""
START: Final = "start it, or correct redis.url"
"""The fix for a Redis that does not answer."""
_TIMEOUT: Final = 0.25
"""Seconds for one answer."""
_NEEDS: Final = "docs/operations.md lists the permissions"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check of Redis, and the check of its owner."""
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
            limits=bool(settings.limits),
        )
    except StoreUnavailable as error:
        return CheckResult("redis", "fail", error.detail, START, unreachable=True)
    return _judged(found)


async def _mark(settings: "Settings") -> bytes:
    """Return how the owner's key begins if Redis belongs to this database; empty if that is not known."""
    async with stores(settings) as (postgres, redis):
        with suppress(StoreUnavailable):
            await postgres.identify()
        try:
            return await redis.ownership.mark()
        except StoreUnavailable:
            return b""


@asynccontextmanager
async def stores(settings: "Settings") -> AsyncIterator[tuple[Postgres, RedisTier]]:
    """Open both stores for the context. Redis is told which database Postgres is."""
    redis = redis_tier(settings, timeout=_TIMEOUT, read_only=True)
    postgres = postgres_tier(settings, heard=redis.ownership.heard)
    try:
        yield postgres, redis
    finally:
        await postgres.close()
        await redis.close()


async def _owner(settings: "Settings") -> CheckResult:
    """Report whether the keys below the prefix belong to the database of `postgres.dsn`. Claim nothing."""
    async with stores(settings) as (postgres, redis):
        try:
            record = await postgres.identify()
            other = await redis.ownership.other()
            own = await redis.ownership.is_own()
        except StoreUnavailable as error:
            # The store's own check reports that it does not answer.
            return CheckResult("redis_owner", "warn", f"the owner is not known: {error.detail}")
    if other is not None:
        return CheckResult(
            "redis_owner",
            "fail",
            f"{redis.address}: belongs to another database: {other}; this is {record}",
            "set another `redis.prefix` or `redis.url`, or claim this Redis: gateway redis claim",
        )
    if record.system is None and record.copy is None:
        return CheckResult(
            "redis_owner",
            "fail",
            f"{record} cannot be told from a copy of it, so gateways do not use Redis",
            "gateway migrate; or GRANT EXECUTE ON FUNCTION pg_control_system() TO the role of postgres.dsn",
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
            "redis",
            "fail",
            f"{where} refuses {refused}",
            f"allow these commands to the user of redis.url; {_NEEDS}",
        )
    if found.foreign:
        return CheckResult(
            "redis",
            "warn",
            f"{where}: it belongs to another database, so no command that writes was tried",
            "see redis_owner",
        )
    if found.evicts:
        return CheckResult(
            "redis",
            "warn",
            f"{where}, maxmemory-policy {found.policy}: an evicted revocation does not count until the"
            " blacklist is refilled",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return CheckResult(
        "redis", "pass", f"{where}, maxmemory-policy {found.policy}: all required commands are allowed"
    )
