"""Threats: state: memory, concurrent changes, and outages of all stores."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.core.caches import LRU
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis
from gateway.identity.resolver import IdentityResolver
from gateway.proxy.upstream.balancer import Upstream
from gateway.stores.postgres.database import Postgres
from gateway.stores.redis.shared_tier import RedisTier
from gateway.verifier import TokenVerifier
from tests import tokens
from tests.harness import KEYLESS_ISSUER, SECOND_ISSUER, House, open_house, token
from tests.sockets import Response, request_bytes

# What tests wait for is short, so that they are.
CACHE = {"user_ttl": "300ms", "negative_ttl": "300ms", "stale_if_error": "5m"}


@pytest.fixture
async def fresh(tmp_path: Path, dsn: str, redis_url: str) -> AsyncIterator[House]:
    """A gateway of the test's own, whose caches are short, and which hears of every change."""
    async with open_house(tmp_path, dsn, redis_url, cache=CACHE) as house:
        await until(house, "member", 200)
        # Until then Postgres is asked for everything, by another statement.
        while not await house.metric(
            "gateway_user_lookups_total", issuer="main", tier="redis", result="found"
        ):
            await until(house, "member", 200)
        yield house


async def ask(house: House, subject: str = "member") -> Response:
    return await house.request("/private/x", token=token(subject))


async def until(house: House, subject: str, status: int) -> Response:
    """Ask until the answer is the expected one."""
    deadline = time.monotonic() + 5
    while (response := await ask(house, subject)).status != status:
        assert time.monotonic() < deadline, response.body
        await asyncio.sleep(0.02)
    return response


async def refusal(house: House, raw: bytes) -> Response:
    """Ask until the answer is no: a change takes milliseconds to be heard of."""
    deadline = time.monotonic() + 1
    while (response := await house.request("/private/x", token=raw)).status == 200:
        assert time.monotonic() < deadline
    return response


# Fail closed ---------------------------------------------------------------------------------------


DEFECTS: list[tuple[type, str]] = [
    # What looks for a token that was verified before: that is bound to its place when a gateway starts.
    (LRU, "get"),
    (TokenVerifier, "verify"),
    (IdentityResolver, "recall"),
    (IdentityResolver, "resolve"),
    (RedisTier, "read"),
    (Postgres, "find_user"),
    (Upstream, "take"),
]


@pytest.mark.parametrize(
    ("part", "method"), DEFECTS, ids=[f"{part.__name__}.{name}" for part, name in DEFECTS]
)
async def test_an_odd_error_opens_nothing(
    fresh: House, monkeypatch: pytest.MonkeyPatch, part: type, method: str
) -> None:
    before = len(fresh.upstream.requests)
    for error in (RuntimeError, KeyError, AssertionError, MemoryError, RecursionError):

        def broken(*_: Any, error: type[Exception] = error, **__: Any) -> None:  # noqa: ANN401 -- stands in for any method
            raise error("odd")

        with monkeypatch.context() as patch:
            patch.setattr(part, method, broken)
            if part is Postgres:
                # A Redis that took too long leaves this one to ask.
                patch.setattr(part, "find_user_and_revocations", broken)
            response = await ask(fresh, "admin")
        assert (response.status, response.code) == (503, "internal_error"), error
        assert len(fresh.upstream.requests) == before
    await until(fresh, "admin", 200)


# Changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["suspended", "locked", "pending", "deleted"])
async def test_a_status_changed_by_sql_is_seen_without_signing_in_again(fresh: House, status: str) -> None:
    change = (
        "UPDATE users SET status = $2 FROM identities"
        " WHERE users.id = user_id AND issuer = $3 AND subject = $1"
    )
    same = token("member")
    assert (await fresh.request("/private/x", token=same)).status == 200
    await fresh.sql(change, "member", status, tokens.ISSUER)
    response = await until(fresh, "member", 401)
    assert response.code == f"user_{status}"
    assert (await fresh.request("/private/x", token=same)).code == f"user_{status}"
    await fresh.sql(change, "member", "active", tokens.ISSUER)
    await until(fresh, "member", 200)
    assert (await fresh.request("/private/x", token=same)).status == 200


