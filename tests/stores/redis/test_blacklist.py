import asyncio
import math
import time
from dataclasses import replace

import pytest
from redis.asyncio import Redis as Client

from gateway.core.model import StoreUnavailable, User, UserStatus
from gateway.core.revocations import Revocation, Revoked, Target, strongest
from gateway.stores.redis.shared_tier import RedisTier
from tests.stores.examples import claims

ANN = User(id="0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01", status=UserStatus.ACTIVE)
TOKEN = Revocation("jti", "main", "token-1", 5.0)
TOKEN_KEY = "gateway:revoked:jti:main:token-1"
ISSUER = Revocation("issuer", "main", "", 20.0)
ISSUER_KEY = "gateway:revoked:issuer:main"
IN_2100 = 4_102_444_800.0
RECORDS = "gateway:revocations:records"


async def fill(redis: RedisTier, *rows: Revocation) -> None:
    await redis.revoked.fill(rows, await redis.revoked.begin_filling())


async def test_keys_and_times_to_live(redis: RedisTier, client: "Client") -> None:
    soon = time.time() + 100
    await redis.revoked.revoke(
        [
            Revocation("jti", "main", "t", 5.0, soon),
            Revocation("jti", "main", "for-ever", 5.0),
            Revocation("jti", "main", "over", 5.0, 6.0),
            Revocation("user", "", ANN.id, 5.25),
            Revocation("issuer", "main", "", 7.0, math.inf),
        ]
    )
    assert sorted(await client.keys("gateway:revoked:*")) == [
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
async def test_a_key_that_another_program_set_is_only_extended(
    redis: RedisTier,
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
    await redis.revoked.revoke([Revocation("issuer", "main", "", given, expires_at)])
    assert await client.get(key) == value
    left = await client.ttl(key)
    assert left == -1 if ttl is None else ttl - 2 <= left <= ttl


async def test_an_unchanged_entry_is_not_written_again(redis: RedisTier, client: "Client") -> None:
    rows = [Revocation("jti", "main", "t", 5.0), Revocation("user", "", "u", 5.0, time.time() + 60)]
    await redis.revoked.revoke(rows)
    before = (await client.info("commandstats"))["cmdstat_set"]["calls"]
    await redis.revoked.revoke(rows)
    assert (await client.info("commandstats"))["cmdstat_set"]["calls"] == before


async def test_a_key_of_another_type_does_not_count_and_is_replaced(
    redis: RedisTier, client: "Client"
) -> None:
    await client.hset("gateway:revoked:jti:main:token-1", "why", "lost")
    assert (await redis.read(claims(), None)).revocations.token is False
    await redis.revoked.revoke([Revocation("jti", "main", "token-1", 5.0)])
    assert (await redis.read(claims(), None)).revocations.token is True


async def test_a_lifted_revocation_is_off_the_list_and_can_be_set_again(
    redis: RedisTier, client: "Client"
) -> None:
    rows = [Revocation("jti", "main", "token-1", 5.0), Revocation("issuer", "main", "", 6.0)]
    await redis.revoked.revoke(rows)
    assert await redis.revoked.lift(rows[:1]) == 1
    assert await redis.revoked.lift(rows[:1]) == 0
    assert await client.keys("gateway:revoked:*") == [b"gateway:revoked:issuer:main"]
    await redis.revoked.revoke(rows[:1])
    assert (await redis.read(claims(), None)).revocations.token is True


async def test_a_mirrored_blacklist_is_complete(redis: RedisTier, client: "Client") -> None:
    rows = [Revocation("jti", "main", f"token-{n}", 5.0) for n in range(1201)]
    await redis.revoked.fill(rows, await redis.revoked.begin_filling())
    shared = await redis.read(claims(jti="token-1200"), None)
    assert (shared.revocations.token, shared.complete) == (True, True)
    assert await client.ttl("gateway:revocations:loaded") == -1
    assert len(await client.keys("gateway:revoked:*")) == 1201
    await client.flushdb()
    assert (await redis.read(claims(), None)).complete is False


async def test_a_revocation_lifted_during_a_filling_is_not_put_back(redis: RedisTier) -> None:
    filling = await redis.revoked.begin_filling()
    rows = [Revocation("jti", "main", "token-1", 5.0)]
    await redis.revoked.lift(rows)
    with pytest.raises(StoreUnavailable, match="lifted"):
        await redis.revoked.fill(rows, filling)
    shared = await redis.read(claims(), None)
    assert (shared.revocations.token, shared.complete) == (False, False)


async def test_a_key_that_another_program_deletes_during_a_filling_is_not_put_back(
    redis: RedisTier, client: "Client"
) -> None:
    rows = [Revocation("jti", "main", "token-1", 5.0)]
    await redis.revoked.fill(rows, await redis.revoked.begin_filling())
    filling = await redis.revoked.begin_filling()
    await client.delete("gateway:revoked:jti:main:token-1")
    _, (found,) = await redis.revoked.examine([rows[0].target])
    assert found.deleted
    with pytest.raises(StoreUnavailable, match="lifted"):
        await redis.revoked.fill(rows, filling)
    # The next one finds no row.
    await redis.revoked.fill([], await redis.revoked.begin_filling())
    assert not await client.exists("gateway:revoked:jti:main:token-1")


async def test_emptied_while_it_was_filled_it_is_not_complete(redis: RedisTier, client: "Client") -> None:
    filling = await redis.revoked.begin_filling()
    await client.flushdb()
    with pytest.raises(StoreUnavailable, match="emptied"):
        await redis.revoked.fill([TOKEN], filling)
    assert (await redis.read(claims(), None)).complete is False


async def test_taken_over_by_another_server_while_it_was_filled_it_is_not_complete(
    redis: RedisTier, client: "Client"
) -> None:
    """What had been filled until then may be lost."""
    filling = await redis.revoked.begin_filling()
    await client.set(filling.loading, b"0" * 40)
    with pytest.raises(StoreUnavailable, match="replaced"):
        await redis.revoked.fill([TOKEN], filling)
    assert (await redis.read(claims(), None)).complete is False


async def test_a_filling_of_an_emptied_redis_keeps_later_entries(redis: RedisTier, client: "Client") -> None:
    for _ in range(3):
        await fill(redis)
    late = await redis.revoked.begin_filling()
    await client.flushdb()
    await fill(redis, TOKEN)
    with pytest.raises(StoreUnavailable, match="emptied"):
        await redis.revoked.fill([], late)
    assert await client.exists(TOKEN_KEY)


async def test_emptied_while_it_was_filled_it_gets_no_key_that_would_stay(
    redis: RedisTier, client: "Client"
) -> None:
    for _ in range(3):
        await fill(redis)
    late = await redis.revoked.begin_filling()
    await client.flushdb()
    with pytest.raises(StoreUnavailable, match="emptied"):
        await redis.revoked.fill([TOKEN], late)
    await fill(redis)
    assert not await client.exists(TOKEN_KEY)


async def test_a_count_of_fillings_that_was_lost_begins_anew(redis: RedisTier, client: "Client") -> None:
    for _ in range(3):
        await fill(redis)
    await client.delete("gateway:revocations:fillings")
    assert await redis.revoked.fill([TOKEN], await redis.revoked.begin_filling())
    assert await client.exists(TOKEN_KEY)


class TestRowsThatAreGone:
    """No worker received their deletion."""

    @pytest.mark.parametrize("row", [TOKEN, ISSUER, Revocation("user", "", ANN.id, 7.0, IN_2100)])
    @pytest.mark.parametrize("heard", [False, True])
    async def test_the_next_filling_takes_them_off(
        self, redis: RedisTier, client: "Client", row: Revocation, heard: bool
    ) -> None:
        if heard:
            await redis.revoked.apply([Revoked(row, lifted=False, version=1, order=1)])
        else:
            await fill(redis, row)
        assert len(await client.keys("gateway:revoked:*")) == 1
        await fill(redis)
        assert await client.keys("gateway:revoked:*") == []
        assert not await client.exists(RECORDS)

    async def test_however_many(self, redis: RedisTier, client: "Client") -> None:
        rows = [Revocation("jti", "main", f"token-{n}", 5.0) for n in range(1201)]
        await fill(redis, *rows)
        await fill(redis, *rows[:1])
        assert await client.keys("gateway:revoked:*") == [b"gateway:revoked:jti:main:token-0"]
        assert await client.hlen(RECORDS) == 1

    async def test_nor_is_a_record_kept_that_cannot_be_read(self, redis: RedisTier, client: "Client") -> None:
        await client.hset(RECORDS, TOKEN_KEY, "odd")
        await fill(redis)
        assert not await client.exists(RECORDS)
        assert (await redis.read(claims(), None)).complete

    async def test_a_key_that_another_program_set_stays(self, redis: RedisTier, client: "Client") -> None:
        await client.set(TOKEN_KEY, "theirs", ex=600)
        await fill(redis)
        assert await client.get(TOKEN_KEY) == b"theirs"

    async def test_a_key_that_another_program_set_in_place_of_a_row_stays(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await fill(redis, TOKEN)
        await client.set(TOKEN_KEY, "theirs", ex=600)
        await fill(redis)
        assert await client.get(TOKEN_KEY) == b"theirs"
        assert not await client.exists(RECORDS)

    async def test_a_key_that_another_program_extended_outlives_its_row(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await client.set(ISSUER_KEY, "10", ex=600)
        await fill(redis, Revocation("issuer", "main", "", 20.0, time.time() + 0.2))
        await asyncio.sleep(0.3)
        await fill(redis)
        assert await client.get(ISSUER_KEY) == b"20.0"
        assert await client.ttl(ISSUER_KEY) > 500

    async def test_a_filling_that_read_earlier_keeps_the_rows_of_a_later_one(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await fill(redis, TOKEN)
        early, late = [await redis.revoked.begin_filling() for _ in range(2)]
        # The later one asked Postgres before the row came back, the earlier one after.
        await redis.revoked.fill([TOKEN], early)
        await redis.revoked.fill([], late)
        assert await client.exists(TOKEN_KEY)

    async def test_a_change_during_a_fill_stays(self, redis: RedisTier, client: "Client") -> None:
        await fill(redis, TOKEN)
        filling = await redis.revoked.begin_filling()
        await redis.revoked.apply([Revoked(TOKEN, lifted=False, version=1, order=1)])
        await redis.revoked.fill([], filling)
        assert await client.exists(TOKEN_KEY)

    async def test_rows_that_were_weakened_without_a_notification(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await fill(redis, ISSUER)
        await fill(redis, Revocation("issuer", "main", "", 10.0, time.time() + 600))
        assert await client.get(ISSUER_KEY) == b"10.0"
        assert 590 <= await client.ttl(ISSUER_KEY) <= 600
        await fill(redis)
        assert not await client.exists(ISSUER_KEY)

    async def test_rows_that_were_weakened_with_a_notification(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        weaker = Revocation("issuer", "main", "", 10.0)
        await redis.revoked.apply([Revoked(ISSUER, lifted=False, version=1, order=1)])
        await redis.revoked.apply([Revoked(weaker, lifted=False, version=2, order=2)])
        # Another row, with the other spelling of its issuer, may say what is there.
        assert await client.get(ISSUER_KEY) == b"20.0"
        await fill(redis, weaker)
        assert await client.get(ISSUER_KEY) == b"10.0"

    async def test_a_lifting_is_remembered_for_a_while_only(
        self, redis: RedisTier, client: "Client", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.stores.redis.blacklist._LIFTED_TIME", 0.05)
        await redis.revoked.apply([Revoked(TOKEN, lifted=True, version=1, order=1)])
        assert await client.hlen(RECORDS) == 1
        await asyncio.sleep(0.1)
        await fill(redis)
        assert not await client.exists(RECORDS)


class TestWhoIsLate:
    """Every worker makes every change, and some are slow."""

    async def test_a_lifting_undoes_no_later_revocation(self, redis: RedisTier, client: "Client") -> None:
        lifting = Revoked(TOKEN, lifted=True, version=9, order=4)
        await redis.revoked.apply([lifting])
        await redis.revoked.apply([Revoked(TOKEN, lifted=False, version=8, order=5)])
        await redis.revoked.apply([lifting])
        assert await client.exists(TOKEN_KEY)

    async def test_a_revocation_comes_not_back_once_it_was_lifted(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        revocation = Revoked(TOKEN, lifted=False, version=9, order=4)
        await redis.revoked.apply([revocation])
        await redis.revoked.apply([Revoked(TOKEN, lifted=True, version=8, order=5)])
        await redis.revoked.apply([revocation])
        assert not await client.exists(TOKEN_KEY)

    async def test_nor_after_fillings(self, redis: RedisTier, client: "Client") -> None:
        revocation = Revoked(TOKEN, lifted=False, version=9, order=4)
        await redis.revoked.apply([revocation])
        await redis.revoked.apply([Revoked(TOKEN, lifted=True, version=8, order=5)])
        await fill(redis)
        await redis.revoked.apply([revocation])
        assert not await client.exists(TOKEN_KEY)

    async def test_a_filling_brings_nothing_back_that_a_later_one_took_off(
        self, redis: RedisTier, client: "Client"
    ) -> None:
        await fill(redis, TOKEN)
        late = await redis.revoked.begin_filling()
        # Its row is read for the late one, and deleted unheard.
        await fill(redis)
        assert not await redis.revoked.fill([TOKEN], late)
        assert not await client.exists(TOKEN_KEY)

    async def test_a_filling_keeps_the_order(self, redis: RedisTier, client: "Client") -> None:
        lifting = Revoked(TOKEN, lifted=True, version=9, order=4)
        await redis.revoked.apply([Revoked(TOKEN, lifted=False, version=8, order=5)])
        await fill(redis, TOKEN)
        await redis.revoked.apply([lifting])
        assert await client.exists(TOKEN_KEY)

    async def test_a_full_redis_lifts_and_then_revokes(self, redis: RedisTier, client: "Client") -> None:
        await redis.revoked.revoke([TOKEN])
        await client.config_set("maxmemory", 1)
        try:
            changes = [
                Revoked(ISSUER, lifted=False, version=1, order=1),
                Revoked(TOKEN, lifted=True, version=1, order=1),
            ]
            await redis.revoked.apply(changes)
        finally:
            await client.config_set("maxmemory", 0)
        assert await client.keys("gateway:revoked:*") == [ISSUER_KEY.encode()]


class TestLearntRows:
    """Rows that gateways learnt from keys of another program."""

    ROW = replace(TOKEN, learnt=True)

    @pytest.mark.parametrize("seen", [False, True])
    async def test_a_fill_restores_no_key_that_was_deleted(
        self, redis: RedisTier, client: "Client", seen: bool
    ) -> None:
        """The row goes when a worker has looked at the key. A fill must not undo the deletion before."""
        reported: list[Target] = []
        redis.revoked.on_deleted = reported.append
        await fill(redis, self.ROW)
        assert await client.exists(TOKEN_KEY)
        assert reported == []
        await client.delete(TOKEN_KEY)
        if seen:
            assert await self.deleted(redis)
        for _ in range(2):
            await fill(redis, self.ROW)
            assert not await client.exists(TOKEN_KEY)
        if not seen:
            # Each fill reports it, until somebody looks.
            assert reported == [TOKEN.target] * 2
            assert await self.deleted(redis)
        # Another program may set the key again.
        await client.set(TOKEN_KEY, "5.0")
        await fill(redis)
        assert await client.exists(TOKEN_KEY)

    async def test_a_fill_restores_lost_entries(self, redis: RedisTier, client: "Client") -> None:
        await fill(redis, self.ROW)
        await client.flushall()
        await fill(redis, self.ROW)
        assert await client.exists(TOKEN_KEY)

    async def test_a_row_of_an_operator_is_restored(self, redis: RedisTier, client: "Client") -> None:
        await fill(redis, self.ROW)
        await client.delete(TOKEN_KEY)
        await fill(redis, *strongest([self.ROW, TOKEN]))
        assert await client.exists(TOKEN_KEY)

    @staticmethod
    async def deleted(redis: RedisTier) -> bool:
        _, (found,) = await redis.revoked.examine([TOKEN.target])
        return found.deleted


async def test_one_of_all_processes_has_its_turn(redis: RedisTier) -> None:
    assert await redis.revoked.take_turn(0.2)
    assert not await redis.revoked.take_turn(0.2)
    await asyncio.sleep(0.25)
    assert await redis.revoked.take_turn(60)
    assert not await redis.revoked.take_turn(60)
