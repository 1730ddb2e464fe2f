"""Tokens of an issuer that others wrote, opaque and not: the npm package oidc-provider."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.harness import USERS, House, open_house
from tests.node.issuers import NodeIssuer, running
from tests.test_introspection import ROUTES, code

KEY = tokens.ec_key("client")
SECRET = {"client_id": "gateway", "client_secret": "a secret: 100% & +/="}
ASSERTION = {"client_id": "gateway-key", "private_key_file": "client.pem", "key_id": KEY.kid}
CLIENTS = pytest.mark.parametrize(
    "client", [SECRET, ASSERTION], ids=["client_secret_basic", "private_key_jwt"]
)


@pytest.fixture
async def issuer() -> AsyncIterator[NodeIssuer]:
    async with running("opaque_issuer.mjs", {"jwk": KEY.jwk()}) as issuer:
        yield issuer


def entry(folder: Path, issuer: NodeIssuer, client: Mapping[str, JSON], **rest: JSON) -> JSON:
    (folder / "client.pem").write_bytes(KEY.private_pem())
    proof = {**client}
    if "private_key_file" in proof:
        proof["private_key_file"] = str(folder / "client.pem")
    introspection: JSON = {"endpoint": f"{issuer.url}/token/introspection", "cache_ttl": "0s", **proof}
    return {
        "name": "node",
        "issuer": issuer.url,
        "audiences": ["urn:orders-api"],
        "introspection": introspection,
        **rest,
    }


async def link(house: House, issuer: NodeIssuer) -> None:
    """Let the users of the harness sign in at this issuer."""
    for subject in USERS:
        await house.sql(
            "INSERT INTO identities (issuer, subject, user_id) SELECT $1, subject, user_id FROM identities"
            " WHERE issuer = $2 AND subject = $3",
            issuer.url, tokens.ISSUER, subject,
        )  # fmt: skip


async def minted(issuer: NodeIssuer, kind: str = "AccessToken", **changes: JSON) -> bytes:
    said: dict[str, JSON] = {
        "kind": kind,
        "subject": "member",
        "client": "web",
        "audience": "urn:orders-api",
        "scope": "orders:read",
        "ttl": 300,
    }
    return str((await issuer.call("/mint", **{**said, **changes}))["token"]).encode()


@CLIENTS
async def test_its_tokens_pass_and_others_do_not(
    tmp_path: Path, dsn: str, redis_url: str, issuer: NodeIssuer, client: Mapping[str, JSON]
) -> None:
    entries = [entry(tmp_path, issuer, client)]
    async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
        await house.ready()
        await link(house, issuer)
        good = await minted(issuer)
        received = await house.forwarded("/orders/1", token=good)
        assert received.values(b"x-auth-subject") == [b"member"]
        assert received.values(b"x-auth-scopes") == [b"orders:read"]

        for token, reason in (
            (await minted(issuer, audience="urn:billing"), "audience_mismatch"),
            (await minted(issuer, "RefreshToken"), "audience_mismatch"),
            (await minted(issuer, "ClientCredentials"), "subject_missing"),
            (await minted(issuer, scope="openid"), "scope_insufficient"),
            (await minted(issuer, subject="suspended"), "user_suspended"),
            (await minted(issuer, subject="ghost"), "user_not_found"),
            (b"never-issued", "token_inactive"),
            (good + b"x", "token_inactive"),
        ):
            response = await house.request("/orders/1", token=token)
            assert code(response.body) == reason

        await issuer.call("/destroy", token=good.decode())
        response = await house.request("/orders/1", token=good)
        assert (response.status, code(response.body)) == (401, "token_inactive")


async def test_a_refresh_token_does_not_pass_for_want_of_an_audience(
    tmp_path: Path, dsn: str, redis_url: str, issuer: NodeIssuer
) -> None:
    entries = [entry(tmp_path, issuer, SECRET, audiences=None, expect={"client_id": "web"})]
    async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
        await house.ready()
        await link(house, issuer)
        await house.forwarded("/orders/1", token=await minted(issuer, audience=None))
        response = await house.request("/orders/1", token=await minted(issuer, "RefreshToken"))
        assert code(response.body) == "id_token_not_accepted"


async def test_with_a_wrong_secret_no_token_is_called_bad(
    tmp_path: Path, dsn: str, redis_url: str, issuer: NodeIssuer
) -> None:
    entries = [entry(tmp_path, issuer, {**SECRET, "client_secret": "wrong"})]
    async with open_house(tmp_path, dsn, redis_url, issuers=entries, routes=ROUTES) as house:
        response = await house.request("/orders/1", token=await minted(issuer))
        assert (response.status, code(response.body)) == (503, "introspection_unavailable")


async def test_its_jwts_are_verified_with_the_keys_that_discovery_finds(
    tmp_path: Path, dsn: str, redis_url: str, issuer: NodeIssuer
) -> None:
    described: JSON = {
        "name": "node",
        "issuer": issuer.url,
        "audiences": ["urn:orders-api"],
        "keys": {"discovery": True},
        "expect": {"client_id": "web"},
        "token_types": ["at+jwt"],
        "require": ["exp", "iat", "sub", "jti"],
    }
    async with open_house(tmp_path, dsn, redis_url, issuers=[described], routes=ROUTES) as house:
        await house.ready()
        await link(house, issuer)
        good = await minted(issuer, format="jwt")
        await house.forwarded("/orders/1", token=good)
        for token, reason in (
            (await minted(issuer, format="jwt", audience="urn:billing"), "audience_mismatch"),
            (await minted(issuer, format="jwt", client="gateway"), "claim_not_accepted"),
            (await minted(issuer), "token_malformed"),
            (good[:-8] + b"AAAAAAAA", "signature_invalid"),
        ):
            response = await house.request("/orders/1", token=token)
            assert code(response.body) == reason
