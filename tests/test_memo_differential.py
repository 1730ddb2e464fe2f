"""The memo against the plain way: for any request, at any moment, the same verdict and the same bytes.

Both use the same keys, the same rows and the same real local tier. Hypothesis selects the next event: a
request, a step of a request that waits for a store, a change, the passing of time. For each answer of the
memo, the plain way must have given the same answer between the begin and the end of that request: with its
token verified at one time, and its user looked up at the same or a later time.

Another test proves that this finds faults: it runs memos with planted faults.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Final, Literal, TypeAlias, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway import memo
from gateway.conditions.expression import Prepared
from gateway.core.admission import Admission, Forwarding
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import (
    Claims,
    Credential,
    MissingUser,
    Request,
    Resolution,
    Route,
    Tier,
    User,
    UserStatus,
    Validity,
)
from gateway.core.reasons import Denial
from gateway.core.revocations import Revocations
from gateway.core.tokens.jws import KeySet
from gateway.core.tokens.key_material import key_from_jwk
from gateway.core.tokens.verified import VerifiedToken
from gateway.identity.local_cache import LocalCache
from gateway.memo import Memo, Token, Tokens
from gateway.pipeline import Pipeline, may_be_created
from gateway.proxy.downstream import head_cache
from gateway.proxy.downstream.head_cache import HeadCache, Known
from gateway.proxy.downstream.incoming import AnyRequest, Incoming
from gateway.proxy.downstream.limits import Limits
from gateway.proxy.downstream.parser import RequestParser
from gateway.verifier import TokenVerifier
from tests.fakes import FakeKeys
from tests.pipelines import FORWARDING, MAIN, NOW, token
from tests.tokens import ISSUER, ec_key, resigned

T = TypeVar("T")

SUBJECTS: Final = ("ann", "bob")
LIFETIME: Final = 300.0
"""Seconds for which the tokens are good, without leeway."""
TOKENS: Final = {
    **{subject: token(subject, jti=f"jti-{subject}") for subject in SUBJECTS},
    "ann again": token("ann", jti="jti-again"),
    "ghost": token("ghost", jti="jti-ghost"),
    "forged": resigned(token("ann"), bytes(64)),
    "opaque": b"opaque",
    "two words": b"two words",
    "empty": b"",
}
GOOD: Final = st.sampled_from(["ann", "ann", "bob", "ann again"])
ANY: Final = st.sampled_from(sorted(TOKENS))
PATHS: Final = st.sampled_from(
    [
        "/echo", "/echo", "/admin", "/optional", "/public", "/acme", "/nowhere", "/browser", "/leave",
        "/welcome", "/welcome-admin", "/join", "/shared", "/pro", "/office", "/office", "/lounge",
    ]
)  # fmt: skip
PEERS: Final = st.sampled_from(["203.0.113.9", "203.0.113.9", "198.51.100.1"])
SCHEMES: Final = st.sampled_from(["https", "https", "http"])

CHANGES: Final = st.sampled_from(["id", "roles", "tenant", "suspended", "gone"])

Outcome: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class Sent:
    """A request as a client sends it."""

    path: str = "/echo"
    tokens: list[str] = field(default_factory=list)
    """Names of the tokens in its Authorization fields."""
    peer: str = "203.0.113.9"
    scheme: Literal["http", "https"] = "https"
    auth_scheme: bytes = b"Bearer "
    preflight: bytes | None = None
    """The origin of a page, whose browser asks whether a request may be sent."""

    def data(self) -> bytes:
        fields = [b"Authorization: %b%b" % (self.auth_scheme, TOKENS[name]) for name in self.tokens]
        method = b"GET"
        if self.preflight is not None:
            method = b"OPTIONS"
            fields += [b"Origin: " + self.preflight, b"Access-Control-Request-Method: GET"]
        return b"\r\n".join(
            [b"%b %b HTTP/1.1" % (method, self.path.encode()), b"Host: a.example", *fields, b"", b""]
        )


class Gates:
    """Where calls wait for their turn."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self) -> None:
        gate = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        await gate

    def let_through(self, number: int) -> None:
        self.waiting.pop(number % len(self.waiting)).set_result(None)


