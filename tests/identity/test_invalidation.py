"""The handling of received changes, and when memory is trusted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import count

import pytest
from structlog.testing import capture_logs

from gateway.core.model import StoreUnavailable, Tier, User, UserStatus
from gateway.core.revocations import Revocation, Revocations, Revoked, Target
from gateway.identity.invalidation import Invalidation
from gateway.identity.local_cache import LocalCache
from gateway.identity.revocations.remembered_revocations import Hearing
from gateway.stores.postgres.change_stream.listener import Changed, Everything
from gateway.stores.redis.answers import Epoch
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.user_documents import CachedUser
from tests.fakes import FakeBlacklist, FakeSharedTier, RecordingInvalidations
from tests.stores.examples import ISS, claims, eventually

ANN = User("ann-id", UserStatus.ACTIVE)
# Two names for one `iss`, as where two sets of audiences are told apart.
ISSUERS = {"main": ISS, "main-too": ISS, "other": "https://other.example.com/"}


class Worker:
    """One worker's invalidation, whose streams a test plays."""

    def __init__(self, shared: FakeSharedTier) -> None:
        self.shared = shared
        self.blacklist = FakeBlacklist(shared)
        self.local = LocalCache(ttl=30, max_users=100, max_tokens=100, clock=lambda: 0.0)
        self.observer = RecordingInvalidations()
        self.invalidation = Invalidation(
            self.local, shared, self.blacklist, ISSUERS, keys=Keys("gateway:"), observer=self.observer
        )
        self.told = 0
        self._beats = count(1)

    def tell(self) -> None:
        self.told += 1

    def trusted(self) -> bool:
        return self.invalidation.trusted

    async def beat(self) -> str:
        """Have a heartbeat of this worker's come back, and what follows from it done."""
        heartbeat = f"{id(self)}-{next(self._beats)}"
        self.invalidation.heard(heartbeat, own=True)
        await settled()
        return heartbeat

    async def trust(self) -> None:
        self.invalidation.listening()
        self.invalidation.touched_keys.tracking()
        await self.beat()
        assert self.invalidation.trusted

    def fill(self) -> None:
        self.local.fill(self.local.ticket(), claims(), ANN, 0.0, Revocations(), 30)
        assert self.knows()

    def knows(self) -> bool:
        return self.local.recall(claims()) is not None


