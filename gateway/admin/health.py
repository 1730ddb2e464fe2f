"""The control plane: liveness, readiness with each dependency by name, and the metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias
from uuid import uuid4

import orjson
import structlog
from aiohttp import http_parser, web

from gateway.admin import console
from gateway.admin.api import problems
from gateway.admin.api.problems import REQUEST_ID, RequestRefused
from gateway.admin.sign_in.routes import SignIn, no_sign_in
from gateway.limits.holdings import Holdings
from gateway.telemetry import metrics as telemetry
from gateway.telemetry.denials import DenialFilter, DenialRecord
from gateway.telemetry.history import Span
from gateway.telemetry.series import Snapshot, expose_as

CHECK_SECONDS: Final = 1.0
"""How long a dependency may take to answer before it counts as down."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Status: TypeAlias = Literal["up", "degraded", "down"]


class ParserMissing(RuntimeError):
    """aiohttp runs on its pure-Python parser, which accepts smuggled requests (CVE-2025-53643)."""


def require_c_parser() -> None:
    """Refuse to serve without llhttp. Raises `ParserMissing`."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ParserMissing(
            "aiohttp's C parser is missing: install a wheel of aiohttp for this platform, "
            "and unset AIOHTTP_NO_EXTENSIONS"
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one dependency."""

    status: Status
    detail: str | None = None
    """Why it is down or degraded, for operators."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A dependency of the gateway."""

    check: Callable[[], Awaitable[Finding]]
    essential: bool
    """Whether the gateway is not ready without it. Otherwise it is only degraded."""
    stand_in: Callable[[], str | None] = lambda: None
    """Returns the dependency that stands in for this one at the moment, if there is one."""
    patient: bool = False
    """Whether its check limits its own time, and may take longer than `CHECK_SECONDS`."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer of `/readyz`. One essential dependency of each kind, or its stand-in, must be up."""

    status: Literal["ready", "degraded", "not_ready", "draining"]
    """`draining`: the gateway stops, and finishes the requests in flight."""
    dependencies: Mapping[str, Finding]

    @property
    def serves(self) -> bool:
        """Whether the gateway takes new requests."""
        return self.status in {"ready", "degraded"}


class Probe:
    """A check of several steps. Each step must end within `CHECK_SECONDS`; all together may take longer.

    It is not cancelled: checks that come meanwhile share its answer. A check that has waited for
    `CHECK_SECONDS` gets the result of the previous probe, or `down` if no step was answered since then
    (`silent_for`).
    """

    def __init__(self, ask: Callable[[], Awaitable[Finding]], silent_for: Callable[[], float]) -> None:
        self._ask = ask
        self._silent_for = silent_for
        self._asking: asyncio.Task[Finding] | None = None
        self._latest: Finding | None = None

    async def check(self) -> Finding:
        """Return the finding. Raises the exceptions of the steps."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._run())
            self._asking.add_done_callback(self._asked)
        asking = self._asking
        while True:
            await asyncio.wait({asking}, timeout=CHECK_SECONDS)
            if asking.done():
                return asking.result()
            if self._silent_for() >= CHECK_SECONDS:
                return _silent()
            if self._latest is not None:
                return self._latest

    async def _run(self) -> Finding:
        self._latest = finding = await self._ask()
        return finding

    def _asked(self, asking: "asyncio.Task[Finding]") -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # the waiting checks receive it, if there are any


class Workers(Protocol):
    """The other processes of this gateway, if there are any."""

    async def totals(self, own: Sequence[Snapshot]) -> Sequence[Snapshot]:
        """Return the combined metrics of all processes, including this one."""

    async def readiness(self) -> Sequence[Readiness]:
        """Return the readiness of the other serving processes."""

    async def denials(self, wanted: DenialFilter) -> Sequence[DenialRecord]:
        """Return the wanted denials of the other processes, unordered."""

    async def refresh_keys(self, issuer: str) -> None:
        """Tell the others to reload an issuer's keys, without waiting for them."""

    async def history(self, minutes: int) -> Sequence[Span]:
        """Return what all processes have counted in the latest minutes, oldest first."""

    async def limits(self) -> Sequence[Holdings]:
        """Return what each of the other processes knows of the budgets of limits."""

    async def pardon(self, limit: str, subject: str) -> None:
        """Let the others ask again for a subject of a limit that they refuse."""


