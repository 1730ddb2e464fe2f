"""The parts of a gateway on real stores, whose configuration a test may change between two requests."""

import asyncio
import json
import re
import shlex
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import yaml
from redis.asyncio import Redis as Client
from typer.testing import CliRunner

from gateway import translation
from gateway.builders import directories
from gateway.cli.main import app
from gateway.core import policy
from gateway.core.model import JSON, Claims, StoreUnavailable, User
from gateway.core.provisioning import claims_read
from gateway.core.reasons import Denial
from gateway.core.routes import RouteTable
from gateway.explain import Explainer, Explanation, Fix
from gateway.explain.evidence.issuer_clocks import IssuerClocks
from gateway.explain.evidence.users import Users
from gateway.explain.verdict import ANY_ROUTE, request_for
from gateway.identity.local_cache import LocalCache
from gateway.identity.provisioning import Provisioner
from gateway.identity.resolver import IdentityResolver
from gateway.identity.revocations.blacklist_sync import BlacklistSync
from gateway.issuer_keys.fetch import Fetcher
from gateway.issuer_keys.keyring import KeyRing
from gateway.pipeline import Pipeline
from gateway.settings import Settings
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory.provisioning import UserProvisioning
from gateway.stores.postgres.hosts import place_of
from gateway.stores.redis.shared_tier import RedisTier
from gateway.stores.redis.user_documents import CachedUser
from gateway.telemetry.metrics import Metrics
from gateway.verifier import TokenVerifier
from tests import harness, tokens
from tests.fakes import FakeBlacklist, FakeSharedTier, RecordingKeyObserver

_FIELD = re.compile(r"(\w+)|\[(\d+)\]")


def keeps_inside(token: bytes, explanation: Explanation) -> None:
    """See that no part of a token is in its explanation."""
    text = json.dumps(explanation.to_json())
    for segment in token.decode("latin-1").split("."):
        assert len(segment) < 20 or segment not in text


@dataclass
class Parts:
    """What a worker is made of, just started."""

    settings: Settings
    postgres: Postgres
    redis: RedisTier
    keys: KeyRing
    users: Users
    """Where users are: in `postgres`, or in a source."""


