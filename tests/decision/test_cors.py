"""Pages of other origins, where a front asks: it passes preflights on, and denials can be read."""

import pytest

from gateway.core.model import JSON
from tests.decision.asking import ASKS, Ask, ask, told
from tests.harness import PAGE_ORIGIN, House

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORIGIN = b"Origin: " + PAGE_ORIGIN.encode()
EVIL = b"Origin: https://evil.example.com"
ASKED = b"Access-Control-Request-Method: PUT"
SHARED: JSON = "/shared/x"

every_front = pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS.keys())


@every_front
async def test_a_preflight_passes_without_a_user(door: House, asks: Ask) -> None:
    response = await ask(door, asks("OPTIONS", SHARED, ORIGIN, ASKED, b"X-User-Id: forged"))
    assert response.status == 200
    assert set(told(response).values()) == {b""}
    assert response.values(b"access-control-allow-origin") == []


@every_front
async def test_a_request_that_is_not_quite_a_preflight_does_not_pass(door: House, asks: Ask) -> None:
    assert (await ask(door, asks("OPTIONS", SHARED, EVIL, ASKED))).code == "origin_not_allowed"
    for fields in ((ORIGIN,), (ASKED,), (ORIGIN, EVIL, ASKED), (ORIGIN, ASKED, ASKED)):
        assert (await ask(door, asks("OPTIONS", SHARED, *fields))).code == "credentials_missing"
    assert (await ask(door, asks("PUT", SHARED, ORIGIN, ASKED))).code == "credentials_missing"
    assert (await ask(door, asks("OPTIONS", "/private/x", ORIGIN, ASKED))).code == "credentials_missing"


@every_front
async def test_a_denial_can_be_read_by_listed_origins(door: House, asks: Ask) -> None:
    response = await ask(door, asks("GET", SHARED, ORIGIN))
    assert response.status == 401
    assert response.field(b"access-control-allow-origin") == PAGE_ORIGIN.encode()
    assert response.field(b"vary") == b"Origin"
    other = await ask(door, asks("GET", SHARED, EVIL))
    assert other.values(b"access-control-allow-origin") == []
    assert other.field(b"vary") == b"Origin"