@dataclass
class System:
    """The rows, as they are at this moment."""

    users: dict[str, User] = field(
        default_factory=lambda: {subject: User(f"{subject}-0", UserStatus.ACTIVE) for subject in SUBJECTS}
    )
    revoked: set[str] = field(default_factory=set)

    def resolution(self, claims: Claims) -> Resolution:
        user = self.users.get(claims.subject)
        return Resolution(user, Tier.POSTGRES, "jti" if claims.jti in self.revoked else None, Tier.POSTGRES)


class Tiers:
    """`gateway.memo.Directory`: the local tier, and the rows behind gates."""

    def __init__(self, local: LocalCache, system: System, gates: Gates) -> None:
        self._local = local
        self._system = system
        self._gates = gates
        self.is_valid = local.is_valid

    def recall(self, claims: Claims) -> Resolution | None:
        return self._local.recall(claims)

    def validity(self, claims: Claims) -> Validity | None:
        return self._local.validity(claims)

    async def resolve(self, claims: Claims) -> Resolution:
        ticket = self._local.ticket()
        await self._gates()
        resolution = self._system.resolution(claims)
        await self._gates()
        if resolution.revoked is None:
            self._local.fill(ticket, claims, resolution.user, NOW, Revocations(), 60.0)
        return resolution


class AtOnce:
    """`gateway.pipeline.Directory`: the same local tier, and the same rows without gates."""

    def __init__(self, local: LocalCache, system: System) -> None:
        self._local = local
        self._system = system

    async def find(self, claims: Claims) -> Resolution:
        return self._local.recall(claims) or self._system.resolution(claims)


class Joining:
    """`gateway.pipeline.Provisioner`: creates the rows of users who are missing, behind gates."""

    def __init__(self, tiers: Tiers, local: LocalCache, system: System, gates: Gates) -> None:
        self._tiers = tiers
        self._local = local
        self._system = system
        self._gates = gates
        self.on_joined: Callable[[str], None] = lambda _: None

    async def provision(self, route: Route, claims: Claims, request: Request) -> Resolution:
        assert (route.missing_user, request.id) == (MissingUser.PROVISION, "r-1")
        await self._gates()
        if claims.subject not in self._system.users:
            self._system.users[claims.subject] = joined(claims)
            self._local.forget_identities([(claims.issuer, claims.subject)])
        self.on_joined(claims.subject)
        return await self._tiers.resolve(claims)


class JoinsAtOnce:
    """`gateway.pipeline.Provisioner`: says what would come of it, and creates no row."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.creates = True
        """False: the user was created before, and is looked up."""

    async def provision(self, route: Route, claims: Claims, request: Request) -> Resolution:
        assert (route.missing_user, request.id) == (MissingUser.PROVISION, "r-1")
        resolution = self._system.resolution(claims)
        if resolution.user is not None or not self.creates:
            return resolution
        return replace(resolution, user=joined(claims))


def joined(claims: Claims) -> User:
    return User(f"{claims.subject}-joined", UserStatus.ACTIVE)


class Verifications:
    """`gateway.pipeline.Verifier`: verifies, and notes the outcome; or says what was noted."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self.earlier = False
        self.noted: VerifiedToken | None = None

    async def verify(self, credential: Credential) -> VerifiedToken:
        if self.earlier and self.noted is not None:
            return self.noted
        self.noted = await self._verifier.verify(credential)
        return self.noted


@dataclass
class Asked:
    """A request on the memo's way, and what the plain way has said of it so far."""

    task: "asyncio.Task[Outcome]"
    request: Request
    expected: list[Outcome] = field(default_factory=list)
    verified: VerifiedToken | None = None
    """What its token said, if it was good at any moment since the request came."""
    joined: bool = False
    """Whether its user may have been created since. A user who is gone then is not created a second time."""


class Different(AssertionError):
    """The memo gave an answer that the plain way gave at no time."""


