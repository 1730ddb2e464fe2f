import asyncio
import math
import socket
from dataclasses import replace

import pytest
from redis.asyncio import Redis as Client
from structlog.testing import capture_logs

from gateway.core.model import StoreUnavailable, Tier, User, UserStatus
from gateway.core.revocations import Revocations
from gateway.stores.redis.answers import Epoch
from gateway.stores.redis.shared_tier import EPOCH_LIFETIME, TOMBSTONE_TIME, RedisTier
from gateway.stores.redis.user_documents import CachedUser
from tests.stores.cable import Cable
from tests.stores.examples import claims

ANN = User(id="0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", status=UserStatus.ACTIVE)
ANN_KEY = "gateway:user:main:ann"
TOMBSTONE = "gateway:tombstone:main:ann"


class TestUsers:
    @pytest.mark.parametrize("user", [ANN, None])
    async def test_a_user_comes_back_as_it_went(self, redis: RedisTier, user: User | None) -> None:
        epoch = await redis.begin_epoch("h1")
        cached = CachedUser(user, 99.5, epoch.name)
        assert await redis.store_user(claims(), cached, 60, horizon=10) is True
        shared = await redis.read(claims(), None)
        assert (shared.cached, shared.epoch) == (cached, epoch.name)

    async def test_key_and_time_to_live(self, redis: RedisTier, client: "Client") -> None:
        await redis.store_user(claims("a:b"), CachedUser(ANN, 0, ""), 60, horizon=1)
        assert 59 <= await client.ttl("gateway:user:main:a:b") <= 60
        await redis.forget_users([("main", "a:b")])
        assert await client.exists("gateway:user:main:a:b") == 0
        await redis.forget_users([])

    @pytest.mark.parametrize("document", [b"", b"{", b"null", b'{"version":1}'])
    async def test_an_unreadable_document_is_no_entry(
        self, redis: RedisTier, client: "Client", document: bytes
    ) -> None:
        await client.set(ANN_KEY, document)
        assert (await redis.read(claims(), None)).cached is None

    async def test_an_entry_of_another_iss_under_the_same_name_is_no_entry(self, redis: RedisTier) -> None:
        elsewhere = claims(iss="https://elsewhere.example.com/")
        await redis.store_user(elsewhere, CachedUser(ANN, 5.0, ""), 60, horizon=1)
        assert (await redis.read(elsewhere, None)).cached is not None
        assert (await redis.read(claims(), None)).cached is None

    @pytest.mark.parametrize(("horizon", "stored"), [(99, False), (100, False), (101, True)])
    async def test_a_slow_reader_cannot_put_an_old_row_back(
        self, redis: RedisTier, client: "Client", horizon: int, stored: bool
    ) -> None:
        epoch = (await redis.begin_epoch("h1")).name
        old, new = CachedUser(ANN, 1.0, epoch), CachedUser(None, 2.0, epoch)
        await redis.store_user(claims(), old, 60, horizon=50)
        await redis.bury([("main", "ann")], 100)
        assert (await redis.read(claims(), None)).cached is None
        assert await redis.store_user(claims(), new, 60, horizon=horizon) is stored
        assert (await redis.read(claims(), None)).cached == (new if stored else None)
        # Others may be stored as before.
        assert await redis.store_user(claims("bob"), old, 60, horizon=50) is True
        assert TOMBSTONE_TIME - 2 <= await client.ttl(TOMBSTONE) <= TOMBSTONE_TIME

    @pytest.mark.parametrize("before", [ANN, None])
    async def test_all_workers_are_notified_of_another_state_of_a_user(
        self, redis: RedisTier, client: "Client", before: User | None
    ) -> None:
        """Where one process looks for changes, it may find the new state alone, and report nothing."""
        epoch = (await redis.begin_epoch("h1")).name
        suspended = replace(ANN, status=UserStatus.SUSPENDED)
        await redis.store_user(claims(), CachedUser(before, 1.0, epoch), 60, horizon=50)
        await redis.store_user(claims(), CachedUser(before, 2.0, epoch), 60, horizon=60)
        assert await client.exists(TOMBSTONE) == 0
        assert await redis.store_user(claims(), CachedUser(suspended, 3.0, epoch), 60, horizon=70)
        assert await client.get(TOMBSTONE) == b"69"
        assert TOMBSTONE_TIME - 2 <= await client.ttl(TOMBSTONE) <= TOMBSTONE_TIME
        # What was read before that state cannot take its place.
        assert not await redis.store_user(claims(), CachedUser(before, 4.0, epoch), 60, horizon=69)
        assert (await redis.read(claims(), None)).cached == CachedUser(suspended, 3.0, epoch)

    async def test_a_tombstone_is_only_raised_and_lives_as_long_as_the_latest_news(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await redis.bury([("main", "ann")], 2**53 - 1)
        assert await client.get(TOMBSTONE) == b"9007199254740991"
        await client.pexpire(TOMBSTONE, 500)
        await redis.bury([("main", "ann")], 100)
        assert await client.get(TOMBSTONE) == b"9007199254740991"
        assert await client.ttl(TOMBSTONE) > 2
        await redis.bury([("main", "ann")], 2**53)
        assert await client.get(TOMBSTONE) == b"9007199254740992"

    async def test_a_second_tombstone_for_the_same_change_keeps_newer_documents(
        self, redis: RedisTier
    ) -> None:
        epoch = (await redis.begin_epoch("h1")).name
        await redis.bury([("main", "ann")], 100)
        await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=101)
        await redis.bury([("main", "ann")], 100)
        assert (await redis.read(claims(), None)).cached == CachedUser(ANN, 1.0, epoch)

    async def test_many_are_buried_at_once(self, redis: RedisTier, client: "Client") -> None:
        identities = [("main", f"user-{n}") for n in range(1001)]
        await redis.bury(identities, 7)
        assert await client.dbsize() == 1001
        await redis.bury([], 8)

    async def test_an_unreadable_tombstone_refuses_documents_until_it_is_replaced(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        epoch = (await redis.begin_epoch("h1")).name
        await client.set(TOMBSTONE, "odd")
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=9)
        await client.delete(TOMBSTONE)
        await client.hset(TOMBSTONE, "odd", "1")
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=9)
        await redis.bury([("main", "ann")], 5)
        assert await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=9)

    async def test_a_full_redis_still_buries_and_ends_epochs(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        epoch = await redis.begin_epoch("h1")
        await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch.name), 60, horizon=9)
        await client.config_set("maxmemory", 1)
        try:
            await redis.bury([("main", "ann")], 10)
            await redis.end_epoch(10)
        finally:
            await client.config_set("maxmemory", 0)
        shared = await redis.read(claims(), None)
        assert shared.cached is None
        assert shared.epoch not in {None, epoch.name}
        assert await client.get(TOMBSTONE) == b"10"


