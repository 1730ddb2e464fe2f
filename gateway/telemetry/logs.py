"""JSON logs: one object a line, on standard error.

What identifies a person is hashed before it comes here; tokens and secrets never do.
"""

import hashlib
import logging
import sys
from contextlib import suppress
from typing import Final, Literal, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gateway.core.model import Request
from gateway.core.reasons import (
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Denial,
    Group,
)
from gateway.telemetry.denials import DenialRing
from gateway.telemetry.metrics import issuer_label
from gateway.telemetry.throttle import Throttle

SubjectStyle: TypeAlias = Literal["hashed", "plain", "none"]


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog's events, and the warnings of libraries, to `stream` as JSON lines."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _in_reading_order,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda: _Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _Forwarding()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _in_reading_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put first what a reader looks for first, and leave out what is not known."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **{name: value for name, value in event.items() if value is not None}}


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()


class _Lines(structlog.WriteLogger):
    """Writes each line with its end at once: workers share the stream, and it may be unbuffered.

    One that cannot be written is lost: a full disk, or a reader that has gone, is no outage.
    """

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


class _Forwarding(logging.Handler):
    """Turns records of libraries into events of our own form."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        logger.log(
            record.levelno,
            "library",
            logger=record.name,
            detail=record.getMessage(),
            exc_info=record.exc_info,
        )


def dependency_down(dependency: str, detail: str) -> None:
    """Log that a dependency cannot be used at the moment."""
    structlog.get_logger().warning("dependency_down", dependency=dependency, detail=detail)


def dependency_up(dependency: str) -> None:
    """Log that a dependency that was down can be used again."""
    structlog.get_logger().info("dependency_up", dependency=dependency)


def endpoint_ejected(upstream: str, endpoint: str, detail: str | None, seconds: float | None) -> None:
    """Log that an endpoint gets no more requests: for a time, or until it is healthy again."""
    structlog.get_logger().warning(
        "endpoint_ejected", upstream=upstream, endpoint=endpoint, detail=detail, seconds=seconds
    )


def endpoint_restored(upstream: str, endpoint: str) -> None:
    """Log that an endpoint gets requests again."""
    structlog.get_logger().info("endpoint_restored", upstream=upstream, endpoint=endpoint)


_OF_UPSTREAMS: Final = frozenset({UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL_ERROR})


class RequestLog:
    """A line for each denial, and for each request when the access log is on.

    Floods of denials without a verified token share a line, `denials_not_logged`. The latest denials are kept
    in `ring` too, where subjects are hashed or left out.
    """

    def __init__(
        self,
        *,
        access: bool = False,
        subjects: SubjectStyle = "hashed",
        logger: WrappedLogger | None = None,
        ring: DenialRing | None = None,
    ) -> None:
        self.access = access
        """Whether a finished request is logged."""
        self._subjects = subjects
        self._ring = ring
        self._logger: FilteringBoundLogger = logger or structlog.get_logger()
        self._throttle = Throttle(self._not_written)

    def denied(self, request: Request, denial: Denial, route: str, status: int) -> None:
        """Log a denial: the reason and what is needed to find its cause."""
        # A verified token is no flood of guesses; `gateway orphans` reads each of these lines.
        if denial.subject is not None or self._throttle.admits(denial.reason.code):
            self._write(request, denial, route, status)
        if self._ring is not None:
            subject = None if self._subjects == "none" else denial.subject
            self._ring.add(
                reason=denial.reason.code,
                status=status,
                route=route,
                issuer=issuer_label(denial),
                subject_hash=None if subject is None else hash_subject(subject),
                method=request.method,
                target=request.target,
                client=request.peer,
                request_id=request.id,
                detail=denial.detail,
                tier=denial.tier,
            )

    def _write(self, request: Request, denial: Denial, route: str, status: int) -> None:
        # What is wrong with a request may be quoted with it; what is wrong with a dependency helps.
        helps = denial.reason.group is Group.OURS or denial.reason in _OF_UPSTREAMS
        cause = denial.__cause__ if helps else None
        self._logger.warning(
            "denied",
            reason=denial.reason.code,
            status=status,
            route=route,
            issuer=issuer_label(denial),
            subject=self._subject(denial.subject),
            tier=denial.tier,
            detail=denial.detail,
            cause=None if cause is None else str(cause),
            method=request.method,
            client=request.peer,
            request_id=request.id,
        )

    def _not_written(self, reason: str, count: int) -> None:
        self._logger.warning("denials_not_logged", reason=reason, count=count)

    def broken(self, request: Request, denial: Denial, route: str, upstream: str) -> None:
        self._logger.error(
            "response_broken",
            reason=denial.reason.code,
            detail=denial.detail,
            route=route,
            upstream=upstream,
            request_id=request.id,
        )

    def connection_closed(self, request: Request, denial: Denial, route: str) -> None:
        """Log that what had been admitted was ended, and why it would not be admitted any more."""
        self._logger.info(
            "connection_closed",
            reason=denial.reason.code,
            route=route,
            issuer=issuer_label(denial),
            subject=self._subject(denial.subject),
            tier=denial.tier,
            detail=denial.detail,
            method=request.method,
            client=request.peer,
            request_id=request.id,
        )

    def limit_exceeded(self, limit: str, client: str) -> None:
        """Log that a client was cut off without an answer."""
        self._logger.warning("limit_exceeded", limit=limit, client=client)

    def finished(self, request: Request, route: str, status: int, seconds: float) -> None:
        """Log a request, whatever became of it, if `access` says so."""
        if not self.access:
            return
        path, _, _ = request.target.partition("?")
        self._logger.info(
            "request",
            method=request.method,
            path=path,
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            client=request.peer,
            request_id=request.id,
        )

    def failed(self, request: Request, error: BaseException) -> None:
        """Log a defect of ours, with its traceback."""
        self._logger.error("internal_error", request_id=request.id, exc_info=error)

    def _subject(self, subject: str | None) -> str | None:
        if subject is None or self._subjects == "none":
            return None
        return subject if self._subjects == "plain" else hash_subject(subject)


def hash_subject(subject: str) -> str:
    """Return what stands for a subject in logs: the first 16 hex digits of its SHA-256.

    Enough to find all lines of one subject, and to check whether a known one is meant:
    `printf %s SUBJECT | sha256sum | cut -c1-16`.
    """
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:16]
