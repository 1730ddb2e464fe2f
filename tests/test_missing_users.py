"""Routes for users who are not active, or whom the directory does not know, with and without the memo."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from gateway.core.admission import Admission
from gateway.core.model import Identity, Request, Resolution, Tier, UserStatus
from gateway.core.reasons import USER_STORE_UNAVAILABLE, Denial
from tests.pipelines import World, request, sent, token
from tests.tokens import ISSUER

Admit: TypeAlias = Callable[[Request], Awaitable[Admission]]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["plain", "memo"])
def admit(request: pytest.FixtureRequest, world: World) -> Admit:
    return world.pipeline.admit if request.param == "plain" else world.memo.admit


async def refused(admit: Admit, sent: Request) -> str:
    with pytest.raises(Denial) as caught:
        await admit(sent)
    return caught.value.reason.code


# Users who are not active -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", UserStatus)
async def test_a_route_may_allow_any_status_and_sends_it_upstream(admit: Admit, status: UserStatus) -> None:
    admission = await admit(request("/leave", token(status.value), headers=((b"X_User_Status", b"active"),)))

    fields = sent(admission)
    assert (b"X-User-Status", status.value.encode()) in fields
    assert (b"X-User-Id", f"id-{status.value}".encode()) in fields
    assert b"X_User_Status" not in dict(fields)


@pytest.mark.parametrize(
    ("kind", "reason"), [("jti", "token_revoked"), ("user", "tokens_revoked_before")], ids=["jti", "user"]
)
async def test_a_revocation_counts_for_any_status(world: World, admit: Admit, kind: str, reason: str) -> None:
    world.directory.revoked = "jti" if kind == "jti" else "user"

    assert await refused(admit, request("/leave", token("deleted"))) == reason


async def test_a_route_that_allows_any_status_admits_no_missing_user(admit: Admit) -> None:
    assert await refused(admit, request("/leave", token("ghost"))) == "user_not_found"


async def test_the_status_is_sent_on_that_route_only(world: World) -> None:
    """What was settled on one route is not sent on another whose fields differ."""
    raw = token()
    remember(world, "member")

    async def tells(path: str) -> bool:
        return b"X-User-Status" in dict(sent(await world.memo.admit(request(path, raw))))

    told = [await tells(path) for path in ("/echo", "/leave", "/leave", "/echo", "/welcome")]
    assert told == [False, True, True, False, False]


async def test_a_suspended_user_admitted_on_one_route_is_refused_on_others(world: World) -> None:
    raw = token("suspended")
    remember(world, "suspended")

    await world.memo.admit(request("/leave", raw))
    assert await refused(world.memo.admit, request("/echo", raw)) == "user_suspended"
    await world.memo.admit(request("/leave", raw))


# Users who are missing --------------------------------------------------------------------------------


async def test_a_token_without_a_user_is_forwarded_where_the_route_says_so(admit: Admit) -> None:
    forged = (b"X_User_Missing", b"false"), (b"X-User-Id", b"root")
    admission = await admit(request("/welcome", token("ghost"), headers=forged))

    fields = dict(sent(admission))
    assert (fields[b"X-User-Id"], fields[b"X-User-Missing"]) == (b"", b"true")
    assert fields[b"X-Auth-Subject"] == b"ghost"
    assert b"X_User_Missing" not in fields
    assert admission.user is None


async def test_a_user_who_is_there_is_not_called_missing(admit: Admit) -> None:
    fields = dict(sent(await admit(request("/welcome", token()))))

    assert fields[b"X-User-Id"] == b"id-member"
    assert b"X-User-Missing" not in fields


@pytest.mark.parametrize("subject", ["suspended", "pending", "locked", "deleted"])
async def test_a_user_who_is_not_active_is_refused_and_not_called_missing(admit: Admit, subject: str) -> None:
    assert await refused(admit, request("/welcome", token(subject))) == f"user_{subject}"


@pytest.mark.parametrize("path", ["/echo", "/admin", "/welcome-admin", "/optional"])
async def test_a_token_without_a_user_is_refused_elsewhere(world: World, admit: Admit, path: str) -> None:
    raw = token("ghost")
    await world.memo.admit(request("/welcome", raw))

    assert await refused(admit, request(path, raw)) == "user_not_found"


async def test_a_store_that_does_not_answer_makes_no_user_missing(world: World, admit: Admit) -> None:
    world.directory.failure = Denial(USER_STORE_UNAVAILABLE)

    assert await refused(admit, request("/welcome", token("ghost"))) == "user_store_unavailable"


async def test_a_revoked_token_without_a_user_is_refused(world: World, admit: Admit) -> None:
    world.directory.revoked = "jti"

    assert await refused(admit, request("/welcome", token("ghost"))) == "token_revoked"


async def test_a_stream_of_a_missing_user_continues_while_a_new_request_would_pass(world: World) -> None:
    admission = await world.memo.admit(request("/welcome", token("ghost")))
    route, claims = admission.forwarding.route, admission.claims
    assert claims is not None

    assert (await world.memo.reauthorize(request("/welcome"), route, claims)).user is None
    world.directory.users[claims.identity] = world.directory.users[Identity(ISSUER, "suspended")]
    with pytest.raises(Denial) as caught:
        await world.memo.reauthorize(request("/welcome"), route, claims)
    assert caught.value.reason.code == "user_suspended"


# Users who are created ---------------------------------------------------------------------------------


async def test_a_missing_user_is_created_where_the_route_says_so(admit: Admit) -> None:
    for _ in range(2):
        fields = dict(sent(await admit(request("/join", token("ghost")))))
        assert fields[b"X-User-Id"] == b"id-ghost"
        assert b"X-User-Missing" not in fields


async def test_the_provisioner_gets_the_request_id(world: World, admit: Admit) -> None:
    await admit(request("/join", token("ghost")))
    await admit(request("/join", token()))

    assert world.provisioner.asked == [("join", "ghost", "r-1")]


@pytest.mark.parametrize("path", ["/echo", "/welcome-admin", "/leave", "/optional"])
async def test_no_user_is_created_elsewhere(world: World, admit: Admit, path: str) -> None:
    assert await refused(admit, request(path, token("ghost"))) == "user_not_found"
    assert world.provisioner.asked == []


async def test_no_user_is_created_for_a_revoked_token(world: World, admit: Admit) -> None:
    world.directory.revoked = "jti"

    assert await refused(admit, request("/join", token("ghost"))) == "token_revoked"
    assert world.provisioner.asked == []


async def test_no_user_is_created_while_a_store_does_not_answer(world: World, admit: Admit) -> None:
    world.directory.failure = Denial(USER_STORE_UNAVAILABLE)

    assert await refused(admit, request("/join", token("ghost"))) == "user_store_unavailable"
    assert world.provisioner.asked == []


@pytest.mark.parametrize("status", ["suspended", "pending", "locked", "deleted"])
async def test_a_user_who_is_not_active_is_not_created_again(world: World, admit: Admit, status: str) -> None:
    assert await refused(admit, request("/join", token(status))) == f"user_{status}"
    assert world.provisioner.asked == []


async def test_an_open_stream_creates_no_user(world: World) -> None:
    """A user who is removed while a stream is open loses it."""
    admission = await world.memo.admit(request("/join", token("ghost")))
    claims = admission.claims
    assert claims is not None
    world.provisioner.asked.clear()
    world.directory.users.pop(claims.identity)

    with pytest.raises(Denial) as caught:
        await world.memo.reauthorize(request(), admission.forwarding.route, claims)
    assert caught.value.reason.code == "user_not_found"
    assert world.provisioner.asked == []


async def test_a_remembered_miss_keeps_no_user_from_being_created(world: World) -> None:
    identity = Identity(ISSUER, "ghost")
    world.directory.remembered[identity] = Resolution(None, Tier.LOCAL, None, Tier.LOCAL)

    await world.memo.admit(request("/join", token("ghost")))
    assert identity in world.directory.users


def remember(world: World, subject: str) -> None:
    """Let the directory answer from memory for a user whom it knows."""
    identity = Identity(ISSUER, subject)
    world.directory.remembered[identity] = Resolution(
        world.directory.users[identity], Tier.LOCAL, None, Tier.LOCAL
    )
