"""Settings → Postgres, Redis and the streams of their changes, none of them connected."""

from collections.abc import Callable
from functools import partial

from gateway import translation
from gateway.builders.availability import availability
from gateway.identity.invalidation import Invalidation
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.stores.postgres.change_stream.listener import PostgresStream
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.hosts import place_of
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.redis.change_stream import RedisStream
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.system_of_record import SystemOfRecord as Place


def postgres_store(postgres: model.Postgres, heard: Callable[[Place], None]) -> Postgres:
    """`heard` is called with the system of record of each new connection to the primary."""
    return Postgres(
        postgres.dsn.get_secret_value(),
        replica_dsn=None if postgres.replica_dsn is None else postgres.replica_dsn.get_secret_value(),
        schema=postgres.schema_name,
        pool_min=postgres.pool_min,
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        prepared_statements=postgres.prepared_statements,
        availability=availability("postgres"),
        replica_availability=availability("postgres_replica"),
        heard=heard,
        tls_strict=postgres.tls.strict,
    )


def redis_tier(settings: Settings) -> RedisTier:
    redis, postgres = settings.redis, settings.postgres
    return RedisTier(
        redis.url.get_secret_value(),
        prefix=redis.prefix,
        timeout=redis.timeout,
        connect_timeout=redis.connect_timeout,
        availability=availability("redis"),
        tls_strict=redis.tls.strict,
        place=place_of(postgres.dsn.get_secret_value(), postgres.schema_name),
        users_from=translation.users_from(settings),
    )


def change_streams(
    settings: Settings, invalidation: Invalidation, redis_tier: RedisTier, users: SourceDatabase | None
) -> tuple[PostgresStream, RedisStream]:
    """Return the streams that bring changes to `invalidation`, from Postgres and from Redis."""
    postgres, redis = settings.postgres, settings.redis
    changes = PostgresStream(
        (postgres.listen_dsn or postgres.dsn).get_secret_value(),
        postgres.schema_name,
        invalidation,
        source=None if users is None else partial(users.watched, postgres.schema_name),
        source_is_elsewhere=settings.users.source is not None and settings.users.source.dsn is not None,
        beats_dsn=postgres.dsn.get_secret_value(),
        connect_timeout=postgres.connect_timeout,
        tls_strict=postgres.tls.strict,
    )
    touches = RedisStream(
        redis.url.get_secret_value(),
        redis_tier.keys.tracked,
        invalidation.touched_keys,
        redis_tier.beat,
        connect_timeout=redis.connect_timeout,
        tls_strict=redis.tls.strict,
    )
    return changes, touches
