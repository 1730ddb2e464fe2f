"""A token is a secret: an explanation neither shows it nor sends it anywhere, and leaves no trace."""

import asyncio
import io
import json
from collections.abc import AsyncIterator

import pytest

from gateway.telemetry import logs
from tests import tokens
from tests.explain.secret import FAILING, assert_absent
from tests.explain.world import World
from tests.issuer_keys.issuer import IssuerServer, serving
from tests.stores.cable import Cable


class Tap(Cable):
    """A cable that keeps what passes through it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.heard = bytearray()

    async def _copy(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        *,
        back: bool = False,  # noqa: ARG002 -- both ways are kept
    ) -> None:
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
    raw, log = FAILING[name](), io.StringIO()
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
