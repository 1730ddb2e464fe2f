"""Which exchanges are re-authorized, when, and how many at the same time; without connections."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import pytest
from structlog.testing import capture_logs

from gateway.core.admission import Admission, Decision, Forwarding
from gateway.core.headers import Fields
from gateway.core.model import Auth, Claims, Request, Resolution, Route, Tier, User, UserStatus
from gateway.core.reasons import TOKEN_EXPIRED, USER_STORE_UNAVAILABLE, USER_SUSPENDED, Denial
from gateway.core.tokens.key_material import key_from_secret
from gateway.identity.local_cache import LocalCache
from gateway.proxy.exchanges import reauthorization
from gateway.proxy.exchanges.reauthorization import LongLivedExchange, Reauthorization
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import Metrics
from tests.stores.examples import claims

ROUTE = Route("r", "/**", "u")
REQUEST = Request("GET", "/", (), "192.0.2.1", "http", "id")
KEY = key_from_secret(b"s" * 32)


class Reauthorizer:
    """`gateway.proxy.exchanges.reauthorization.Reauthorizer` with given answers; it counts its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.denials: dict[str, Denial] = {}
        self.stale = False
        self.until: dict[str, float] = {}
        """When time alone changes the user of a subject."""
        self.gate: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    async def reauthorize(self, request: Request, route: Route, claims: Claims) -> Resolution:  # noqa: ARG002 -- the Protocol's
        self.asked.append(claims.subject)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        if self.gate is not None:
            await self.gate.wait()
        self.at_once -= 1
        if claims.subject in self.denials:
            raise self.denials[claims.subject]
        user = replace(user_of(claims), valid_until=self.until.get(claims.subject))
        return Resolution(user, Tier.LOCAL, None, Tier.LOCAL, self.stale)


def forwarding(route: Route) -> Forwarding:
    return Forwarding(route, "GET", b"GET / HTTP/1.1", b"a", b"", None, None, Fields(b"", [b"a"], [], []))


def user_of(token: Claims) -> User:
    return User(f"{token.subject}-id", UserStatus.ACTIVE)


class Room:
    def __init__(self) -> None:
        self.pipeline = Reauthorizer()
        self.memory = LocalCache(ttl=30, max_users=10, max_tokens=10, clock=lambda: 0.0)
        self.memory.open()
        self.metrics = Metrics()
        self.reauthorization = Reauthorization(
            self.pipeline, self.memory, self.metrics, RequestLog(), clock=time.time
        )
        self.closed: list[tuple[str, str]] = []

    def watch(
        self, token: Claims, *, began: float | None = None, stale: bool = False, route: Route = ROUTE
    ) -> LongLivedExchange | None:
        user = replace(user_of(token), valid_until=self.pipeline.until.get(token.subject))
        resolution = Resolution(user, Tier.LOCAL, None, Tier.LOCAL, stale)
        admission = Admission(forwarding(route), b"", token, Decision(route, resolution, b""))

        def close(denial: Denial) -> None:
            self.closed.append((token.subject, denial.reason.code))

        return self.reauthorization.watch(
            REQUEST, admission, perf_counter() if began is None else began, close
        )

    def suspend(self, subject: str) -> None:
        """Change a user, and report the change."""
        self.pipeline.denials[subject] = Denial(USER_SUSPENDED)
        self.touch(subject)

    def touch(self, subject: str) -> None:
        self.memory.forget_users([f"{subject}-id"])
        self.reauthorization.changed()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 -- no event reports it
                await asyncio.sleep(0.001)


@pytest.fixture
async def room() -> Room:
    return Room()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_CHECK_INTERVAL", 0.02), ("_RETRY_INTERVAL", 0.04), ("_UNHEARD_INTERVAL", 0.08)):
        monkeypatch.setattr(reauthorization, name, seconds)


async def test_a_change_ends_the_exchange_of_its_user_and_checks_no_other(room: Room) -> None:
    for number in range(2000):
        room.watch(claims(f"user-{number}", jti=f"token-{number}"))
    room.suspend("user-1234")
    await room.until(lambda: room.closed)
    assert room.closed == [("user-1234", "user_suspended")]
    assert room.pipeline.asked == ["user-1234"]
    assert len(room.reauthorization) == 1999
    await room.reauthorization.close()
    assert len(room.reauthorization) == 0


