"""Checks of Redis: reachable, new enough, with the rights that a gateway needs, and without eviction."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.backends.redis_rights import Inspection, inspect
from gateway.cli.live_check import Check, Live
from gateway.core.model import StoreUnavailable

if TYPE_CHECKING:
    from gateway.settings import Settings

_OLDEST: Final = 6
"""The first major version with `CLIENT TRACKING`."""
_NEEDS: Final = "docs/operations.md lists what it needs"


def checks(settings: "Settings") -> Iterable[Check]:
    """Return the check of Redis."""
    yield Check("redis", partial(_redis, settings))


async def _redis(settings: "Settings") -> Live:
    redis = settings.redis
    try:
        found = await inspect(
            redis.url.get_secret_value(), redis.prefix, connect_timeout=redis.connect_timeout
        )
    except StoreUnavailable as error:
        fix = "start it (`docker compose up -d redis`) or correct redis.url"
        return Live("redis", "fail", error.detail, fix, unreachable=True)
    return _judged(found)


def _judged(found: Inspection) -> Live:
    where = f"{found.address}: Redis {found.version}"
    if found.major < _OLDEST:
        return Live("redis", "fail", f"{where} has no CLIENT TRACKING", "use Redis 6 or later")
    if found.refused:
        refused = "; ".join(f"{command}: {why}" for command, why in found.refused.items())
        return Live(
            "redis", "fail", f"{where} refuses {refused}", f"allow the user of redis.url that; {_NEEDS}"
        )
    if found.evicts:
        return Live(
            "redis",
            "warn",
            f"{where}, maxmemory-policy {found.policy}: a revocation that is evicted does not count until the"
            " blacklist is filled again",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return Live(
        "redis", "pass", f"{where}, maxmemory-policy {found.policy}: all commands that are needed are allowed"
    )
