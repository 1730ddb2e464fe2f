"""JSON logs: one object per line, on standard error.

Subjects are hashed unless the operator wants them plain. Tokens and secrets are never logged.
"""

import hashlib
import logging
import random
import sys
from contextlib import suppress
from typing import Final, Literal, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gateway.core.admission import Admission
from gateway.core.caches import FIFO
from gateway.core.model import Request, User
from gateway.core.reasons import (
    UPSTREAM_PROTOCOL_ERROR,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Denial,
    Group,
)
from gateway.core.requests.token_marks import TokenMarks, marks_of
from gateway.core.requests.trace_context import trace_id_of
from gateway.telemetry.access_log import AccessLog, Finished, as_event
from gateway.telemetry.denials import SIZE, DenialRing
from gateway.telemetry.metrics import issuer_label
from gateway.telemetry.throttle import Throttle

SubjectStyle: TypeAlias = Literal["hashed", "plain", "none"]
DenialLevel: TypeAlias = Literal["warning", "info"]


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Write structlog's events, and the warnings of libraries, to `stream` as JSON lines."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _order_fields,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=_wrapper(level),
        logger_factory=lambda: _Lines(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler()
    # Libraries stay at this level when the gateway's own is raised: what they write may have secrets in it.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def set_level(level: str) -> None:
    """Change the lowest level that is logged, and nothing else of what `configure` was told."""
    structlog.configure(wrapper_class=_wrapper(level))


def name_request(request: Request) -> None:
    """Have every line that is logged in the current context name a request."""
    trace_id = trace_id_of(request)
    structlog.contextvars.bind_contextvars(
        request_id=request.id, **({} if trace_id is None else {"trace_id": trace_id})
    )


def _wrapper(level: str) -> type[FilteringBoundLogger]:
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])


def _order_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put time, level and event first, and leave out fields that are None."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **{name: value for name, value in event.items() if value is not None}}


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()


class _Lines(structlog.WriteLogger):
    """Writes each line together with its line end, because workers share the stream.

    A line that cannot be written is dropped: a full disk or a closed pipe must not stop the gateway.
    """

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """Turns the log records of libraries into structlog events."""

    def emit(self, record: logging.LogRecord) -> None:
        if _of_a_given_up_connection(record):
            return
        logger = structlog.get_logger()
        logger.log(
            record.levelno,
            "library",
            logger=record.name,
            detail=record.getMessage(),
            exc_info=record.exc_info,
        )


def _of_a_given_up_connection(record: logging.LogRecord) -> bool:
    """Tell whether asyncio only reports a connection attempt of asyncpg that was cancelled before TLS.

    asyncpg leaves a future behind that has a bare `ConnectionError`. Those of the system are subclasses.
    """
    error = record.exc_info[1] if record.exc_info else None
    return record.name == "asyncio" and type(error) is ConnectionError


def tables_of_another_version(tables: str, detail: str, fix: str) -> None:
    """Log that tables and program are of different versions. `tables` says which way: older or newer."""
    structlog.get_logger().warning("tables_of_another_version", tables=tables, detail=detail, fix=fix)


def dependency_down(dependency: str, detail: str) -> None:
    """Log that a dependency cannot be used now."""
    structlog.get_logger().warning("dependency_down", dependency=dependency, detail=detail)


def dependency_up(dependency: str) -> None:
    """Log that a dependency that was down can be used again."""
    structlog.get_logger().info("dependency_up", dependency=dependency)


def endpoint_ejected(upstream: str, endpoint: str, detail: str | None, seconds: float | None) -> None:
    """Log that an endpoint gets no more requests, for `seconds` or until it is healthy again."""
    structlog.get_logger().warning(
        "endpoint_ejected", upstream=upstream, endpoint=endpoint, detail=detail, seconds=seconds
    )


def endpoint_restored(upstream: str, endpoint: str) -> None:
    """Log that an endpoint gets requests again."""
    structlog.get_logger().info("endpoint_restored", upstream=upstream, endpoint=endpoint)


def tracing_unavailable(detail: str) -> None:
    """Log that requests are not traced, although a variable asks for it."""
    structlog.get_logger().error("tracing_unavailable", detail=detail)