async def test_no_exchange_is_checked_while_nothing_changes(room: Room) -> None:
    room.watch(claims())
    room.touch("bob")
    await asyncio.sleep(0.15)
    assert room.pipeline.asked == []
    await room.reauthorization.close()


async def test_a_change_before_an_exchange_began_does_not_concern_it(room: Room) -> None:
    room.memory.flush()
    room.touch("ann")
    room.watch(claims("ann"))
    room.touch("bob")
    await asyncio.sleep(0.05)
    assert room.pipeline.asked == []
    await room.reauthorization.close()


async def test_many_changes_of_other_users_void_no_ticket(room: Room) -> None:
    """Memory keeps a bounded number of changes. For an older ticket, everything counts as changed."""
    room.watch(claims())
    for round_ in range(3):
        for number in range(6000):
            room.memory.forget_users([f"{round_}-{number}"])
        room.reauthorization.changed()
        # The comparison takes some time, and the rest after it depends on that time.
        await room.until(lambda: room.reauthorization._checking is None)
    assert room.pipeline.asked == []
    await room.reauthorization.close()


async def test_every_exchange_is_checked_after_a_flush_but_not_all_at_the_same_time(room: Room) -> None:
    exchange = [room.watch(claims(f"user-{number}", jti=None)) for number in range(500)]
    room.pipeline.gate = asyncio.Event()
    room.memory.flush()
    for _ in range(10):
        room.reauthorization.changed()
        await asyncio.sleep(0)
    await room.until(lambda: room.pipeline.most_at_once == reauthorization._CONCURRENCY)
    # Exchanges that have ended meanwhile are not authorized.
    for over in exchange[100:]:
        assert over is not None
        room.reauthorization.forget(over)
    room.pipeline.gate.set()
    await room.until(lambda: len(room.pipeline.asked) == 100)
    await asyncio.sleep(0.05)
    assert sorted(room.pipeline.asked) == sorted(f"user-{number}" for number in range(100))
    assert room.pipeline.most_at_once == reauthorization._CONCURRENCY
    await room.reauthorization.close()


async def test_a_change_during_an_authorization_causes_another(room: Room) -> None:
    room.watch(claims("ann"))
    room.pipeline.gate = asyncio.Event()
    room.touch("ann")
    await room.until(lambda: room.pipeline.asked)
    room.touch("ann")
    room.pipeline.gate.set()
    await room.until(lambda: len(room.pipeline.asked) == 2)
    await asyncio.sleep(0.05)
    assert len(room.pipeline.asked) == 2
    await room.reauthorization.close()


async def test_a_change_since_the_start_of_the_request_causes_an_authorization(room: Room) -> None:
    """The change may be too late for the admission of the request, and too early for the exchange."""
    began = perf_counter()
    room.suspend("ann")
    room.watch(claims("ann"), began=began)
    await room.until(lambda: room.closed)
    room.watch(claims("bob"))
    await asyncio.sleep(0.05)
    assert room.pipeline.asked == ["ann"]
    await room.reauthorization.close()


async def test_a_store_that_does_not_answer_ends_no_exchange_and_is_asked_again(room: Room) -> None:
    room.watch(claims("ann"))
    room.pipeline.denials["ann"] = Denial(USER_STORE_UNAVAILABLE)
    room.touch("ann")
    await room.until(lambda: len(room.pipeline.asked) >= 3)
    assert room.closed == []
    room.pipeline.denials["ann"] = Denial(USER_SUSPENDED)
    await room.until(lambda: room.closed)
    assert room.closed == [("ann", "user_suspended")]
    assert len(room.reauthorization) == 0


