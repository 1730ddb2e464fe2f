"""SIGUSR1 raises the level of the log for a while, in all processes."""

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import structlog

from gateway.telemetry import logs
from gateway.workers.log_level import RaisedLevel
from gateway.workers.messages import Message
from gateway.workers.process import Process
from tests.sockets import RawUpstream
from tests.workers.program import eventually, running


class _Worker:
    def __init__(self) -> None:
        self.told: list[Message] = []

    def send(self, message: Message) -> None:
        self.told.append(message)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("error", stream)
    yield stream
    structlog.reset_defaults()


def test_it_is_raised_for_its_time_and_says_so(stream: io.StringIO) -> None:
    old, new = _Worker(), _Worker()
    level = RaisedLevel(lambda: "error", lambda: [cast("Process", old)], seconds=600.0)
    level.tell(cast("Process", old))
    level.toggle()
    until = level.until or 0.0
    structlog.get_logger().debug("seen")
    level.tell(cast("Process", new))
    level.expire(until - 1)
    assert [message.body for message in old.told] == [True]
    level.expire(until)
    structlog.get_logger().warning("not seen")
    assert [message.body for message in old.told] == [True, False]
    assert new.told == [Message("log_level", True)]
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["log_level_raised", "seen", "log_level_restored"]
    assert (events[0]["seconds"], events[2]["to"]) == (600.0, "error")


async def test_a_signal_raises_it_in_all_workers_and_a_second_one_ends_it(
    tmp_path: Path, upstream: RawUpstream, dsn: str, redis_url: str
) -> None:
    async with running(tmp_path, upstream, dsn, redis_url) as program:
        assert (await program.get("/public/before")).status == 200
        program.signal(signal.SIGUSR1)
        await program.event("log_level_raised")
        # A worker that gets the signal by mistake goes on, and a new one is told, too.
        victim, other = program.workers()
        os.kill(other, signal.SIGUSR1)
        os.kill(victim, signal.SIGKILL)
        await program.event("worker_crashed")

        async def both_log() -> bool:
            assert (await program.get("/public/now?token=secret")).status == 200
            return len(program.workers()) == 2 and len(program.events("sent_upstream")) > 8

        await eventually(both_log)
        assert {(event["level"], event["path"]) for event in program.events("request")} == {
            ("debug", "/public/now")
        }
        assert other in program.workers()
        program.signal(signal.SIGUSR1)
        assert (await program.event("log_level_restored"))["detail"] == "by SIGUSR1"
        assert "secret" not in program.stderr.read_text()
