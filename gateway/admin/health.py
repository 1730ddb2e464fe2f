"""The control plane: liveness, readiness with every dependency by its name, and the metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import orjson
from aiohttp import web

from gateway.telemetry import metrics as telemetry

CHECK_SECONDS: Final = 1.0
"""How long a dependency may take to answer before it counts as down."""

Status: TypeAlias = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one dependency."""

    status: Status
    detail: str | None = None
    """Why it is down, in words for operators."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something that the gateway needs from outside."""

    check: Callable[[], Awaitable[Finding]]
    essential: bool
    """Whether the gateway is not ready without it; else it is merely degraded."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` says. One essential dependency of each kind must be up."""

    status: Literal["ready", "degraded", "not_ready"]
    dependencies: Mapping[str, Finding]


async def readiness(dependencies: Mapping[str, Dependency]) -> Readiness:
    """Ask every dependency at once. Those named alike up to a colon stand in for each other."""
    findings = dict(
        zip(
            dependencies,
            await asyncio.gather(*(_ask(dependency) for dependency in dependencies.values())),
            strict=True,
        )
    )
    down = [name for name, finding in findings.items() if finding.status == "down"]
    kinds_up = {_kind(name) for name, finding in findings.items() if finding.status == "up"}
    if any(dependencies[name].essential and _kind(name) not in kinds_up for name in down):
        return Readiness("not_ready", findings)
    return Readiness("degraded" if down else "ready", findings)


async def _ask(dependency: Dependency) -> Finding:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await dependency.check()
    except TimeoutError:
        return Finding("down", f"no answer within {CHECK_SECONDS:g} s")


def _kind(name: str) -> str:
    return name.partition(":")[0]


class Admin:
    """The endpoints of the admin port that need no token."""

    def __init__(self, metrics: telemetry.Metrics, dependencies: Mapping[str, Dependency]) -> None:
        self._metrics = metrics
        self._dependencies = dependencies

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics_page)
        return application

    async def _healthz(self, _: web.Request) -> web.Response:
        """Tell that the process serves; says nothing of its dependencies: a restart helps none of them."""
        return _json({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        state = await readiness(self._dependencies)
        return _json(state, status=503 if state.status == "not_ready" else 200)

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.expose(), headers={"Content-Type": telemetry.CONTENT_TYPE})


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