async def test_roles_changed_by_sql_are_seen(fresh: House) -> None:
    await fresh.sql("UPDATE users SET roles = '{admin}' WHERE roles = '{reader,writer}'")
    deadline = time.monotonic() + 5
    while (await fresh.request("/admin/x", token=token("member"))).status != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_cached_miss_expires(fresh: House) -> None:
    """Created right after it was refused for the first time."""
    assert (await ask(fresh, "newcomer")).code == "user_not_found"
    await fresh.sql(
        "WITH u AS (INSERT INTO users (status) VALUES ('active') RETURNING id)"
        " INSERT INTO identities (issuer, subject, user_id) SELECT $1, 'newcomer', id FROM u",
        tokens.ISSUER,
    )
    await until(fresh, "newcomer", 200)


@pytest.mark.parametrize("value", ["1", "", "anything"])
async def test_a_revoked_jti_counts_at_once_from_any_writer(fresh: House, value: str) -> None:
    raw = tokens.sign(tokens.claims(jti="the-jti"), tokens.rsa_key("main"))
    assert (await fresh.request("/private/x", token=raw)).status == 200
    await fresh.set_key("revoked:jti:main:the-jti", value)
    response = await refusal(fresh, raw)
    assert (response.status, response.code) == (401, "token_revoked")
    # It is the token that is revoked, at this issuer; not its user.
    assert (await ask(fresh)).status == 200


@pytest.mark.parametrize("kind", ["user", "issuer"])
async def test_tokens_issued_before_a_revocation_are_refused_at_once(fresh: House, kind: str) -> None:
    old = token(iat=int(time.time()) - 100)
    assert (await fresh.request("/private/x", token=old)).status == 200
    ((user_id,),) = await fresh.sql("SELECT user_id::text FROM identities WHERE subject = 'member'")
    await fresh.set_key(f"revoked:{kind}:{user_id if kind == 'user' else 'main'}", str(time.time() - 50))
    refused = await refusal(fresh, old)
    assert (refused.status, refused.code) == (401, "tokens_revoked_before")
    assert (await ask(fresh)).status == 200


async def test_a_token_of_an_issuer_does_not_reach_another_issuers_user(fresh: House) -> None:
    """The caches are keyed by issuer and subject: the same `sub` at another issuer is another user."""
    await fresh.sql(
        "WITH u AS (INSERT INTO users (status, roles) VALUES ('active', '{other}') RETURNING id)"
        " INSERT INTO identities (issuer, subject, user_id) SELECT $1, 'member', id FROM u",
        SECOND_ISSUER,
    )
    second = tokens.sign(tokens.claims(iss=SECOND_ISSUER), tokens.rsa_key("second"))
    for _ in range(2):
        mine = await fresh.forwarded("/private/x", token=token())
        theirs = await fresh.forwarded("/private/x", token=second)
        assert mine.values(b"x-user-roles") == [b"reader,writer"]
        assert theirs.values(b"x-user-roles") == [b"other"]


async def test_an_admission_for_one_route_does_not_count_for_another(fresh: House) -> None:
    """What was decided depends on the route: its tenant, roles and scopes."""
    raw = token("acme")
    assert (await fresh.request("/tenant/x", token=raw)).status == 200
    assert (await fresh.request("/admin/x", token=raw)).status == 403
    assert (await fresh.request("/orders/x", token=raw)).status == 403
    assert (await fresh.request("/tenant/x", token=token("globex"))).status == 403
    assert (await fresh.request("/tenant/x", token=raw)).status == 200


async def test_a_deleted_user_can_still_sign_out(fresh: House) -> None:
    """A public route checks no token, so a public sign-out works for all clients."""
    for subject in ("deleted", "suspended", "ghost"):
        assert (await ask(fresh, subject)).status == 401
        assert (await fresh.request("/public/logout", token=token(subject), method="POST")).status == 200


# Stampedes -----------------------------------------------------------------------------------------


