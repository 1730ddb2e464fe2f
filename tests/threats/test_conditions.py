"""Threats: state: conditions that a client could evade, or that could cost more than they should."""

import pytest

from tests.harness import House, token
from tests.sockets import request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_one_client_s_verdict_does_not_serve_another(house: House) -> None:
    """The verdict on a request is not remembered with the token, nor with the head."""
    raw = token()
    for _ in range(3):
        await house.forwarded("/office/x", b"X-Office: north", token=raw)
        for fields in (
            (),
            (b"X-Office: south",),
            (b"X_Office: north",),
            (b"X-Office: north", b"X-Office: south"),
        ):
            response = await house.request("/office/x", *fields, token=raw)
            assert response.status == 403, fields
            assert response.code in {"condition_not_met", "condition_failed"}


async def test_a_condition_is_checked_on_one_connection_too(house: House) -> None:
    """Requests that follow a good one are not taken for it."""
    raw = token()
    async with house.connect() as client:
        for office, status in ((b"north", 200), (b"south", 403), (b"north", 200), (b"South", 403)):
            await client.send(request_bytes("GET", "/office/x", b"X-Office: " + office, token=raw))
            response = await client.response()
            assert response is not None
            assert response.status == status


@pytest.mark.parametrize("plan", ["PRO", "pro ", ["pro"], {"pro": True}, True, None, 1, "pro\u0000"])
async def test_a_claim_of_another_shape_does_not_pass(house: House, plan: object) -> None:
    response = await house.request("/pro/x", token=token(plan=plan))  # type: ignore[arg-type]  # any JSON
    assert (response.status, house.upstream.requests) == (403, [])


async def test_a_huge_claim_costs_little(house: House) -> None:
    response = await house.request("/pro/x", token=token(plan=[1] * 3000))
    assert (response.status, response.code) == (403, "condition_failed")
