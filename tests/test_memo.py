"""What is remembered about requests, tokens and decisions, and when it counts no more."""

import asyncio
import gc
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import pytest

from gateway.core.admission import Admission
from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import (
    Claims,
    Credential,
    Header,
    Identity,
    Issuer,
    Request,
    Resolution,
    Tier,
    User,
    UserStatus,
    Validity,
)
from gateway.core.reasons import ISSUER_UNTRUSTED, Denial
from gateway.core.revocations import Revocations
from gateway.core.tokens.jws import ALGORITHMS, KeySet
from gateway.core.tokens.key_material import key_from_jwk
from gateway.core.tokens.verified import VerifiedToken
from gateway.identity.local_cache import LocalCache
from gateway.memo import Memo, Tokens
from gateway.pipeline import Pipeline
from gateway.verifier import NO_SUCH_TENANT, TokenVerifier
from tests import pipelines
from tests.fakes import Clock, FakeKeys
from tests.pipelines import NOW, World, request, sent, token
from tests.test_token_verifier import MAIN, OTHER, SECOND, key_set, payload
from tests.tokens import AUDIENCE, ISSUER, ec_key, ed25519_key, rsa_key, sign, unsigned, without


@pytest.fixture
def world() -> World:
    return World()


# Heads that come again ------------------------------------------------------------------------------


def recurring(target: str, *tokens: bytes, headers: tuple[Header, ...] = ()) -> Request:
    return replace(request(target, *tokens, headers=headers), recurring=object())


def remember(world: World, subject: str) -> Identity:
    """Let the directory answer from memory for a user whom it knows."""
    identity = Identity(ISSUER, subject)
    world.directory.remembered[identity] = Resolution(
        world.directory.users[identity], Tier.LOCAL, None, Tier.LOCAL
    )
    return identity


async def test_a_head_that_recurs_is_read_once_and_its_user_asked_each_time(world: World) -> None:
    first = recurring("/admin", token("admin"))
    before = await world.memo.admit(first)
    assert (await world.memo.admit(first)).forwarding is before.forwarding
    again = await world.memo.admit(replace(first, id="r-2", peer="198.51.100.1"))
    assert dict(sent(again))[b"X-Forwarded-For"] == b"198.51.100.1"
    assert before.forwarding.line == again.forwarding.line
    assert len(world.directory.asked) == 3
    identity = Identity(ISSUER, "admin")
    world.directory.users[identity] = replace(world.directory.users[identity], status=UserStatus.SUSPENDED)
    with pytest.raises(Denial) as caught:
        await world.memo.admit(first)
    assert caught.value.reason.code == "user_suspended"


async def test_an_answer_from_memory_counts_while_it_is_valid(world: World) -> None:
    identity, asking = remember(world, "admin"), recurring("/admin", token("admin"))
    await world.memo.admit(asking)
    settled = await world.memo.admit(asking)
    assert await world.memo.admit(replace(asking, id="r-2")) == settled
    world.directory.remembered[identity] = Resolution(
        replace(world.directory.users[identity], status=UserStatus.SUSPENDED), Tier.LOCAL, None, Tier.LOCAL
    )
    # The directory has not said that its answer stands no longer.
    assert await world.memo.admit(asking) == settled
    world.directory.validities.clear()
    for _ in range(2):
        with pytest.raises(Denial) as caught:
            await world.memo.admit(asking)
        assert caught.value.reason.code == "user_suspended"


async def test_an_answer_of_the_stores_counts_while_it_is_valid(world: World) -> None:
    """What was learnt for one request is not looked up, nor rendered, for the next."""
    world.directory.on_resolve = lambda _: remember(world, "admin")
    asking = recurring("/admin", token("admin"))
    first = await world.memo.admit(asking)
    world.directory.remembered.clear()
    again = await world.memo.admit(asking)
    assert again.fields is first.fields
    assert len(world.directory.asked) == 1
    world.directory.validities.clear()
    await world.memo.admit(asking)
    assert len(world.directory.asked) == 2