def counting(monkeypatch: pytest.MonkeyPatch, part: type, name: str) -> list[None]:
    """Count the calls of a method, which works as before."""
    calls: list[None] = []
    original: Callable[..., Any] = getattr(part, name)

    async def counted(*args: Any, **named: Any) -> Any:  # noqa: ANN401 -- stands in for any method
        calls.append(None)
        return await original(*args, **named)

    monkeypatch.setattr(part, name, counted)
    return calls


@pytest.mark.parametrize(("subject", "status"), [("admin", 200), ("ghost", 401)])
async def test_1000_first_requests_of_one_user_make_one_query(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    subject: str,
    status: int,
) -> None:
    # Clients, gateway and upstream share one process here: the stores must not seem slow for that.
    cache = {"user_ttl": "5m", "negative_ttl": "5m"}
    redis, postgres = {"timeout": "20s"}, {"statement_timeout": "20s"}
    async with open_house(tmp_path, dsn, redis_url, redis=redis, postgres=postgres, cache=cache) as house:
        await until(house, "member", 200)
        # While changes may go unheard, requests share a query for a moment only.
        while not house.events("local_tier_trusted"):  # noqa: ASYNC110 -- a log has no event to wait for
            await asyncio.sleep(0.02)
        calls = counting(monkeypatch, Postgres, "find_user")
        both = counting(monkeypatch, Postgres, "find_user_and_revocations")
        request = request_bytes("GET", "/private/x", token=token(subject))
        async with AsyncExitStack() as stack:
            # Connected before, so that the requests come at once.
            clients = [await stack.enter_async_context(house.connect()) for _ in range(1000)]
            for client in clients:
                client.writer.write(request)
            responses = [await client.response() for client in clients]
        statuses = {response.status for response in responses if response is not None}
        # On a busy machine the one process that plays all parts may be late for its upstream.
        assert status in statuses
        assert statuses <= {status, 503, 504}
        # One that is too busy to hear heartbeats in time lets requests share a query for a moment only.
        assert 1 <= len(calls) + len(both) <= 20


async def test_forged_kids_cause_no_fetch_each(fresh: House) -> None:
    forged = [
        tokens.sign(tokens.claims(), tokens.rsa_key("mine"), kid=f"forged-{number}") for number in range(50)
    ]
    await asyncio.gather(*(fresh.request("/private/x", token=raw) for raw in forged))
    fetches = await fresh.metric("gateway_jwks_refreshes_total", issuer="main", result="success")
    assert fetches <= 2  # at the start, and once for all the forged ones


async def test_one_issuers_outage_does_not_delay_another(fresh: House) -> None:
    response = await fresh.request(
        "/private/x", token=tokens.sign(tokens.claims(iss=KEYLESS_ISSUER), tokens.rsa_key("main"))
    )
    assert (response.status, response.code) == (503, "keys_unavailable")
    assert (await ask(fresh)).status == 200


# Metrics -------------------------------------------------------------------------------------------


async def test_metric_labels_do_not_come_from_requests(fresh: House) -> None:
    key = tokens.rsa_key("mine")

    async def flood(start: int) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        for n in range(start, start + 20):
            await fresh.request(f"/nowhere/{n}", method=f"METHOD{n}")
            await fresh.request(f"/private/{n}", method=f"METHOD{n}", token=token(f"user{n}"))
            await fresh.request(f"/public/{n}", b"Host: host%d.example.com" % n)
            for claims in (tokens.claims(iss=f"https://{n}.example.com"), tokens.claims(aud=f"aud{n}")):
                await fresh.request("/private/x", token=tokens.sign(claims, key, kid=f"kid{n}"))
                await fresh.request(
                    "/private/x", token=tokens.sign(claims, tokens.rsa_key("main"), jku=f"x{n}")
                )
        return set(await fresh.metrics())

    first = await flood(0)
    assert await flood(1000) == first
    assert not [
        labels for _, labels in first if any(str(n) in dict(labels).get("issuer", "") for n in range(20))
    ]


# Outages -------------------------------------------------------------------------------------------


