"""The decision listener of several processes: shared, reloaded and stopped as the front is."""

import asyncio
import signal
from pathlib import Path
from typing import Final

import grpc

from gateway.core.model import JSON
from tests.decision.by_grpc import check, question
from tests.decision.by_grpc import connected as connected_by_grpc
from tests.sockets import RawUpstream
from tests.workers.program import Load, Program, connected, eventually, running

ASKED: Final = (
    b"X-Forwarded-Method: GET",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: api.test",
    b"X-Forwarded-Uri: /public/x",
)


async def test_no_question_is_lost_when_workers_are_replaced(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    server: dict[str, JSON] = {"listen": "127.0.0.1:0", "workers": 2}
    decision: dict[str, JSON] = {"listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    async with running(tmp_path, upstream, dsn, redis_url, server=server, decision=decision) as program:
        (listening,) = program.events("listening")
        load = Load(listening["decision"], "/forward-auth", ASKED)
        async with load.while_running(8):
            await eventually(lambda: _more_than(load, 100))
            program.signal(signal.SIGHUP)
            await program.event("worker_ended", 2)
            (reloaded,) = program.events("reloaded")
            assert reloaded["decision"] == listening["decision"]
            answered = load.answered
            await eventually(lambda: _more_than(load, answered + 100))
        assert load.failed == []
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        # All decisions were counted, those of the ended workers too.
        assert program.warnings() == []


async def test_envoys_questions_are_answered_while_workers_are_replaced(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    server: dict[str, JSON] = {"listen": "127.0.0.1:0", "workers": 2}
    decision: dict[str, JSON] = {"grpc_listen": "127.0.0.1:0", "trusted_proxies": ["127.0.0.1/32"]}
    async with running(tmp_path, upstream, dsn, redis_url, server=server, decision=decision) as program:
        (listening,) = program.events("listening")
        answered, refused = 0, []
        async with connected_by_grpc(listening["grpc"]) as channel:
            stopping = asyncio.create_task(_reload(program))
            while not stopping.done() or answered < 200:
                try:
                    answer = await check(channel, question(path="/public/x"))
                except grpc.aio.AioRpcError as error:
                    # grpcio refuses what arrives between its stop and the client's notice of it.
                    refused.append(error.code())
                    await asyncio.wait_for(channel.channel_ready(), 15)
                    continue
                assert answer.HasField("ok_response")
                answered += 1
            assert len(refused) <= 8
            assert set(refused) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
            await stopping
        program.signal(signal.SIGTERM)
        assert await program.ended() == 0
        assert program.warnings() == []


async def _reload(program: Program) -> None:
    program.signal(signal.SIGHUP)
    await program.event("worker_ended", 2)


async def _more_than(load: Load, number: int) -> bool:
    return load.answered > number


async def test_a_reload_opens_and_closes_the_decision_listener(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    door = tmp_path / "decision.sock"
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        assert program.events("listening")[0].get("decision") is None
        program.configure(decision={"listen": f"unix:{door}"})
        program.signal(signal.SIGHUP)
        reloaded = await program.event("reloaded")
        assert reloaded["decision"] == f"unix:{door}"
        async with connected(f"unix:{door}") as front:
            # Who may open a Unix socket may ask.
            assert (await front.get("/forward-auth", *ASKED)).status == 200
        program.configure(decision={"listen": None})
        program.signal(signal.SIGHUP)
        await program.event("reloaded", 2)
        await program.event("worker_ended", 2)
        assert not door.exists()
