import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.admin.health import Crew
from gateway.app import Listeners, Running, serve
from gateway.settings import Settings
from gateway.workers import worker
from gateway.workers.messages import decode
from gateway.workers.worker import NotReady, Plan, until_ready
from tests.harness import configuration, write_jwks
from tests.tokens import rsa_key


async def test_a_successor_waits_for_its_dependencies_and_gives_up(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    (tmp_path / "main.json").unlink()
    issuers = settings["issuers"]
    assert isinstance(issuers, list)
    settings["issuers"] = issuers[:1]
    monkeypatch.setattr(worker, "READY_SECONDS", 0.3)
    async with serve(Settings.model_validate(settings)) as running:
        with pytest.raises(NotReady, match=r"not ready after 0.3 s: issuer:main: .*main.json"):
            await until_ready(running)

    write_jwks(tmp_path / "main.json", rsa_key("main"))
    async with serve(Settings.model_validate(settings)) as running:
        await until_ready(running)


@pytest.mark.parametrize("error", [OSError("a port"), ValueError("a URL")])
async def test_a_worker_says_why_it_cannot_start(error: Exception) -> None:
    @asynccontextmanager
    async def refusing(_: Listeners, __: Crew) -> AsyncIterator[Running]:
        raise error
        yield  # type: ignore[unreachable]  # makes it a generator

    plan = Plan(1, ("127.0.0.1", 0), ("127.0.0.1", 0), 0, 0, refusing)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        await worker._work(plan, Listeners([], []), theirs, successor=False)
        message = decode(await reader.readline())
        assert (message.kind, message.body) == ("failed", str(error))
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        writer.close()
        await writer.wait_closed()