async def test_redis_down_postgres_answers(fresh: House, redis_server: EmbeddedRedis) -> None:
    raw = tokens.sign(tokens.claims(jti="revoked"), tokens.rsa_key("main"))
    await fresh.sql("INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'main', 'revoked')")
    redis_server.stop()
    assert (await ask(fresh)).status == 200
    assert (await ask(fresh, "suspended")).code == "user_suspended"
    assert (await ask(fresh, "ghost")).code == "user_not_found"
    assert (await fresh.request("/private/x", token=raw)).code == "token_revoked"
    assert (
        await fresh.metric("gateway_user_lookups_total", issuer="main", tier="postgres", result="found") > 0
    )
    redis_server.start()
    # It came back empty, which revokes nothing that Postgres knows.
    assert (await fresh.request("/private/x", token=raw)).code == "token_revoked"
    await until(fresh, "member", 200)


async def test_postgres_down_known_users_pass_marked_stale(
    fresh: House, postgres_server: EmbeddedPostgres
) -> None:
    assert (await ask(fresh)).status == 200
    assert (await ask(fresh, "suspended")).code == "user_suspended"
    postgres_server.stop()
    await asyncio.sleep(0.35)  # beyond `user_ttl`
    received = await fresh.forwarded("/private/x", token=token())
    assert received.values(b"x-auth-stale") == [b"true"]
    assert received.values(b"x-user-roles") == [b"reader,writer"]
    assert (await ask(fresh, "suspended")).code == "user_suspended"
    assert await fresh.metric("gateway_stale_answers_total", issuer="main") == 1
    for subject in ("admin", "ghost"):
        unknown = await ask(fresh, subject)
        assert (unknown.status, unknown.code) == (503, "user_store_unavailable")
        assert unknown.field(b"retry-after")
    postgres_server.start()
    await until(fresh, "admin", 200)
    assert (await fresh.forwarded("/private/x", token=token("admin"))).values(b"x-auth-stale") == []
    assert (await ask(fresh, "ghost")).code == "user_not_found"


@pytest.mark.parametrize("on_unavailable", ["deny", "allow"])
async def test_both_down_fails_closed_unless_told_otherwise(
    tmp_path: Path,
    dsn: str,
    redis_url: str,
    postgres_server: EmbeddedPostgres,
    redis_server: EmbeddedRedis,
    on_unavailable: str,
) -> None:
    async with open_house(
        tmp_path, dsn, redis_url, cache=CACHE, revocation={"on_unavailable": on_unavailable}
    ) as house:
        await until(house, "member", 200)
        await until(house, "suspended", 401)
        passed = len(house.upstream.requests)
        postgres_server.stop()
        redis_server.stop()
        for subject in ("member", "suspended", "ghost"):
            response = await ask(house, subject)
            if on_unavailable == "deny":
                assert (response.status, response.code) == (503, "revocation_unavailable")
                assert response.field(b"retry-after")
            elif subject == "member":
                assert response.status == 200
                assert house.upstream.requests[-1].values(b"x-auth-stale") == [b"true"]
            elif subject == "suspended":
                assert response.code == "user_suspended"
            else:
                assert (response.status, response.code) == (503, "user_store_unavailable")
        assert len(house.upstream.requests) == passed + (on_unavailable == "allow")
        postgres_server.start()
        redis_server.start()
        await until(house, "member", 200)


@pytest.mark.parametrize("store", ["postgres", "redis", "both"])
async def test_no_request_gets_401_or_403_while_a_store_fails_over(
    fresh: House, postgres_server: EmbeddedPostgres, redis_server: EmbeddedRedis, store: str
) -> None:
    servers = [
        server
        for name, server in (("postgres", postgres_server), ("redis", redis_server))
        if store in {name, "both"}
    ]
    statuses: set[int] = set()
    over = asyncio.Event()

    async def keep_asking(subject: str) -> None:
        while not over.is_set():
            statuses.add((await ask(fresh, subject)).status)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for subject in ("member", "admin", "acme"):
            group.create_task(keep_asking(subject))
        for server in servers:
            await asyncio.to_thread(server.stop)
        await asyncio.sleep(0.3)
        for server in servers:
            await asyncio.to_thread(server.start)
        await until(fresh, "globex", 200)
        over.set()
    assert statuses <= {200, 503}
