"""Signed identity on the wire: what upstreams get, and what verifies it, also while the keys rotate."""

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import jwt
import pytest

from gateway.core.assertion import new_pem
from gateway.core.model import JSON
from gateway.stores.postgres.assertion_keys import AssertionKeyRows
from gateway.stores.postgres.database import Postgres
from tests import tokens
from tests.harness import House, open_house, seed, token
from tests.sockets import RawClient, Response, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

JWKS: Final = "/.well-known/jwks.json"
HEADER: Final = b"X-Gateway-Assertion"


async def published(house: House) -> dict[str, jwt.PyJWK]:
    response = await house.request(JWKS)
    assert response.status == 200, response.body
    keys = jwt.PyJWKSet.from_json(response.content.decode()).keys
    return {str(key.key_id): key for key in keys}


def verified(assertion: bytes, keys: dict[str, jwt.PyJWK], audience: str = "raw") -> dict[str, Any]:
    """Verify as an upstream does."""
    text = assertion.decode()
    kid = jwt.get_unverified_header(text)["kid"]
    return jwt.decode(text, keys[kid], ["ES256", "EdDSA"], audience=audience, issuer="gateway")


async def test_an_upstream_can_verify_the_user(signing: House) -> None:
    received = await signing.forwarded("/private/x", token=token(scope="a b"))
    (assertion,) = received.values(HEADER)
    said = verified(assertion, await published(signing))
    (id_,) = received.values(b"x-user-id")
    assert (said["sub"], said["roles"], said["status"]) == (id_.decode(), ["reader", "writer"], "active")
    assert (said["original_iss"], said["original_sub"], said["scope"]) == (tokens.ISSUER, "member", "a b")
    assert said["exp"] - said["iat"] == 300
    assert abs(said["iat"] - time.time()) < 60


async def test_an_assertion_is_made_once_for_a_decision(signing: House) -> None:
    bearer, other = token(), token()
    first, second, third = [
        (await signing.forwarded("/private/x", token=each)).values(HEADER) for each in (bearer, bearer, other)
    ]
    assert first == second
    assert first != third


async def test_the_published_keys_are_on_both_listeners(signing: House) -> None:
    front = await signing.request(f"{JWKS}?x=1")
    head = await signing.request(JWKS, method="HEAD")
    assert front.field(b"content-type") == b"application/jwk-set+json"
    assert front.field(b"cache-control") == b"public, max-age=150"
    assert (head.status, head.field(b"content-length")) == (200, b"%d" % len(front.body))
    house = House(
        signing.decision_url, signing.admin_url, signing.upstream, signing.dsn, signing.redis_url, ""
    )
    assert (await house.request(JWKS)).body == front.body
    assert (await signing.request(JWKS, method="POST", body=b"{}")).status == 404
    assert signing.upstream.requests == []
    assert await signing.metric("gateway_requests_total", route="assertion_keys", method="GET", status="200")


async def test_a_front_gets_the_assertion_or_an_empty_header(signing: House) -> None:
    asks = House(signing.decision_url, "", signing.upstream, signing.dsn, signing.redis_url, "")
    own = (b"X-Original-Method: GET", b"X-Original-Host: a.test")
    good = await asks.request("/auth-request", *own, b"X-Original-URI: /private/x", token=token())
    (assertion,) = good.values(HEADER)
    assert verified(assertion, await published(signing))["sub"]
    nothing = await asks.request("/auth-request", *own, b"X-Original-URI: /public/x")
    assert nothing.values(HEADER) == [b""]


async def test_without_a_user_or_a_token(signing: House) -> None:
    keys = await published(signing)
    missing = await signing.forwarded("/welcome/x", token=token("ghost"))
    said = verified(missing.values(HEADER)[0], keys)
    assert "sub" not in said
    assert said["original_sub"] == "ghost"
    inactive = await signing.forwarded("/leave/x", token=token("suspended"))
    assert verified(inactive.values(HEADER)[0], keys)["status"] == "suspended"
    assert (await signing.forwarded("/optional/x")).values(HEADER) == []