async def test_a_user_who_was_remembered_comes_from_memory(world: World) -> None:
    world.directory.on_resolve = lambda _: remember(world, "admin")
    asking = recurring("/admin", token("admin"))
    decisions = [(await world.memo.admit(asking)).decision for _ in range(2)]
    assert [each and each.resolution.tier for each in decisions] == [Tier.POSTGRES, Tier.LOCAL]


async def test_an_answer_of_the_stores_does_not_count_if_memory_disagrees(world: World) -> None:
    """A change may have come before the answer did."""
    suspended = replace(world.directory.users[Identity(ISSUER, "admin")], status=UserStatus.SUSPENDED)
    answer = Resolution(suspended, Tier.LOCAL, None, Tier.LOCAL)
    world.directory.on_resolve = lambda claims: world.directory.remembered.update({claims.identity: answer})
    asking = recurring("/admin", token("admin"))
    await world.memo.admit(asking)
    with pytest.raises(Denial, match="user_suspended"):
        await world.memo.admit(asking)


async def test_a_refusal_by_the_stores_is_repeated(world: World) -> None:
    world.directory.on_resolve = lambda _: remember(world, "member")
    asking = recurring("/admin", token())
    for _ in range(2):
        with pytest.raises(Denial, match="role_missing"):
            await world.memo.admit(asking)


async def test_upstreams_get_the_new_state_of_a_user(world: World) -> None:
    identity, asking = remember(world, "member"), recurring("/echo", token())
    await world.memo.admit(asking)
    world.directory.users[identity] = replace(world.directory.users[identity], id="another")
    remember(world, "member")
    world.directory.validities.clear()
    assert dict(sent(await world.memo.admit(asking)))[b"X-User-Id"] == b"another"


async def test_each_route_checks_its_own_requirements(world: World) -> None:
    """Though memory says the same of the token."""
    remember(world, "member")
    raw = token()
    elsewhere = replace(request("/office", raw), peer="198.51.100.1")
    for _ in range(2):
        for asking, code in ((request("/admin", raw), "role_missing"), (elsewhere, "condition_not_met")):
            await world.memo.admit(request("/echo", raw))
            with pytest.raises(Denial, match=code):
                await world.memo.admit(asking)


async def test_a_decision_for_another_route_counts_for_its_next_requests(world: World) -> None:
    remember(world, "member")
    raw = token()
    for target in ("/echo", "/optional", "/leave"):
        first = await world.memo.admit(request(target, raw))
        assert (await world.memo.admit(request(target, raw))).decision is first.decision


async def test_a_store_is_asked_each_time(world: World) -> None:
    asking = recurring("/echo", token())
    for _ in range(2):
        await world.memo.admit(asking)
    assert len(world.directory.asked) == 2
    world.directory.stale = True
    assert dict(sent(await world.memo.admit(asking)))[b"X-Auth-Stale"] == b"true"
    world.directory.stale = False
    assert b"X-Auth-Stale" not in dict(sent(await world.memo.admit(asking)))


@pytest.mark.parametrize(("path", "subject"), [("/echo", "member"), ("/join", "ghost")])
def test_before_it_waits_for_anything_it_sleeps_for_no_time(world: World, path: str, subject: str) -> None:
    """Its caller runs the rest in a task."""
    if subject == "ghost":
        missing = Resolution(None, Tier.LOCAL, None, Tier.LOCAL)
        world.directory.remembered[Identity(ISSUER, subject)] = missing
    admitting = world.memo.admit(request(path, token(subject)))
    assert admitting.send(None) is None
    assert world.directory.asked == []
    with pytest.raises(StopIteration) as ended:
        admitting.send(None)
    assert ended.value.value.user.id == f"id-{subject}"


