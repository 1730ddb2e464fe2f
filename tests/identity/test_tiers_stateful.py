"""The tiers of two workers against a model, for every order of events.

Stores, streams and requests take one step at a time, and hypothesis selects the next. Once every change has
been processed completely, no request that begins afterwards may be answered by an older state, even while
earlier slow requests still have old rows.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.core.model import (
    Claims,
    Identity,
    Resolution,
    StoreUnavailable,
    Tier,
    User,
    UserStatus,
    Validity,
)
from gateway.core.reasons import Denial
from gateway.core.revocations import Revocation, Revocations, Revoked
from gateway.identity.invalidation import Invalidation
from gateway.identity.local_cache import LocalCache
from gateway.identity.resolver import IdentityResolver
from gateway.stores.postgres.change_stream.listener import Changed, Everything
from gateway.stores.postgres.look_ups import FoundUser
from gateway.stores.redis.answers import Epoch, SharedAnswer
from gateway.stores.redis.keys import Keys
from gateway.stores.redis.user_documents import CachedUser
from tests.fakes import FakeBlacklist, FakeSharedTier, RecordingInvalidations
from tests.stores.examples import ISS, ISSUERS, claims

TOKENS = ("token-1", "token-2")
WORKERS = st.integers(0, 1)


class Gates:
    """Where calls wait for their turn: once before they read or write, once with what they bring back."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self) -> None:
        gate = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        await gate

    def let_through(self, number: int) -> None:
        gate = self.waiting.pop(number % len(self.waiting))
        if not gate.done():
            gate.set_result(None)


class SlowSystem:
    """`gateway.identity.resolver.SystemOfRecord`: rows whose every state is remembered."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.has_replica = False
        self.states: list[int | None] = [0]
        """Ann's states so far: a number of its own for each, None for no user."""
        self.revocations: dict[str, Revocation] = {}
        self.transaction = 1
        self.down = False

    def commit(self) -> int:
        self.transaction += 1
        return self.transaction

    def user(self) -> User | None:
        state = self.states[-1]
        return None if state is None else User("ann-id", UserStatus.ACTIVE, display_name=str(state))

    async def find_user(self, identity: Identity, *, primary: bool = False) -> FoundUser:  # noqa: ARG002 -- the Protocol's
        await self._gates()
        if self.down:
            raise StoreUnavailable(Tier.POSTGRES, "pulled")
        found = FoundUser(self.user(), self.transaction + 1)
        await self._gates()
        return found

    async def find_user_and_revocations(self, claims: Claims) -> tuple[FoundUser, Revocations]:
        await self._gates()
        if self.down:
            raise StoreUnavailable(Tier.POSTGRES, "pulled")
        found = FoundUser(self.user(), self.transaction + 1)
        revoked = Revocations(token=claims.jti in self.revocations)
        await self._gates()
        return found, revoked

    def rows(self) -> list[Revocation]:
        if self.down:
            raise StoreUnavailable(Tier.POSTGRES, "pulled")
        return list(self.revocations.values())


class SlowShared:
    """One client's view of the shared tier."""

    def __init__(self, shared: FakeSharedTier, gates: Gates) -> None:
        self._shared = shared
        self._gates = gates

    async def _slowly(self, call: Callable[[], Coroutine[None, None, Any]]) -> Any:  # noqa: ANN401 -- stands in for any method
        await self._gates()
        answer = await call()
        await self._gates()
        return answer

    async def read(self, claims: Claims, user_id: str | None) -> SharedAnswer:
        answer: SharedAnswer = await self._slowly(lambda: self._shared.read(claims, user_id))
        return answer

    async def user_revoked_at(self, user_id: str) -> float | None:
        answer: float | None = await self._slowly(lambda: self._shared.user_revoked_at(user_id))
        return answer

    async def buried(self, claims: Claims) -> bool:
        answer: bool = await self._slowly(lambda: self._shared.buried(claims))
        return answer

    async def store_user(self, claims: Claims, cached: CachedUser, ttl: float, *, horizon: int) -> bool:
        stored: bool = await self._slowly(
            lambda: self._shared.store_user(claims, cached, ttl, horizon=horizon)
        )
        return stored

    async def bury(self, identities: Sequence[tuple[str, str]], version: int) -> None:
        await self._slowly(lambda: self._shared.bury(identities, version))

    async def epoch(self) -> Epoch | None:
        epoch: Epoch | None = await self._slowly(self._shared.epoch)
        return epoch

    async def begin_epoch(self, heartbeat: str, version: int = 0) -> Epoch:
        epoch: Epoch = await self._slowly(lambda: self._shared.begin_epoch(heartbeat, version))
        return epoch

    async def keep_epoch(self, name: str, heartbeat: str) -> bool:
        kept: bool = await self._slowly(lambda: self._shared.keep_epoch(name, heartbeat))
        return kept

    async def end_epoch(self, version: int) -> None:
        await self._slowly(lambda: self._shared.end_epoch(version))