async def test_without_a_key_nothing_passes_and_then_all_does(
    dsn: str, redis_url: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER FUNCTION gateway_read_assertion_keys() RENAME TO away")
    async with open_house(tmp_path, dsn, redis_url, assertion={}) as house:
        response = await house.request("/private/x", token=token())
        assert (response.status, response.code) == (503, "assertion_unavailable")
        assert response.values(b"retry-after")
        assert (await house.request(JWKS)).status == 503
        ready = await house.admin("/readyz")
        assert ready.status == 503
        assert json.loads(ready.content)["dependencies"]["assertion_keys"]["status"] == "down"
        assert (await house.request("/public/x")).status == 200
        await connection.execute("ALTER FUNCTION away() RENAME TO gateway_read_assertion_keys")
        async with asyncio.timeout(30):
            while (await house.request("/private/x", token=token())).status != 200:  # noqa: ASYNC110 -- set by another
                await asyncio.sleep(0.1)
        assert (await house.admin("/readyz")).status == 200
    await connection.close()


async def test_off_nothing_is_published_or_removed(house: House) -> None:
    assert (await house.request(JWKS)).status == 404
    assert (await house.forwarded("/public/x", HEADER + b": own")).values(HEADER) == [b"own"]


async def test_keys_in_a_file(dsn: str, redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    rules: dict[str, JSON] = {
        "key_file": str(path), "algorithm": "EdDSA", "issuer": "https://gw.test", "header": "X-Jwt",
    }  # fmt: skip
    async with open_house(tmp_path, dsn, redis_url, assertion=rules) as house:
        received = await house.forwarded("/private/x", token=token())
        keys = await published(house)
        (assertion,) = received.values(b"x-jwt")
        (known,) = keys.values()
        said = jwt.decode(assertion.decode(), known, ["EdDSA"], audience="raw", issuer="https://gw.test")
        assert said["original_sub"] == "member"
    assert len(json.loads(path.read_bytes())["keys"]) == 1


# Rotation ---------------------------------------------------------------------------------------------


@dataclass
class Consumer:
    """A verifier that remembers the JWK set for as long as it may, and asks for no unknown key earlier."""

    houses: Sequence[House]
    clients: Sequence[RawClient]
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    until: float = 0.0
    fetches: int = 0
    kids: set[str] = field(default_factory=set)

    async def fetch(self, number: int) -> None:
        if time.monotonic() < self.until:
            return
        client = self.clients[number % len(self.clients)]
        begun = time.monotonic()
        await client.send(request_bytes("GET", JWKS))
        response = await client.response()
        assert response is not None
        keys = jwt.PyJWKSet.from_json(response.content.decode()).keys
        self.keys = {str(key.key_id): key for key in keys}
        max_age = int((response.field(b"cache-control") or b"").rpartition(b"=")[2])
        self.until = begun + max_age
        self.fetches += 1

    def verify(self, assertion: bytes) -> None:
        verified(assertion, self.keys)
        self.kids.add(jwt.get_unverified_header(assertion.decode())["kid"])


async def test_a_rotation_fails_none_of_a_thousand_requests(dsn: str, redis_url: str, tmp_path: Path) -> None:
    rules: dict[str, JSON] = {"publish_ahead": "4s"}
    await seed(dsn)
    first, second = (tmp_path / name for name in ("first", "second"))
    first.mkdir()
    second.mkdir()
    postgres = Postgres(dsn)
    async with (
        open_house(first, dsn, redis_url, seeded=False, assertion=rules) as one,
        open_house(second, dsn, redis_url, seeded=False, assertion=rules) as other,
        one.connect() as one_client,
        other.connect() as other_client,
    ):
        consumer = Consumer((one, other), (one_client, other_client))
        rows, begun, sent, failed = AssertionKeyRows(postgres), time.monotonic(), 0, list[Response]()
        key = tokens.ec_key("main-ec")
        rotations = 0
        while sent < 1000 or len(consumer.kids) < 3:
            if rotations < 2 and len(consumer.kids) == rotations + 1 and sent >= 200 * (rotations + 1):
                await rows.add(new_pem("ES256"), "ES256", 4.0, rotate=True)
                rotations += 1
            number, sent = sent % 2, sent + 1
            await consumer.fetch(number)
            bearer = tokens.sign(tokens.claims(jti=uuid.uuid4().hex), key)
            house, client = consumer.houses[number], consumer.clients[number]
            await client.send(request_bytes("GET", "/private/x", token=bearer))
            response = await client.response()
            assert response is not None
            if response.status != 200:
                failed.append(response)
                continue
            (assertion,) = house.upstream.requests[-1].values(HEADER)
            consumer.verify(assertion)
            assert time.monotonic() < begun + 90
    await postgres.close()
    assert failed == []
    assert len(consumer.kids) == 3
    assert consumer.fetches > 2
