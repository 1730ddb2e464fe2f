"""Logs: one JSON object per line, without personal data and secrets."""

import asyncio
import errno
import gc
import io
import json
import logging
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context

import asyncpg
import pytest
import structlog

from gateway.core.model import JSON, Request, StoreUnavailable, Tier, User, UserStatus
from gateway.core.reasons import (
    AUDIENCE_MISMATCH,
    SIGNATURE_INVALID,
    USER_STORE_UNAVAILABLE,
    USER_SUSPENDED,
    Denial,
)
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.denials import SIZE, DenialFilter, DenialRing
from gateway.telemetry.logs import (
    RequestLog,
    SubjectStyle,
    configure,
    dependency_down,
    dependency_up,
    hash_subject,
    name_request,
    set_level,
)
from gateway.telemetry.throttle import LINES_PER_SECOND

REQUEST = Request("GET", "/orders/1?token=secret", (), "192.0.2.1", "http", "the-id")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Configured logging, restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("info", stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, JSON]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def denied(log: RequestLog, denial: Denial) -> None:
    log.denied(REQUEST, denial, "orders", denial.reason.status)


def test_a_denial_is_one_line_with_the_details_for_operators(stream: io.StringIO) -> None:
    denied(RequestLog(), Denial(USER_SUSPENDED, issuer="main", subject="alice", tier=Tier.REDIS))
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {
        "event": "denied",
        "level": "warning",
        "reason": "user_suspended",
        "status": 401,
        "route": "orders",
        "issuer": "main",
        "subject": hash_subject("alice"),
        "tier": "redis",
        "method": "GET",
        "client": "192.0.2.1",
        "request_id": "the-id",
    }


@pytest.mark.parametrize(
    ("style", "subject"), [("hashed", hash_subject("alice")), ("plain", "alice"), ("none", None)]
)
def test_a_subject_appears_as_configured(
    stream: io.StringIO, style: SubjectStyle, subject: str | None
) -> None:
    denied(RequestLog(subjects=style), Denial(USER_SUSPENDED, issuer="main", subject="alice"))
    assert lines(stream)[0].get("subject") == subject