async def test_a_remembered_head_has_the_peer_and_scheme_of_its_request(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    others = (replace(asking, peer="198.51.100.1"), asking, replace(asking, scheme="http"))
    for other in (asking, asking, *others, *others):
        told = dict(sent(await world.memo.admit(other)))
        assert told[b"X-Forwarded-For"] == other.peer.encode()
        assert told[b"X-Forwarded-Proto"] == other.scheme.encode()


async def test_a_head_that_recurs_ends_with_its_token(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    for _ in range(3):
        await world.memo.admit(asking)
    world.now += 10_000
    with pytest.raises(Denial) as caught:
        await world.memo.admit(asking)
    assert caught.value.reason.code == "token_expired"


async def test_a_head_that_recurs_ends_with_its_keys(world: World) -> None:
    remember(world, "member")
    asking = recurring("/echo", token())
    for _ in range(3):
        await world.memo.admit(asking)
    world.keys.sets.clear()
    with pytest.raises(Denial) as caught:
        await world.memo.admit(asking)
    assert caught.value.reason.code == "keys_unavailable"


async def test_a_head_that_recurs_with_another_token_is_of_the_other_user(world: World) -> None:
    for subject in ("admin", "member"):
        remember(world, subject)
    first = recurring("/echo", token("admin"))
    await world.memo.admit(first)
    for subject in ("member", "admin", "member"):
        admission = await world.memo.admit(replace(first, credential=Credential.of(token(subject))))
        assert dict(sent(admission))[b"X-User-Id"] == f"id-{subject}".encode()
        assert admission.claims is not None
        assert admission.claims.subject == subject


async def test_another_token_is_forwarded_where_tokens_are() -> None:
    world = World(forward_authorization=True)
    raw, another = token("admin"), token()
    first = recurring("/echo", raw)
    assert dict(sent(await world.memo.admit(first)))[b"Authorization"] == b"Bearer " + raw
    other = replace(first, credential=Credential.of(another))
    assert dict(sent(await world.memo.admit(other)))[b"Authorization"] == b"Bearer " + another


async def test_a_token_on_a_public_route_is_forwarded_for_its_own_caller_alone() -> None:
    world = World(forward_authorization=True)
    first = recurring("/public", b"of-the-first")
    other = replace(first, credential=Credential.of(token()))
    another = replace(first, credential=Credential.of(token("admin")))
    for asking in (first, first, other, other, another, first):
        raw = b"of-the-first" if asking.credential is None else asking.credential.raw
        assert dict(sent(await world.memo.admit(asking)))[b"Authorization"] == b"Bearer " + raw


async def test_of_several_authorizations_on_a_public_route_no_other_token_takes_the_place(
    world: World,
) -> None:
    first = recurring("/public", b"one", headers=((b"authorization", b"Basic two"),))
    await world.memo.admit(first)
    # A head that has been settled stands in for those with other tokens.
    assert first.recurring not in world.memo.heads


@pytest.mark.parametrize("schemes", [("http", "https", "http"), ("https", "http", "https")])
async def test_a_head_that_recurs_is_of_its_origin_by_the_scheme_it_comes_with(
    world: World, schemes: tuple[Literal["http", "https"], ...]
) -> None:
    headers = ((b"Cookie", b"session=" + token()), (b"Origin", b"http://a.example"))
    asking = recurring("/browser/x", headers=headers)
    for scheme in schemes:
        asking = replace(asking, method="POST", scheme=scheme)
        if scheme == "http":
            await world.memo.admit(asking)
        else:
            with pytest.raises(Denial, match="origin_not_allowed"):
                await world.memo.admit(asking)


async def test_a_request_to_a_public_route_is_decided_once(world: World) -> None:
    asking = recurring("/public")
    settled = await world.memo.admit(asking)
    assert await world.memo.admit(asking) == settled


async def test_a_head_that_recurs_is_refused_each_time(world: World) -> None:
    for target, code in (("/nowhere", "route_not_found"), ("/echo", "credentials_missing")):
        asking = recurring(target)
        for _ in range(2):
            with pytest.raises(Denial) as caught:
                await world.memo.admit(asking)
            assert caught.value.reason.code == code


async def test_equal_headers_are_not_the_same_head(world: World) -> None:
    """What is remembered is remembered of one object, whose request line is known."""
    public = recurring("/public", headers=((b"X-A", b"1"),))
    await world.memo.admit(public)
    other = recurring("/echo", headers=((b"X-A", b"1"),))
    assert other.headers == public.headers
    with pytest.raises(Denial) as caught:
        await world.memo.admit(other)
    assert caught.value.reason.code == "credentials_missing"


# A change while requests wait -------------------------------------------------------------------------


class SlowDirectory:
    """The real local tier in front of a store whose answers a test lets through one by one."""

    def __init__(self, user: User) -> None:
        self.user = user
        """As the store has it."""
        self.local = LocalCache(ttl=60.0, max_users=9, max_tokens=9, clock=lambda: 0.0)
        self.local.open()
        self.waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    def recall(self, claims: Claims) -> Resolution | None:
        return self.local.recall(claims)

    def validity(self, claims: Claims) -> Validity | None:
        return self.local.validity(claims)

    def is_valid(self, validity: Validity) -> bool:
        return self.local.is_valid(validity)

    async def find(self, claims: Claims) -> Resolution:
        return self.recall(claims) or await self.resolve(claims)

    async def resolve(self, claims: Claims) -> Resolution:
        answer = asyncio.Event()
        self.waiting.put_nowait(answer)
        await answer.wait()
        self.learn(claims)
        return Resolution(self.user, Tier.POSTGRES, None, Tier.REDIS)

    def learn(self, claims: Claims) -> None:
        """Let memory know the user as the store has it."""
        known = Revocations(token=False, user_at=None, issuer_at=None)
        self.local.fill(self.local.ticket(), claims, self.user, 0.0, known, 60.0)

    def change(self, user: User) -> None:
        """Change the user; memory hears of it at once."""
        self.user = user
        self.local.forget_users([user.id])


def slow_memo(directory: SlowDirectory) -> Memo:
    """Return a memo that tells upstreams everything of a user."""
    keys = FakeKeys(main=KeySet([key_from_jwk(ec_key().jwk())]))
    verifier = TokenVerifier([pipelines.MAIN], keys, clock=lambda: NOW)
    sources = {"X-Roles": "user.roles", "X-Tenant": "user.tenant", "X-Email": "user.email"}
    plain = Pipeline(pipelines.ROUTES, verifier, directory, HeaderPolicy(HeaderRules(sources)))
    return Memo(plain, verifier, Tokens(keys, lambda: NOW, 9, defaultdict(int)), directory)


BEFORE = User(
    "id-member", UserStatus.ACTIVE, tenant="acme", email="old@a.example", roles=("reader", "writer")
)
CHANGED = {
    "roles": replace(BEFORE, roles=("reader",)),
    "tenant": replace(BEFORE, tenant="globex"),
    "email": replace(BEFORE, email="new@a.example"),
    "all": replace(BEFORE, roles=(), tenant=None, email=None),
}


def told(admission: Admission) -> dict[bytes, bytes]:
    """Return the fields that tell the upstream of the user."""
    return {name: value for name, value in sent(admission) if not name.startswith(b"X-Forwarded-")}


def described(user: User) -> dict[bytes, bytes]:
    """Return the fields that a user is told by, as they must be."""
    fields = {b"X-Roles": ",".join(user.roles), b"X-Tenant": user.tenant, b"X-Email": user.email}
    return {name: value.encode() for name, value in fields.items() if value}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_a_request_that_waits_while_the_user_changes_gets_the_new_state(changed: User) -> None:
    """Another request with the same token was forwarded in between, as the user was before."""
    directory = SlowDirectory(BEFORE)
    memo, asking = slow_memo(directory), recurring("/echo", token())
    # The token is verified and remembered, so that the requests that follow share what is kept with it.
    earlier = asyncio.create_task(memo.admit(asking))
    (await directory.waiting.get()).set()
    await earlier
    directory.change(BEFORE)
    first, second = (asyncio.create_task(memo.admit(asking)) for _ in range(2))
    let_first, let_second = await directory.waiting.get(), await directory.waiting.get()
    let_first.set()
    assert told(await first) == described(BEFORE)

    directory.change(changed)
    let_second.set()
    assert told(await second) == described(changed) != described(BEFORE)
    # The next one is not looked up, and says the same.
    assert told(await memo.admit(asking)) == described(changed)


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
async def test_a_change_that_memory_learns_of_otherwise_is_forwarded(changed: User) -> None:
    """Another token's request has brought the user's new state."""
    directory = SlowDirectory(BEFORE)
    memo, asking = slow_memo(directory), recurring("/echo", token())
    first = asyncio.create_task(memo.admit(asking))
    (await directory.waiting.get()).set()
    admission = await first
    assert admission.claims is not None
    assert told(admission) == described(BEFORE)

    directory.change(changed)
    directory.learn(admission.claims)
    for _ in range(2):
        assert told(await memo.admit(asking)) == described(changed) != described(BEFORE)
    assert directory.waiting.empty()


# Tokens -------------------------------------------------------------------------------------------


class Known:
    """A verifier and the memory of what it verified."""

    def __init__(
        self, keys: FakeKeys, clock: Clock, *, issuers: Sequence[Issuer] = (MAIN, SECOND), capacity: int = 4
    ) -> None:
        self.verifier = TokenVerifier(issuers, keys, clock=clock)
        self.tokens = Tokens(keys, clock, capacity, defaultdict(int))

    async def look(self, raw: bytes) -> tuple[Claims, bool]:
        """Return a raw's claims as the memo does, and whether the token was remembered."""
        credential = Credential.of(raw)
        remembered = self.tokens.recall(credential)
        assert (credential.digest in self.tokens.digests) is (remembered is not None)
        if remembered is not None:
            return remembered.claims, True
        return self.tokens.keep(credential, await self.verifier.verify(credential)).claims, False

    async def refused(self, raw: bytes) -> str:
        with pytest.raises(Denial) as caught:
            await self.look(raw)
        assert len(self.tokens) == 0
        return caught.value.reason.code


class Counting:
    """A verifier that counts what it is asked."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self.asked = 0

    async def verify(self, credential: Credential) -> VerifiedToken:
        self.asked += 1
        return await self._verifier.verify(credential)


class Refusing:
    """A memo, and what it was asked to verify."""

    def __init__(self, keys: FakeKeys, clock: Clock, issuer: Issuer = MAIN) -> None:
        self.verifier = Counting(TokenVerifier((issuer,), keys, clock=clock))
        self.counted: list[Denial] = []
        directory = SlowDirectory(BEFORE)
        plain = Pipeline(pipelines.ROUTES, self.verifier, directory, HeaderPolicy(HeaderRules({})))
        tokens = Tokens(keys, clock, 9, defaultdict(int), self.counted.append)
        self.memo = Memo(plain, self.verifier, tokens, directory)

    async def refused(self, raw: bytes) -> Denial:
        with pytest.raises(Denial) as caught:
            await self.memo.admit(request("/echo", raw))
        return caught.value


BAD_TOKENS: dict[str, Callable[[], bytes]] = {
    "signature_invalid": lambda: sign(payload(), rsa_key("stranger"), kid=rsa_key().kid),
    "issuer_untrusted": lambda: sign(payload(iss="https://other/"), rsa_key()),
    "token_malformed": lambda: b"a.b.c",
    "algorithm_not_allowed": lambda: unsigned({"alg": "none"}, payload(), b""),
    "token_type_invalid": lambda: sign(payload(), rsa_key(), typ="dpop+jwt"),
    "critical_header_unsupported": lambda: sign(payload(), rsa_key(), crit=["b64"], b64=False),
}


@pytest.mark.parametrize("reason", BAD_TOKENS)
async def test_a_bad_token_is_verified_once(keys: FakeKeys, clock: Clock, reason: str) -> None:
    refusing, raw = Refusing(keys, clock), BAD_TOKENS[reason]()
    denials = [await refusing.refused(raw) for _ in range(3)]
    assert {denial.reason.code for denial in denials} == {reason}
    assert {(denial.detail, denial.issuer) for denial in denials} == {(denials[0].detail, denials[0].issuer)}
    assert all(denial.route is not None for denial in denials)
    assert refusing.verifier.asked == 1
    # What is not verified again is counted all the same.
    assert [denial.reason.code for denial in refusing.counted] == [reason] * 2


async def test_new_keys_may_make_a_bad_signature_good(keys: FakeKeys, clock: Clock) -> None:
    refusing, raw = Refusing(keys, clock), sign(payload(), rsa_key("stranger"), kid=rsa_key().kid)
    assert (await refusing.refused(raw)).reason.code == "signature_invalid"
    keys.sets["main"] = key_set(rsa_key("stranger"))
    assert (await refusing.refused(raw)).reason.code != "signature_invalid"
    assert refusing.verifier.asked == 2


async def test_keys_that_come_later_are_asked(keys: FakeKeys, clock: Clock) -> None:
    """An algorithm that the issuer does not use is refused without them."""
    refusing, raw = Refusing(keys, clock, pipelines.MAIN), sign(payload(), rsa_key())
    published, keys.sets["main"] = keys.sets["main"], None
    for _ in range(2):
        assert (await refusing.refused(raw)).reason.code == "algorithm_not_allowed"
    assert refusing.verifier.asked == 1
    keys.sets["main"] = published
    await refusing.refused(raw)
    assert refusing.verifier.asked == 2


async def test_refusals_keep_no_old_keys(keys: FakeKeys, clock: Clock) -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(each, KeySet) for each in gc.get_objects())

    refusing, before = Refusing(keys, clock), alive()
    for number in range(5):
        keys.sets["main"] = key_set(rsa_key())
        raw = sign(payload(jti=str(number)), rsa_key("stranger"), kid=rsa_key().kid)
        assert (await refusing.refused(raw)).reason.code == "signature_invalid"
    assert alive() <= before + 1


async def test_a_refusal_leaves_no_cycle_to_collect(keys: FakeKeys, clock: Clock) -> None:
    """A flood of them would have the collector look through everything again and again."""
    refusing, raw = Refusing(keys, clock), sign(payload(), rsa_key("stranger"), kid=rsa_key().kid)

    async def refuse() -> None:
        for _ in range(100):
            try:
                await refusing.memo.admit(request("/echo", raw))
            except Denial:
                refusing.counted.clear()

    await refuse()
    gc.collect()
    gc.disable()
    try:
        await refuse()
        assert gc.collect() < 100
    finally:
        gc.enable()


async def test_a_refusal_that_depends_on_the_time_is_not_remembered(keys: FakeKeys, clock: Clock) -> None:
    refusing = Refusing(keys, clock)
    early = sign(payload(nbf=clock.now + 3600), rsa_key())
    for _ in range(2):
        assert (await refusing.refused(early)).reason.code == "token_not_yet_valid"
    assert refusing.verifier.asked == 2


def test_a_tenant_that_an_issuer_does_not_have_yet_is_looked_for_again(known: Known) -> None:
    for denial, again in (
        (Denial(ISSUER_UNTRUSTED, NO_SUCH_TENANT, issuer="main"), False),
        (Denial(ISSUER_UNTRUSTED), True),
    ):
        credential = Credential.of(str(denial.issuer).encode())
        known.tokens.keep_refusal(credential, denial)
        with pytest.raises(Denial) if again else nullcontext():
            known.tokens.refuse(credential)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(main=key_set(rsa_key(), ec_key(), ed25519_key()), second=key_set(rsa_key("second")))


@pytest.fixture
def known(keys: FakeKeys, clock: Clock) -> Known:
    return Known(keys, clock)


async def test_a_verified_token_is_remembered_until_its_leeway_ends(known: Known, clock: Clock) -> None:
    raw = sign(payload(), rsa_key())
    first, _ = await known.look(raw)

    clock.now = NOW + 300 + 29.9
    assert await known.look(raw) == (first, True)
    clock.now = NOW + 300 + 30
    assert await known.refused(raw) == "token_expired"


async def test_one_changed_byte_misses(known: Known) -> None:
    raw = sign(payload(), rsa_key())
    await known.look(raw)

    for index in range(0, len(raw), 7):
        changed = raw[:index] + (b"A" if raw[index : index + 1] != b"A" else b"B") + raw[index + 1 :]
        with pytest.raises(Denial):
            await known.look(changed)
    assert len(known.tokens) == 1


async def test_a_refused_token_is_not_remembered(known: Known, clock: Clock) -> None:
    early = sign(payload(nbf=NOW + 60), rsa_key())

    assert await known.refused(early) == "token_not_yet_valid"
    clock.now += 60
    assert (await known.look(early))[1] is False


async def test_a_withdrawn_key_takes_its_tokens_along(known: Known, keys: FakeKeys) -> None:
    by_rsa, by_ec = sign(payload(), rsa_key()), sign(payload(), ec_key())
    foreign = sign(payload(iss=OTHER), rsa_key("second"))
    for raw in (by_rsa, by_ec, foreign):
        await known.look(raw)
    keys.sets["main"] = key_set(ec_key())

    assert known.tokens.forget_withdrawn("main", keys.sets["main"]) == 1
    with pytest.raises(Denial, match="key_unknown"):
        await known.look(by_rsa)
    assert (await known.look(by_ec))[1] is True
    assert (await known.look(foreign))[1] is True


async def test_another_key_under_the_same_kid_is_a_withdrawn_key(known: Known) -> None:
    await known.look(sign(payload(), rsa_key()))

    assert known.tokens.forget_withdrawn("main", key_set(rsa_key())) == 0
    assert known.tokens.forget_withdrawn("main", KeySet([key_from_jwk(rsa_key("b").jwk(kid="rsa"))])) == 1


async def test_an_issuer_without_keys_has_no_remembered_tokens(known: Known) -> None:
    await known.look(sign(payload(), rsa_key()))
    await known.look(sign(payload(iss=OTHER), rsa_key("second")))

    assert known.tokens.forget_withdrawn("main", None) == 1
    assert len(known.tokens) == 1


async def test_keys_too_old_to_be_trusted_are_not_trusted_from_memory(known: Known, keys: FakeKeys) -> None:
    raw = sign(payload(), rsa_key())
    await known.look(raw)
    keys.sets["main"] = None

    with pytest.raises(Denial, match="keys_unavailable"):
        await known.look(raw)


async def test_a_token_without_exp_is_remembered_where_the_issuer_allows_it(
    keys: FakeKeys, clock: Clock
) -> None:
    lax = Issuer("main", ISSUER, frozenset({AUDIENCE}), ALGORITHMS, require=frozenset())
    known = Known(keys, clock, issuers=[lax])
    raw = sign(without(payload(), "exp"), rsa_key())
    await known.look(raw)

    clock.now += 10**9
    assert (await known.look(raw))[1] is True


async def test_memory_is_bounded(known: Known) -> None:
    for number in range(9):
        await known.look(sign(payload(jti=f"j{number}"), ed25519_key()))

    assert len(known.tokens) == 4


@pytest.mark.parametrize("then", [key_set(ec_key()), None])
async def test_a_token_whose_key_was_withdrawn_meanwhile_is_not_remembered(
    known: Known, keys: FakeKeys, then: KeySet | None
) -> None:
    credential = Credential.of(sign(payload(), rsa_key()))
    verified = await known.verifier.verify(credential)
    keys.sets["main"] = then
    known.tokens.keep(credential, verified)
    assert len(known.tokens) == 0


async def test_the_key_that_verified_a_token_is_the_one_whose_withdrawal_forgets_it(
    known: Known, keys: FakeKeys
) -> None:
    old, new = rsa_key("old"), rsa_key("new")
    keys.sets["main"] = KeySet(key_from_jwk(key.jwk(kid="same")) for key in (old, new))
    by_old, by_new = (sign(payload(), key, kid="same") for key in (old, new))
    await known.look(by_old)
    await known.look(by_new)

    keys.sets["main"] = KeySet([key_from_jwk(old.jwk(kid="same"))])
    assert known.tokens.forget_withdrawn("main", keys.sets["main"]) == 1
    assert (await known.look(by_old))[1] is True
    with pytest.raises(Denial, match="signature_invalid"):
        await known.look(by_new)