class Worker:
    """The tiers of one worker, and the two streams that lead to it."""

    def __init__(self, name: str, system: SlowSystem, shared: FakeSharedTier, asking: Gates) -> None:
        self.name = name
        self.carrying = Gates()
        self.blacklist = FakeBlacklist(shared)
        self.blacklist.rows = system.rows
        self.local = LocalCache(ttl=1e6, max_users=100, max_tokens=100, clock=lambda: 0.0)
        self.invalidation = Invalidation(
            self.local,
            SlowShared(shared, self.carrying),
            self.blacklist,
            ISSUERS,
            keys=Keys(""),
            observer=RecordingInvalidations(),
            retry=0.0,
        )
        self.tiers = IdentityResolver(
            self.local,
            SlowShared(shared, asking),
            system,
            self.blacklist,
            believes=self.invalidation.believes,
            user_ttl=1e6,
            negative_ttl=1e6,
            clock=lambda: 2_000.0,
        )
        self.notifications: list[Callable[[], None]] | None = None
        """Sent and not received yet; None while no worker listens."""
        self.pushes: list[str | None] | None = None
        self.beats = 0

    def receive(self) -> None:
        if self.notifications:
            self.notifications.pop(0)()

    def receive_push(self) -> None:
        if self.pushes:
            key = self.pushes.pop(0)
            self.invalidation.touched_keys.touched(None if key is None else [key])


@dataclass
class Asked:
    """A request under way, and what its answer may not be older than."""

    task: "asyncio.Task[Resolution]"
    claims: Claims
    since: int
    """Index into the states of the user."""
    revoked: bool
    outage: bool = field(default=False)