class TestEpochs:
    async def test_there_is_none_until_a_worker_begins_one(self, redis: RedisTier) -> None:
        assert await redis.epoch() is None
        assert (await redis.read(claims(), None)).epoch is None
        assert await redis.keep_epoch("any", "h1") is False
        assert await redis.epoch() is None

    async def test_the_first_begins_it_and_the_others_find_it(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        epochs = await asyncio.gather(*(redis.begin_epoch(f"h{n}") for n in range(20)))
        assert len(set(epochs)) == 1
        assert await redis.epoch() == epochs[0]
        assert 0 < await client.pttl("gateway:epoch") <= EPOCH_LIFETIME * 1000

    async def test_keeping_it_alive(self, redis: RedisTier, client: "Client") -> None:
        epoch = await redis.begin_epoch("h1")
        await client.pexpire("gateway:epoch", 500)
        assert await redis.keep_epoch(epoch.name, "h2") is True
        assert await redis.epoch() == Epoch(epoch.name, "h2")
        assert await client.pttl("gateway:epoch") > 1000
        assert await redis.keep_epoch("another", "h3") is False
        assert await redis.epoch() == Epoch(epoch.name, "h2")

    async def test_a_user_read_in_another_epoch_is_not_stored(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        first = (await redis.begin_epoch("h1")).name
        await client.delete("gateway:epoch")
        second = (await redis.begin_epoch("h1")).name
        assert first != second
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, first), 60, horizon=9)
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, ""), 60, horizon=9)
        assert (await redis.read(claims(), None)).cached is None

    async def test_without_an_epoch_a_user_is_stored_for_outages_but_is_not_fresh(
        self, redis: RedisTier
    ) -> None:
        cached = CachedUser(ANN, 1.0, "")
        assert await redis.store_user(claims(), cached, 60, horizon=9) is False
        shared = await redis.read(claims(), None)
        assert (shared.cached, shared.epoch) == (cached, None)

    async def test_its_end_voids_stored_documents_and_reads_in_progress(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        first = await redis.begin_epoch("h1")
        await redis.end_epoch(100)
        second = await redis.epoch()
        assert second is not None
        assert second.name != first.name
        assert second.heartbeat == "h1"
        assert await client.pttl("gateway:epoch") > 0
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, first.name), 60, horizon=101)
        # An earlier transaction that committed later may be unseen at this horizon.
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, second.name), 60, horizon=100)
        assert await redis.store_user(claims(), CachedUser(ANN, 1.0, second.name), 60, horizon=101)

    async def test_only_one_worker_ends_it_for_the_same_change(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await redis.begin_epoch("h1")
        await redis.end_epoch(100)
        second = await redis.epoch()
        await client.pexpire("gateway:epoch:ended", 500)
        await redis.end_epoch(100)
        assert await client.pttl("gateway:epoch:ended") <= 500
        await redis.end_epoch(90)
        assert await redis.epoch() == second
        assert await client.get("gateway:epoch:ended") == b"100"
        assert await client.pttl("gateway:epoch:ended") > 1000
        await redis.end_epoch(101)
        assert await redis.epoch() != second

    async def test_ended_while_there_is_none_it_still_refuses_old_rows(self, redis: RedisTier) -> None:
        await redis.end_epoch(100)
        assert await redis.epoch() is None
        epoch = (await redis.begin_epoch("h1")).name
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=100)

    async def test_a_replica_that_lags_behind_its_beginning_fills_nothing(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        epoch = (await redis.begin_epoch("h1", version=100)).name
        assert not await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=100)
        assert await redis.store_user(claims(), CachedUser(ANN, 1.0, epoch), 60, horizon=101)
        await client.delete("gateway:epoch")
        await redis.begin_epoch("h1", version=90)
        assert await client.get("gateway:epoch:ended") == b"100"

    async def test_a_server_that_has_restarted_with_its_data_ends_it_and_has_no_complete_blacklist(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        epoch = await redis.begin_epoch("h1")
        await redis.revoked.fill([], await redis.revoked.begin_filling())
        run = (await client.info("server"))["run_id"].encode()
        held = await client.get("gateway:epoch")
        assert isinstance(held, bytes)
        assert run in held
        assert (await redis.read(claims(), None)).complete
        await client.set("gateway:epoch", held.replace(run, b"0" * 40), keepttl=True)
        await client.set("gateway:revocations:loaded", b"0" * 40)
        assert await redis.keep_epoch(epoch.name, "h2") is False
        shared = await redis.read(claims(), None)
        assert (shared.epoch, shared.complete) == (None, False)

    async def test_nor_while_postgres_is_down_and_no_epoch_is_kept(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await client.set("gateway:revocations:loaded", b"0" * 40)
        await redis.ping()
        assert not (await redis.read(claims(), None)).complete

    async def test_the_blacklist_of_a_server_that_runs_on_stays_complete(self, redis: RedisTier) -> None:
        await redis.revoked.fill([], await redis.revoked.begin_filling())
        epoch = await redis.begin_epoch("h1")
        await redis.keep_epoch(epoch.name, "h2")
        await redis.ping()
        assert (await redis.read(claims(), None)).complete

    async def test_a_worker_that_begins_one_does_not_revive_it(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await client.set("gateway:epoch", b"old 0000 h0", px=3000)
        await client.set("gateway:revocations:loaded", b"0000")
        epoch = await redis.begin_epoch("h1")
        assert epoch.name != "old"
        assert epoch.heartbeat == "h1"
        assert not (await redis.read(claims(), None)).complete

    async def test_an_unreadable_epoch_is_none(self, redis: RedisTier, client: "Client") -> None:
        await client.set("gateway:epoch", b"\xff odd")
        assert await redis.epoch() is None
        assert (await redis.begin_epoch("h1")).heartbeat == "h1"


class TestBlacklist:
    async def test_nothing_is_revoked_and_nothing_vouches_for_it(self, redis: RedisTier) -> None:
        shared = await redis.read(claims(), ANN.id)
        assert (shared.revocations, shared.complete) == (Revocations(), False)

    async def test_one_round_trip(self, redis: RedisTier, client: "Client") -> None:
        await redis.read(claims(), ANN.id)
        before = (await client.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"]
        total = (await client.info("stats"))["total_commands_processed"]
        await redis.read(claims(), ANN.id)
        assert (await client.info("commandstats"))["cmdstat_mget"]["calls"] == before + 1
        # The MGET, and the two INFO commands of this test.
        assert (await client.info("stats"))["total_commands_processed"] == total + 3

    @pytest.mark.parametrize("value", ["", "1", "anything"])
    async def test_any_value_revokes_a_jti(self, redis: RedisTier, client: "Client", value: str) -> None:
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
        self, redis: RedisTier, client: "Client", value: str, instant: float
    ) -> None:
        await client.set("gateway:revoked:issuer:main", value)
        await client.set(f"gateway:revoked:user:{ANN.id}", value)
        assert (await redis.read(claims(), ANN.id)).revocations == Revocations(False, instant, instant)
        assert (await redis.read(claims(), None)).revocations == Revocations(False, None, instant)
        assert await redis.user_revoked_at(ANN.id) == instant
        assert await redis.user_revoked_at("other") is None

    @pytest.mark.parametrize("guess", [None, "other", ANN.id])
    async def test_the_revocation_of_the_cached_user_counts(
        self, redis: RedisTier, client: "Client", guess: str | None
    ) -> None:
        await redis.store_user(claims(), CachedUser(ANN, 1.0, ""), 60, horizon=1)
        await client.mset({f"gateway:revoked:user:{ANN.id}": "17", "gateway:revoked:user:other": "99"})
        shared = await redis.read(claims(), guess)
        assert (shared.user_id, shared.revocations.user_at) == (ANN.id, 17.0)

    @pytest.mark.parametrize(("guess", "instant"), [(None, None), ("other", 99.0)])
    async def test_without_a_cached_user_the_guess_counts(
        self, redis: RedisTier, client: "Client", guess: str | None, instant: float | None
    ) -> None:
        await redis.store_user(claims(), CachedUser(None, 1.0, ""), 60, horizon=1)
        await client.set("gateway:revoked:user:other", "99")
        for subject in ("ann", "bob"):
            shared = await redis.read(claims(subject), guess)
            assert (shared.user_id, shared.revocations.user_at) == (guess, instant)

    async def test_the_jti_is_not_taken_for_the_revocation_of_a_user(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await redis.store_user(claims(), CachedUser(ANN, 1.0, ""), 60, horizon=1)
        await client.set("gateway:revoked:jti:main:token-1", "1")
        for guess in (None, "other", ANN.id):
            shared = await redis.read(claims(jti="token-1"), guess)
            assert shared.revocations == Revocations(token=True)

    async def test_warns_once_of_a_value_that_is_no_time(self, redis: RedisTier, client: "Client") -> None:
        await client.set("gateway:revoked:issuer:main", "yes")
        with capture_logs() as logs:
            await redis.read(claims(), None)
            await redis.read(claims(), None)
        assert [entry["event"] for entry in logs] == ["revocation_is_no_unix_time"]


class TestFailures:
    async def test_refused_connection(self) -> None:
        redis = RedisTier("redis://ann:hunter2@127.0.0.1:1/0")
        with pytest.raises(StoreUnavailable) as caught:
            await redis.ping()
        assert caught.value.store is Tier.REDIS
        assert caught.value.detail.startswith("127.0.0.1:1: ")
        assert "hunter2" not in str(caught.value)
        await redis.close()

    async def test_a_silent_server_is_a_timeout(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            redis = RedisTier(f"redis://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
            async with asyncio.timeout(1):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await redis.read(claims(), None)
            await redis.close()

    async def test_refused_commands(self, redis: RedisTier, client: "Client") -> None:
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable, match="refuses the command"):
                await redis.store_user(claims(), CachedUser(ANN, 5.0, ""), 60, horizon=1)
        finally:
            await client.config_set("maxmemory", 0)

    async def test_kept_connections_that_were_cut_are_replaced_unnoticed(self, redis_url: str) -> None:
        async with Cable(redis_url) as cable:
            redis = RedisTier(cable.url, timeout=2.0)
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

    async def test_many_requests_share_few_connections(self, redis: RedisTier, client: "Client") -> None:
        await asyncio.gather(*(redis.read(claims(), None) for _ in range(1000)))
        assert len(await client.client_list()) <= 66

    def test_an_unreadable_url_is_not_repeated(self) -> None:
        with pytest.raises(ValueError, match=r"^the Redis URL cannot be read$") as caught:
            RedisTier("redis://ann:hunt/er2@db.example.com")
        assert caught.value.__cause__ is None
        assert "er2" not in str(caught.value)
