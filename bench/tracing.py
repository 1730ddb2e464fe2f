"""Traces: what a request costs when one in a hundred is sampled, compared with tracing off."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from rich.console import Console

from bench.gateways import Gateway
from bench.load import Workload
from bench.processes import HOST
from bench.report import Report, Target
from bench.runs import KERNEL, Run, columns
from bench.side_by_side import load_in_turn
from bench.stage import Stage

LIMIT_US: Final = 2.0
"""The target: CPU that a request takes more, in microseconds."""
WORKLOADS: Final[tuple[Workload, ...]] = ("repeat", "unique")
"""Those without a `traceparent`, whose sampling is decided here."""
_OFF: Final = "off"
_ON: Final = "1 % sampled"


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Load a gateway that traces and one that does not in turn. Raises Refused."""
    # The upstream takes what the exporter sends, too: it reads the body, and answers with 200.
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{HOST}:{stage.upstream}/bodies/v1/traces",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    gateways = {
        _OFF: Gateway(stage, upstream=stage.upstream),
        _ON: Gateway(stage, upstream=stage.upstream, variables=variables),
    }
    runs = load_in_turn(
        stage, console, gateways,
        workloads=WORKLOADS, rounds=rounds, seconds=seconds, connections=connections,
    )  # fmt: skip
    return Report(
        title=f"Tracing off and with 1 % of the requests sampled, {connections} connections; median of"
        f" {rounds} × {seconds} s",
        rows=[
            {"requests": workload, "tracing": title, **columns(own)}
            for (workload, title), own in runs.items()
        ],
        targets=list(_targets(runs)),
        notes=[KERNEL],
    )


def _targets(runs: Mapping[tuple[Workload, str], list[Run]]) -> Iterator[Target]:
    for workload in WORKLOADS:
        pairs = zip(runs[workload, _ON], runs[workload, _OFF], strict=True)
        more = median(on.cpu_us - off.cpu_us for on, off in pairs)
        wanted = f"{workload}: at most {LIMIT_US:g} µs more CPU per request"
        yield Target(wanted, f"{more:+.2f} µs", met=more <= LIMIT_US)
