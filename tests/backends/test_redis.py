import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from gateway.backends.redis import CachedUser, Redis, _words
from gateway.backends.revocations import Revocation, Revocations
from gateway.core.model import StoreUnavailable, Tier, User, UserStatus
from tests.backends.cable import Cable
from tests.backends.examples import claims

ANN = User(
    id="0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01",
    status=UserStatus.ACTIVE,
    tenant="acme",
    email="ann@example.com",
    display_name="Änn",
    roles=("a", "b"),
    attributes={"plan": [1, None, {"x": 2.5}]},
    tokens_valid_after=12.5,
)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = Redis(redis_url, timeout=2.0)
    yield redis
    await redis.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["Client"]:
    """Another program, with plain commands."""
    async with Client.from_url(redis_url) as client:
        yield client


class TestUsers:
    @pytest.mark.parametrize(
        "user", [ANN, User(id="x", status=UserStatus.LOCKED, tokens_valid_after=math.inf)]
    )
    async def test_a_user_comes_back_as_it_went(self, redis: Redis, user: User) -> None:
        await redis.store_user(claims(), CachedUser(user, 99.5), 60)
        assert (await redis.read(claims(), None)).cached == CachedUser(user, 99.5)

    async def test_key_and_time_to_live(self, redis: Redis, client: "Client") -> None:
        await redis.store_user(claims("a:b"), CachedUser(ANN, 0), 60)
        assert 59 <= await client.ttl("gateway:user:main:a:b") <= 60
        await redis.forget_users([("main", "a:b")])
        assert await client.exists("gateway:user:main:a:b") == 0
        await redis.forget_users([])

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"version": 1}',
            b"\xff",
            b'{"version":2,"iss":"https://idp.example.com/","stored_at":1,"id":"x","status":"active"}',
        ],
    )
    async def test_what_cannot_be_read_is_no_entry(
        self, redis: Redis, client: "Client", document: bytes
    ) -> None:
        await client.set("gateway:user:main:ann", document)
        assert (await redis.read(claims(), None)).cached is None

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b'"active"', b'"zombie"'),
            (b'"version":1', b'"version":2'),
            (b'"stored_at":5.0', b'"stored_at":"soon"'),
            (b'"roles":["a","b"]', b'"roles":[1]'),
            (b'"tenant":"acme"', b'"tenant":7'),
        ],
    )
    async def test_a_damaged_entry_is_no_entry(
        self, redis: Redis, client: "Client", before: bytes, after: bytes
    ) -> None:
        await redis.store_user(claims(), CachedUser(ANN, 5.0), 60)
        document = await client.get("gateway:user:main:ann")
        assert isinstance(document, bytes)
        assert before in document
        await client.set("gateway:user:main:ann", document.replace(before, after))
        assert (await redis.read(claims(), None)).cached is None

    async def test_an_entry_of_another_iss_under_the_same_name_is_no_entry(self, redis: Redis) -> None:
        await redis.store_user(claims(iss="https://elsewhere.example.com/"), CachedUser(ANN, 5.0), 60)
        assert (await redis.read(claims(), None)).cached is None