class Ways(RuleBasedStateMachine):
    """One worker's memo, the plain way beside it, and events for both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.gates, self.system, self.now = Gates(), System(), float(NOW)
        self.key_sets = {
            "old": KeySet([key_from_jwk(ec_key().jwk())]),
            "new": KeySet([key_from_jwk(ec_key("new").jwk())]),
        }
        self.keys = FakeKeys(main=self.key_sets["old"])
        self.local = LocalCache(ttl=60.0, max_users=9, max_tokens=9, clock=lambda: self.now)
        verifier = TokenVerifier([MAIN], self.keys, clock=lambda: self.now)
        identity = {"X-User-Id": "user.id", "X-User-Roles": "user.roles", "X-Auth-Subject": "claims.sub"}
        headers = HeaderPolicy(HeaderRules(identity))
        self.tokens = Tokens(self.keys, lambda: self.now, 3, defaultdict(int))
        self.verifications = Verifications(verifier)
        at_once = AtOnce(self.local, self.system)
        self.joins = JoinsAtOnce(self.system)
        self.plain = Pipeline(FORWARDING, self.verifications, at_once, headers, self.joins)
        tiers = Tiers(self.local, self.system, self.gates)
        joining = Joining(tiers, self.local, self.system, self.gates)
        joining.on_joined = self._joined
        pipeline = Pipeline(FORWARDING, verifier, at_once, headers, joining)
        self.memo = Memo(pipeline, verifier, self.tokens, tiers)
        self.heads = HeadCache(self.memo.remembered, self.memo.heads, 5)
        self.requests: list[Asked] = []
        self.latest: Sent | None = None
        self.states = 0

    def teardown(self) -> None:
        for asked in self.requests:
            asked.task.cancel()
        self._turn()
        self.loop.close()

    # Both ways -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Let everything go as far as it goes without a gate; judge what has come to its end."""

        async def turn() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        for asked in [asked for asked in self.requests if asked.task.done()]:
            self.requests.remove(asked)
            if not asked.task.cancelled():
                outcome = asked.task.result()
                if outcome not in asked.expected:
                    raise Different(outcome, asked.expected)

    def _changed(self) -> None:
        """Take note of what the plain way says now of each request under way."""
        for asked in self.requests:
            self._expect(asked)

    def _expect(self, asked: Asked) -> None:
        """Take note of what the plain way says now, also of a token that it verified before."""
        self.verifications.noted = asked.verified
        for self.verifications.earlier in (False, True):
            for self.joins.creates in {True, not asked.joined}:
                asked.expected.append(_at_once(_outcome(self.plain.admit(asked.request))))
        asked.verified = self.verifications.noted

    def _joined(self, subject: str) -> None:
        """Take note that a request has made sure that its user exists."""
        for asked in self.requests:
            asked.joined |= asked.verified is not None and asked.verified.claims.subject == subject
        self._changed()

    # Requests ------------------------------------------------------------------------------------------

    @rule(
        sent=st.builds(
            Sent, PATHS, st.lists(GOOD, min_size=1, max_size=1) | st.lists(ANY, max_size=2), PEERS, SCHEMES,
            st.sampled_from([b"Bearer ", b"Bearer ", b"bearer "]),
        ),
        steps=st.sampled_from([2, 2, 0, 1]),
    )  # fmt: skip
    def request(self, sent: "Sent", steps: int) -> None:
        """Send a request, and let it make some steps before others have their turn."""
        self.latest, data = sent, sent.data()
        plain = _request(_fed(RequestParser(Limits()), data), None, sent)
        parser = RequestParser(Limits(), self.heads)
        arrived: AnyRequest
        arrived, credential = parser.recall(data) or (_fed(parser, data), None)
        task = self.loop.create_task(_outcome(self.memo.admit(_request(arrived, credential, sent))))
        self.requests.append(Asked(task, plain))
        self._expect(self.requests[-1])
        self._turn()
        for _ in range(steps):
            if self.gates.waiting:
                self.gates.let_through(-1)
                self._turn()

    @rule(
        path=st.sampled_from(["/shared", "/echo", "/nowhere"]),
        origins=st.lists(
            st.sampled_from([b"https://app.example", b"https://evil.example"]), min_size=1, max_size=3
        ),
        tokens=st.lists(ANY, max_size=1),
    )
    def preflight(self, path: str, origins: list[bytes], tokens: list[str]) -> None:
        """Send the preflights of several pages for the same request, and then the request."""
        for origin in origins:
            self.request(Sent(path, tokens, preflight=origin), 2)
        self.request(Sent(path, tokens), 2)

    @precondition(lambda self: self.latest)
    @rule(
        other=st.fixed_dictionaries(
            {}, optional={"path": PATHS, "peer": PEERS, "tokens": st.lists(ANY, max_size=2)}
        ),
        steps=st.sampled_from([2, 2, 1]),
    )
    def request_again(self, other: dict[str, Any], steps: int) -> None:
        """Send the latest request once more, as it was or nearly."""
        if self.latest is not None:
            self.request(replace(self.latest, **other), steps)

    @rule(
        path=PATHS,
        first=ANY,
        then=st.lists(ANY, min_size=2, max_size=3),
    )
    def same_head(self, path: str, first: str, then: list[str]) -> None:
        """Send one head with several tokens, one after the other, each answered before the next."""
        for name in (first, *then):
            self.request(Sent(path, [name]), 2)

    @rule(
        before=PATHS,
        path=st.sampled_from(["/office", "/lounge", "/echo"]),
        tokens=st.lists(GOOD, max_size=1),
        peers=st.lists(st.sampled_from(["203.0.113.9", "198.51.100.1"]), min_size=2, max_size=3),
    )
    def same_head_of_several_clients(
        self, before: str, path: str, tokens: list[str], peers: list[str]
    ) -> None:
        """Send one head from several clients, one after the other, and before them one for another route."""
        self.request(Sent(before, tokens), 2)
        for peer in peers:
            self.request(Sent(path, tokens, peer), 2)

    @rule(path=PATHS, subject=st.sampled_from(SUBJECTS), what=CHANGES, steps=st.sampled_from([1, 1, 0]))
    def overtake(self, path: str, subject: str, what: str, steps: int) -> None:
        """Change a user while a request waits for the stores; others hear of it first."""
        sent = Sent(path, [subject])
        self.local.forget_everything()
        self.request(sent, steps)
        self.change(subject, what, "user")
        self.request(sent, 2)
        while self.gates.waiting:
            self.go_on(0)
        self.request(sent, 2)

    @rule(
        paths=st.tuples(st.sampled_from(["/welcome", "/leave", "/join"]), PATHS),
        subject=st.sampled_from(SUBJECTS),
        told=st.sampled_from(["identity", "everything"]),
        steps=st.sampled_from([2, 2, 1]),
    )
    def appear(self, paths: tuple[str, str], subject: str, told: str, steps: int) -> None:
        """Send requests of a user who is missing, then appears."""
        self.change(subject, "gone", "identity")
        for path in paths:
            self.request(Sent(path, [subject]), steps)
        self.change(subject, "id", told)
        for path in paths:
            self.request(Sent(path, [subject]), 2)

    @precondition(lambda self: self.gates.waiting)
    @rule(number=st.integers(0, 9))
    def go_on(self, number: int) -> None:
        self.gates.let_through(number)
        self._turn()

    # Changes, which are heard of at once ---------------------------------------------------------------

    @rule(
        subject=st.sampled_from(SUBJECTS),
        what=CHANGES,
        told=st.sampled_from(["identity", "user", "everything"]),
    )
    def change(self, subject: str, what: str, told: str) -> None:
        self.states += 1
        before = self.system.users.get(subject) or User(f"{subject}-{self.states}", UserStatus.ACTIVE)
        match what:
            case "id":
                self.system.users[subject] = User(f"{subject}-{self.states}", UserStatus.ACTIVE)
            case "roles":
                roles = () if before.roles else ("admin", f"r{self.states}")
                self.system.users[subject] = replace(before, roles=roles)
            case "tenant":
                self.system.users[subject] = replace(before, tenant=None if before.tenant else "acme")
            case "suspended":
                active = before.status is UserStatus.ACTIVE
                status = UserStatus.SUSPENDED if active else UserStatus.ACTIVE
                self.system.users[subject] = replace(before, status=status)
            case "gone":
                self.system.users.pop(subject, None)
        if told == "everything":
            self.local.forget_everything()
        elif told == "user" and subject in self.system.users:
            # As the triggers do: the identities that lead to the user, and its id.
            self.local.forget_identities([(ISSUER, subject)])
            self.local.forget_users([before.id])
        else:
            self.local.forget_identities([(ISSUER, subject)])
        self._changed()

    @rule(jti=st.sampled_from(["jti-ann", "jti-bob", "jti-again"]), lifted=st.booleans())
    def revoke(self, jti: str, lifted: bool) -> None:
        (self.system.revoked.discard if lifted else self.system.revoked.add)(jti)
        self.local.forget_tokens([("main", jti)])
        self._changed()

    @rule(name=st.sampled_from(["old", "old", "old", "new", None]))
    def rotate(self, name: str | None) -> None:
        """Publish the keys, others in their place, or let them become too old to trust."""
        self.keys.sets["main"] = None if name is None else self.key_sets[name]
        self.tokens.forget_withdrawn("main", self.keys.sets["main"])
        self._changed()

    @rule(path=PATHS, subject=st.sampled_from(SUBJECTS), name=st.sampled_from(["new", None]))
    def withdraw(self, path: str, subject: str, name: str | None) -> None:
        """Send a request before and after the keys change."""
        self.request(Sent(path, [subject]), 2)
        self.rotate(name)
        self.request(Sent(path, [subject]), 2)
        self.rotate("old")

    @rule(
        seconds=st.sampled_from([1.0, 1.0, 1.0, 2.5, 61.0, LIFETIME + 40]),
        heard=st.sampled_from([True, True, False]),
    )
    def wait(self, seconds: float, heard: bool) -> None:
        """Let time pass, in which it was heard, or not, that nothing changed."""
        self.now += seconds
        if heard:
            self.local.prove()
        self._changed()

    @initialize()
    def begin(self) -> None:
        self.begin_anew()

    @rule()
    def begin_anew(self) -> None:
        """Go back to the time when all tokens were good, with every key in place and all changes heard of."""
        self.now = float(NOW)
        self.keys.sets["main"] = self.key_sets["old"]
        self.local.open()
        self._changed()

    @rule(heard=st.booleans())
    def listen(self, heard: bool) -> None:
        """Hear of all changes from here on; for a moment, or until then, of none."""
        self.local.close()
        self._changed()
        if heard:
            self.local.open()
            self._changed()