async def test_a_bug_ends_no_exchange(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.watch(claims("ann"))

    async def fail(request: Request, route: Route, claims: Claims) -> Resolution:
        room.pipeline.asked.append(claims.subject)
        raise RuntimeError

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(room.pipeline, "reauthorize", fail)
        room.touch("ann")
        await room.until(lambda: len(room.pipeline.asked) >= 2)
    assert logs[0]["event"] == "live_connection_not_checked"
    room.suspend("ann")
    await room.until(lambda: room.closed)


@pytest.mark.parametrize("at", ["admission", "question"])
async def test_after_a_stale_answer_the_store_is_asked_until_one_is_fresh(room: Room, at: str) -> None:
    room.watch(claims("ann"), stale=at == "admission")
    room.pipeline.stale = True
    if at == "question":
        room.touch("ann")
    await room.until(lambda: len(room.pipeline.asked) >= 3)
    room.pipeline.stale = False
    asked = len(room.pipeline.asked)
    await asyncio.sleep(0.2)
    assert len(room.pipeline.asked) <= asked + 1
    await room.reauthorization.close()


async def test_while_changes_may_be_missed_all_exchanges_are_checked_repeatedly(room: Room) -> None:
    room.watch(claims("ann"))
    room.memory.close()
    room.reauthorization.changed()
    await room.until(lambda: len(room.pipeline.asked) >= 3)
    room.memory.open()
    room.reauthorization.changed()
    asked = len(room.pipeline.asked)
    await asyncio.sleep(0.2)
    assert asked < len(room.pipeline.asked) <= asked + 2
    await room.reauthorization.close()


@pytest.mark.parametrize("check_interval", [0.02, 30.0])
async def test_an_expiry_does_not_wait_for_the_next_check(
    room: Room, check_interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reauthorization, "_CHECK_INTERVAL", check_interval)
    expires_at = time.time() + 0.1
    room.watch(replace(claims("ann"), expires_at=expires_at - 30, leeway=30.0))
    room.watch(replace(claims("bob"), expires_at=expires_at, leeway=30.0))
    await room.until(lambda: room.closed)
    assert 0 <= time.time() - expires_at < 2
    assert room.closed == [("ann", TOKEN_EXPIRED.code)]
    assert room.pipeline.asked == []
    await room.reauthorization.close()


async def test_a_user_who_changes_by_time_alone_is_asked_for_at_that_instant(room: Room) -> None:
    begins = room.pipeline.until["ann"] = time.time() + 0.1
    room.pipeline.denials["ann"] = Denial(USER_SUSPENDED)
    room.pipeline.until["bob"] = begins + 60
    room.watch(claims("ann"))
    room.watch(claims("bob"))
    room.watch(claims("eve"))
    await room.until(lambda: room.closed)
    assert 0 <= time.time() - begins < 2
    assert room.closed == [("ann", "user_suspended")]
    assert room.pipeline.asked == ["ann"]
    await room.reauthorization.close()


async def test_an_instant_that_was_rounded_down_is_waited_for(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reauthorization, "_INSTANT_STEP", 0.03)
    room.pipeline.until["ann"] = time.time()
    room.watch(claims("ann"))
    await room.until(lambda: len(room.pipeline.asked) == 3)
    room.pipeline.denials["ann"] = Denial(USER_SUSPENDED)
    await room.until(lambda: room.closed)
    await room.reauthorization.close()


async def test_a_new_answer_moves_the_instant(room: Room) -> None:
    room.pipeline.until["ann"] = time.time() + 60
    room.watch(claims("ann"))
    begins = room.pipeline.until["ann"] = time.time() + 0.1
    room.touch("ann")
    await room.until(lambda: len(room.pipeline.asked) == 1)
    room.pipeline.denials["ann"] = Denial(USER_SUSPENDED)
    await room.until(lambda: room.closed)
    assert 0 <= time.time() - begins < 2
    await room.reauthorization.close()


async def test_an_exchange_that_is_over_does_not_expire(room: Room) -> None:
    exchange = room.watch(replace(claims(), expires_at=time.time() + 0.03))
    assert exchange is not None
    room.reauthorization.forget(exchange)
    room.reauthorization.forget(exchange)
    await asyncio.sleep(0.06)
    assert room.closed == []


async def test_an_exchange_without_a_caller_or_with_checks_turned_off_is_not_watched(room: Room) -> None:
    assert room.watch(claims(), route=replace(ROUTE, close_on_revocation=False)) is None
    public = Admission(forwarding(replace(ROUTE, auth=Auth.NONE)), b"")
    assert room.reauthorization.watch(REQUEST, public, perf_counter(), lambda _: None) is None
    assert len(room.reauthorization) == 0
