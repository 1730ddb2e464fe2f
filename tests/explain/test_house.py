"""The engine and a running gateway give the same answers."""

import json
import time
from pathlib import Path

import pytest

from tests import tokens
from tests.explain.world import World
from tests.harness import House, token

session = pytest.mark.asyncio(loop_scope="session")


def past(subject: str) -> bytes:
    now = int(time.time())
    return token(subject, iat=now - 7200, exp=now - 3600)


@session
@pytest.mark.parametrize(
    ("subject", "path"),
    [
        ("member", "/private/x"),
        ("member", "/orders/x"),
        ("member", "/admin/x"),
        ("acme", "/tenant/x"),
        ("globex", "/tenant/x"),
        ("suspended", "/private/x"),
        ("locked", "/private/x"),
        ("pending", "/private/x"),
        ("deleted", "/private/x"),
        ("signed-out", "/private/x"),
        ("ghost", "/private/x"),
        ("ghost", "/public/x"),
        ("ghost", "/optional/x"),
        ("member", "/nowhere"),
        ("member", "/private/../x"),
    ],
)
async def test_the_reason_is_the_gateways(house: House, tmp_path: Path, subject: str, path: str) -> None:
    world = World(tmp_path, house.dsn, house.redis_url)
    world.prefix = world.config["redis"]["prefix"] = house.prefix
    world.watched = False  # the gateway writes what it likes
    for bad in (
        token(subject),
        token(subject, aud="other"),
        past(subject),
        tokens.sign(tokens.claims(subject), tokens.rsa_key("stranger"), kid="main"),
        tokens.sign(tokens.claims(subject, iss="https://elsewhere.example.org"), tokens.rsa_key("main")),
        b"opaque",
    ):
        response = await house.request(path, token=bad)
        explanation = await world.explain(bad, method="GET", url=path)
        code = None if response.status == 200 else json.loads(response.content)["code"]
        assert (explanation.reason, explanation.decision) == (code, "deny" if code else "allow")
        # A gateway that works leaves nothing stale.
        assert explanation.cause not in {"cache_stale", "negative_cache_entry"}
