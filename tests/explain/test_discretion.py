"""A token is a key: an explanation shows it to nobody, sends it nowhere, and leaves no trace of it."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator

import pytest

from gateway.telemetry import logs
from tests import tokens
from tests.backends.cable import Cable
from tests.backends.issuer import IssuerServer, serving
from tests.explain.world import World
from tests.harness import token

WINDOW = 24
"""Characters of a token that may stand nowhere in a row: fewer may do so by chance."""

GOOD = token("ann", jti="j" * 40)
NOW = int(time.time())
FAILING = {
    "passes": GOOD,
    "unknown-subject": token("s" * 60),
    "expired": token("ann", iat=NOW - 7200, exp=NOW - 3600),
    "unknown-key": tokens.sign(tokens.claims("ann"), tokens.rsa_key("other")),
    "wrong-signature": tokens.sign(tokens.claims("ann"), tokens.rsa_key("stranger"), kid="main"),
    "unsigned": tokens.unsigned({"alg": "none"}, tokens.claims("ann"), b"x" * 40),
    "cut-short": GOOD[:-30],
    "header-alone": GOOD.partition(b".")[0] + b".",
    "opaque": b"sk_live_" + b"0123456789abcdef" * 4,
    "encrypted": b".".join([b"a" * 40] * 5),
    "no-base64": b"!" * 40 + b"." + b"?" * 40 + b"." + b"*" * 40,
    "no-ascii": GOOD.replace(b".", "ä".encode() * 20),
    "too-large": b"a" * 20_000,
    "control-characters": GOOD[:60] + b"\r\n\x00" + GOOD[60:],
    "nul-in-subject": token("a\x00" * 20),
    "half-a-pair": token("\ud800" * 20),
    "no-dates": token("ann", iat=-(10**30), nbf=1e308, exp=10**400),
    "deep": tokens.unsigned({"alg": "RS256"}, {}, b"x").replace(b"e30", b"W1tb" * 2000),
    "odd-claims": token("ann", aud=[None, {}, 7], scope={"a": []}, roles="x" * 400, tenant_id=[[]], email=7),
}


def parts_of(raw: bytes) -> set[bytes]:
    return {raw[start : start + WINDOW] for start in range(max(1, len(raw) - WINDOW + 1))}


def assert_absent(raw: bytes, text: str | bytes) -> None:
    octets = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    assert [part for part in parts_of(raw) if part in octets] == []


class Tap(Cable):
    """A cable that keeps what passes through it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.heard = bytearray()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            self.heard += data
            target.write(data)
            await target.drain()


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with serving() as issuer:
        issuer.publish(tokens.rsa_key("main").jwk())
        yield issuer


@pytest.mark.parametrize("name", FAILING)
async def test_it_is_neither_shown_nor_logged_nor_sent(world: World, issuer: IssuerServer, name: str) -> None:
    await world.add("ann", email="ann@example.com")
    await world.guard()
    raw, log = FAILING[name], io.StringIO()
    logs.configure("debug", log)
    world.config["issuers"][0]["keys"] = {"jwks_uri": f"{issuer.url}/jwks"}
    async with Tap(world.dsn) as postgres, Tap(world.redis_url) as redis:
        world.config["postgres"]["dsn"], world.config["redis"]["url"] = postgres.url, redis.url
        explanation = await world.explain(raw, url=f"/orders/1?access_token={raw.decode('latin-1')}")
    assert_absent(raw, json.dumps(explanation.to_json(), ensure_ascii=False))
    assert_absent(raw, repr(explanation))
    assert_absent(raw, log.getvalue())
    assert_absent(raw, bytes(postgres.heard))
    assert_absent(raw, bytes(redis.heard))
    for request in issuer.seen:
        assert_absent(raw, f"{request.raw_path} {request.headers}")
    if name == "passes":
        # Else nothing was heard for want of anything being said.
        assert b"ann" in postgres.heard
        assert b"ann" in redis.heard
        assert [request.path for request in issuer.seen] == ["/jwks"]
