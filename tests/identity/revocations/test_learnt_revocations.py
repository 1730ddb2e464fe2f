"""The memory of revocations that exist in Redis only: with a real Redis, and a list for Postgres."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import structlog
from redis.asyncio import Redis as Client

from gateway.core.model import Claims, StoreUnavailable, Tier, User, UserStatus
from gateway.core.revocations import Learning, Learnt, Target
from gateway.identity.revocations.learnt_revocations import LearntRevocations
from gateway.stores.redis.blacklist import KeyState, RecordOutcome, RedisBlacklist
from gateway.stores.redis.ownership import ForeignRedis
from gateway.stores.redis.shared_tier import RedisTier
from gateway.telemetry.metrics import Metrics
from tests.issuer_keys.test_keyring import until

USER = User("0d6b9f0e-58cf-4e0e-9ad5-3a7f1a0d6f00", UserStatus.ACTIVE)
JTI: Target = ("jti", "main", "one")
RECORDS = "gateway:revocations:records"


def claims(jti: str | None = "one", issued_at: float = 1000.0, expires_at: float | None = None) -> Claims:
    return Claims("https://idp/", "main", "ann", (), expires_at, issued_at, jti, None, (), (), {})


class Ears:
    """Changes are heard of, and that is proven again and again."""

    def __init__(self) -> None:
        self._proofs = itertools.count()
        self.proves = True
        self._last = 0

    @property
    def proofs(self) -> int:
        if self.proves:
            self._last = next(self._proofs)
        return self._last


class Rows:
    """A Postgres that takes what it is told."""

    def __init__(self) -> None:
        self.learnt: list[Learnt] = []
        self.unlearnt: list[Target] = []
        self.full = False
        self.hangs = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        self.hearing: Ears | None = Ears()

    async def learn(self, revocations: Sequence[Learnt]) -> Learning | None:
        self.hangs.set()
        await self.answers.wait()
        self.learnt += revocations
        return None if self.full else Learning(len(revocations), (False,) * len(revocations))

    async def unlearn(self, targets: Sequence[Target]) -> int:
        self.hangs.set()
        await self.answers.wait()
        self.unlearnt += targets
        return len(targets)


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisTier]:
    redis = RedisTier(redis_url, timeout=5.0)
    await redis.revoked.fill([], await redis.revoked.begin_filling())
    yield redis
    await redis.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator["Client"]:
    async with Client.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def learnt_revocations(redis: RedisTier, rows: Rows) -> AsyncIterator[LearntRevocations]:
    learnt_revocations = started(redis.revoked, rows)
    yield learnt_revocations
    await learnt_revocations.close()


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def started(revoked: RedisBlacklist, rows: Rows) -> LearntRevocations:
    """Return what is to be started by the test, when it has done what comes before the first look."""
    return LearntRevocations(
        revoked, rows, {"main": "https://idp/"}, Metrics(), hearing=lambda: rows.hearing, pause=0.01
    )


@pytest.mark.parametrize("first", ["nothing", "era"])
@pytest.mark.parametrize("kind", ["jti", "user", "issuer"])
async def test_a_key_lost_before_its_examination_is_written(
    learnt_revocations: LearntRevocations,
    rows: Rows,
    redis: RedisTier,
    client: "Client",
    kind: str,
    first: str,
) -> None:
    era = b"" if first == "nothing" else (await redis.read(claims(), None)).era
    expires_at = time.time() + 500
    match kind:
        case "jti":
            learnt_revocations.told(claims(expires_at=expires_at), USER, "jti", era)
            wanted = Learnt(JTI, None, expires_at, "https://idp/", seen=False)
        case "user":
            learnt_revocations.told(claims(issued_at=5.0), USER, "user", era)
            learnt_revocations.told(claims(issued_at=7.0), USER, "user", era)
            learnt_revocations.told(claims(issued_at=6.0), USER, "user", era)
            wanted = Learnt(("user", "", USER.id), 7.0, None, seen=False)
        case _:
            learnt_revocations.told(claims(), USER, "issuer", era)
            wanted = Learnt(("issuer", "main", ""), 1000.0, None, "https://idp/", seen=False)
    await client.flushall()
    learnt_revocations.start()
    await until(lambda: rows.learnt == [wanted])
    assert learnt_revocations.against(claims(issued_at=1.0), USER) == kind
    # It is in Redis again, for the others.
    key = f"gateway:revoked:{kind}:" + {"jti": "main:one", "user": USER.id, "issuer": "main"}[kind]
    await eventually(lambda: client.exists(key))


async def test_a_key_deleted_in_a_known_era_is_not_written(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier
) -> None:
    era, _ = await redis.revoked.examine([("jti", "main", "other")])
    learnt_revocations.start()
    learnt_revocations.told(claims(), USER, "jti", era)
    await until(lambda: learnt_revocations.waiting == 0)
    assert learnt_revocations.against(claims(), USER) is None
    assert rows.learnt == []


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "incomplete"])
async def test_a_key_deleted_before_its_examination_is_not_written(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client", complete: bool
) -> None:
    """The era in which Redis said it came with what it said; the worker has never looked before."""
    await client.set("gateway:revoked:jti:main:one", "1")
    answer = await redis.read(claims(), None)
    assert answer.revocations.token
    assert answer.era
    learnt_revocations.told(claims(), USER, "jti", answer.era)
    assert learnt_revocations.against(claims(), USER) == "jti"
    await client.delete("gateway:revoked:jti:main:one")
    if not complete:
        await client.delete("gateway:revocations:loaded")
    learnt_revocations.start()
    await until(lambda: learnt_revocations.waiting == 0)
    assert learnt_revocations.against(claims(), USER) is None
    assert rows.learnt == []


async def test_a_key_deleted_after_redis_began_anew_is_not_written(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client"
) -> None:
    """What the worker knows of the era before that says nothing."""
    learnt_revocations.touched(("jti", "main", "other"))
    await learnt_revocations._look()
    await client.flushall()
    await redis.revoked.begin_filling()
    await client.set("gateway:revoked:jti:main:one", "1")
    learnt_revocations.told(claims(), USER, "jti", (await redis.read(claims(), None)).era)
    await client.delete("gateway:revoked:jti:main:one")
    learnt_revocations.start()
    await until(lambda: learnt_revocations.waiting == 0)
    assert learnt_revocations.against(claims(), USER) is None
    assert rows.learnt == []


async def test_a_revocation_that_no_row_can_hold_is_remembered(
    learnt_revocations: LearntRevocations, rows: Rows, client: "Client"
) -> None:
    long = claims("x" * 3000)
    await client.set(f"gateway:revoked:jti:main:{long.jti}", "1")
    learnt_revocations.told(long, USER, "jti", b"")
    assert learnt_revocations.against(long, USER) == "jti"
    assert learnt_revocations.against(claims("x" * 3001), USER) is None
    learnt_revocations.start()
    await until(lambda: learnt_revocations.waiting == 0)
    assert learnt_revocations.against(long, USER) == "jti"
    # Lost with Redis, it stays.
    await client.flushall()
    learnt_revocations.told(long, USER, None, b"")
    await until(lambda: learnt_revocations.waiting == 0)
    assert learnt_revocations.against(long, USER) == "jti"
    assert rows.learnt == []
    assert all(len(value) < 2001 for _, _, value in learnt_revocations._known._known.keys())  # noqa: SIM118 -- no dict


async def test_a_deletion_lifts_a_revocation_that_no_row_can_hold(
    learnt_revocations: LearntRevocations, redis: RedisTier, client: "Client"
) -> None:
    long = claims("x" * 3000)
    await client.set(f"gateway:revoked:jti:main:{long.jti}", "1")
    learnt_revocations.told(long, USER, "jti", b"")
    learnt_revocations.start()
    await until(lambda: learnt_revocations.waiting == 0)
    await client.delete(f"gateway:revoked:jti:main:{long.jti}")
    learnt_revocations.told(long, USER, None, b"")
    await until(lambda: learnt_revocations.against(long, USER) is None)


async def test_a_written_revocation_is_remembered_for_a_moment(
    learnt_revocations: LearntRevocations, rows: Rows, client: "Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request may have asked Postgres before the row was there, and is yet to ask this."""
    monkeypatch.setattr("gateway.identity.revocations.learnt_revocations._HANDOVER", 0.5)
    await client.set("gateway:revoked:jti:main:one", "1")
    learnt_revocations.told(claims(), USER, "jti", b"")
    learnt_revocations.start()
    await eventually(lambda: client.hexists(RECORDS, "gateway:revoked:jti:main:one"))
    assert learnt_revocations.against(claims(), USER) == "jti"
    await until(lambda: learnt_revocations.against(claims(), USER) is None)