class Tiers(RuleBasedStateMachine):
    """Two workers, their stores, and all events."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.asking = Gates()
        self.system = SlowSystem(self.asking)
        self.shared = FakeSharedTier()
        self.shared.touch = self._push
        self.workers = [Worker(name, self.system, self.shared, self.asking) for name in "ab"]
        self.requests: list[Asked] = []
        self.validities: dict[tuple[int, str], Validity] = {}
        self.carried = 0
        """The index of the state that every worker must know of."""
        self.revoked: set[str] = set()
        """Tokens whose revocation every worker must know of."""
        self.revoked_in_redis: set[str] = set()
        self.next_state = 1
        self._do(*(worker.invalidation.start for worker in self.workers))

    def _do(self, *actions: Callable[[], object]) -> None:
        """Run a call in the event loop, with everything that follows from it."""

        async def act() -> None:
            for action in actions:
                action()
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(act())
        for request in [request for request in self.requests if request.task.done()]:
            self.requests.remove(request)
            self._check(request)

    def teardown(self) -> None:
        async def close() -> None:
            for request in self.requests:
                request.task.cancel()
            for worker in self.workers:
                await worker.invalidation.close()
                await worker.tiers.close()
            await asyncio.sleep(0)

        self.loop.run_until_complete(close())
        self.loop.close()

    # What is expected --------------------------------------------------------------------------------

    def _check(self, request: Asked) -> None:
        refusal = request.task.exception()
        if isinstance(refusal, Denial):
            assert request.outage
            assert refusal.reason.status == 503
            return
        resolution = request.task.result()
        if resolution.stale:
            assert request.outage
            return
        # What was revoked in Redis alone counts while Redis answers.
        told = request.claims.jti in self.system.revocations or not request.outage
        self._check_answer(resolution, request.since, revoked=request.revoked and told)

    def _check_answer(self, resolution: Resolution, since: int, *, revoked: bool) -> None:
        if revoked:
            assert resolution.revoked == "jti", resolution
        if resolution.revoked is None:
            user = resolution.user
            state = None if user is None else int(user.display_name or "")
            assert state in self.system.states[since:], (resolution, since)

    @invariant()
    def what_stands_is_right(self) -> None:
        for (worker, jti), validity in self.validities.items():
            if self.workers[worker].tiers.is_valid(validity):
                self._check_answer(validity.answer, self.carried, revoked=jti in self.revoked)

    # Requests ----------------------------------------------------------------------------------------

    @rule(worker=WORKERS, jti=st.sampled_from(TOKENS), steps=st.integers(0, 7))
    def request(self, worker: int, jti: str, steps: int) -> None:
        """Begin a request, and let it make some steps before others have their turn."""
        token = claims("ann", jti=jti)
        tiers = self.workers[worker].tiers
        since, revoked = self.carried, jti in self.revoked
        recalled = tiers.recall(token)
        if recalled is not None:
            self._check_answer(recalled, since, revoked=revoked)
            validity = tiers.validity(token)
            assert (validity is None) is (recalled.user is None)
            if validity is not None:
                self.validities[worker, jti] = validity
            return
        task = self.loop.create_task(tiers.resolve(token))
        outage = self.system.down or self.shared.down
        self.requests.append(Asked(task, token, since, revoked, outage))
        self._do()
        for _ in range(steps):
            if self.asking.waiting:
                self._do(lambda: self.asking.let_through(-1))

    @rule(worker=WORKERS, jti=st.sampled_from(TOKENS))
    def request_to_its_end(self, worker: int, jti: str) -> None:
        """Make a request, and another that gets a validity if the answer was remembered."""
        for _ in range(2):
            self.request(worker, jti, 7)

    @precondition(lambda self: self.asking.waiting)
    @rule(number=st.integers(0, 20), everyone=st.booleans())
    def go_on(self, number: int, everyone: bool) -> None:
        """Let a request that is under way make a step, or all of them come to their ends."""
        if everyone:
            self._drain(self.asking)
        else:
            self._do(lambda: self.asking.let_through(number))

    # Changes -----------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["user", "user", "no user", "everything", "jti by sql", "jti in redis"]),
        jti=st.sampled_from(TOKENS),
        settled=st.booleans(),
    )
    def change(self, what: str, jti: str, settled: bool) -> None:
        match what:
            case "user" | "no user" | "everything":
                self.system.states.append(self.next_state if what != "no user" else None)
                self.next_state += 1
                version = self.system.commit()
                everything = what == "everything"
                self._notify(
                    Everything(version) if everything else Changed(((ISS, "ann"),), ("ann-id",), version)
                )
            case "jti by sql":
                row = Revocation("jti", "main", jti, 2000.0)
                self.system.revocations[jti] = row
                self._notify(Revoked(row, lifted=False, version=self.system.commit()))
            case "jti in redis":
                self.shared.revoked[f"jti:main:{jti}"] = 1.0
                self.revoked_in_redis.add(jti)
                self._push(f"revoked:jti:main:{jti}")
        if settled:
            self.settle()

    def _notify(self, change: Changed | Revoked | Everything) -> None:
        for worker in self.workers:
            if worker.notifications is not None:
                worker.notifications.append(partial(worker.invalidation.changed, change))

    def _push(self, key: str | None) -> None:
        for worker in self.workers:
            if worker.pushes is not None:
                worker.pushes.append(key)

    # Streams -----------------------------------------------------------------------------------------

    @rule(worker=WORKERS, what=st.sampled_from(["notification", "push", "step", "beat", "everything"]))
    def hear(self, worker: int, what: str) -> None:
        """Have a worker hear of something, or do something about what it has heard of."""
        hearing = self.workers[worker]
        match what:
            case "notification":
                self._do(hearing.receive)
            case "push":
                self._do(hearing.receive_push)
            case "step":
                if hearing.carrying.waiting:
                    self._do(lambda: hearing.carrying.let_through(0))
            case "beat":
                self._beat(hearing)
            case "everything" if not self.shared.down:
                self._deliver()

    def _beat(self, sender: Worker) -> None:
        if sender.notifications is None:
            return
        sender.beats += 1
        heartbeat = f"{sender.name}-{sender.beats}"
        for receiver in self.workers:
            if receiver.notifications is not None:
                receiver.notifications.append(
                    partial(receiver.invalidation.heard, heartbeat, receiver is sender)
                )

    @rule(
        worker=st.one_of(WORKERS, st.none()),
        streams=st.sampled_from(["postgres", "redis", "both"]),
        back=st.booleans(),
    )
    def streams(self, worker: int | None, streams: str, back: bool) -> None:
        """Cut the streams of one worker, or of all, or bring them back."""
        for one in self.workers if worker is None else [self.workers[worker]]:
            if streams != "redis":
                self._listen(one) if back else self._stop_listening(one)
            if streams != "postgres":
                self._track(one) if back else self._stop_tracking(one)

    def _listen(self, worker: Worker) -> None:
        if worker.notifications is None:
            worker.notifications = []
            self._do(worker.invalidation.listening)

    def _stop_listening(self, worker: Worker) -> None:
        worker.notifications = None
        self._do(lambda: worker.invalidation.lost("cut"))

    def _track(self, worker: Worker) -> None:
        if worker.pushes is None:
            worker.pushes = []
            self._do(worker.invalidation.touched_keys.tracking)

    def _stop_tracking(self, worker: Worker) -> None:
        worker.pushes = None
        self._do(lambda: worker.invalidation.touched_keys.lost("cut"))

    # Outages -----------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["lapse", "postgres", "redis", "emptied", "over", "over"]))
    def outage(self, what: str) -> None:
        match what:
            case "lapse":
                self.shared.lapse()
            case "postgres":
                self.system.down = True
            case "redis":
                self.shared.down = True
            case "emptied":
                self._empty_redis()
            case "over":
                self.system.down = self.shared.down = False
        for request in self.requests:
            request.outage = request.outage or self.system.down or self.shared.down

    def _empty_redis(self) -> None:
        shared = self.shared
        shared.documents.clear()
        shared.tombstones.clear()
        shared.revoked.clear()
        shared.complete, shared.current, shared.ended = False, None, -1
        # What was revoked nowhere else is gone with it.
        self.revoked -= self.revoked_in_redis - set(self.system.revocations)
        self.revoked_in_redis.clear()
        for request in self.requests:
            request.revoked = request.revoked and request.claims.jti in self.revoked
        self._push(None)

    # Everything is carried to its end ------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.settle()

    @rule()
    def settle(self) -> None:
        self.system.down = self.shared.down = False
        for worker in self.workers:
            self._listen(worker)
            self._track(worker)
            if not (worker.blacklist.trusted and self.shared.complete):
                # As the mirror does of its own accord.
                self.loop.run_until_complete(worker.blacklist.load())
        for _ in range(4):
            for worker in self.workers:
                self._beat(worker)
            self._deliver()
            joined = [worker for worker in self.workers if worker.invalidation._joined is not None]
            if not joined:
                # No worker keeps it alive.
                self.shared.lapse()
        assert all(worker.invalidation.trusted for worker in self.workers)
        self.carried = len(self.system.states) - 1
        self.revoked = set(self.system.revocations) | self.revoked_in_redis

    def _deliver(self) -> None:
        while any(
            worker.notifications or worker.pushes or worker.carrying.waiting for worker in self.workers
        ):
            for worker in self.workers:
                self._do(worker.receive, worker.receive_push)
                self._drain(worker.carrying)

    def _drain(self, gates: Gates) -> None:
        while gates.waiting:
            self._do(lambda: gates.let_through(0))


def test_a_query_from_before_a_gap_is_not_shared_behind_it() -> None:
    """Found by hypothesis: a missed change may have changed the result of the query."""
    state = Tiers()
    state.begin()
    state.request(worker=0, jti="token-1", steps=3)
    state.change(what="user", jti="token-1", settled=False)
    state.streams(worker=None, streams="postgres", back=False)
    state.settle()
    state.request_to_its_end(worker=0, jti="token-1")
    state.teardown()


Tiers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTiers = Tiers.TestCase
