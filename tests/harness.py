"""The real gateway, as `gateway.app.serve` builds it, on real Postgres and Redis, between raw sockets."""

import asyncio
import io
import json
import socket
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from gateway.app import serve
from gateway.core.model import JSON, UserStatus
from gateway.settings import Settings
from gateway.telemetry import logs
from tests import tokens
from tests.conftest import _Databases
from tests.sockets import RawClient, RawUpstream, Received, Response, request_bytes

SECOND_ISSUER: Final = "https://second.example.com"
STRICT_ISSUER: Final = "https://strict.example.com"
KEYLESS_ISSUER: Final = "https://keyless.example.com"
JOINING_ISSUER: Final = "https://joining.example.com"


@dataclass
class House:
    """A running gateway and what stands around it."""

    url: str
    admin_url: str
    upstream: RawUpstream
    dsn: str
    redis_url: str
    prefix: str
    log: io.StringIO = field(default_factory=io.StringIO)
    decision_url: str = ""
    grpc_url: str = ""

    @asynccontextmanager
    async def connect(self, *, admin: bool = False) -> AsyncIterator[RawClient]:
        parts = urlsplit(self.admin_url if admin else self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        client = RawClient(reader, writer)
        try:
            yield client
        finally:
            writer.close()
            with suppress(ConnectionError, OSError):
                await writer.wait_closed()

    async def exchange(self, *pieces: bytes, to_head: bool = False) -> Response:
        """Send one request on a connection of its own and read its response."""
        async with self.connect() as client:
            await client.send(*pieces)
            response = await client.response(to_head=to_head)
            assert response is not None, "the gateway closed the connection without an answer"
            return response

    async def request(
        self,
        target: str,
        *fields: bytes,
        method: str = "GET",
        token: bytes | None = None,
        body: bytes | None = None,
    ) -> Response:
        """Send one well-formed request on a connection of its own."""
        return await self.exchange(
            request_bytes(method, target, *fields, token=token, body=body), to_head=method == "HEAD"
        )

    async def forwarded(self, target: str, *fields: bytes, **rest: Any) -> Received:  # noqa: ANN401 -- those of `request`
        """Send a request that must pass; return what the upstream received."""
        response = await self.request(target, *fields, **rest)
        assert response.status == 200, response.body
        return self.upstream.requests[-1]

    async def admin(self, path: str, token: bytes | None = None) -> Response:
        async with self.connect(admin=True) as client:
            await client.send(request_bytes("GET", path, b"Connection: close", token=token))
            response = await client.response()
            assert response is not None
            return response

    async def ready(self) -> None:
        """Wait until its stores answer and its streams are heard."""
        parts = ("postgres", "redis", "stream:postgres", "stream:redis")
        async with asyncio.timeout(30):
            while True:
                found = json.loads((await self.admin("/readyz")).content)["dependencies"]
                if all(found[part]["status"] == "up" for part in parts):
                    return
                await asyncio.sleep(0.05)

    async def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Scrape: (name, sorted labels) → value."""
        text = (await self.admin("/metrics")).content.decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def metric(self, name: str, **labels: str) -> float:
        """Return one series; 0 when it does not exist yet."""
        return (await self.metrics()).get((name, tuple(sorted(labels.items()))), 0.0)

    def new_log(self) -> None:
        """Begin a log that remembers nothing of other tests."""
        self.log = io.StringIO()
        logs.configure("info", self.log)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Lend a shared gateway to a test: its log and its upstream remember nothing of other tests."""
        # Others may have stopped its stores, and while they ran, its event loop stood still.
        await self.ready()
        self.new_log()
        yield
        await self.upstream.reset()

    def events(self, name: str) -> list[dict[str, JSON]]:
        """Return the log's events of that name, since the test began."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    async def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Execute SQL as any other client of the database would."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    async def filled(self) -> None:
        """Wait until Redis holds every revocation, without which it does not stand in for Postgres."""
        async with Redis.from_url(self.redis_url) as client, asyncio.timeout(30):
            while not await client.exists(f"{self.prefix}revocations:loaded"):  # noqa: ASYNC110 -- set by another
                await asyncio.sleep(0.02)

    async def set_key(self, key: str, value: str) -> None:
        """Set a key below the prefix as any other client of Redis would."""
        async with Redis.from_url(self.redis_url) as client:
            await client.set(f"{self.prefix}{key}", value, ex=600)


USERS: Final[dict[str, tuple[UserStatus, str | None, tuple[str, ...]]]] = {
    "member": (UserStatus.ACTIVE, None, ("reader", "writer")),
    "admin": (UserStatus.ACTIVE, None, ("admin",)),
    "acme": (UserStatus.ACTIVE, "acme", ()),
    "globex": (UserStatus.ACTIVE, "globex", ()),
    "suspended": (UserStatus.SUSPENDED, None, ()),
    "locked": (UserStatus.LOCKED, None, ()),
    "pending": (UserStatus.PENDING, None, ()),
    "deleted": (UserStatus.DELETED, None, ()),
    "signed-out": (UserStatus.ACTIVE, None, ()),
}
"""Subject → status, tenant, roles. The tokens of `signed-out` are valid only after tomorrow."""


async def seed(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for subject, (status, tenant, roles) in USERS.items():
            await connection.execute(
                "WITH u AS (INSERT INTO users (status, tenant, roles, email, tokens_valid_after) VALUES"
                " ($1, $2, $3, $5 || '@example.org',"
                " CASE WHEN $5 = 'signed-out' THEN now() + interval '1 day' END) RETURNING id)"
                " INSERT INTO identities (issuer, subject, user_id) SELECT $4, $5, id FROM u",
                status.value, tenant, list(roles), tokens.ISSUER, subject,
            )  # fmt: skip
    finally:
        await connection.close()


def token(subject: str = "member", **changes: JSON) -> bytes:
    """Return a good token of the issuer `main`."""
    claims = {**tokens.claims(subject, jti=uuid.uuid4().hex), **changes}
    return tokens.sign(claims, tokens.rsa_key("main"))


PROVISIONING: Final[JSON] = {
    "email": "email",
    "display_name": "name",
    "tenant": "tid",
    "roles": ["reader", "writer"],
    "when": {"email_verified": True, "hd": ["example.org", "example.com"]},
}


def newcomer(subject: str, **changes: JSON) -> bytes:
    """Return a token of the issuer `joining` that may create a user."""
    own: dict[str, JSON] = {"email": f"{subject}@example.org", "tid": "acme", "tenant_id": "acme"}
    claims = {**tokens.claims(subject, jti=uuid.uuid4().hex), "iss": JOINING_ISSUER, "name": "New Comer"}
    claims |= {**own, "email_verified": True, "hd": "example.org", **changes}
    return tokens.sign(claims, tokens.rsa_key("second"))


PAGE_ORIGIN: Final = "https://app.example.com"
CORS: Final[Mapping[str, JSON]] = {"origins": [PAGE_ORIGIN, "null"], "expose": ["X-Total"]}
"""Of the routes `shared` and `shared-…`."""


def write_jwks(path: Path, *keys: tokens.SigningKey) -> Path:
    path.write_text(json.dumps({"keys": [key.jwk() for key in keys]}))
    return path


def configuration(
    folder: Path, upstream: str, dsn: str, redis_url: str, prefix: str
) -> dict[str, dict[str, JSON] | list[JSON]]:
    """Compose settings with a route of every kind, and issuers that need no network."""
    main = write_jwks(
        folder / "main.json", tokens.rsa_key("main"), tokens.ec_key("main-ec"), tokens.ed25519_key("main-ed")
    )
    second = write_jwks(folder / "second.json", tokens.rsa_key("second"))

    def issuer(name: str, iss: str, keys: Path, **rest: JSON) -> JSON:
        return {
            "name": name,
            "issuer": iss,
            "audiences": [tokens.AUDIENCE],
            "keys": {"jwks_file": str(keys)},
            **rest,
        }

    def route(
        name: str,
        path: str,
        *,
        upstream: str = "raw",
        match: Mapping[str, JSON] | None = None,
        **rest: JSON,
    ) -> JSON:
        return {"name": name, "match": {"path": path, **(match or {})}, "upstream": upstream, **rest}

    return {
        "server": {"listen": "127.0.0.1:0", "workers": 1},
        "admin": {"listen": "127.0.0.1:0"},
        "issuers": [
            issuer("main", tokens.ISSUER, main),
            issuer("second", SECOND_ISSUER, second),
            issuer("strict", STRICT_ISSUER, second, max_lifetime="10m", require=["exp", "sub", "tenant_id"]),
            issuer("keyless", KEYLESS_ISSUER, folder / "missing.json"),
            issuer("joining", JOINING_ISSUER, second, provisioning=PROVISIONING),
        ],
        # A busy machine is no outage.
        "postgres": {"dsn": dsn, "pool_min": 1, "statement_timeout": "10s"},
        "redis": {"url": redis_url, "prefix": prefix, "timeout": "2s"},
        "cache": {},
        "revocation": {},
        "errors": {"detail": "full"},
        "log": {"access": True},
        "headers": {},
        "upstreams": {
            "raw": {"urls": [upstream]},
            "buffered": {"urls": [upstream], "buffer_requests": "1KiB"},
            "slow": {"urls": [upstream], "response_timeout": "300ms"},
            "gone": {"urls": [f"http://127.0.0.1:{unused_port()}"]},
        },
        "routes": [
            route("private", "/private/**"),
            route("optional", "/optional/**", auth="optional"),
            route("public", "/public/**", auth="none"),
            route("leave", "/leave/**", allow_inactive=True),
            route("welcome", "/welcome/**", missing_user="forward"),
            route("join", "/join/**", missing_user="provision"),
            route("join-admin", "/join-admin/**", missing_user="provision", require={"roles": ["admin"]}),
            route("admin", "/admin/**", require={"roles": ["admin"]}),
            route(
                "browser",
                "/browser/**",
                credentials={"cookie": "session", "query": "access_token", "subprotocol": "bearer"},
                allowed_origins=["https://app.example.com"],
            ),
            route("untunnelled", "/untunnelled/**", auth="none", upgrade=[]),
            route("any-protocol", "/any-protocol/**", auth="none", upgrade=["*"]),
            route("switched", "/switched/**", upgrade=["*"]),
            route("unwatched", "/unwatched/**", close_on_revocation=False),
            route("brief", "/brief/**", auth="none", tunnel_timeout="300ms"),
            route("orders", "/orders/**", require={"scopes": ["orders:read"]}),
            route("pro", "/pro/**", require={"condition": 'claims.plan == "pro"'}),
            route("office", "/office/**", require={"condition": 'request.headers["x-office"] == "north"'}),
            route("tenant", "/tenant/**", require={"tenant": "acme"}),
            route("read", "/read/**", match={"methods": ["GET", "HEAD"]}),
            route("host", "/host/**", match={"hosts": ["internal.example.com"]}, auth="none"),
            route("slow", "/slow/**", upstream="slow", auth="none"),
            route("shared", "/shared/**", cors={**CORS, "credentials": True}),
            route("shared-admin", "/shared-admin/**", require={"roles": ["admin"]}, cors={**CORS}),
            route("shared-gone", "/shared-gone/**", upstream="gone", auth="none", cors={**CORS}),
            route("open", "/open/**", auth="none", cors={"origins": ["*"]}),
            route("gone", "/gone/**", upstream="gone", auth="none"),
        ],
    }


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def open_house(
    folder: Path,
    dsn: str,
    redis_url: str,
    *,
    seeded: bool = True,
    prefix: str | None = None,
    **changes: Mapping[str, JSON] | list[JSON],
) -> AsyncIterator[House]:
    """Run a gateway in this event loop; `changes` are merged into sections of its configuration.

    A list replaces the list there.
    """
    prefix = prefix or f"gateway-{uuid.uuid4().hex}:"
    if seeded:
        await seed(dsn)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        settings = configuration(folder, upstream.url, dsn, redis_url, prefix)
        for section, change in changes.items():
            if isinstance(change, list):
                settings[section] = change
            else:
                settings[section] = {**_section(settings, section), **change}
        source = _section(settings, "users").get("source")
        if isinstance(source, dict) and not source.get("writable"):
            # No users are created there.
            settings["routes"] = [each for each in settings["routes"] if "provision" not in json.dumps(each)]
        running = await stack.enter_async_context(serve(Settings.model_validate(settings)))
        house = House(running.url, running.admin_url, upstream, dsn, redis_url, prefix)
        house.decision_url, house.grpc_url = running.urls.decision or "", running.urls.grpc or ""
        logs.configure("info", house.log)
        yield house


def _section(settings: Mapping[str, dict[str, JSON] | list[JSON]], name: str) -> dict[str, JSON]:
    section = settings.get(name, {})
    assert isinstance(section, dict), name
    return section


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_house(
    _databases: _Databases,
    _template: str,
    standing_redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    """One gateway for all tests that do not change its settings."""
    async with (
        _databases.copy("gateway_house", _template) as dsn,
        open_house(tmp_path_factory.mktemp("house"), dsn, standing_redis_url) as house,
    ):
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(standing_house: House) -> AsyncIterator[House]:
    """The gateway that all tests share, for one test."""
    async with standing_house.lent():
        yield standing_house