class TestBlacklist:
    async def test_nothing_is_revoked_and_nothing_vouches_for_it(self, redis: Redis) -> None:
        shared = await redis.read(claims(), ANN.id)
        assert (shared.revocations, shared.complete) == (Revocations(), False)

    async def test_one_round_trip(self, redis: Redis, client: "Client") -> None:
        await redis.read(claims(), ANN.id)
        before = (await client.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"]
        total = (await client.info("stats"))["total_commands_processed"]
        await redis.read(claims(), ANN.id)
        assert (await client.info("commandstats"))["cmdstat_mget"]["calls"] == before + 1
        # The MGET, and the two INFO commands of this test.
        assert (await client.info("stats"))["total_commands_processed"] == total + 3

    @pytest.mark.parametrize("value", ["", "1", "anything"])
    async def test_any_value_revokes_a_jti(self, redis: Redis, client: "Client", value: str) -> None:
        await client.set("gateway:revoked:jti:main:token-1", value)
        assert (await redis.read(claims(), None)).revocations.token is True
        assert (await redis.read(claims(), ANN.id)).revocations.token is True
        assert (await redis.read(claims(jti="token-2"), ANN.id)).revocations.token is False
        assert (await redis.read(claims(jti=None), ANN.id)).revocations.token is False

    @pytest.mark.parametrize(
        ("value", "instant"),
        [("1700000000", 1.7e9), (" 1700000000.5\n", 1700000000.5), ("0", 0.0)]
        + [(text, math.inf) for text in ("", "yes", "nan", "2024-01-01T00:00:00Z", "\xff")],
    )
    async def test_instants_of_users_and_issuers(
        self, redis: Redis, client: "Client", value: str, instant: float
    ) -> None:
        await client.set("gateway:revoked:issuer:main", value)
        await client.set(f"gateway:revoked:user:{ANN.id}", value)
        assert (await redis.read(claims(), ANN.id)).revocations == Revocations(False, instant, instant)
        assert (await redis.read(claims(), None)).revocations == Revocations(False, None, instant)
        assert await redis.user_revoked_at(ANN.id) == instant
        assert await redis.user_revoked_at("other") is None

    async def test_warns_once_of_what_is_no_time(self, redis: Redis, client: "Client") -> None:
        await client.set("gateway:revoked:issuer:main", "yes")
        with capture_logs() as logs:
            await redis.read(claims(), None)
            await redis.read(claims(), None)
        assert [entry["event"] for entry in logs] == ["revocation_is_no_unix_time"]

    async def test_keys_and_times_to_live(self, redis: Redis, client: "Client") -> None:
        soon = time.time() + 100
        await redis.revoke(
            [
                Revocation("jti", "main", "t", 5.0, soon),
                Revocation("jti", "main", "for-ever", 5.0),
                Revocation("jti", "main", "over", 5.0, 6.0),
                Revocation("user", "", ANN.id, 5.25),
                Revocation("issuer", "main", "", 7.0, math.inf),
            ]
        )
        assert sorted(await client.keys("*")) == [
            b"gateway:revoked:issuer:main",
            b"gateway:revoked:jti:main:for-ever",
            b"gateway:revoked:jti:main:t",
            b"gateway:revoked:user:" + ANN.id.encode(),
        ]
        assert 98 <= await client.ttl("gateway:revoked:jti:main:t") <= 100
        assert await client.ttl("gateway:revoked:issuer:main") == -1
        assert await client.get(f"gateway:revoked:user:{ANN.id}") == b"5.25"

    @pytest.mark.parametrize(
        ("held", "held_ttl", "given", "given_ttl", "value", "ttl"),
        [
            ("10", None, 20.0, None, b"20.0", None),
            ("20", None, 10.0, None, b"20", None),
            ("10", 50, 20.0, 100, b"20.0", 100),
            ("10", 100, 20.0, 50, b"20.0", 100),
            ("10", None, 20.0, 50, b"20.0", None),
            ("10", 50, 20.0, None, b"20.0", None),
            ("yes", None, 20.0, 50, b"yes", None),
            ("nan", None, 20.0, None, b"nan", None),
        ],
    )
    async def test_what_another_program_set_is_only_extended(
        self,
        redis: Redis,
        client: "Client",
        held: str,
        held_ttl: int | None,
        given: float,
        given_ttl: int | None,
        value: bytes,
        ttl: int | None,
    ) -> None:
        key = "gateway:revoked:issuer:main"
        await client.set(key, held, ex=held_ttl)
        expires_at = None if given_ttl is None else time.time() + given_ttl
        await redis.revoke([Revocation("issuer", "main", "", given, expires_at)])
        assert await client.get(key) == value
        left = await client.ttl(key)
        assert left == -1 if ttl is None else ttl - 2 <= left <= ttl

    async def test_a_key_of_another_type_is_none_and_makes_room(self, redis: Redis, client: "Client") -> None:
        await client.hset("gateway:revoked:jti:main:token-1", "why", "lost")
        assert (await redis.read(claims(), None)).revocations.token is False
        await redis.revoke([Revocation("jti", "main", "token-1", 5.0)])
        assert (await redis.read(claims(), None)).revocations.token is True

    async def test_what_is_lifted_is_off_the_list_and_can_be_revoked_again(
        self, redis: Redis, client: "Client"
    ) -> None:
        rows = [Revocation("jti", "main", "token-1", 5.0), Revocation("issuer", "main", "", 6.0)]
        await redis.revoke(rows)
        assert await redis.lift(rows[:1]) == 1
        assert await redis.lift(rows[:1]) == 0
        assert await client.keys("gateway:revoked:*") == [b"gateway:revoked:issuer:main"]
        await redis.revoke(rows[:1])
        assert (await redis.read(claims(), None)).revocations.token is True

    async def test_a_mirrored_blacklist_is_complete(self, redis: Redis, client: "Client") -> None:
        rows = [Revocation("jti", "main", f"token-{n}", 5.0) for n in range(1201)]
        await redis.mirror(rows, await redis.begin_mirror())
        shared = await redis.read(claims(jti="token-1200"), None)
        assert (shared.revocations.token, shared.complete) == (True, True)
        assert await client.ttl("gateway:revocations:loaded") == -1
        assert await client.dbsize() == 1202
        await client.flushdb()
        assert (await redis.read(claims(), None)).complete is False

    async def test_emptied_while_it_was_filled_it_is_not_complete(
        self, redis: Redis, client: "Client", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        revoke = redis._revoke

        async def revoke_and_flush(revocations: list[Revocation], lifted: bytes) -> bool:
            done = await revoke(revocations, lifted)
            await client.flushdb()
            return done

        monkeypatch.setattr(redis, "_revoke", revoke_and_flush)
        filling = await redis.begin_mirror()
        with pytest.raises(StoreUnavailable, match="emptied"):
            await redis.mirror([Revocation("jti", "main", "token-1", 5.0)], filling)
        assert (await redis.read(claims(), None)).complete is False


class TestFailures:
    @pytest.mark.parametrize(
        ("cause", "words"),
        [
            (OSError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
            (
                OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] x"),
                "Connection refused",
            ),
            (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
            (OSError(), "cannot connect"),
        ],
    )
    def test_every_event_loop_has_the_same_words(self, cause: OSError, words: str) -> None:
        error = RedisConnectionError("Error 111 connecting to 127.0.0.1:1.")
        error.__cause__ = cause
        assert _words(error) == words

    async def test_refused_connection(self) -> None:
        redis = Redis("redis://ann:hunter2@127.0.0.1:1/0")
        with pytest.raises(StoreUnavailable) as caught:
            await redis.ping()
        assert caught.value.store is Tier.REDIS
        assert caught.value.detail.startswith("127.0.0.1:1: ")
        assert "hunter2" not in str(caught.value)
        await redis.close()

    async def test_a_server_that_says_nothing_is_given_up(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            redis = Redis(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
            async with asyncio.timeout(1):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await redis.read(claims(), None)
            await redis.close()

    async def test_refused_commands(self, redis: Redis, client: "Client") -> None:
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable, match="refuses the command"):
                await redis.store_user(claims(), CachedUser(ANN, 5.0), 60)
        finally:
            await client.config_set("maxmemory", 0)

    async def test_kept_connections_that_were_cut_are_replaced_unnoticed(self, redis_url: str) -> None:
        async with Cable(redis_url) as cable:
            redis = Redis(cable.url, timeout=2.0)
            await redis.ping()
            await cable.pull()
            with pytest.raises(StoreUnavailable):
                await redis.ping()
            await cable.plug()
            await redis.ping()
            await cable.pull()
            await cable.plug()
            await redis.ping()
            await redis.close()

    async def test_many_requests_share_few_connections(self, redis: Redis, client: "Client") -> None:
        await asyncio.gather(*(redis.read(claims(), None) for _ in range(1000)))
        assert len(await client.client_list()) <= 66

    def test_an_unreadable_url_is_not_repeated(self) -> None:
        with pytest.raises(ValueError, match=r"^the Redis URL cannot be read$") as caught:
            Redis("redis://ann:hunt/er2@db.example.com")
        assert caught.value.__cause__ is None
        assert "er2" not in str(caught.value)
