"""The dependencies for `/readyz`, and the values that metrics read at each scrape, without an event."""

import math
from collections.abc import Mapping
from functools import partial

from gateway.admin.health import Dependency
from gateway.admin.readiness import Stream, dependencies
from gateway.core.model import Issuer
from gateway.core.reasons import CATALOGUE
from gateway.identity.local_cache import LocalCache
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.issuer_keys.keyring import KeyRing
from gateway.memo import Tokens
from gateway.proxy.upstream.balancer import Upstreams
from gateway.settings import Settings
from gateway.stores.availability import Availability
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.redis.shared_tier import RedisTier
from gateway.telemetry.metrics import Metrics


def checked_dependencies(
    settings: Settings,
    postgres: Postgres,
    redis: RedisTier,
    blacklist_sync: BlacklistSync,
    keys: KeyRing,
    streams: Mapping[str, Stream],
    users: SourceDatabase | None,
) -> dict[str, Dependency]:
    """Return the dependencies that `/readyz` checks, by name."""
    cache = settings.cache
    names = [issuer.name for issuer in settings.issuers]
    unchecked = settings.revocation.on_unavailable == "allow"
    return dependencies(
        names, postgres, redis, keys, streams,
        vouched=lambda: unchecked or (redis.complete and blacklist_sync.trusted),
        stands_in_for=cache.user_ttl + cache.stale_if_error,
        users=users,
    )  # fmt: skip


def watch_memory(
    issuers: Mapping[str, Issuer],
    metrics: Metrics,
    tokens: Tokens,
    local: LocalCache,
    keys: KeyRing,
    upstreams: Upstreams,
) -> None:
    """Let the metrics read the state of this process: caches, keys and connections to upstreams."""
    metrics.prepare(issuers, CATALOGUE.values())
    metrics.cache_entries.read(("tokens",), lambda: len(tokens))
    metrics.cache_entries.read(("users",), lambda: local.users)
    metrics.cache_entries.read(("negative",), lambda: local.absent)
    metrics.cache_entries.read(("verdicts",), lambda: local.tokens)
    for name, issuer in issuers.items():
        metrics.jwks_age.read((name,), partial(_age, keys, name))
        metrics.prepare_paths(name, (path for _, path in issuer.claims.by_setting()))
    for upstream in upstreams:
        metrics.watch_upstream(upstream)


def watch_stores(
    metrics: Metrics,
    streams: Mapping[str, Stream],
    postgres: Postgres,
    users: SourceDatabase | None,
    redis: RedisTier,
) -> None:
    """Let the metrics read whether the stores and their streams of changes are up."""
    for name, stream in streams.items():
        metrics.invalidation_stream_up.read((name,), partial(_hears, stream))
    stores = {"postgres": postgres.availability, "redis": redis.availability}
    if users is not None:
        stores["users_source"] = users.availability
    for name, availability in stores.items():
        metrics.dependency_up.read((name,), partial(_up, availability))
    metrics.redis_foreign.read((), lambda: float(redis.ownership.foreign))


def deaf(streams: Mapping[str, Stream]) -> dict[str, str]:
    """Return why streams are down, by their names; empty while all are up."""
    return {
        name: stream.detail or "no heartbeat came back in time"
        for name, stream in streams.items()
        if not stream.up
    }


def _up(availability: Availability) -> float:
    return math.nan if availability.up is None else float(availability.up)


def _hears(stream: Stream) -> float:
    return float(stream.up)


def _age(keys: KeyRing, issuer: str) -> float:
    age = keys.status_of(issuer).age
    return math.nan if age is None else age
