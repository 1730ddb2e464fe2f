import math
import os
import socket
from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.requests.token_marks import TokenMarks
from gateway.telemetry.denials import DenialFilter, DenialRing
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import Snapshot, expose, expose_as
from gateway.workers.messages import (
    QUESTIONS,
    Message,
    decode,
    encode,
    pack,
    pack_denials,
    pack_filter,
    unpack,
    unpack_denials,
    unpack_filter,
)
from gateway.workers.process import Process
from gateway.workers.supervisor import Supervisor
from gateway.workers.worker import Plan


def test_a_message_is_one_line_and_is_decoded_unchanged() -> None:
    message = Message("failed", "first\nsecond", 7)

    line = encode(message)

    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_denials_and_questions_about_them_are_unpacked_unchanged() -> None:
    wanted = DenialFilter(5, newer_than={"": "x"}, subjects=["a"], since=1.5, request_id="the-id")
    assert unpack_filter(decode(encode(Message("denials", pack_filter(wanted)))).body) == wanted

    ring = DenialRing()
    for marks in (None, TokenMarks("ab", "RS256", issued_at=1.0)):
        ring.add(
            reason="user_locked", status=401, route="orders", issuer="main", subject_hash="cd", method="GET",
            target="/", client="192.0.2.1", request_id="the-id", detail=None, tier=None, user_id="u1",
            token=marks,
        )  # fmt: skip
    kept = ring.latest(DenialFilter(5))
    assert [each.token is None for each in kept] == [False, True]
    assert unpack_denials([decode(encode(Message("answer", pack_denials(kept)))).body]) == kept


def test_snapshots_are_unpacked_unchanged() -> None:
    metrics = Metrics()
    metrics.finished("orders", "GET", 200, 0.1)
    metrics.request_duration.exemplify(("orders",), 0.1, "ab" * 16)
    metrics.jwks_age.read(("main",), lambda: math.nan)
    before = metrics.snapshot()

    after = unpack(decode(encode(Message("counted", pack(before)))).body)

    assert expose(after) == expose(before)
    openmetrics = "application/openmetrics-text"
    assert expose_as(after, openmetrics) == expose_as(before, openmetrics)
    assert b'# {trace_id="abab' in expose_as(after, openmetrics)[0]
    assert b'gateway_jwks_age_seconds{issuer="main"} NaN' in expose(after)
    assert all(isinstance(snapshot, Snapshot) for snapshot in after)
    # Labels must be hashable, because they are keys when snapshots are added up.
    assert all(isinstance(labels, tuple) for snapshot in after for labels, _ in snapshot.points)


def heard(message: Message) -> list[MutableMapping[str, Any]]:
    """Send a message of a worker to a supervisor; return what it logs."""
    supervisor = Supervisor(
        Plan(1, ("127.0.0.1", 0), ("127.0.0.1", 0), 0, 0, lambda *_: pytest.fail("nothing is started")),
        lambda: pytest.fail("nothing is read"),
        lambda *_: None,
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, capture_logs() as events:
        ours.setblocking(False)
        theirs.sendall(encode(message))
        supervisor._handle_messages(Process(os.getpid(), ours))
    supervisor._close_own()
    return events


def test_a_message_of_an_unknown_kind_is_an_error() -> None:
    (event,) = heard(Message("invented", None, 1))
    assert (event["event"], event["log_level"], event["kind"]) == ("message_unknown", "error", "invented")


@pytest.mark.parametrize("kind", sorted(QUESTIONS))
def test_the_supervisor_knows_every_question(kind: str) -> None:
    assert heard(Message(kind, [], 1)) == []