async def readiness(dependencies: Mapping[str, Dependency]) -> Readiness:
    """Ask all dependencies concurrently. Those with the same name before a colon stand in for each other."""
    findings = dict(
        zip(
            dependencies,
            await asyncio.gather(*(_ask(dependency) for dependency in dependencies.values())),
            strict=True,
        )
    )
    up = {name for name, finding in findings.items() if finding.status != "down"}
    kinds_up = {_kind(name) for name in up}
    down = findings.keys() - up
    missing = (name for name in down if dependencies[name].essential and _kind(name) not in kinds_up)
    if any(dependencies[name].stand_in() not in up for name in missing):
        return Readiness("not_ready", findings)
    impaired = any(finding.status != "up" for finding in findings.values())
    return Readiness("degraded" if impaired else "ready", findings)


async def _ask(dependency: Dependency) -> Finding:
    try:
        async with asyncio.timeout(None if dependency.patient else CHECK_SECONDS):
            return await dependency.check()
    except TimeoutError:
        return _silent()
    except Exception as error:
        # A bug in one check must not affect the others.
        log.exception("check_failed")
        return Finding("down", f"its check failed: {type(error).__name__}")


def _silent() -> Finding:
    return Finding("down", f"no answer within {CHECK_SECONDS:g} s")


def _kind(name: str) -> str:
    return name.partition(":")[0]


class Admin:
    """The endpoints of the admin port that need no token, and the mount of the API."""

    def __init__(
        self,
        metrics: telemetry.Metrics,
        dependencies: Mapping[str, Dependency],
        workers: Workers | None = None,
    ) -> None:
        self._metrics = metrics
        self._dependencies = dependencies
        self._workers = workers
        self._asking: asyncio.Task[Readiness] | None = None
        self.draining = False
        """True once the gateway has been told to stop. Then it is not ready, even with all dependencies."""

    def application(
        self, api: web.Application | None = None, sign_in: SignIn | None = None
    ) -> web.Application:
        """Return the application of the admin port, with `api` below `/v1`. Raises `ParserMissing`."""
        require_c_parser()
        application = web.Application(middlewares=[_in_our_form])
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics_page)
        application.add_routes(console.routes())
        application.add_routes(no_sign_in() if sign_in is None else sign_in.routes())
        if api is not None:
            application.add_subapp("/v1", api)
        return application

    async def _healthz(self, _: web.Request) -> web.Response:
        """Report that the process serves. It ignores dependencies, because a restart does not repair them."""
        return _json({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        state = await self.readiest()
        return _json(state, status=200 if state.serves else 503)

    async def readiest(self) -> Readiness:
        """Report the readiness of the gateway: that of its readiest worker."""
        state = await self.readiness()
        if state.status == "not_ready" and self._workers is not None:
            return next((other for other in await self._workers.readiness() if other.serves), state)
        return state

    async def readiness(self) -> Readiness:
        """Return the readiness of this process. Concurrent callers share one check of the dependencies."""
        if self._asking is None:
            self._asking = asyncio.create_task(readiness(self._dependencies))
            self._asking.add_done_callback(self._asked)
        # A client that disconnects must not cancel the check for the others.
        state = await asyncio.shield(self._asking)
        return Readiness("draining", state.dependencies) if self.draining else state

    def _asked(self, _: "asyncio.Task[Readiness]") -> None:
        self._asking = None

    async def _metrics_page(self, request: web.Request) -> web.Response:
        own = self._metrics.snapshot()
        totals = own if self._workers is None else await self._workers.totals(own)
        page, content_type = expose_as(totals, ",".join(request.headers.getall("Accept", [])))
        return web.Response(body=page, headers={"Content-Type": content_type, "Vary": "Accept"})


@web.middleware
async def _in_our_form(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give each response a request id, and each refusal the form of a problem (RFC 9457)."""
    request_id = request[REQUEST_ID] = uuid4().hex
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        code = {404: "not_found", 405: "method_not_allowed"}.get(refusal.status, "request_malformed")
        detail = "The admin port serves /healthz, /readyz, /metrics and /console, with GET, and /v1"
        allow = refusal.headers.get("Allow")
        headers = None if allow is None else {"Allow": allow}
        response = problems.response(
            RequestRefused(refusal.status, code, detail, headers=headers), request_id
        )
    except Exception:
        log.exception("internal_error", request_id=request_id)
        detail = "The log has a traceback with this request id"
        response = problems.response(RequestRefused(503, "internal_error", detail), request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
