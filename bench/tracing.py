"""Traces: what a request costs when one in a hundred is sampled, compared with tracing off."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Final

from rich.console import Console

from bench.contenders import serves
from bench.gateways import Gateway
from bench.load import Workload
from bench.processes import HOST
from bench.report import Report, Target
from bench.runs import KERNEL, Contender, Run, columns
from bench.stage import Stage

LIMIT_US: Final = 2.0
"""The target: CPU that a request takes more, in microseconds."""
WORKLOADS: Final[tuple[Workload, ...]] = ("repeat", "unique")
"""Those without a `traceparent`, whose sampling is decided here."""
_OFF: Final = "off"
_ON: Final = "1 % sampled"


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Load a gateway that traces and one that does not in turn. Raises Refused."""
    runs: dict[tuple[Workload, str], list[Run]] = {}
    # The upstream takes what the exporter sends, too: it reads the body, and answers with 200.
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{HOST}:{stage.upstream}/bodies/v1/traces",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    with ExitStack() as stack:
        running = []
        for title, gateway in (
            (_OFF, Gateway(stage, upstream=stage.upstream)),
            (_ON, Gateway(stage, upstream=stage.upstream, variables=variables)),
        ):
            process = stack.enter_context(gateway.start())
            process.until(partial(serves, gateway.port, stage.people.tokens[0]))
            running.append(Contender(title, gateway.port, process, gateway))
        for workload in WORKLOADS:
            for number in range(rounds):
                for contender in random.sample(running, len(running)):
                    told = f"  {workload}, round {number + 1}/{rounds}: {contender.title}"
                    console.print(told, style="dim")
                    run = contender.warm_run(
                        stage.people.tokens_file, connections=connections, seconds=seconds, workload=workload
                    )
                    runs.setdefault((workload, contender.title), []).append(run)
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