def test_the_documented_command_finds_a_subject() -> None:
    said = subprocess.run(
        ["/bin/sh", "-c", "printf %s alice | sha256sum | cut -c1-16"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert said.stdout.strip() == hash_subject("alice")


@pytest.mark.parametrize("subject", ["", "\ud800", "Ω" * 1000])
def test_every_subject_has_a_hash(subject: str) -> None:
    assert len(hash_subject(subject)) == 16


def test_the_cause_of_our_own_faults_is_logged(stream: io.StringIO) -> None:
    denial = Denial(USER_STORE_UNAVAILABLE)
    denial.__cause__ = StoreUnavailable(Tier.POSTGRES, "refused")
    denied(RequestLog(), denial)
    assert "refused" in str(lines(stream)[0]["cause"])


def test_a_cause_that_may_quote_a_token_is_not_logged(stream: io.StringIO) -> None:
    denial = Denial(SIGNATURE_INVALID)
    denial.__cause__ = ValueError("eyJhbGciOi")
    denied(RequestLog(), denial)
    assert "eyJ" not in stream.getvalue()


@pytest.mark.parametrize("access", [True, False])
def test_the_access_log_is_optional_and_omits_the_query(stream: io.StringIO, *, access: bool) -> None:
    RequestLog(access=access).finished(REQUEST, "orders", 200, 0.0123)
    assert [(line["event"], line["path"], line["duration_ms"]) for line in lines(stream)] == [
        ("request", "/orders/1", 12.3)
    ] * access
    assert "secret" not in stream.getvalue()


@pytest.mark.parametrize(("style", "user"), [("hashed", hash_subject("u1")), ("plain", "u1"), ("none", None)])
def test_a_user_appears_as_a_subject_does(stream: io.StringIO, style: SubjectStyle, user: str | None) -> None:
    log = RequestLog(access=True, subjects=style)
    log.finished(REQUEST, "orders", 200, 0.1, user=User("u1", UserStatus.ACTIVE), upstream="shop", sent=3)
    (line,) = lines(stream)
    assert (line.get("user"), line["upstream"], line["bytes_sent"]) == (user, "shop", 3)


def test_an_access_log_of_its_own_keeps_the_lines_out_of_the_log(stream: io.StringIO) -> None:
    own = io.StringIO()
    log = RequestLog(access=True, access_log=AccessLog("common", lambda: own))
    log.finished(REQUEST, "orders", 200, 0.1)
    assert stream.getvalue() == ""
    assert own.getvalue().startswith("192.0.2.1 - - [")


def test_each_line_of_a_request_names_its_trace(stream: io.StringIO) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = ((b"Traceparent", f"00-{trace}-00f067aa0ba902b7-00".encode()),)
    request = Request("GET", "/", headers, "192.0.2.1", "http", "the-id")
    log, denial = RequestLog(access=True, detailed=True), Denial(USER_SUSPENDED)
    configure("debug", stream)
    log.denied(request, denial, "orders", 401)
    log.broken(request, denial, "orders", "shop")
    log.connection_closed(request, denial, "orders")
    log.sent(request, "shop", "192.0.2.2:80", reused=True)
    log.finished(request, "orders", 200, 0.1)
    log.failed(request, ValueError("odd"))
    assert [(line["trace_id"], line["request_id"]) for line in lines(stream)] == [(trace, "the-id")] * 6


def test_denials_can_be_information(stream: io.StringIO) -> None:
    denied(RequestLog(denial_level="info"), Denial(USER_SUSPENDED))
    assert [line["level"] for line in lines(stream)] == ["info"]


@pytest.mark.parametrize(
    ("sample", "raised", "logged"), [(0.25, False, 1), (0.0, False, 0), (1.0, False, 4), (0.0, True, 4)]
)
def test_denials_can_be_sampled(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, sample: float, logged: int, *, raised: bool
) -> None:
    drawn = iter([0.9, 0.24, 0.25, 0.5])
    monkeypatch.setattr(random, "random", lambda: next(drawn))
    log = RequestLog(denial_sample=sample, ring=(ring := DenialRing()))
    log.raise_level(raised=raised)
    for _ in range(4):
        denied(log, Denial(USER_SUSPENDED, subject="alice"))
    assert len(lines(stream)) == logged
    assert len(ring.latest(DenialFilter(limit=10))) == 4


def test_a_raised_level_logs_every_request_and_ends(stream: io.StringIO) -> None:
    log = RequestLog()
    set_level("debug")
    log.raise_level(raised=True)
    log.finished(REQUEST, "orders", 200, 0.1)
    assert [(line["event"], line["level"]) for line in lines(stream)] == [("request", "debug")]
    log.raise_level(raised=False)
    set_level("info")
    log.finished(REQUEST, "orders", 200, 0.1)
    log.sent(REQUEST, "shop", "192.0.2.2:80", reused=False)
    assert len(lines(stream)) == 1


def test_a_raised_level_is_not_that_of_libraries(stream: io.StringIO) -> None:
    set_level("debug")
    logging.getLogger("asyncio").debug("with a secret")
    assert stream.getvalue() == ""


def test_lines_of_others_name_the_request_while_it_is_the_current_one(stream: io.StringIO) -> None:
    def work() -> None:
        name_request(REQUEST)
        structlog.get_logger().info("asked")

    copy_context().run(work)
    structlog.get_logger().info("idle")
    assert [line.get("request_id") for line in lines(stream)] == ["the-id", None]


def test_a_bug_is_logged_with_its_traceback(stream: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("odd")
    except ZeroDivisionError as error:
        RequestLog().failed(REQUEST, error)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["request_id"]) == ("internal_error", "error", "the-id")
    assert "ZeroDivisionError: odd" in str(line["exception"])


def test_lines_of_libraries_have_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("asyncio").warning("slow %s\n%s", "callback", "second line")
    logging.getLogger("asyncio").info("not worth a line")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["detail"]) == (
        "library",
        "asyncio",
        "slow callback\nsecond line",
    )


async def test_a_connection_attempt_that_is_cancelled_leaves_no_line(stream: io.StringIO, dsn: str) -> None:
    """As at the end of `check --live`, or of a worker: the driver leaves a future that nothing waits for."""
    for turns in range(10):
        attempt = asyncio.create_task(asyncpg.connect(dsn, ssl="prefer"))
        for _ in range(turns):
            await asyncio.sleep(0)
        attempt.cancel()
        with suppress(asyncio.CancelledError):
            await (await attempt).close()
        await asyncio.sleep(0)
        gc.collect()
    assert lines(stream) == []


def test_an_error_that_nothing_waits_for_is_logged(stream: io.StringIO) -> None:
    for error in (ConnectionResetError("by peer"), ValueError("odd")):
        logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=error)
    assert len(lines(stream)) == 2


