"""Threats: identity headers and state: users who are missing, or not active, on routes that take them."""

import asyncio
import uuid

import pytest

from tests import tokens
from tests.harness import SECOND_ISSUER, House, token
from tests.sockets import Received
from tests.threats.test_identity_headers import as_cgi_sees_it

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPELLINGS = (b"X-User-Missing", b"x-user-missing", b"X_User_Missing", b"X.User-Missing", b"X!USER~MISSING")


def status(received: Received) -> list[bytes]:
    return as_cgi_sees_it(received).get(b"x-user-status", [])


def missing(received: Received) -> list[bytes]:
    return as_cgi_sees_it(received).get(b"x-user-missing", [])


@pytest.mark.parametrize("subject", ["member", "suspended", "locked", "pending", "deleted"])
async def test_a_user_of_any_status_can_sign_out(house: House, subject: str) -> None:
    expected = b"active" if subject == "member" else subject.encode()
    for spelling in (b"X-User-Status", b"X_User_Status", b"x.user.status"):
        received = await house.forwarded("/leave/x", spelling + b": active", token=token(subject))
        assert status(received) == [expected]
        assert len(received.values(b"x-user-id")) == 1


@pytest.mark.parametrize("subject", ["suspended", "locked", "pending", "deleted"])
async def test_a_route_for_inactive_users_opens_no_other_route(house: House, subject: str) -> None:
    raw = token(subject)
    await house.forwarded("/leave/x", token=raw)
    for path in ("/private/x", "/welcome/x", "/optional/x"):
        response = await house.request(path, b"X-User-Status: active", token=raw)
        assert (response.status, response.code) == (401, f"user_{subject}")
    assert [each.head.split(b" ")[1] for each in house.upstream.requests] == [b"/leave/x"]


async def test_a_revoked_token_cannot_even_sign_out(house: House) -> None:
    raw = token("deleted", jti="left-on-a-train")
    await house.forwarded("/leave/x", token=raw)
    await house.set_key("revoked:jti:main:left-on-a-train", "1")
    async with asyncio.timeout(10):
        while (response := await house.request("/leave/x", token=raw)).status == 200:
            pass
    assert response.code == "token_revoked"
    assert (await house.request("/leave/x", token=token("signed-out"))).code == "tokens_revoked_before"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("path", ["/private/x", "/public/x", "/optional/x", "/leave/x", "/welcome/x"])
async def test_a_client_cannot_call_a_user_missing(house: House, path: str, spelling: bytes) -> None:
    assert missing(await house.forwarded(path, spelling + b": true", token=token())) == []


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_client_cannot_hide_that_its_user_is_missing(house: House, spelling: bytes) -> None:
    forged = spelling + b": false", b"X_User_Id: root", b"Connection: X-User-Missing, X-User-Id"
    received = await house.forwarded("/welcome/x", *forged, token=token("ghost"))
    assert missing(received) == [b"true"]
    assert as_cgi_sees_it(received)[b"x-user-id"] == [b""]
    assert {name for name in as_cgi_sees_it(received) if name.startswith(b"x-user-")} == {
        b"x-user-id", b"x-user-missing"
    }  # fmt: skip


async def test_a_missing_user_is_admitted_by_that_route_alone(house: House) -> None:
    raw = token("ghost")
    await house.forwarded("/welcome/x", token=raw)
    for path in ("/private/x", "/admin/x", "/optional/x", "/leave/x"):
        assert (await house.request(path, token=raw)).code == "user_not_found"


async def test_the_same_subject_of_another_issuer_is_missing(house: House) -> None:
    claims = {**tokens.claims("member", jti=uuid.uuid4().hex), "iss": SECOND_ISSUER}
    raw = tokens.sign(claims, tokens.rsa_key("second"))
    received = await house.forwarded("/welcome/x", token=raw)
    assert (missing(received), received.values(b"x-user-id")) == ([b"true"], [b""])


async def test_a_missing_user_is_found_as_soon_as_created(house: House) -> None:
    subject = f"newcomer-{uuid.uuid4().hex}"
    raw = token(subject)
    for _ in range(3):
        assert missing(await house.forwarded("/welcome/x", token=raw)) == [b"true"]
    (row,) = await house.sql(
        "WITH u AS (INSERT INTO users (status) VALUES ('active') RETURNING id), i AS ("
        " INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, id FROM u)"
        " SELECT id::text FROM u",
        tokens.ISSUER, subject,
    )  # fmt: skip
    # Less than `cache.negative_ttl`, after which a miss would be asked about again.
    async with asyncio.timeout(3):
        while missing(received := await house.forwarded("/welcome/x", token=raw)):
            pass
    assert received.values(b"x-user-id") == [row["id"].encode()]
    await house.sql("UPDATE users SET status = 'suspended' WHERE id = $1", uuid.UUID(row["id"]))
    async with asyncio.timeout(10):
        while (response := await house.request("/welcome/x", token=raw)).status == 200:
            pass
    assert response.code == "user_suspended"
