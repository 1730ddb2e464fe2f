"""Threats: issuers of many tenants: a key, a user and a revocation of one tenant are never another's."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from gateway.core.model import JSON
from tests import tokens
from tests.harness import House, open_house
from tests.issuer_keys.issuer import Answer, IssuerServer, serving

ACME, GLOBEX = tokens.rsa_key("acme"), tokens.rsa_key("globex")


def add(server: IssuerServer, tenant: str, *keys: tokens.SigningKey) -> None:
    base = f"{server.url}/{tenant}"
    metadata = {"issuer": base, "jwks_uri": f"{base}/keys"}
    server.answers[f"/{tenant}/.well-known/openid-configuration"] = Answer(orjson.dumps(metadata))
    server.answers[f"/{tenant}/keys"] = Answer(orjson.dumps({"keys": [key.jwk() for key in keys]}))


@asynccontextmanager
async def house_of(
    folder: Path, dsn: str, redis_url: str, tenants: JSON, **changes: JSON
) -> AsyncIterator[tuple[House, IssuerServer]]:
    async with serving() as server:
        add(server, "acme", ACME)
        add(server, "globex", GLOBEX)
        issuer: dict[str, JSON] = {
            "name": "entra",
            "issuer": f"{server.url}/{{tenant}}",
            "tenants": tenants,
            "audiences": [tokens.AUDIENCE],
            **changes,
        }
        routes: list[JSON] = [{"name": "private", "match": {"path": "/private/**"}, "upstream": "raw"}]
        async with open_house(folder, dsn, redis_url, issuers=[issuer], routes=routes) as house:
            for tenant in ("acme", "globex"):
                await house.sql(
                    "WITH u AS (INSERT INTO users (status, tenant) VALUES ('active', $1) RETURNING id)"
                    " INSERT INTO identities (issuer, subject, user_id) SELECT $2, 'ann', id FROM u",
                    tenant, f"{server.url}/{tenant}",
                )  # fmt: skip
            await house.ready()
            yield house, server


def token(
    server: IssuerServer, tenant: str, key: tokens.SigningKey, jti: str | None = None, **changes: JSON
) -> bytes:
    claims = tokens.claims("ann", jti=jti or uuid.uuid4().hex, iss=f"{server.url}/{tenant}")
    return tokens.sign({**claims, **changes}, key)


async def told(house: House, raw: bytes) -> JSON:
    """Return the code of a denial; None for a request that passed."""
    response = await house.request("/private/x", token=raw)
    return None if response.status == 200 else response.code


@pytest.mark.parametrize("tenants", [["acme", "globex"], "any"])
async def test_each_tenant_is_its_own(tmp_path: Path, dsn: str, redis_url: str, tenants: JSON) -> None:
    async with house_of(tmp_path, dsn, redis_url, tenants) as (house, server):
        for _ in range(2):
            for tenant, key in (("acme", ACME), ("globex", GLOBEX)):
                received = await house.forwarded("/private/x", token=token(server, tenant, key))
                assert received.values(b"x-user-tenant") == [tenant.encode()]
                assert received.values(b"x-auth-issuer") == [f"{server.url}/{tenant}".encode()]
        forwarded = len(house.upstream.requests)

        # A key of one tenant, for the token of another; under its own name, and under the other's.
        assert await told(house, token(server, "globex", ACME)) == "key_unknown"
        renamed = tokens.sign(tokens.claims("ann", iss=f"{server.url}/globex"), ACME, kid="globex")
        assert await told(house, renamed) == "signature_invalid"
        for iss in ("invented", "ACME", "acme/", "acme/x", "../acme", "%61cme", "acme?", "{tenant}", ""):
            reason = await told(house, token(server, iss, ACME))
            assert reason == "issuer_untrusted", iss
        # What the issuer says of a tenant is not what another one's token says.
        assert await told(house, token(server, "acme", ACME, tid="globex")) is None
        assert len(house.upstream.requests) == forwarded + 1

        await house.sql("UPDATE users SET status = 'suspended' WHERE tenant = 'acme'")
        assert await eventually(house, token(server, "acme", ACME), "user_suspended")
        assert await told(house, token(server, "globex", GLOBEX)) is None

        async with Redis.from_url(house.redis_url) as client:
            keys = {
                key.decode().removeprefix(house.prefix)
                async for key in client.scan_iter(f"{house.prefix}user:*")
            }
        assert keys == {"user:entra/acme:ann", "user:entra/globex:ann"}

        series = await house.metrics()
        labels = {dict(labels).get("issuer") for _, labels in series}
        assert labels <= {None, "entra", "untrusted", "none"}


async def test_revocations_of_one_tenant_are_not_anothers(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with house_of(tmp_path, dsn, redis_url, "any") as (house, server):
        same = "one-jti"
        acme, globex = token(server, "acme", ACME, same), token(server, "globex", GLOBEX, same)
        assert (await told(house, acme), await told(house, globex)) == (None, None)
        await house.sql(
            "INSERT INTO revocations (kind, issuer, value) VALUES ('jti', 'entra/acme', $1)", same
        )
        assert await eventually(house, acme, "token_revoked")
        assert await told(house, globex) is None
        await house.sql(
            "INSERT INTO revocations (kind, issuer, value) VALUES ('issuer', $1, '')", f"{server.url}/globex"
        )
        assert await eventually(house, globex, "tokens_revoked_before")
        assert await eventually(house, token(server, "acme", ACME), None)
        await house.set_key("revoked:issuer:entra", "99999999999")
        assert await eventually(house, token(server, "acme", ACME), "tokens_revoked_before")


async def eventually(house: House, raw: bytes, reason: str | None) -> bool:
    """Wait until a change counts, which takes milliseconds."""
    for _ in range(500):
        if await told(house, raw) == reason:
            return True
    return False


async def test_the_tenant_of_the_pattern_is_that_of_the_user(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    async with house_of(tmp_path, dsn, redis_url, "any") as (house, server):
        await house.sql("UPDATE users SET tenant = 'elsewhere' WHERE tenant = 'acme'")
        assert await told(house, token(server, "acme", ACME, tenant_id="elsewhere")) == "tenant_mismatch"


async def test_the_tenant_may_be_mapped_instead(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with house_of(tmp_path, dsn, redis_url, "any", claims={"tenant": "tid"}) as (house, server):
        assert await told(house, token(server, "acme", ACME)) == "claim_missing"
        assert await told(house, token(server, "acme", ACME, tid="acme")) is None


async def test_invented_tenants_do_not_keep_others_out(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with house_of(tmp_path, dsn, redis_url, "any") as (house, server):
        assert await told(house, token(server, "acme", ACME)) is None
        reasons = {await told(house, token(server, f"invented-{n}", ACME)) for n in range(40)}
        # Beyond the allowance it is not known whether the issuer has the tenant.
        assert reasons <= {"issuer_untrusted", "keys_unavailable"}
        assert await told(house, token(server, "acme", ACME)) is None
