"""Two gateways with four workers each, over a Redis of their own: what their upstream receives."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio

from gateway.core.model import JSON
from gateway.demo.embedded import EmbeddedRedis
from tests.admin.client import TOKEN
from tests.conftest import _Databases
from tests.sockets import RawUpstream
from tests.workers.program import Program, connect, connected, eventually, route, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUDGET: Final = 200
SLACK: Final = 0.1
NAMES: Final = ("healthy", "frozen", "emptied", "killed", "quota")


@dataclass
class Pair:
    """Two gateways in front of one upstream."""

    gateways: tuple[Program, Program]
    upstream: RawUpstream
    redis: EmbeddedRedis

    def received(self, name: str) -> int:
        """Return how many requests of a route reached the upstream."""
        path = f" /{name}/".encode()
        return sum(path in each.line for each in self.upstream.requests)

    async def send(self, name: str, number: int, *, connections: int = 24) -> None:
        """Send requests to both gateways over many connections, which all workers get some of."""
        urls = [self.gateways[place % 2].url for place in range(connections)]
        await asyncio.gather(*(self._send(url, name, number // connections) for url in urls))

    async def _send(self, url: str, name: str, number: int) -> None:
        client = None
        for _ in range(number):
            try:
                client = client or await connect(url)
                await client.get(f"/{name}/x")
            except (OSError, TimeoutError):
                client = None
        if client is not None:
            await client.close()

    async def shared(self) -> None:
        """Wait until all workers take leases, and know of each other."""

        async def all_share() -> bool:
            known = [await each.metric("gateway_limits_workers") for each in self.gateways]
            return known == [8, 8] and [
                await each.metric("gateway_limits_shared") for each in self.gateways
            ] == [1, 1]

        await eventually(all_share, 30)


def limit(name: str) -> JSON:
    amount: dict[str, JSON] = {"quota": f"{BUDGET}/day"} if name == "quota" else {"rate": f"{BUDGET}/24h"}
    return {"name": name, "per": "client", "routes": [name], "slack": SLACK, **amount}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    _databases: _Databases, _template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    with EmbeddedRedis() as redis:
        async with _databases.copy("gateway_limits", _template) as dsn, RawUpstream() as upstream:
            gateways = [
                running(
                    tmp_path_factory.mktemp("gateway"),
                    upstream,
                    dsn,
                    redis.url,
                    patience=60,
                    server={"workers": 4, "drain_timeout": "1s"},
                    redis={"timeout": "1s"},
                    routes=[route(name, f"/{name}/**") for name in NAMES],
                    limits=[limit(name) for name in NAMES],
                    admin={"token": TOKEN},
                )
                for _ in range(2)
            ]
            async with gateways[0] as first, gateways[1] as second:
                yield Pair((first, second), upstream, redis)


async def told(gateway: Program, path: str) -> Any:  # noqa: ANN401 -- the answer of the API
    async with connected(gateway.admin_url) as client:
        answer = await client.get(path, b"Connection: close", b"Authorization: Bearer " + TOKEN.encode())
        return json.loads(answer.content)


async def test_they_share_one_budget(pair: Pair) -> None:
    await pair.shared()
    await pair.send("healthy", 3 * BUDGET)
    assert 0.9 * BUDGET <= pair.received("healthy") <= 1.01 * BUDGET
    for gateway in pair.gateways:
        # Whichever worker is asked, it tells what all four of its gateway know.
        state = await told(gateway, "/v1/limits/state")
        (limit,) = (each for each in state["limits"] if each["name"] == "healthy")
        assert limit["allowed"] + limit["refused"] == 3 * BUDGET // 2
        (refused,) = (each for each in state["throttled"] if each["limit"] == "healthy")
        (spent,) = (each for each in state["spent"] if each["limit"] == "healthy")
        assert refused["subject"] == spent["subject"] == "127.0.0.1"
        assert 0.9 * BUDGET <= spent["spent"] <= spent["capacity"] == BUDGET


async def test_redis_frozen_and_back(pair: Pair) -> None:
    await pair.shared()
    await pair.send("frozen", BUDGET // 2)
    before = pair.received("frozen")
    assert before >= BUDGET // 2 - 24
    assert pair.redis._process is not None
    pair.redis._process.send_signal(signal.SIGSTOP)
    try:
        await pair.send("frozen", 2 * BUDGET)
    finally:
        pair.redis._process.send_signal(signal.SIGCONT)
    meanwhile = pair.received("frozen")
    assert before < meanwhile <= before + SLACK * BUDGET + 0.05 * BUDGET
    await pair.shared()
    await pair.send("frozen", 2 * BUDGET)
    assert 0.9 * BUDGET <= pair.received("frozen") <= (1 + SLACK) * BUDGET


async def test_redis_restarted_empty(pair: Pair) -> None:
    await pair.shared()
    for name in ("emptied", "quota"):
        await pair.send(name, 3 * BUDGET // 4)
    await asyncio.to_thread(pair.redis.stop)
    await asyncio.to_thread(pair.redis.start)
    for name in ("emptied", "quota"):
        await pair.send(name, BUDGET)
    await pair.shared()
    for name in ("emptied", "quota"):
        await pair.send(name, 2 * BUDGET)
        assert 0.75 * BUDGET <= pair.received(name) <= (1 + SLACK) * BUDGET, name


async def test_workers_killed_and_reloaded(pair: Pair) -> None:
    await pair.shared()
    await pair.send("killed", BUDGET // 4)
    first, second = pair.gateways
    for worker in first.workers()[:2]:
        os.kill(worker, signal.SIGKILL)
    second.signal(signal.SIGHUP)
    await pair.send("killed", 4 * BUDGET)
    await eventually(lambda: _ready(second), 30)
    await pair.send("killed", 4 * BUDGET)
    assert 0.8 * BUDGET <= pair.received("killed") <= 1.01 * BUDGET


async def _ready(program: Program) -> bool:
    return len(program.workers()) == 4
