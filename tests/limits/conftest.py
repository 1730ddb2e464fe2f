"""One gateway with limits, for all tests of requests."""

from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from gateway.core.model import JSON
from tests.admin.client import TOKEN
from tests.conftest import _Databases
from tests.harness import House, open_house
from tests.workers.program import eventually


def _route(name: str, auth: str = "required", **rest: JSON) -> JSON:
    return {"name": name, "match": {"path": f"/{name}/**"}, "upstream": "raw", "auth": auth, **rest}


ROUTES: Final[list[JSON]] = [
    _route("free"), _route("three"), _route("daily"), _route("slots"), _route("both"), _route("shadow"),
    _route("trial", mode="shadow"),
    _route("open", "optional", upgrade=["*"]), _route("plans"), _route("guarded"), _route("socket", "none"),
]  # fmt: skip
LIMITS: Final[list[JSON]] = [
    {"name": "three", "per": "user", "rate": "3/1h", "routes": ["three", "both"]},
    {"name": "daily", "per": "user", "quota": "2/day", "routes": ["daily"]},
    {"name": "slots", "per": "user", "concurrency": 1, "routes": ["slots"]},
    {"name": "sockets", "per": "client", "concurrency": 1, "routes": ["socket"]},
    {"name": "ten", "per": "user", "rate": "10/1h", "routes": ["both"]},
    {"name": "shadow", "per": "user", "rate": "1/1h", "routes": ["shadow"], "mode": "shadow"},
    {"name": "trial", "per": "user", "rate": "1/1h", "routes": ["trial"]},
    {"name": "anonymous", "per": "client", "rate": "2/1h", "routes": ["open"], "counts": "anonymous"},
    {"name": "plans", "per": "client", "rate": "1000/1h", "routes": ["plans"]},
    {"name": "plan", "per": "claims.plan", "rate": "2/1h", "routes": ["plans"]},
    {
        "name": "writes", "per": "user", "rate": "1/1h", "routes": ["free"],
        "when": 'request.method == "POST" && claims.plan == "basic"',
    },
    {"name": "guessing", "per": "client", "rate": "3/1h", "routes": ["guarded"], "counts": "failed"},
    {"name": "keys", "per": "kid", "rate": "2/1h", "routes": ["free"], "counts": "failed"},
]  # fmt: skip


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def standing_limited(
    standing_redis_url: str,
    _databases: _Databases,
    _template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    async with (
        _databases.copy("gateway_limits", _template) as dsn,
        open_house(
            tmp_path_factory.mktemp("limits"),
            dsn,
            standing_redis_url,
            admin={"listen": "127.0.0.1:0", "token": TOKEN},
            decision={"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]},
            server={"trusted_proxies": ["127.0.0.1/32"]},
            routes=ROUTES,
            limits=LIMITS,
        ) as house,
    ):
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def limited(standing_limited: House) -> AsyncIterator[House]:
    """The gateway that all tests share, for one test."""

    async def shared() -> bool:
        return await standing_limited.metric("gateway_limits_shared") == 1

    async with standing_limited.lent():
        # Other tests may have emptied Redis.
        await eventually(shared)
        standing_limited.new_log()
        yield standing_limited
