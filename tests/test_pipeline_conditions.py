"""Conditions on the plain way and with a memory: what each request gets, again and again."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeAlias

import pytest

from gateway.core.admission import Admission
from gateway.core.model import Identity, Request
from gateway.core.reasons import Denial
from tests.pipelines import World, request, token
from tests.tokens import ISSUER

Admit: TypeAlias = Callable[[Request], Awaitable[Admission]]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["pipeline", "memo"])
def admit(world: World, request: pytest.FixtureRequest) -> Admit:
    way: Admit = getattr(world, request.param).admit
    return way


async def verdict(admit: Admit, request: Request) -> str:
    try:
        await admit(request)
    except Denial as denial:
        return denial.reason.code
    return "allow"


ELSEWHERE = "198.51.100.1"


async def test_each_request_is_asked_about(admit: Admit) -> None:
    """The same token, the same head, another client; and another head of the same client."""
    raw, head = token(), object()
    here = replace(request("/office", raw), recurring=head)
    for _ in range(2):
        assert await verdict(admit, here) == "allow"
        assert await verdict(admit, replace(here, peer=ELSEWHERE)) == "condition_not_met"
        assert await verdict(admit, replace(here, spoken_for=ELSEWHERE)) == "condition_not_met"
        assert await verdict(admit, request("/office/x", raw)) == "condition_not_met"
        assert await verdict(admit, replace(request("/office", token("admin")), peer=ELSEWHERE)) == "allow"


async def test_a_denial_by_a_request_is_attributed(world: World, admit: Admit) -> None:
    with pytest.raises(Denial) as caught:
        await admit(replace(request("/office", token()), peer=ELSEWHERE))
    denial = caught.value
    assert (denial.issuer, denial.subject, denial.user_id) == ("main", "member", "id-member")
    assert denial.tier is not None


async def test_one_route_s_condition_is_not_the_others(admit: Admit) -> None:
    raw = token(jti="jti-again")
    for _ in range(2):
        assert await verdict(admit, request("/pro", raw)) == "allow"
        assert await verdict(admit, replace(request("/office", raw), peer=ELSEWHERE)) == "condition_not_met"
        assert await verdict(admit, request("/echo", raw)) == "allow"
        assert await verdict(admit, request("/pro", token(jti="other"))) == "condition_not_met"


async def test_a_condition_holds_for_requests_without_a_token(admit: Admit) -> None:
    assert await verdict(admit, request("/lounge")) == "allow"
    assert await verdict(admit, replace(request("/lounge"), peer=ELSEWHERE)) == "condition_not_met"
    assert await verdict(admit, replace(request("/lounge", token()), peer=ELSEWHERE)) == "allow"


async def test_a_change_of_the_user_counts_at_once(world: World, admit: Admit) -> None:
    raw, identity = token("admin", jti="other"), Identity(ISSUER, "admin")
    assert await verdict(admit, request("/pro", raw)) == "allow"
    world.directory.users[identity] = replace(world.directory.users[identity], roles=())
    assert await verdict(admit, request("/pro", raw)) == "condition_not_met"


async def test_a_stream_ends_when_its_condition_no_longer_holds(world: World) -> None:
    asked = replace(request("/office", token("admin")), peer=ELSEWHERE)
    admission = await world.pipeline.admit(asked)
    route, claims = admission.forwarding.route, admission.claims
    assert claims is not None
    await world.pipeline.reauthorize(asked, route, claims)
    identity = claims.identity
    world.directory.users[identity] = replace(world.directory.users[identity], roles=())
    with pytest.raises(Denial, match="condition_not_met"):
        await world.pipeline.reauthorize(asked, route, claims)
