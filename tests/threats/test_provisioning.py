"""Threats: state: no token creates a user that it should not, and none takes over an account."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.harness import JOINING_ISSUER, SECOND_ISSUER, House, newcomer, open_house, token
from tests.sockets import Response

pytestmark = pytest.mark.asyncio(loop_scope="session")


def subject() -> str:
    return f"newcomer-{uuid.uuid4().hex}"


async def users(house: House, who: str) -> list[dict[str, Any]]:  # rows
    rows = await house.sql(
        "SELECT u.id::text, u.status, u.tenant, u.email, u.display_name, u.roles, i.issuer"
        " FROM identities i JOIN users u ON u.id = i.user_id WHERE i.subject = $1",
        who,
    )
    return [dict(row) for row in rows]


async def refused(house: House, who: str, raw: bytes, path: str = "/join/x") -> str:
    """Send a request that must be refused, and see that neither it nor its repetition leaves anything."""
    before = (await house.sql("SELECT count(*) AS n FROM users"))[0]["n"]
    responses: list[Response] = [await house.request(path, token=raw) for _ in range(2)]
    assert house.upstream.requests == []
    assert (await house.sql("SELECT count(*) AS n FROM users"))[0]["n"] == before
    assert await users(house, who) == []
    first, second = (str(response.code) for response in responses)
    assert first == second
    return first


async def test_a_newcomer_is_one_user_as_configured(house: House) -> None:
    who = subject()
    before = await house.metric("gateway_users_provisioned_total", issuer="joining", result="created")
    raw = newcomer(who, roles=["admin"], status="deleted", id=str(uuid.uuid4()))
    forged = b"X-User-Id: root", b"X-User-Roles: admin", b"X-User-Missing: true"
    traced = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    received = [await house.forwarded("/join/x", *forged, traced, token=raw) for _ in range(3)]

    (row,) = await users(house, who)
    assert row == {
        "id": row["id"], "status": "active", "tenant": "acme", "email": f"{who}@example.org",
        "display_name": "New Comer", "roles": ["reader", "writer"], "issuer": JOINING_ISSUER,
    }  # fmt: skip
    for each in received:
        assert each.values(b"x-user-id") == [row["id"].encode()]
        assert each.values(b"x-user-roles") == [b"reader,writer"]
        assert each.values(b"x-user-tenant") == [b"acme"]
        assert each.values(b"x-user-missing") == []
    (audited,) = await house.sql("SELECT * FROM audit WHERE target = $1", f"user:{row['id']}")
    assert (audited["actor"], audited["action"]) == ("gateway", "user.provision")
    assert audited["request_id"].encode() == received[0].values(b"x-request-id")[0]
    assert f"{who}@example.org" not in str(audited["detail"])
    after = await house.metric("gateway_users_provisioned_total", issuer="joining", result="created")
    assert after == before + 1
    (line,) = house.events("user_provisioned")
    assert (line["user"], line["issuer"]) == (row["id"], "joining")
    assert (line["request_id"], line["trace_id"]) == (
        audited["request_id"],
        "0af7651916cd43dd8448eb211c80319c",
    )
    assert who not in house.log.getvalue()


async def test_a_created_user_is_a_user_like_any_other(house: House) -> None:
    who = subject()
    raw = newcomer(who)
    assert (await house.request("/private/x", token=raw)).code == "user_not_found"
    await house.forwarded("/join/x", token=raw)
    await house.forwarded("/private/x", token=raw)
    await house.sql("UPDATE users SET status = 'suspended' WHERE email = $1", f"{who}@example.org")
    async with asyncio.timeout(10):
        while (response := await house.request("/join/x", token=raw)).status == 200:
            pass
    assert response.code == "user_suspended"
    await house.sql("UPDATE users SET deleted_at = now() WHERE email = $1", f"{who}@example.org")
    async with asyncio.timeout(10):
        while (response := await house.request("/join/x", token=raw)).code != "user_deleted":
            assert response.status == 401
    assert len(await users(house, who)) == 1


async def test_a_token_of_another_issuer_creates_no_user(house: House) -> None:
    who = subject()
    claims = {
        **tokens.claims(who),
        "email": f"{who}@example.org",
        "email_verified": True,
        "hd": "example.org",
    }
    others = (
        tokens.sign({**claims, "tid": "acme"}, tokens.rsa_key("main")),
        tokens.sign({**claims, "tid": "acme", "iss": SECOND_ISSUER}, tokens.rsa_key("second")),
    )
    for raw in others:
        assert await refused(house, who, raw) == "user_not_found"
    # Nor does one that only says that it is of this issuer.
    forged = tokens.sign({**claims, "iss": JOINING_ISSUER}, tokens.rsa_key("main"), kid="second")
    assert await refused(house, who, forged) == "signature_invalid"


@pytest.mark.parametrize(
    "changes",
    [
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": 1},
        {"email_verified": None},
        {"hd": "evil.example"},
        {"hd": "example.org.evil.example"},
        {"hd": ["evil.example"]},
        {"hd": {"example.org": True}},
        {"hd": None},
        {"email": None},
        {"email": ["a@example.org"]},
        {"tid": None},
    ],
    ids=str,
)
async def test_a_token_that_does_not_meet_the_conditions_creates_no_user(
    house: House, changes: dict[str, JSON]
) -> None:
    who = subject()
    assert await refused(house, who, newcomer(who, **changes)) == "user_not_found"


@pytest.mark.parametrize("email", ["deleted@example.org", "Deleted@Example.ORG"])
async def test_a_deleted_user_does_not_come_back_as_another_subject(house: House, email: str) -> None:
    who = subject()
    assert await refused(house, who, newcomer(who, email=email)) == "user_deleted"


async def test_a_deleted_user_does_not_come_back_without_the_address(house: House) -> None:
    """Clients choose their scopes, and so whether their token says an address."""
    who = subject()
    assert await refused(house, who, newcomer(who, email=None)) == "user_not_found"


@pytest.mark.parametrize("owner", ["member", "MEMBER", "suspended", "locked", "pending", "acme"])
async def test_an_address_does_not_prove_the_owner_of_an_account(house: House, owner: str) -> None:
    """Pre-hijacking and take-over: an address at one issuer makes no user of another."""
    who = subject()
    raw = newcomer(who, email=f"{owner}@example.org")
    assert await refused(house, who, raw) == "account_not_linked"
    assert (await house.request("/private/x", token=raw)).code == "user_not_found"


async def test_no_user_is_created_who_may_not_use_the_route(house: House) -> None:
    who = subject()
    assert await refused(house, who, newcomer(who), "/join-admin/x") == "role_missing"
    assert await refused(house, who, newcomer(who, tenant_id="globex")) == "tenant_mismatch"


async def test_no_user_is_created_for_a_revoked_or_expired_token(house: House) -> None:
    who = subject()
    jti = uuid.uuid4().hex
    await house.set_key(f"revoked:jti:joining:{jti}", "1")
    async with asyncio.timeout(10):
        while (await house.request("/private/x", token=newcomer(who, jti=jti))).code != "token_revoked":
            pass
    assert await refused(house, who, newcomer(who, jti=jti)) == "token_revoked"
    assert await refused(house, who, newcomer(who, exp=1_600_000_000)) == "token_expired"


async def test_a_hostile_claim_is_a_value_and_no_more(house: House) -> None:
    who = subject()
    tenant = "'); DROP TABLE users; --"
    raw = newcomer(who, tid=tenant, tenant_id=tenant, email=f"'{who}'||$1@example.org", name="x\r\nX-Y: z")
    received = await house.forwarded("/join/x", token=raw)
    (row,) = await users(house, who)
    assert (row["tenant"], row["display_name"]) == (tenant, None)
    assert received.values(b"x-user-tenant") == [tenant.encode()]


async def test_the_same_subject_of_two_issuers_is_not_one_user(house: House) -> None:
    """`member` of the issuer `main` exists."""
    raw = newcomer("member", email=f"{subject()}@example.org")
    received = await house.forwarded("/join/x", token=raw)
    main = await house.forwarded("/private/x", token=token("member"))
    assert received.values(b"x-user-id") != main.values(b"x-user-id")
    await house.sql(
        "DELETE FROM users WHERE id IN (SELECT user_id FROM identities WHERE issuer = $1)", JOINING_ISSUER
    )


async def test_a_database_that_refuses_is_no_missing_user(tmp_path: Path, dsn: str, redis_url: str) -> None:
    """Neither a 401 nor a 500: the client may try again."""
    async with open_house(tmp_path, dsn, redis_url) as house:
        await house.ready()
        who = subject()
        await house.sql("ALTER TABLE audit RENAME TO elsewhere")
        response = await house.request("/join/x", token=newcomer(who))
        assert (response.status, response.code) == (503, "user_store_unavailable")
        assert response.values(b"retry-after")
        assert await users(house, who) == []
        await house.sql("ALTER TABLE elsewhere RENAME TO audit")
        await house.forwarded("/join/x", token=newcomer(who))
        assert len(await users(house, who)) == 1
