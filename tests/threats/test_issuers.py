"""Threats: tokens of a trusted issuer that are not for these services: none is forwarded."""

from pathlib import Path
from typing import Final

import pytest

from gateway.core.model import JSON
from tests import tokens
from tests.harness import open_house, token, write_jwks

KEYCLOAK: Final[dict[str, JSON]] = {
    "audiences": None,
    "expect": {"azp": ["web"]},
    "token_types": ["JWT", "at+jwt"],
    "claims": {"tenant": "tid", "roles": ["realm_access.roles", "/resource_access/api.v1/roles"]},
}
"""Access tokens have no audience, and one issuer serves all clients."""
GOOD: Final[dict[str, JSON]] = {
    "aud": "account",
    "azp": "web",
    "typ": "Bearer",
    "tid": "acme",
    "realm_access": {"roles": ["reader"]},
    "resource_access": {"api.v1": {"roles": ["admin"]}},
    "kubernetes.io": {"pod": "a/b"},
}
BAD: Final[dict[str, tuple[dict[str, JSON], str]]] = {
    "another-client": ({"azp": "cron"}, "claim_not_accepted"),
    "no-client": ({"azp": None}, "claim_not_accepted"),
    "a-client-of-another-type": ({"azp": {"web": True}}, "claim_not_accepted"),
    "id-token": ({"typ": "ID"}, "id_token_not_accepted"),
    "id-token-with-a-nonce": ({"nonce": "n"}, "id_token_not_accepted"),
    "refresh-token": ({"typ": "Refresh"}, "id_token_not_accepted"),
    "offline-token": ({"typ": "Offline"}, "id_token_not_accepted"),
    "logout-token": ({"events": {"x": {}}}, "id_token_not_accepted"),
    "bound-to-a-key": ({"cnf": {"x5t#S256": "x"}}, "claim_not_accepted"),
    "without-the-tenant": ({"tid": None}, "claim_missing"),
    "of-another-tenant": ({"tid": "globex"}, "tenant_mismatch"),
    "without-the-role": ({"resource_access": {"api": {"roles": ["admin"]}}}, "role_missing"),
}


def issuer(folder: Path, **changes: JSON) -> list[JSON]:
    keys = write_jwks(folder / "keys.json", tokens.rsa_key("main"))
    return [
        {"name": "main", "issuer": tokens.ISSUER, "keys": {"jwks_file": str(keys)}, **KEYCLOAK, **changes}
    ]


def routes(require: dict[str, JSON]) -> list[JSON]:
    return [{"name": "private", "match": {"path": "/private/**"}, "upstream": "raw", "require": require}]


async def test_only_tokens_that_are_for_us_pass(tmp_path: Path, dsn: str, redis_url: str) -> None:
    headers: dict[str, JSON] = {
        "identity": {"X-Tenant": "claims.tenant", "X-Pod": "claims./kubernetes.io/pod", "X-Sub": "claims.sub"}
    }
    async with open_house(
        tmp_path,
        dsn,
        redis_url,
        issuers=issuer(tmp_path),
        routes=routes({"token_roles": ["admin"]}),
        headers=headers,
    ) as house:
        received = await house.forwarded("/private/x", token=token("acme", **GOOD))
        told = [received.values(name) for name in (b"x-tenant", b"x-pod", b"x-sub")]
        assert told == [[b"acme"], [b"a/b"], [b"acme"]]
        forwarded = len(house.upstream.requests)
        for name, (changes, reason) in BAD.items():
            bad = tokens.without(
                {**GOOD, **changes}, *(key for key, value in changes.items() if value is None)
            )
            response = await house.request("/private/x", token=token("acme", **bad))
            assert response.code == reason, name
        for typ in (None, "dpop+jwt", "logout+jwt", "id+jwt"):
            raw = tokens.sign({**tokens.claims("acme"), **GOOD}, tokens.rsa_key("main"), typ=typ)
            assert (await house.request("/private/x", token=raw)).code == "token_type_invalid", typ
        assert len(house.upstream.requests) == forwarded


@pytest.mark.parametrize("subject", ["oid", "/user.info/id"])
async def test_the_configured_claim_names_the_user(
    tmp_path: Path, dsn: str, redis_url: str, subject: str
) -> None:
    """`sub` of such an issuer is another one for each client: it must name no user."""
    changes: dict[str, JSON] = {
        "subject": subject,
        "audiences": [tokens.AUDIENCE],
        "expect": {},
        "claims": {},
    }
    async with open_house(
        tmp_path, dsn, redis_url, issuers=issuer(tmp_path, **changes), routes=routes({})
    ) as house:
        members: dict[str, JSON] = {"oid": "member", "user.info": {"id": "member"}}
        received = await house.forwarded("/private/x", token=token("admin", **members))
        assert received.values(b"x-auth-subject") == [b"member"]
        assert received.values(b"x-user-roles") == [b"reader,writer"]
        strangers: dict[str, JSON] = {"oid": "ghost", "user.info": {"id": "ghost"}}
        assert (await house.request("/private/x", token=token("admin", **strangers))).code == "user_not_found"
        assert (await house.request("/private/x", token=token("admin"))).code == "subject_missing"
