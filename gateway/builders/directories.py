"""Settings → where users are: the gateway's own tables or a source, for requests and for operators."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from uuid import uuid4

from gateway import translation
from gateway.builders.availability import availability
from gateway.core.model import Issuer
from gateway.explain.evidence.users import Users
from gateway.identity.local_cache import LocalCache
from gateway.identity.provisioning import Provisioner
from gateway.identity.source_feed import Polling, Relay, SourceFeed
from gateway.settings import Settings
from gateway.stores.availability import Availability
from gateway.stores.postgres.change_stream.listener import ChangeListener, PostgresStream
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.provisioning import UserProvisioning
from gateway.stores.postgres.directory.users import UserDirectory
from gateway.stores.postgres.pool import Pool
from gateway.stores.postgres.source.database import SourceDatabase
from gateway.stores.postgres.source.directory.provisioning import SourceProvisioning
from gateway.stores.postgres.source.directory.users import AnyDirectory, SourceDirectory
from gateway.stores.postgres.source.directory.writing import SourceWriter
from gateway.stores.postgres.source.feed import Feed
from gateway.stores.postgres.source.polling import Poller
from gateway.stores.redis.shared_tier import RedisTier
from gateway.telemetry.metered import MeteredDirectory
from gateway.telemetry.metrics import Metrics


def user_source(settings: Settings) -> SourceDatabase | None:
    """Return the tables of another system that has the users; None: they are the gateway's own."""
    source, postgres = settings.users.source, settings.postgres
    defined = translation.user_source(settings)
    if source is None or defined is None:
        return None
    replica = postgres.replica_dsn if source.dsn is None else source.replica_dsn
    return SourceDatabase(
        defined,
        {issuer.name: issuer.issuer for issuer in settings.issuers},
        (source.dsn or postgres.dsn).get_secret_value(),
        replica_dsn=None if replica is None else replica.get_secret_value(),
        pool_max=postgres.pool_max,
        connect_timeout=postgres.connect_timeout,
        statement_timeout=postgres.statement_timeout,
        prepared_statements=postgres.prepared_statements,
        availability=availability("users_source"),
        replica_availability=availability("users_source_replica"),
        tls_strict=postgres.tls.strict,
        is_elsewhere=source.dsn is not None,
    )


def user_directory(
    settings: Settings, postgres: Postgres, stack: AsyncExitStack, *, statement_timeout: float
) -> AnyDirectory:
    """Return the users for operators. Connections of its own are closed when `stack` ends.

    `statement_timeout` is in seconds: an operator waits longer than a request.
    """
    source, of = settings.users.source, settings.postgres
    writer = _source_writer(settings, postgres, statement_timeout, size=2)
    if source is None or writer is None:
        return UserDirectory(postgres)
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    database = SourceDatabase(
        writer.source,
        issuers,
        (source.dsn or of.dsn).get_secret_value(),
        pool_max=2,
        connect_timeout=of.connect_timeout,
        statement_timeout=statement_timeout,
        prepared_statements=of.prepared_statements,
        tls_strict=of.tls.strict,
    )
    directory = SourceDirectory(database, issuers, writer)
    stack.push_async_callback(directory.close)
    return directory


def _source_writer(
    settings: Settings, postgres: Postgres, statement_timeout: float, *, size: int
) -> SourceWriter | None:
    """Return the writer of users in a source, with connections of its own; None: there is no source."""
    source, defined, of = settings.users.source, translation.user_source(settings), settings.postgres
    if source is None or defined is None:
        return None
    pool = None
    if defined.writable:
        pool = Pool(
            (source.dsn or of.dsn).get_secret_value(),
            primary=True,
            schema=defined.schema_name,
            size=size,
            connect_timeout=of.connect_timeout,
            statement_timeout=statement_timeout,
            prepared_statements=of.prepared_statements,
            availability=Availability(),
            tls_strict=of.tls.strict,
        )
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    return SourceWriter(defined, issuers, pool, postgres if source.dsn is not None else of.schema_name)


def users_explained(postgres: Postgres, users: SourceDatabase | None, operators: AnyDirectory) -> Users:
    """Return the users as an explanation reads them."""
    return Users(postgres, users, operators if isinstance(operators, SourceDirectory) else None)


def source_feed(
    settings: Settings, users: SourceDatabase | None, postgres: Postgres, redis: RedisTier
) -> SourceFeed | None:
    """Return the reader of changes in a source whose triggers do not report here; None: not needed."""
    source = settings.users.source
    if users is None or source is None:
        return None
    issuers = {issuer.name: issuer.issuer for issuer in settings.issuers}
    feed = Feed(postgres, uuid4().hex)
    poll = users.source.poll
    if users.source.changes == "poll":
        compare = poll.compare if poll.column is not None else 0.0
        polling = Polling(
            feed, Poller(users, issuers), redis, issuers, interval=poll.interval, compare=compare
        )
        return SourceFeed(feed, polling, interval=min(1.0, poll.interval))
    if users.source.changes != "triggers" or source.dsn is None:
        return None
    dsn, listen_dsn = source.dsn.get_secret_value(), (source.listen_dsn or source.dsn).get_secret_value()

    def listen(ear: ChangeListener) -> PostgresStream:
        return PostgresStream(
            listen_dsn,
            "",
            ear,
            source=users.watched,
            beats_dsn=dsn,
            connect_timeout=settings.postgres.connect_timeout,
            tls_strict=settings.postgres.tls.strict,
        )

    return SourceFeed(feed, Relay(feed, listen, users.latest_transaction))


def provisioner(
    settings: Settings,
    issuers: Mapping[str, Issuer],
    postgres: Postgres,
    local: LocalCache,
    redis: RedisTier,
    directory: MeteredDirectory,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Provisioner | None:
    """Return None if no issuer's tokens may create users. Its connections are closed when `stack` ends."""
    if all(issuer.provisioning is None for issuer in issuers.values()):
        return None
    writer = _source_writer(
        settings, postgres, settings.postgres.statement_timeout, size=settings.postgres.pool_max
    )
    if writer is not None:
        stack.push_async_callback(writer.close)
    return Provisioner(
        issuers,
        UserProvisioning(postgres) if writer is None else SourceProvisioning(writer),
        local,
        redis,
        directory,
        metrics,
        refusal_ttl=settings.cache.negative_ttl,
    )
