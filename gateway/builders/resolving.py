"""Settings → memory, and the resolver that asks memory and the stores for a user."""

import time
from collections.abc import Callable

from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.identity.tiers import SharedTier, SystemOfRecord
from gateway.identity.traced_tiers import TracedRecord, TracedSharedTier
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.telemetry.metrics import Metrics


def local_cache(cache: model.Cache, metrics: Metrics) -> LocalCache:
    return LocalCache(
        ttl=cache.local_ttl,
        max_users=cache.max_users,
        max_tokens=cache.max_tokens,
        clock=time.monotonic,
        reused=metrics.recalled_users,
    )


def identity_resolver(
    settings: Settings,
    local: LocalCache,
    record: SystemOfRecord,
    redis: SharedTier,
    blacklist_sync: BlacklistSync,
    learnt_revocations: LearntRevocations,
    *,
    believes: Callable[[str], bool],
    traced: bool,
) -> IdentityResolver:
    """`believes` tells of an epoch in Redis whether this process has received every change in it.

    `traced`: questions to the stores are parts of traces.
    """
    cache = settings.cache
    if traced:
        redis, record = TracedSharedTier(redis), TracedRecord(record)
    return IdentityResolver(
        local,
        redis,
        record,
        blacklist_sync,
        believes=believes,
        user_ttl=cache.user_ttl,
        negative_ttl=cache.negative_ttl,
        stale_if_error=cache.stale_if_error,
        creation_grace=settings.users.creation_grace,
        unchecked_allowed=settings.revocation.on_unavailable == "allow",
        learnt_revocations=learnt_revocations,
    )
