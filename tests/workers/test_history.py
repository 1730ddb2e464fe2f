"""The history of several workers, which the supervisor keeps and tells."""

import os
import socket

from gateway.telemetry.history import unpack
from gateway.telemetry.metrics import Metrics
from gateway.workers.messages import Message, decode, pack
from gateway.workers.process import Process
from gateway.workers.scatter_gather import ScatterGather


def process(channel: socket.socket, requests: int) -> Process:
    """Return a worker that has reported its metrics."""
    metrics = Metrics()
    for _ in range(requests):
        metrics.finished("orders", "GET", 200, 0.001)
    found = Process(os.getpid(), channel)
    found.remember(pack(metrics.snapshot()))
    return found


def test_the_history_is_that_of_all_workers_and_outlasts_them() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        processes = [process(ours, 1)]
        gather = ScatterGather(lambda: processes)
        gather.sample(0.0)
        processes.append(process(ours, 5))
        gather.sample(59.0)  # too early
        gather.sample(60.0)
        ended = processes.pop(0)
        gather.process_ended(ended)
        processes.append(process(ours, 2))
        gather.sample(120.0)

        gather.ask(processes[-1], Message("history", 60, 7))

        answer = decode(theirs.recv(65536))
        assert (answer.kind, answer.number) == ("answer", 7)
        assert [span.counts.requests for span in unpack(answer.body)] == [{"2xx": 5}, {"2xx": 2}]


def test_the_first_minute_begins_as_soon_as_a_worker_has_counted() -> None:
    gather = ScatterGather(list)
    gather.sample(10.0)
    assert gather.sample_at == 11.0