async def settled() -> None:
    """Let everything that needs no more than the event loop run to its end."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def shared() -> FakeSharedTier:
    return FakeSharedTier()


@pytest.fixture
async def worker(shared: FakeSharedTier) -> AsyncIterator[Worker]:
    worker = Worker(shared)
    worker.invalidation.start()
    yield worker
    await worker.invalidation.close()


@pytest.fixture
async def other(shared: FakeSharedTier) -> AsyncIterator[Worker]:
    worker = Worker(shared)
    worker.invalidation.start()
    yield worker
    await worker.invalidation.close()


class TestTrust:
    async def test_memory_is_trusted_with_both_streams_and_an_epoch(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        worker.invalidation.listening()
        worker.invalidation.touched_keys.tracking()
        assert not worker.trusted()
        heartbeat = await worker.beat()
        assert worker.trusted()
        assert shared.current == Epoch("epoch-1", heartbeat)

    async def test_not_without_tracking(self, worker: Worker) -> None:
        worker.invalidation.listening()
        await worker.beat()
        assert not worker.trusted()
        worker.invalidation.touched_keys.tracking()
        assert worker.trusted()

    async def test_not_without_listening(self, worker: Worker) -> None:
        worker.invalidation.touched_keys.tracking()
        await worker.beat()
        assert not worker.trusted()

    @pytest.mark.parametrize("stream", ["postgres", "redis"])
    async def test_a_stream_that_is_lost_ends_it_at_once(self, worker: Worker, stream: str) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.subscribe(worker.tell)
        with capture_logs() as logs:
            (worker.invalidation if stream == "postgres" else worker.invalidation.touched_keys).lost("cut")
        assert not worker.trusted()
        assert not worker.knows()
        assert worker.told == 1
        assert {"event": "invalidation_stream_down", "stream": stream, "error": "cut"}.items() <= logs[
            0
        ].items()

    async def test_a_stream_that_is_back_brings_it_back_empty(self, worker: Worker) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.touched_keys.lost("cut")
        worker.invalidation.subscribe(worker.tell)
        worker.invalidation.touched_keys.tracking()
        assert worker.trusted()
        assert not worker.knows()
        assert worker.told == 1

    async def test_a_worker_that_listens_again_must_join_again(self, worker: Worker) -> None:
        await worker.trust()
        worker.invalidation.lost("cut")
        worker.invalidation.listening()
        assert not worker.trusted()
        # What last kept the epoch was not heard since.
        await worker.beat()
        assert not worker.trusted()

    async def test_closing_ends_it(self, worker: Worker) -> None:
        await worker.trust()
        await worker.invalidation.close()
        assert not worker.trusted()


class TestEpoch:
    async def test_it_is_kept_with_each_heartbeat(self, worker: Worker, shared: FakeSharedTier) -> None:
        await worker.trust()
        for _ in range(3):
            heartbeat = await worker.beat()
            assert shared.current == Epoch("epoch-1", heartbeat)

    async def test_a_heartbeat_of_others_does_not_keep_it(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        before = shared.current
        worker.invalidation.heard("another's", own=False)
        await settled()
        assert shared.current == before

    async def test_a_worker_that_received_its_last_heartbeat_joins_it(
        self, worker: Worker, other: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        other.invalidation.listening()
        other.invalidation.touched_keys.tracking()
        await other.beat()
        assert not other.trusted()
        other.invalidation.heard(await worker.beat(), own=False)
        await other.beat()
        assert other.trusted()
        heartbeat = await other.beat()
        assert shared.current == Epoch("epoch-1", heartbeat)

    async def test_an_epoch_that_lapsed_is_followed_by_another(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        worker.fill()
        shared.lapse()
        heartbeat = await worker.beat()
        assert shared.current == Epoch("epoch-2", heartbeat)
        assert worker.trusted()
        assert not worker.knows()

    async def test_an_epoch_of_others_that_is_not_ours_is_not_kept(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        shared.current = stranger = Epoch("stranger", "unheard")
        await worker.beat()
        assert shared.current == stranger
        assert not worker.trusted()

    async def test_none_begins_before_the_blacklist_was_filled(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        def unavailable() -> list[Revocation]:
            raise StoreUnavailable(Tier.POSTGRES, "pulled")

        worker.blacklist.rows = unavailable
        worker.invalidation.listening()
        await worker.beat()
        assert shared.current is None
        worker.blacklist.rows = lambda: [Revocation("jti", "main", "token-1", 5.0)]
        await worker.beat()
        assert shared.revoked == {"jti:main:token-1": 5.0}
        await worker.beat()
        assert worker.blacklist.loads == 1

    async def test_it_is_not_kept_while_changes_wait(self, worker: Worker, shared: FakeSharedTier) -> None:
        await worker.trust()
        before = shared.current
        bury = shared.bury

        async def fail(*_: object) -> None:
            raise StoreUnavailable(Tier.REDIS, "no answer in time")

        shared.bury = fail  # type: ignore[method-assign, assignment]  # Redis that answers some commands only
        worker.invalidation.changed(Changed(((ISS, "ann"),), (), 7))
        await worker.beat()
        assert shared.current == before
        shared.bury = bury  # type: ignore[method-assign]

        async def caught_up() -> bool:
            return shared.current != before

        await eventually(caught_up)
        assert shared.tombstones == {("main", "ann"): 7, ("main-too", "ann"): 7}

    async def test_a_heartbeat_from_before_a_break_keeps_nothing(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        before = shared.current
        worker.invalidation.heard("late", own=True)
        worker.invalidation.lost("cut")
        worker.invalidation.listening()
        await settled()
        assert shared.current == before
        assert not worker.trusted()

    async def test_redis_is_asked_again_after_an_outage(self, worker: Worker, shared: FakeSharedTier) -> None:
        worker.invalidation.listening()
        worker.invalidation.touched_keys.tracking()
        shared.down = True
        await worker.beat()
        shared.down = False

        async def trusted() -> bool:
            await worker.beat()
            return worker.trusted()

        await eventually(trusted)


class TestChanges:
    async def test_an_identity_is_dropped_at_once_and_buried(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        worker.fill()
        shared.documents["main", "ann"] = CachedUser(ANN, 0.0, "epoch-1")
        worker.invalidation.changed(Changed(((ISS, "ann"),), (ANN.id,), 7))
        assert not worker.knows()
        await settled()
        assert shared.documents == {}
        assert shared.tombstones == {("main", "ann"): 7, ("main-too", "ann"): 7}
        assert worker.observer.sources == ["postgres"]

    async def test_a_user_is_dropped_by_the_id_alone(self, worker: Worker) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.changed(Changed((), (ANN.id,), 7))
        assert not worker.knows()

    async def test_an_issuer_that_is_not_configured_concerns_no_user(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        worker.invalidation.changed(Changed((("https://elsewhere.example.com/", "ann"),), (), 7))
        await settled()
        assert shared.tombstones == {}

    async def test_changes_that_wait_are_put_together(self, worker: Worker, shared: FakeSharedTier) -> None:
        await worker.trust()
        buried = []
        bury = shared.bury

        async def record(identities: list[tuple[str, str]], version: int) -> None:
            buried.append((identities, version))
            await bury(identities, version)

        shared.bury = record  # type: ignore[method-assign, assignment]  # counts the calls
        other = ISSUERS["other"]
        for version, subject in enumerate(["ann", "bob", "ann"], start=5):
            worker.invalidation.changed(Changed(((other, subject),), (), version))
        await settled()
        assert buried == [([("other", "ann"), ("other", "bob")], 7)]

    @pytest.mark.parametrize(
        "revocation",
        [
            Revocation("jti", ISS, "token-1", 2000.0),
            Revocation("jti", "main", "token-1", 2000.0),
            Revocation("user", "", ANN.id, 2000.0),
            Revocation("issuer", "main", "", 2000.0),
        ],
        ids=lambda revocation: f"{revocation.kind}-{revocation.issuer}",
    )
    async def test_a_revocation_is_honoured_and_carried_to_redis(
        self, worker: Worker, shared: FakeSharedTier, revocation: Revocation
    ) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.changed(Revoked(revocation, lifted=False, version=7))
        assert not worker.knows()
        await settled()
        kind = {"jti": "jti:main:token-1", "user": f"user:{ANN.id}", "issuer": "issuer:main"}[revocation.kind]
        assert shared.revoked[kind] == 2000.0
        worker.invalidation.changed(Revoked(revocation, lifted=True, version=8))
        await settled()
        assert shared.revoked == {}

    async def test_a_revocation_is_carried_though_redis_buries_no_user(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        async def refuse(*_: object) -> None:
            raise StoreUnavailable(Tier.REDIS, "MISCONF")

        await worker.trust()
        shared.bury = refuse  # type: ignore[method-assign, assignment]  # a Redis that writes nothing
        worker.invalidation.changed(Changed(((ISS, "ann"),), (), 6))
        worker.invalidation.changed(Revoked(Revocation("jti", "main", "t", 5.0), lifted=False, version=7))
        await settled()
        assert shared.revoked == {"jti:main:t": 5.0}

    async def test_rows_with_the_two_spellings_of_an_issuer_are_in_no_order(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An insert of one does not wait for a delete of the other, and may get the lower number."""
        orders: dict[str, int] = {}

        async def note(changes: Sequence[Revoked]) -> None:
            orders.update({change.revocation.value: change.order for change in changes})

        monkeypatch.setattr(worker.blacklist, "apply", note)
        await worker.trust()
        for number, issuer in enumerate(["main", ISS], start=5):
            row = Revocation("jti", issuer, f"of {issuer}", 5.0)
            worker.invalidation.changed(Revoked(row, lifted=False, version=1, order=number))
        await settled()
        assert orders == {"of main": 5, f"of {ISS}": 0}

    async def test_of_several_changes_to_one_revocation_the_last_counts(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        row = Revocation("jti", "main", "token-1", 5.0)
        for version, lifted in enumerate([False, True, False, True]):
            worker.invalidation.changed(Revoked(row, lifted=lifted, version=version))
        await settled()
        assert shared.revoked == {}

    async def test_too_much_to_be_named_ends_the_epoch(
        self, worker: Worker, other: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        worker.fill()
        shared.documents["main", "ann"] = CachedUser(ANN, 0.0, "epoch-1")
        worker.blacklist.rows = lambda: [Revocation("jti", "main", "token-1", 5.0)]
        worker.invalidation.changed(Everything(7))
        assert not worker.knows()
        assert worker.local.last_known(claims()) is None
        # Until all have been copied, what Redis says of revocations is not all there is to say.
        assert worker.blacklist.doubts == 1
        await settled()
        assert shared.current is not None
        assert (shared.current.name, shared.ended) == ("epoch-2", 7)
        assert worker.trusted()
        assert worker.blacklist.trusted
        assert shared.revoked == {"jti:main:token-1": 5.0}
        # The next worker that hears of it finds it done.
        other.invalidation.changed(Everything(7))
        await settled()
        assert shared.current.name == "epoch-2"

    async def test_the_end_of_an_epoch_covers_the_changes_that_wait(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        """Or a replica that lags behind the later transaction fills the next epoch with what it changed."""
        await worker.trust()
        worker.invalidation.changed(Changed(((ISS, "ann"),), (), 9))
        worker.invalidation.changed(Everything(7))
        await settled()
        assert shared.ended == 9

    async def test_an_unreadable_change_lets_the_epoch_lapse(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        kept = shared.current
        worker.invalidation.changed(Everything(-5))
        for _ in range(3):
            await worker.beat()
            assert not worker.trusted()
        assert shared.current == kept
        shared.lapse()
        await worker.beat()
        assert worker.trusted()
        assert shared.current is not None
        assert shared.current.name == "epoch-2"

    async def test_a_read_from_before_the_end_of_the_epoch_fills_nothing(self, worker: Worker) -> None:
        await worker.trust()
        worker.invalidation.changed(Everything(7))
        ticket = worker.local.ticket()
        await settled()
        assert worker.trusted()
        worker.local.fill(ticket, claims(), ANN, 0.0, Revocations(), 30)
        assert not worker.knows()

    async def test_changes_beyond_number_that_wait_for_redis_are_given_up_as_everything(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        await worker.trust()
        shared.down = True
        for number in range(101):
            identities = tuple((ISS, f"{number}-{n}") for n in range(100))
            worker.invalidation.changed(Changed(identities, (), number))
            assert len(worker.invalidation._pending.identities) <= 10_000
        shared.down = False

        async def ended() -> bool:
            return shared.ended == 50

        await eventually(ended)

    async def test_a_filling_that_began_before_a_break_does_not_mend_it(
        self, worker: Worker, shared: FakeSharedTier
    ) -> None:
        may_go_on = asyncio.Event()
        load = worker.blacklist.load

        async def slow() -> None:
            await may_go_on.wait()
            await load()

        worker.blacklist.load = slow  # type: ignore[method-assign]  # takes its time
        worker.invalidation.listening()
        await worker.beat()
        worker.invalidation.lost("cut")
        worker.invalidation.listening()
        may_go_on.set()
        await settled()
        assert shared.current is None
        await worker.beat()
        assert worker.blacklist.loads == 2
        assert shared.current is not None


class TestKeys:
    @pytest.mark.parametrize(
        ("key", "dropped"),
        [
            ("tombstone:main:ann", True),
            ("tombstone:main-too:ann", True),
            ("tombstone:main:bob", False),
            ("tombstone:unknown:ann", False),
            ("revoked:jti:main:token-1", True),
            ("revoked:jti:main:token-2", False),
            (f"revoked:user:{ANN.id}", True),
            ("revoked:issuer:main", True),
            ("revoked:issuer:other", False),
            ("revoked:odd", False),
            ("odd", False),
        ],
    )
    async def test_a_touched_key_drops_the_entries_that_it_is_about(
        self, worker: Worker, key: str, dropped: bool
    ) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.touched_keys.touched([f"gateway:{key}"])
        assert worker.knows() is not dropped
        assert worker.observer.sources == ["redis"]

    async def test_names_with_colons_are_whole(self, worker: Worker) -> None:
        await worker.trust()
        token = claims("urn:user:7", jti="a:b")
        for key in ("tombstone:main:urn:user:7", "revoked:jti:main:a:b"):
            worker.local.fill(worker.local.ticket(), token, ANN, 0.0, Revocations(), 30)
            assert worker.local.recall(token) is not None
            worker.invalidation.touched_keys.touched([f"gateway:{key}"])
            assert worker.local.recall(token) is None

    async def test_redis_that_was_emptied_drops_everything(self, worker: Worker) -> None:
        await worker.trust()
        worker.fill()
        worker.invalidation.touched_keys.touched(None)
        assert not worker.knows()
        assert worker.trusted()


class TestSubscribers:
    async def test_listeners_are_called_after_each_change_until_they_leave(self, worker: Worker) -> None:
        await worker.trust()
        leave = worker.invalidation.subscribe(worker.tell)
        worker.invalidation.changed(Changed((), (ANN.id,), 7))
        assert worker.told == 1
        worker.invalidation.touched_keys.touched(["gateway:revoked:jti:main:token-1"])
        assert worker.told == 2
        leave()
        worker.invalidation.changed(Changed((), (ANN.id,), 8))
        assert worker.told == 2


async def test_a_defect_is_logged_and_waiting_changes_are_tried_again(
    worker: Worker, shared: FakeSharedTier
) -> None:
    await worker.trust()
    bury = shared.bury
    failures: list[int] = []

    async def broken(identities: list[tuple[str, str]], version: int) -> None:
        if not failures:
            failures.append(version)
            raise ZeroDivisionError("odd")
        await bury(identities, version)

    shared.bury = broken  # type: ignore[method-assign, assignment]  # fails in an unexpected way
    with capture_logs() as logs:
        worker.invalidation.changed(Changed(((ISS, "ann"),), (), 7))

        async def buried() -> bool:
            return bool(shared.tombstones)

        await eventually(buried)
    assert logs[0]["event"] == "redis_not_told_of_changes"
    assert logs[0]["log_level"] == "error"


async def test_an_epoch_begins_above_all_that_a_lagging_replica_may_say(shared: FakeSharedTier) -> None:
    async def latest() -> int:
        return 41

    worker = Worker(shared)
    worker.invalidation = Invalidation(
        worker.local,
        shared,
        worker.blacklist,
        ISSUERS,
        keys=Keys("gateway:"),
        observer=worker.observer,
        latest=latest,
    )
    worker.invalidation.start()
    await worker.trust()
    epoch = await shared.epoch()
    assert epoch is not None
    document = CachedUser(ANN, 0.0, epoch.name)
    assert not await shared.store_user(claims(), document, 30, horizon=41)
    assert await shared.store_user(claims(), document, 30, horizon=42)
    await worker.invalidation.close()


class Learnt:
    """What is remembered of revocations that Redis alone knows."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def touched(self, target: Target) -> None:
        self.events.append(target)

    def lifted(self, target: Target) -> None:
        self.events.append(target)

    def lifted_unnamed(self) -> None:
        self.events.append("any")


async def test_lifted_rows_are_reported_to_the_learnt_revocations(shared: FakeSharedTier) -> None:
    local, learnt = LocalCache(ttl=30, max_users=9, max_tokens=9, clock=lambda: 0.0), Learnt()
    invalidation = Invalidation(
        local,
        shared,
        FakeBlacklist(shared),
        ISSUERS,
        keys=Keys("gateway:"),
        observer=RecordingInvalidations(),
        learnt_revocations=learnt,
    )
    invalidation.listening()
    row = Revocation("jti", "main", "t", 5.0)
    invalidation.changed(Revoked(row, lifted=True, version=1))
    invalidation.changed(Everything(2))
    assert learnt.events == [("jti", "main", "t"), "any"]


def hearing(worker: Worker) -> Hearing | None:
    return worker.invalidation.hearing


async def test_hearing_is_proven_by_own_heartbeats_and_ends_with_a_break(worker: Worker) -> None:
    assert hearing(worker) is None
    worker.invalidation.listening()
    first = hearing(worker)
    assert first is not None
    await worker.beat()
    worker.invalidation.heard("another's", own=False)
    await worker.beat()
    assert first.proofs == 2
    assert hearing(worker) is first
    worker.invalidation.lost("cut")
    assert hearing(worker) is None
    worker.invalidation.listening()
    assert hearing(worker) is not first