def test_an_outage_and_its_end_are_logged(stream: io.StringIO) -> None:
    dependency_down("redis", "127.0.0.1:1: Connection refused")
    dependency_up("redis")
    down, up = lines(stream)
    assert (down["event"], down["level"], down["dependency"], down["detail"]) == (
        "dependency_down",
        "warning",
        "redis",
        "127.0.0.1:1: Connection refused",
    )
    assert (up["event"], up["level"], up["dependency"]) == ("dependency_up", "info", "redis")


def test_line_ends_in_values_forge_no_line(stream: io.StringIO) -> None:
    denied(RequestLog(subjects="plain"), Denial(USER_SUSPENDED, subject='a\n{"event":"forged"}'))
    assert len(lines(stream)) == 1


def test_lines_below_the_level_are_not_logged(stream: io.StringIO) -> None:
    configure("error", stream)
    dependency_down("postgres", "refused")
    assert stream.getvalue() == ""
    configure("warning", stream)
    dependency_down("postgres", "refused")
    assert lines(stream)[0]["dependency"] == "postgres"


@pytest.mark.parametrize("failing", ["write", "flush"])
def test_a_line_that_cannot_be_written_is_dropped(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stream, failing, full, raising=True)
        denied(RequestLog(), Denial(USER_SUSPENDED))
        logging.getLogger("library").warning("of a library")
    dependency_up("redis")
    assert lines(stream)[-1]["event"] == "dependency_up"


def test_a_line_and_its_end_are_one_write(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    monkeypatch.setattr(stream, "write", writes.append)
    structlog.get_logger().info("something")
    (line,) = writes
    assert line.endswith("}\n")


def test_a_flood_of_denials_leaves_the_others_in_the_ring() -> None:
    log = RequestLog(ring=(ring := DenialRing(size=2 * SIZE)))
    with structlog.testing.capture_logs():
        denied(log, Denial(AUDIENCE_MISMATCH, issuer="main"))
        for _ in range(SIZE + 5):
            denied(log, Denial(SIGNATURE_INVALID, issuer="main"))
        for _ in range(3):
            denied(log, Denial(SIGNATURE_INVALID, issuer="main", subject="alice"))
    reasons = [denial.reason for denial in ring.latest(DenialFilter(limit=2 * SIZE))]
    assert reasons == ["signature_invalid"] * (SIZE + 3) + ["audience_mismatch"]


def test_many_denials_share_a_line(stream: io.StringIO) -> None:
    log = RequestLog(ring=(ring := DenialRing()))
    for _ in range(LINES_PER_SECOND + 5):
        denied(log, Denial(SIGNATURE_INVALID, issuer="main"))
    for _ in range(LINES_PER_SECOND + 1):
        # A verified token belongs to a user, so its denial is always logged.
        denied(log, Denial(USER_SUSPENDED, issuer="main", subject="alice"))
    log._throttle._flush()
    told = [line for line in lines(stream) if line["event"] == "denials_not_logged"]
    assert [(line["reason"], line["count"]) for line in told] == [("signature_invalid", 5)]
    written = [line["reason"] for line in lines(stream) if line["event"] == "denied"]
    assert written == ["signature_invalid"] * LINES_PER_SECOND + ["user_suspended"] * (LINES_PER_SECOND + 1)
    assert len(ring.latest(DenialFilter(limit=1000))) == 2 * LINES_PER_SECOND + 6