def _fed(parser: RequestParser, data: bytes) -> Incoming:
    parser.feed(data)
    return parser.arrived.popleft()


def _request(incoming: AnyRequest, credential: Credential | None, sent: Sent) -> Request:
    return Request(
        incoming.method, incoming.target, incoming.headers, sent.peer, sent.scheme, "r-1",
        incoming.upgrade and incoming.modern, incoming.recurring, credential,
    )  # fmt: skip


async def _outcome(way: Coroutine[None, None, Admission]) -> Outcome:
    """Return what a client or an upstream would notice, and what operators are told."""
    try:
        admission = await way
    except Denial as denial:
        route = None if denial.route is None else denial.route.name
        return denial.reason.code, denial.issuer, denial.subject, route
    forwarding, claims = admission.forwarding, admission.claims
    return (
        forwarding.route.name, forwarding.line, forwarding.host, forwarding.fields + admission.fields,
        forwarding.upgrade, forwarding.preflight, None if claims is None else claims.jti, admission.user,
        admission.stale,
    )  # fmt: skip


def _at_once(way: Coroutine[None, None, T]) -> T:
    """Run what waits for nothing."""
    try:
        way.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    raise AssertionError("it waits")


Ways.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWays = Ways.TestCase


# Planted faults ---------------------------------------------------------------------------------------


