"""Whether a reload, a crash or a stop of the gateway fails requests, with two workers under load."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rich.console import Console

from bench.clients import Clients
from bench.gateways import Gateway
from bench.load import Load, Wrk
from bench.processes import Process, Refused
from bench.report import Report, Target
from bench.sockets import connections
from bench.stage import Stage

CONNECTIONS: Final = 64
WORKERS: Final = 2
_LOAD_SECONDS: Final = 8
_LEAD_SECONDS: Final = 2.0
"""Seconds of load before the event."""
_STOP_SECONDS: Final = 60.0

_Row: TypeAlias = dict[str, str | int | float]


def measure(stage: Stage, console: Console) -> Report:
    """Cause each event once, with a new gateway each time. Raises Refused when it does not start."""
    rows: list[_Row] = []
    targets = []
    for wanted, part in (
        ("SIGHUP fails no request, and the workers are new", _reload),
        ("SIGKILL of a worker fails only its own requests, and it is replaced", _crash),
        ("SIGTERM fails no request", _stop),
    ):
        console.print(f"  {wanted}", style="dim")
        with _gateway(stage) as (gateway, process):
            try:
                row, found, met = part(stage, gateway, process)
            except Refused as refusal:
                targets.append(Target(wanted, str(refusal), met=None))
                continue
        rows.append(row)
        targets.append(Target(wanted, found, met=met))
    return Report(
        title=f"{CONNECTIONS} connections, {WORKERS} workers on one core",
        rows=rows,
        targets=targets,
        notes=[
            "SIGTERM is measured with our own clients, because wrk counts a refused connection as a failed "
            "request"
        ],
    )


def _reload(stage: Stage, gateway: Gateway, process: Process) -> tuple[_Row, str, bool]:
    """SIGHUP: new workers take over, and the old ones finish their requests."""
    before = gateway.workers(process)
    load = _under_load(stage, gateway, lambda: process.send(signal.SIGHUP))
    if not process.running:
        return _row("SIGHUP", load), "the gateway ended", False
    after = gateway.workers(process)
    if before & after:
        return _row("SIGHUP", load), f"{len(before & after)} of the workers are the old ones", False
    return _row("SIGHUP", load), f"failed: {load.failures_text}", load.failed == 0


def _crash(stage: Stage, gateway: Gateway, process: Process) -> tuple[_Row, str, bool]:
    """SIGKILL of a worker: its requests are lost, and another worker replaces it."""
    victim = min(gateway.workers(process))
    held = 0

    def kill() -> None:
        nonlocal held
        # A stopped process neither accepts nor answers, so its requests can be counted.
        os.kill(victim, signal.SIGSTOP)
        held = connections(victim, gateway.port)
        os.kill(victim, signal.SIGKILL)

    load = _under_load(stage, gateway, kill)
    replaced = victim not in gateway.workers(process)
    return (
        _row("SIGKILL", load),
        f"failed: {load.failures_text}; it held {held}",
        replaced and load.failed <= held,
    )


def _stop(stage: Stage, gateway: Gateway, process: Process) -> tuple[_Row, str, bool]:
    """SIGTERM: accepted requests are answered, then the process ends."""
    with Clients(gateway.port, stage.people.tokens, CONNECTIONS) as clients:
        time.sleep(_LEAD_SECONDS)
        process.send(signal.SIGTERM)
        code = process.wait(_STOP_SECONDS)
        failures = clients.finish()
    row: _Row = {
        "event": "SIGTERM",
        "requests": clients.answered,
        "failed": len(failures),
        "requests/s": clients.answered / _LEAD_SECONDS,
    }
    kinds = ", ".join(f"{failures.count(kind)} × {kind}" for kind in sorted(set(failures)))
    return row, f"failed: {kinds or 'none'}; exit code {code}", not failures and code == 0


@contextmanager
def _gateway(stage: Stage) -> Iterator[tuple[Gateway, Process]]:
    gateway = Gateway(stage, upstream=stage.upstream, workers=WORKERS)
    with gateway.start() as process:
        process.until(lambda: gateway.ready)
        yield gateway, process


def _under_load(stage: Stage, gateway: Gateway, event: Callable[[], None]) -> Load:
    wrk = Wrk(gateway.port, stage.people.tokens_file, connections=CONNECTIONS, seconds=_LOAD_SECONDS)
    time.sleep(_LEAD_SECONDS)
    event()
    return wrk.result()


def _row(event: str, load: Load) -> _Row:
    return {
        "event": event,
        "requests": load.requests,
        "failed": load.failed,
        "requests/s": load.requests / load.seconds,
    }