class World:
    """Decides requests as a worker without memories does, and explains them."""

    def __init__(self, folder: Path, dsn: str, redis_url: str) -> None:
        self.dsn = dsn
        self.redis_url = redis_url
        self.prefix = f"gateway-{uuid.uuid4().hex}:"
        self.config: dict[str, Any] = harness.configuration(
            folder, "http://127.0.0.1:9", dsn, redis_url, self.prefix
        )
        self.file = folder / "gateway.yaml"
        self.local: LocalCache | None = None
        self.deaf: dict[str, str] = {}
        """The streams on which the worker hears nothing, and why."""
        self.clocks: IssuerClocks | None = None
        """What a worker has seen of the issuers' clocks."""
        self.watched = True
        """False when others change what is in the stores, too."""
        self.patience = 10.0
        """Seconds for the stores and keys: a busy machine is no outage."""

    # The gateway ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def parts(self) -> AsyncIterator[Parts]:
        settings = Settings.model_validate(self.config)
        stores, replica = settings.postgres, settings.postgres.replica_dsn
        async with AsyncExitStack() as stack:
            redis = RedisTier(
                settings.redis.url.get_secret_value(),
                prefix=self.prefix,
                timeout=self.patience,
                place=place_of(self.dsn, stores.schema_name),  # as it is called while it is away, too
            )
            stack.push_async_callback(redis.close)
            postgres = Postgres(
                stores.dsn.get_secret_value(),
                replica_dsn=None if replica is None else replica.get_secret_value(),
                schema=stores.schema_name,
                connect_timeout=self.patience,
                statement_timeout=self.patience,
                heard=redis.ownership.heard,
            )
            stack.push_async_callback(postgres.close)
            with suppress(StoreUnavailable):
                await postgres.identify()
            fetcher = await stack.enter_async_context(Fetcher(timeout=self.patience))
            keys = KeyRing(
                {issuer.name: translation.key_source(issuer) for issuer in settings.issuers},
                fetcher=fetcher,
                observer=RecordingKeyObserver(),
            )
            stack.push_async_callback(keys.close)
            look_ups = directories.user_source(settings)
            if look_ups is not None:
                stack.push_async_callback(look_ups.close)
            operators = directories.user_directory(settings, postgres, stack, statement_timeout=self.patience)
            users = directories.users_explained(postgres, look_ups, operators)
            yield Parts(settings, postgres, redis, keys, users)

    async def decide(self, token: bytes, *, method: str = "GET", url: str | None = None) -> str | None:
        """Return the code of the reason that the pipeline gives; None when it admits."""
        async with self.parts() as parts:
            cache = parts.settings.cache
            local = self.local or LocalCache(ttl=30, max_users=9, max_tokens=9, clock=time.monotonic)
            tiers = IdentityResolver(
                local, parts.redis, parts.users.record, FakeBlacklist(FakeSharedTier()),
                believes=lambda _: True, user_ttl=cache.user_ttl, negative_ttl=cache.negative_ttl,
            )  # fmt: skip
            setup = translation.setup(parts.settings)
            provisioner = Provisioner(
                {issuer.name: issuer for issuer in setup.issuers}, UserProvisioning(parts.postgres),
                local, parts.redis, tiers, Metrics(), refusal_ttl=0.0,
            )  # fmt: skip
            pipeline = Pipeline(
                RouteTable((ANY_ROUTE,) if url is None else setup.routes),
                TokenVerifier(
                    setup.issuers,
                    parts.keys,
                    clock=time.time,
                    claims_read=claims_read(setup.issuers) | policy.claims_read(setup.routes),
                ),
                tiers,
                translation.headers(parts.settings),
                provisioner,
            )
            request = request_for(method, "/" if url is None else url)
            authorization = (b"Authorization", b"Bearer " + token)
            try:
                await pipeline.admit(replace(request, headers=(*request.headers, authorization)))
            except Denial as denial:
                return denial.reason.code
            finally:
                await provisioner.close()
                await tiers.close()
            return None

    @asynccontextmanager
    async def explainer(self) -> AsyncIterator[Explainer]:
        """Open the stores for what explains."""
        async with self.parts() as parts:
            self.write()
            setup = replace(translation.setup(parts.settings), config=str(self.file))
            yield Explainer(
                setup, parts.keys, parts.postgres, parts.redis,
                local=self.local, deaf=lambda: self.deaf, users=parts.users, clocks=self.clocks,
            )  # fmt: skip

    async def explain(
        self, token: bytes, *, method: str | None = None, url: str | None = None
    ) -> Explanation:
        """Explain a request, and see that nothing has changed by it and that the token stays inside."""
        if self.watched:
            # A gateway that runs has made this Redis its own.
            async with self.parts() as parts:
                with suppress(StoreUnavailable):
                    await parts.redis.epoch()
        before = await self.settled_state() if self.watched else None
        async with self.explainer() as explainer:
            explanation = await explainer.explain(token, method=method, url=url)
        after = await self.state() if self.watched else None
        assert after == before
        keeps_inside(token, explanation)
        return explanation

    # What a fix says -----------------------------------------------------------------------------

    async def apply(self, fix: Fix | None) -> None:
        """Do exactly what a fix says: its command in a shell, its line in the configuration."""
        assert fix is not None
        assert fix.command is not None or fix.config is not None, fix.text
        if fix.config is not None:
            path, _, value = fix.config.partition(": ")
            self.set(path, yaml.safe_load(value))
        if fix.command is not None:
            await self.run(fix.command)

    def set(self, path: str, value: JSON) -> None:
        """Change a field of the configuration, or add an entry at the end of a list."""
        *way, last = [name or int(place) for name, place in _FIELD.findall(path)]
        target: Any = self.config
        for part in way:
            target = target[part] if isinstance(part, int) else target.setdefault(part, {})
        if isinstance(last, int) and last == len(target):
            target.append(value)
        else:
            target[last] = value
        self.write()

    def write(self) -> None:
        # JSON is YAML.
        self.file.write_text(json.dumps(self.config))

    async def run(self, command: str) -> None:
        words = shlex.split(command)
        match words[0]:
            case "gateway":
                result = await asyncio.to_thread(CliRunner().invoke, app, words[1:])
                assert result.exit_code == 0, result.output
            case "psql":
                assert words[-2] == "-c"
                await self.sql(words[-1])
            case "redis-cli":
                async with Client.from_url(self.redis_url) as client:
                    assert words[3] == "DEL"
                    await client.delete(*words[4:])
            case program:
                raise AssertionError(program)

    # The stores ----------------------------------------------------------------------------------

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    async def add(self, subject: str = "ann", *, iss: str = tokens.ISSUER, **columns: object) -> str:
        """Add a user with an identity; returns the user's id."""
        names = "".join(f", {name}" for name in columns)
        places = "".join(f", ${place}" for place in range(3, 3 + len(columns)))
        rows = await self.sql(
            f"WITH u AS (INSERT INTO users (status{names}) SELECT 'active'{places} RETURNING id)"  # noqa: S608 -- names of a test
            " INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM u"
            " RETURNING user_id::text",
            iss, subject, *columns.values(),
        )  # fmt: skip
        return str(rows[0][0])

    async def guard(self) -> str:
        """Have Redis answer for itself, as while a gateway runs; returns the name of the epoch."""
        async with self.parts() as parts:
            issuers = {issuer.name: issuer.issuer for issuer in parts.settings.issuers}
            sync = BlacklistSync(parts.postgres, parts.redis, issuers)
            await sync.load()
            await sync.close()
            epoch = await parts.redis.begin_epoch("heartbeat")
        async with Client.from_url(self.redis_url) as client:
            await client.expire(
                f"{self.prefix}epoch", 60
            )  # no worker keeps it alive, and machines may be slow
        return epoch.name

    async def remember(self, claims: Claims, user: User | None, epoch: str, *, age: float = 1.0) -> None:
        """Put into Redis what Postgres is said to have said."""
        async with self.parts() as parts:
            # As any gateway does, it reads before it writes, and so knows whose this Redis is.
            assert await parts.redis.epoch() is not None
            cached = CachedUser(user, time.time() - age, epoch)
            assert await parts.redis.store_user(claims, cached, 60.0, horizon=2**50)

    async def set_key(self, key: str, value: str) -> None:
        """Set a key below the prefix as any other client of Redis would."""
        async with Client.from_url(self.redis_url) as client:
            await client.set(f"{self.prefix}{key}", value)

    async def settled_state(self) -> tuple[object, ...]:
        """Return the same, having seen to it that nothing lapses: a miss of a new token would in a second."""
        async with Client.from_url(self.redis_url) as client:
            async for key in client.scan_iter(f"{self.prefix}*"):
                if key != f"{self.prefix}epoch".encode():
                    await client.persist(key)
        return await self.state()

    async def state(self) -> tuple[object, ...]:
        """Return everything there is in the stores, but for what comes and goes by itself."""
        try:
            rows = await self.sql(
                "SELECT ARRAY(SELECT u::text FROM users u ORDER BY 1),"
                " ARRAY(SELECT i::text FROM identities i ORDER BY 1),"
                " ARRAY(SELECT r::text FROM revocations r ORDER BY 1)"
            )
        except (asyncpg.UndefinedTableError, StoreUnavailable):
            rows = []
        async with Client.from_url(self.redis_url) as client:
            keys = sorted([key async for key in client.scan_iter(f"{self.prefix}*")])
            lapsing = f"{self.prefix}epoch".encode()
            values = [(key, await client.dump(key)) for key in keys if key != lapsing]
        return rows, values