def _decision_survives_a_change(patch: pytest.MonkeyPatch) -> None:
    """Remember what the stores said with the validity of what memory says now."""

    async def decide(self: Memo, token: Token, route: Route, request: Request) -> object:
        resolution = self._directory.recall(token.claims) or await self._directory.resolve(token.claims)
        if resolution.user is None and may_be_created(route, resolution):
            resolution = await self._pipeline.create(route, token.claims, request)
        token.decision = self._pipeline.decide(route, token.claims, resolution)
        token.validity = self._directory.validity(token.claims)
        return token.decision

    patch.setattr(Memo, "_decide", decide)


def _lease_never_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalCache, "is_valid", lambda _, __: True)


def _who_was_missing_stays_missing(patch: pytest.MonkeyPatch) -> None:
    validity = LocalCache.validity

    def for_misses_too(self: LocalCache, claims: Claims) -> Validity | None:
        answer = self.recall(claims)
        if answer is None or answer.user is not None:
            return validity(self, claims)
        return Validity(replace(claims, issuer="", issuer_name=""), answer, float("inf"), self.ticket())

    patch.setattr(LocalCache, "validity", for_misses_too)


def _routes_are_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    begin = Memo.__init__

    class Unchecked:
        """A pipeline that decides, and does not check what was decided for another route."""

        def __init__(self, pipeline: Pipeline) -> None:
            self._pipeline = pipeline

        def __getattr__(self, name: str) -> object:
            return getattr(self._pipeline, name)

        def settle(self, *_: object) -> None:
            return None

    def begin_unchecked(self: Memo, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)  # type: ignore[arg-type]  # the same
        patch.setattr(self, "_pipeline", Unchecked(self._pipeline))

    patch.setattr(Memo, "__init__", begin_unchecked)


