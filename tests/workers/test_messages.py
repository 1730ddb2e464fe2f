import math

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.series import Snapshot, expose
from gateway.workers.messages import Message, decode, encode, pack, unpack


def test_a_message_is_one_line_and_comes_back_as_it_was() -> None:
    message = Message("failed", "first\nsecond", 7)

    line = encode(message)

    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_snapshots_come_back_as_they_were() -> None:
    metrics = Metrics()
    metrics.finished("orders", "GET", 200, 0.1)
    metrics.jwks_age.read(("main",), lambda: math.nan)
    before = metrics.snapshot()

    after = unpack(decode(encode(Message("counted", pack(before)))).body)

    assert expose(after) == expose(before)
    assert b'gateway_jwks_age_seconds{issuer="main"} NaN' in expose(after)
    assert all(isinstance(snapshot, Snapshot) for snapshot in after)
    # Labels are keys when snapshots are added up.
    assert all(isinstance(labels, tuple) for snapshot in after for labels, _ in snapshot.points)