def tracing_misconfigured(detail: str) -> None:
    """Log that requests are traced in another way than a variable says."""
    structlog.get_logger().warning("tracing_misconfigured", detail=detail)


def proxy_header_refused(peer: str, detail: str) -> None:
    """Log that a connection of a trusted proxy was closed, because its PROXY header was not good."""
    structlog.get_logger().warning("proxy_header_refused", peer=peer, detail=detail)


def accept_failed(detail: str) -> None:
    """Log that no connection can be accepted, for example because too many files are open."""
    structlog.get_logger().error("accept_failed", detail=detail)


_MARKS: Final = 2048
"""Refused tokens whose marks are remembered."""
_UPSTREAM_REASONS: Final = frozenset({UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL_ERROR})


class RequestLog:
    """Logs each denial and, if `access` is set, each request.

    When there are many denials without a verified token, the line `denials_not_logged` counts those that are
    not logged. `ring` keeps the latest denials too, with marks of the token, and the subject hashed or left
    out.
    """

    def __init__(
        self,
        *,
        access: bool = False,
        subjects: SubjectStyle = "hashed",
        logger: WrappedLogger | None = None,
        ring: DenialRing | None = None,
        access_log: AccessLog | None = None,
        denial_level: DenialLevel = "warning",
        denial_sample: float = 1.0,
        detailed: bool = False,
    ) -> None:
        """`access_log` gets finished requests in place of the log. `denial_sample`: the share that is logged.

        `detailed`: the level is `debug`.
        """
        self.access = access or detailed
        """Whether finished requests are logged."""
        self.detailed = detailed
        """Whether the steps of requests are logged, at the level `debug`."""
        self._configured_access = access
        self._configured_detailed = detailed
        self._subjects = subjects
        self._ring = ring
        self._marks: FIFO[bytes, TokenMarks] = FIFO(_MARKS)
        self._logger: FilteringBoundLogger = logger or structlog.get_logger()
        self._throttle = Throttle(self._log_suppressed)
        # More than fit into the ring would push each other out of it, and all other denials.
        self._kept = Throttle(lambda _, __: None, most=SIZE)
        self._access_log = access_log
        self._denial_level: DenialLevel = denial_level
        self._denial_sample = denial_sample

    def raise_level(self, *, raised: bool) -> None:
        """Log all requests and their steps for a while, or as configured again."""
        self.detailed = self._configured_detailed or raised
        self.access = self._configured_access or self.detailed

    def denied(self, request: Request, denial: Denial, route: str, status: int) -> None:
        """Log a denial with the fields that help to find its cause."""
        # Denials of verified tokens are not throttled: `gateway orphans` reads each of these lines.
        if self._is_in_sample() and (denial.subject is not None or self._throttle.admits(denial.reason.code)):
            self._log_denial("denied", request, denial, route, status)
        self._keep(request, denial, route, status, shadow=False)

    def shadow_denied(self, request: Request, denial: Denial) -> None:
        """Log a denial that was not enforced; its status is the one that the client would have got."""
        route, status = "" if denial.route is None else denial.route.name, denial.reason.status
        if self._is_in_sample() and self._throttle.admits(f"shadow {denial.reason.code}"):
            self._log_denial("shadow_denied", request, denial, route, status)
        self._keep(request, denial, route, status, shadow=True)

    def _keep(self, request: Request, denial: Denial, route: str, status: int, *, shadow: bool) -> None:
        if self._ring is not None and (denial.subject is not None or self._kept.admits(denial.reason.code)):
            subject = None if self._subjects == "none" else denial.subject
            self._ring.add(
                reason=denial.reason.code,
                status=status,
                route=route,
                issuer=issuer_label(denial),
                subject_hash=None if subject is None else hash_subject(subject),
                method=request.method,
                target=request.target,
                client=request.client,
                request_id=request.id,
                detail=denial.detail,
                tier=denial.tier,
                user_id=None if self._subjects == "none" else denial.user_id,
                token=marks_of(request, denial.route, self._marks),
                shadow=shadow,
            )

    def _is_in_sample(self) -> bool:
        sample = self._denial_sample
        return sample >= 1.0 or self.detailed or random.random() < sample  # noqa: S311 -- no secret

    def _log_denial(self, event: str, request: Request, denial: Denial, route: str, status: int) -> None:
        # An error in a request may quote the request. An error of a dependency helps the operator.
        helps = denial.reason.group is Group.OURS or denial.reason in _UPSTREAM_REASONS
        cause = denial.__cause__ if helps else None
        write = self._logger.info if self._denial_level == "info" else self._logger.warning
        write(
            event,
            reason=denial.reason.code,
            status=status,
            route=route,
            issuer=issuer_label(denial),
            subject=self._subject(denial.subject),
            tier=denial.tier,
            detail=denial.detail,
            cause=None if cause is None else str(cause),
            method=request.method,
            client=request.client,
            request_id=request.id,
            trace_id=trace_id_of(request),
        )

    def _log_suppressed(self, reason: str, count: int) -> None:
        self._logger.warning("denials_not_logged", reason=reason, count=count)

    def broken(self, request: Request, denial: Denial, route: str, upstream: str) -> None:
        """Log that a response was broken off in the middle."""
        self._logger.error(
            "response_broken",
            reason=denial.reason.code,
            detail=denial.detail,
            route=route,
            upstream=upstream,
            request_id=request.id,
            trace_id=trace_id_of(request),
        )

    def connection_closed(self, request: Request, denial: Denial, route: str) -> None:
        """Log that an open response or tunnel was ended, and why its caller would be refused now."""
        self._logger.info(
            "connection_closed",
            reason=denial.reason.code,
            route=route,
            issuer=issuer_label(denial),
            subject=self._subject(denial.subject),
            tier=denial.tier,
            detail=denial.detail,
            method=request.method,
            client=request.client,
            request_id=request.id,
            trace_id=trace_id_of(request),
        )

    def limit_exceeded(self, limit: str, client: str) -> None:
        """Log that a client's connection was reset without an answer."""
        self._logger.warning("limit_exceeded", limit=limit, client=client)

    def finished(
        self,
        request: Request,
        route: str,
        status: int,
        seconds: float,
        *,
        upstream: str | None = None,
        user: User | None = None,
        received: int | None = None,
        sent: int | None = None,
    ) -> None:
        """Log a finished request, if `access` is set. `received` and `sent` are bytes of bodies."""
        if not self.access:
            return
        who = None if user is None else self._subject(user.id)
        finished = Finished(request, route, status, seconds, upstream, who, received, sent)
        if not self._configured_access:
            self._logger.debug("request", **as_event(finished))
        elif self._access_log is None:
            self._logger.info("request", **as_event(finished))
        else:
            self._access_log.write(finished)

    def admitted(self, request: Request, admission: Admission) -> None:
        """Log, at the level `debug`, where a request goes, and where the answer about its user came from."""
        decision, claims, user = admission.decision, admission.claims, admission.user
        self._logger.debug(
            "admitted",
            route=admission.forwarding.route.name,
            issuer=None if claims is None else claims.issuer_name,
            subject=None if claims is None else self._subject(claims.subject),
            user=None if user is None else self._subject(user.id),
            tier=None if decision is None else decision.resolution.tier,
            stale=admission.stale or None,
            request_id=request.id,
            trace_id=trace_id_of(request),
        )

    def sent(self, request: Request, upstream: str, endpoint: str, *, reused: bool) -> None:
        """Log, at the level `debug`, the endpoint that a request goes to. `reused`: on a kept connection."""
        self._logger.debug(
            "sent_upstream",
            upstream=upstream,
            endpoint=endpoint,
            reused=reused,
            request_id=request.id,
            trace_id=trace_id_of(request),
        )

    def failed(self, request: Request, error: BaseException) -> None:
        """Log a bug, with its traceback."""
        self._logger.error(
            "internal_error", request_id=request.id, trace_id=trace_id_of(request), exc_info=error
        )

    def _subject(self, subject: str | None) -> str | None:
        if subject is None or self._subjects == "none":
            return None
        return subject if self._subjects == "plain" else hash_subject(subject)


def hash_subject(subject: str) -> str:
    """Return the hash of a subject for logs: the first 16 hex digits of its SHA-256.

    With it, an operator finds all lines of a known subject:
    `printf %s SUBJECT | sha256sum | cut -c1-16`.
    """
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()[:16]