def _withdrawn_keys_keep_their_tokens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tokens, "forget_withdrawn", lambda *_: 0)


def _tokens_never_expire(patch: pytest.MonkeyPatch) -> None:
    keep = Tokens.keep

    def keep_forever(self: Tokens, *arguments: object) -> Token:
        token = keep(self, *arguments)  # type: ignore[arg-type]  # the same
        token.until = float("inf")
        return token

    patch.setattr(Tokens, "keep", keep_forever)


def _peers_are_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    def read(self: Memo, request: Request) -> Forwarding:
        recurring = request.recurring
        if recurring is None:
            return self._pipeline.read(request)
        if recurring not in self._heads:
            self._heads.put(recurring, memo._Read("", "", self._pipeline.read(request)))
        return self._heads[recurring].forwarding

    patch.setattr(Memo, "_read", read)


def _any_text_is_taken_for_a_token(patch: pytest.MonkeyPatch) -> None:
    """Recognise a head with any text in the place of the token."""
    recall = HeadCache.recall

    def careless(self: HeadCache, data: bytes) -> Known | None:
        head, token = head_cache._split_token(data)
        request = self._heads.get(head)
        if token and request is not None and request in self._admitted:
            return request, Credential.of(token)
        return recall(self, data)

    patch.setattr(HeadCache, "recall", careless)


def _first_verdict_on_a_request_stands(patch: pytest.MonkeyPatch) -> None:
    """Take a condition on the request for one on the token and its user."""
    call = Prepared.__call__

    def once(self: Prepared, request: Request, route: Route) -> None:
        if self._context is not None:
            call(self, request, route)
            self._context = None
            passed.append(self)
        elif self not in passed:
            call(self, request, route)

    passed: list[Prepared] = []
    patch.setattr(Prepared, "__call__", once)


def _conditions_of_other_routes_are_not_prepared(patch: pytest.MonkeyPatch) -> None:
    """Let a request that follows one of another route pass without the condition that it must meet."""
    patch.setattr(memo, "policy", SimpleNamespace(request_check=lambda *_: None))


FAULTS: Final[list[Callable[[pytest.MonkeyPatch], None]]] = [
    _decision_survives_a_change,
    _lease_never_ends,
    _who_was_missing_stays_missing,
    _routes_are_not_told_apart,
    _withdrawn_keys_keep_their_tokens,
    _tokens_never_expire,
    _peers_are_not_told_apart,
    _any_text_is_taken_for_a_token,
    _first_verdict_on_a_request_stands,
    _conditions_of_other_routes_are_not_prepared,
]


@pytest.mark.parametrize("plant", FAULTS, ids=[plant.__name__.strip("_") for plant in FAULTS])
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Different):
        run_state_machine_as_test(
            Ways,
            settings=settings(
                max_examples=500, stateful_step_count=30, deadline=None, database=None, derandomize=True,
                phases=[Phase.generate], report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
