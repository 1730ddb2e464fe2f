import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.admin.health import Admin, Readiness, Workers
from gateway.app import Running, serve
from gateway.listeners import Listeners
from gateway.settings import Settings
from gateway.telemetry.denials import DenialFilter
from gateway.workers import worker
from gateway.workers.messages import QUESTIONS, Message, decode, encode, pack_filter
from gateway.workers.worker import NotReady, Plan, SupervisorLink, until_ready
from tests.harness import configuration, write_jwks
from tests.tokens import rsa_key


async def test_a_successor_waits_for_its_dependencies_and_gives_up(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    (tmp_path / "main.json").unlink()
    issuers = settings["issuers"]
    assert isinstance(issuers, list)
    assert isinstance(issuers[0], dict)
    settings["issuers"] = [{**issuers[0], "provisioning": {}}]
    monkeypatch.setattr(worker, "READY_SECONDS", 0.3)
    async with serve(Settings.model_validate(settings)) as running:
        with pytest.raises(NotReady, match=r"not ready after 0.3 s: .*issuer:main: .*main.json"):
            await until_ready(running)

    write_jwks(tmp_path / "main.json", rsa_key("main"))
    async with serve(Settings.model_validate(settings)) as running:
        await until_ready(running)


@pytest.mark.parametrize("error", [OSError("a port"), ValueError("a URL")])
async def test_a_worker_reports_why_it_cannot_start(error: Exception) -> None:
    @asynccontextmanager
    async def refusing(_: Listeners, __: Workers) -> AsyncIterator[Running]:
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


async def test_a_worker_handles_messages_while_it_checks_dependencies(
    tmp_path: Path, dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = asyncio.Event()

    async def silent(_: Admin) -> Readiness:
        never: asyncio.Future[Readiness] = asyncio.get_running_loop().create_future()
        try:
            return await never
        finally:
            given_up.set()

    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    monkeypatch.setattr(Admin, "readiness", silent)
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    link = SupervisorLink(*await asyncio.open_connection(sock=theirs))
    async with serve(Settings.model_validate(settings)) as running:
        listening = asyncio.create_task(link.listen(running))
        writer.write(encode(Message("readiness", None, 1)) + encode(Message("drain", ["front"])))
        async with asyncio.timeout(5):
            await link.drain.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        assert given_up.is_set()
    await link.close()
    writer.close()
    await writer.wait_closed()


async def test_a_worker_answers_all_questions_and_reports_unknown_messages(
    tmp_path: Path, dsn: str, redis_url: str
) -> None:
    settings = configuration(tmp_path, "http://127.0.0.1:9", dsn, redis_url, "gateway:")
    settings["limits"] = [{"name": "few", "per": "user", "rate": "3/1h"}]
    bodies: dict[str, object] = {
        "denials": pack_filter(DenialFilter(10)), "refresh": "main", "pardon": ["few", "ann"],
    }  # fmt: skip
    # The totals are the sums of all workers, and the supervisor itself knows the history.
    asked = sorted(QUESTIONS - {"totals", "history"} | {"counted"})
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    link = SupervisorLink(*await asyncio.open_connection(sock=theirs))
    async with serve(Settings.model_validate(settings)) as running:
        with capture_logs() as events:
            listening = asyncio.create_task(link.listen(running))
            writer.write(encode(Message("invented")))
            for number, kind in enumerate(asked):
                writer.write(encode(Message(kind, bodies.get(kind), number)))
            async with asyncio.timeout(5):
                answers = [decode(await reader.readline()) for _ in asked]
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    assert sorted((answer.kind, answer.number) for answer in answers) == [
        ("answer", number) for number in range(len(asked))
    ]
    unknown = [event for event in events if event["event"] == "message_unknown"]
    assert [(event["log_level"], event["kind"]) for event in unknown] == [("error", "invented")]
    await link.close()
    writer.close()
    await writer.wait_closed()
