"""`python -m bench`: all measurements, or the given ones."""

import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import (
    body,
    bulk_changes,
    changes,
    cold,
    decision,
    idle,
    policy,
    reload,
    source,
    start,
    throughput,
    tls,
    tracing,
    traffic,
    users,
)
from bench.processes import Cores, Refused
from bench.programs import machine, versions
from bench.report import Report, Target, show, write
from bench.stage import Stage, build_stage
from gateway.demo.embedded import EmbeddedError


class Measurement(StrEnum):
    """The measurements."""

    THROUGHPUT = "throughput"
    TRAFFIC = "traffic"
    DECISION = "decision"
    TLS = "tls"
    BODY = "body"
    IDLE = "idle"
    START = "start"
    RELOAD = "reload"
    CHANGES = "changes"
    BULK = "bulk"
    SOURCE = "source"
    TRACING = "tracing"
    POLICY = "policy"
    USERS = "users"
    COLD = "cold"


def bench(
    *,
    measurements: Annotated[
        list[Measurement] | None, typer.Argument(help="The measurements; all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each proxy is measured, alternately.")] = 3,
    seconds: Annotated[
        int, typer.Option(min=1, help="Seconds of load in each round, except for `cold`.")
    ] = 5,
    connections: Annotated[int, typer.Option(min=1, help="Connections, also for `cold`.")] = 32,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the results here, too.")] = None,
) -> None:
    """Measure the gateway beside nginx, HAProxy and Envoy, as far as they are installed."""
    if sys.platform != "linux":
        raise SystemExit("The benchmarks read /proc and pin processes to cores: they need Linux.")
    # A pipe has no width.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started programs are stopped
    taking_part = versions()
    console.print(machine(), markup=False)
    for title, version in taking_part.items():
        console.print(f"{title:8} {version}", markup=False)

    measures: dict[Measurement, Callable[[Stage], Report]] = {
        Measurement.THROUGHPUT: partial(
            throughput.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.TRAFFIC: partial(
            traffic.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.DECISION: partial(
            decision.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.TLS: partial(
            tls.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.BODY: partial(body.measure, console=console, rounds=rounds),
        Measurement.IDLE: partial(idle.measure, console=console),
        Measurement.START: partial(start.measure, console=console, rounds=rounds),
        Measurement.RELOAD: partial(reload.measure, console=console),
        Measurement.CHANGES: partial(changes.measure, console=console),
        Measurement.BULK: partial(bulk_changes.measure, console=console),
        Measurement.SOURCE: partial(
            source.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.TRACING: partial(
            tracing.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.POLICY: partial(
            policy.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.USERS: partial(
            users.measure, console=console, rounds=rounds, seconds=seconds, connections=connections
        ),
        Measurement.COLD: partial(cold.measure, console=console, rounds=rounds, connections=connections),
    }
    wanted = measurements or list(Measurement)
    reports = []
    try:
        with build_stage(Cores.divide()) as stage:
            for measurement in wanted:
                console.print(f"\n[bold]{measurement}[/bold]")
                try:
                    report = measures[measurement](stage)
                except Refused as refusal:
                    report = Report(str(measurement), targets=[Target(measurement, str(refusal), met=None)])
                show(report, console)
                reports.append(report)
    except (Refused, EmbeddedError) as error:
        raise SystemExit(f"Nothing can be measured: {error}") from error
    if json is not None:
        write(json, machine(), taking_part, reports)


if __name__ == "__main__":
    typer.run(bench)
