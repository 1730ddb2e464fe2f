"""The data plane's way with one request: admit → forward → account for it."""

import asyncio
import random
import time
from typing import Protocol

from aiohttp import HttpVersion11, web

from gateway.core.headers import HeaderPolicy
from gateway.core.model import Admission, Request
from gateway.core.reasons import INTERNAL_ERROR, Denial
from gateway.proxy.limits import LimitExceeded
from gateway.proxy.relay import Relay, Relayed
from gateway.proxy.responses import LEAVING, STAYING, Responder
from gateway.proxy.upstream import Upstreams
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.metrics import UNMATCHED, Metrics

CLIENT_CLOSED_REQUEST = 499
"""Counted, never sent: the client left before its response was whole (nginx's number for it)."""


class Admitter(Protocol):
    """Settles a request: `gateway.pipeline.Pipeline`."""

    async def admit(self, request: Request) -> Admission:
        """Return the admission, or raise `Denial`."""


class ProxyHandler:
    """Handles every request of the data plane."""

    def __init__(
        self,
        pipeline: Admitter,
        upstreams: Upstreams,
        headers: HeaderPolicy,
        responder: Responder,
        metrics: Metrics,
        log: RequestLog,
    ) -> None:
        self._pipeline = pipeline
        self._upstreams = upstreams
        self._headers = headers
        self._responder = responder
        self._metrics = metrics
        self._log = log

    async def __call__(self, message: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        request = self._read(message)
        route, status = UNMATCHED, CLIENT_CLOSED_REQUEST
        self._metrics.in_flight.inc()
        try:
            admission = await self._pipeline.admit(request)
            route = admission.route.name
            self._metrics.admitted(admission)
            relayed = await self._forward(message, request, admission)
            status = relayed.status
            return STAYING if relayed.keep_alive else LEAVING
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001 -- the one exit: a client never gets a traceback
            denial = error if isinstance(error, Denial) else self._defect(request, error)
            route = route if denial.route is None else denial.route.name
            status, keep_alive = self._deny(message, request, denial, route)
            return STAYING if keep_alive else LEAVING
        finally:
            seconds = time.perf_counter() - started
            self._metrics.in_flight.inc(by=-1)
            self._metrics.finished(route, request.method, status, seconds)
            self._log.finished(request, route, status, seconds)

    def _read(self, message: web.BaseRequest) -> Request:
        headers = message.raw_headers
        # aiohttp remembers both with the connection; asking the socket costs a system call.
        peername = message.protocol.peername
        peer = peername[0] if isinstance(peername, tuple) else ""
        return Request(
            method=message.method,
            target=message.raw_path,
            headers=headers,
            peer=peer,
            scheme="http" if message.protocol.ssl_context is None else "https",
            id=self._headers.request_id(headers, peer) or f"{random.getrandbits(128):032x}",
            may_upgrade="Upgrade" in message.headers
            and message.version >= HttpVersion11
            and not message.body_exists,
        )

    async def _forward(self, message: web.BaseRequest, request: Request, admission: Admission) -> Relayed:
        upstream = self._upstreams[admission.route.upstream]
        started = time.perf_counter()
        try:
            relayed = await Relay(message, admission, upstream, request.id, self._metrics).run()
        except Denial as denial:
            denial.route = admission.route
            if admission.claims is not None:
                denial.issuer, denial.subject = admission.claims.issuer_name, admission.claims.subject
            raise
        # A client that exceeds a limit in the middle is no fault of the upstream.
        limit = relayed.broken.limit if isinstance(relayed.broken, LimitExceeded) else None
        broken = relayed.broken is not None and limit is None
        self._metrics.relayed(upstream.name, time.perf_counter() - started, broken=broken)
        if limit is not None:
            self._metrics.limit_exceeded(limit)
        if relayed.broken is not None:
            self._log.broken(request, relayed.broken, admission.route.name, upstream.name)
        return relayed

    def _deny(
        self, message: web.BaseRequest, request: Request, denial: Denial, route: str
    ) -> tuple[int, bool]:
        """Answer, count and log a denial; returns the status sent, and whether the connection stays."""
        # What follows a CONNECT belongs to no request.
        keep_alive = message.keep_alive and message.content.is_eof() and message.method != "CONNECT"
        status, response = self._responder.render(
            denial, request.id, head_only=message.method == "HEAD", keep_alive=keep_alive
        )
        if message.transport is not None:
            message.transport.write(response)
        if isinstance(denial, LimitExceeded):
            self._metrics.limit_exceeded(denial.limit)
        self._metrics.denied(denial, route)
        self._log.denied(request, denial, route, status)
        return status, keep_alive

    def _defect(self, request: Request, error: Exception) -> Denial:
        self._log.failed(request, error)
        denial = Denial(INTERNAL_ERROR)
        denial.__cause__ = error
        return denial