class Deaf(RedisBlacklist):
    """A Redis that answers once, and then has an error for what is to be put on record."""

    error: StoreUnavailable | None = None
    asked = 0

    async def record(self, examined: Sequence[tuple[Target, KeyState]], era: bytes) -> list[RecordOutcome]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await super().record(examined, era)


@pytest.mark.parametrize("error", [StoreUnavailable, ForeignRedis])
async def test_postgres_is_written_once_while_redis_fails(
    redis: RedisTier,
    client: "Client",
    rows: Rows,
    error: type[StoreUnavailable],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.identity.revocations.backoff._RETRY", 0.2)
    deaf = Deaf(client, redis.ownership, redis.address, redis.keys)
    deaf.error = error(Tier.REDIS, "away")
    learnt_revocations = started(deaf, rows)
    await client.set("gateway:revoked:jti:main:one", "1")
    learnt_revocations.touched(JTI)
    learnt_revocations.start()
    if error is ForeignRedis:
        await until(lambda: deaf.asked == 1)
    else:
        await until(lambda: deaf.asked == 3)
        deaf.error = None
        await eventually(lambda: client.hexists(RECORDS, "gateway:revoked:jti:main:one"))
    await asyncio.sleep(0.3)
    assert len(rows.learnt) == 1
    assert learnt_revocations.against(claims(), USER) == "jti"
    await learnt_revocations.close()


async def test_a_full_table_is_reported_once(
    learnt_revocations: LearntRevocations, rows: Rows, client: "Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.identity.revocations.backoff._LONG_RETRY", 0.01)
    rows.full = True
    await client.set("gateway:revoked:jti:main:one", "1")
    with structlog.testing.capture_logs() as events:
        learnt_revocations.touched(JTI)
        learnt_revocations.start()
        await until(lambda: len(rows.learnt) > 3)
    assert [(event["event"], event["log_level"]) for event in events] == [
        ("revocations_not_learnt", "warning")
    ]
    assert learnt_revocations.against(claims(), USER) == "jti"


async def test_a_deleted_key_is_examined_while_postgres_hangs(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client"
) -> None:
    rows.answers.clear()
    await client.set("gateway:revoked:jti:main:one", "1")
    learnt_revocations.told(claims(), USER, "jti", (await redis.read(claims(), None)).era)
    learnt_revocations.start()
    await rows.hangs.wait()
    await client.delete("gateway:revoked:jti:main:one")
    learnt_revocations.told(claims(), USER, None, b"")
    await until(lambda: learnt_revocations.against(claims(), USER) is None)
    rows.answers.set()
    # What Postgres took all the same is deleted there.
    await until(lambda: rows.unlearnt == [JTI])


async def lost_before_it_was_seen(
    learnt_revocations: LearntRevocations, redis: RedisTier, client: "Client"
) -> None:
    """Let Redis refuse a token, and lose everything before the key is looked at."""
    await client.set("gateway:revoked:jti:main:one", "1")
    learnt_revocations.told(claims(), USER, "jti", (await redis.read(claims(), None)).era)
    await client.flushall()
    learnt_revocations.start()
    await until(lambda: learnt_revocations.waiting == 0)


async def test_a_row_that_was_lifted_before_its_key_was_lost_is_not_learnt(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client"
) -> None:
    """Redis said it when the row had been lifted, and the key was still there."""
    learnt_revocations.lifted(JTI)
    await lost_before_it_was_seen(learnt_revocations, redis, client)
    await until(lambda: learnt_revocations.against(claims(), USER) is None)
    assert rows.learnt == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_row_that_was_lifted_among_too_many_to_name_is_not_learnt(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client", when: str
) -> None:
    assert rows.hearing is not None
    rows.hearing.proves = False
    if when == "before":
        learnt_revocations.lifted_unnamed()
    await lost_before_it_was_seen(learnt_revocations, redis, client)
    if when == "after":
        learnt_revocations.lifted_unnamed()
    rows.hearing.proves = True
    await until(lambda: learnt_revocations.against(claims(), USER) is None)
    assert rows.learnt == []


async def test_a_lift_while_another_is_under_way_is_not_lost(
    learnt_revocations: LearntRevocations, rows: Rows
) -> None:
    rows.answers.clear()
    learnt_revocations._lift(JTI)
    learnt_revocations.start()
    await rows.hangs.wait()
    learnt_revocations._lift(JTI)
    rows.answers.set()
    await until(lambda: rows.unlearnt == [JTI, JTI])


async def test_a_row_that_may_have_been_lifted_unheard_is_not_learnt(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client"
) -> None:
    rows.hearing = None
    await lost_before_it_was_seen(learnt_revocations, redis, client)
    await until(lambda: learnt_revocations.against(claims(), USER) is None)
    assert rows.learnt == []


async def test_a_key_without_proofs_waits(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client"
) -> None:
    assert rows.hearing is not None
    rows.hearing.proves = False
    await lost_before_it_was_seen(learnt_revocations, redis, client)
    await asyncio.sleep(0.1)
    assert rows.learnt == []
    # Until then the token is refused.
    assert learnt_revocations.against(claims(), USER) == "jti"
    rows.hearing.proves = True
    await until(lambda: [row.target for row in rows.learnt] == [JTI])


@pytest.mark.parametrize("again", [True, False])
async def test_a_break_of_hearing_leaves_it_unproven(
    learnt_revocations: LearntRevocations, rows: Rows, redis: RedisTier, client: "Client", again: bool
) -> None:
    assert rows.hearing is not None
    rows.hearing.proves = False
    await lost_before_it_was_seen(learnt_revocations, redis, client)
    rows.hearing = Ears() if again else None
    await until(lambda: learnt_revocations.against(claims(), USER) is None)
    assert rows.learnt == []
