"""The cost of real traffic: heads that do not recur, bodies, and refused tokens."""

import random
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from rich.console import Console

from bench.contenders import ENVOY_CACHED, GATEWAY, HAPROXY, NGINX, contenders
from bench.load import Workload
from bench.report import Report, Target
from bench.runs import Contender, Run, cpu_ratio
from bench.stage import USERS, Stage

TARGETS: Final[Mapping[Workload, tuple[float, float]]] = {
    "browser": (0.9, 1.3),
    "unique": (0.85, 1.1),
    "post": (0.8, 1.0),
    "denied": (1.0, 3.0),
    "forged": (1.0, 3.0),
}
"""The highest CPU per request of the gateway, ÷ Envoy with its cache and ÷ HAProxy."""


REFUSED: Final[frozenset[Workload]] = frozenset({"denied", "forged"})
"""The workloads with tokens that must be refused."""


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Measure each proxy once per round and workload, in random order. Raises Refused."""
    runs: dict[tuple[Workload, str], list[Run]] = {}
    with contenders(stage) as (running, missing):
        for workload in TARGETS:
            # nginx without a module refuses no token.
            order = [each for each in running if workload not in REFUSED or each.title != NGINX]
            for number in range(rounds):
                random.shuffle(order)
                for contender in order:
                    told = f"  {workload}, round {number + 1}/{rounds}: {contender.title}"
                    console.print(told, style="dim")
                    run = _run(contender, stage, workload, connections=connections, seconds=seconds)
                    runs.setdefault((workload, contender.title), []).append(run)
    titles = [contender.title for contender in running]
    return Report(
        title=f"Real traffic: {USERS:,} tokens, {connections} connections, one core for the proxy; "
        f"median of {rounds} × {seconds} s",
        rows=[
            _row(workload, title, runs)
            for workload in TARGETS
            for title in titles
            if (workload, title) in runs
        ],
        targets=list(_targets(runs)),
        notes=[
            "every request has a new path and query; `browser` has 14 fields, with cookies and a new "
            "traceparent; `post` has 1 KiB of JSON; `denied` has 1,000 tokens with a spoilt signature in "
            "turn, `forged` a new one each time",
            "÷: the gateway's CPU per request divided by that row's in the same round, then the median",
            *map(str, missing),
        ],
    )


def _run(contender: Contender, stage: Stage, workload: Workload, *, connections: int, seconds: int) -> Run:
    if workload not in REFUSED:
        return contender.warm_run(
            stage.people.tokens_file, connections=connections, seconds=seconds, workload=workload
        )
    contender.warm_up(stage.people.tokens_file, connections=connections)
    return contender.run(
        stage.spoilt_tokens_file, connections=connections, seconds=seconds, workload=workload
    )


def _row(
    workload: Workload, title: str, runs: Mapping[tuple[Workload, str], list[Run]]
) -> dict[str, str | int | float]:
    own = runs[workload, title]
    return {
        "requests": workload,
        "proxy": title,
        "requests/s": median(run.requests_per_second for run in own),
        "p99 ms": median(run.p99_ms for run in own),
        "CPU µs/req": median(run.cpu_us for run in own),
        "gateway ÷": cpu_ratio(runs[workload, GATEWAY], own),
    }


def _targets(runs: Mapping[tuple[Workload, str], list[Run]]) -> Iterator[Target]:
    for workload, limits in TARGETS.items():
        for peer, limit in zip((ENVOY_CACHED, HAPROXY), limits, strict=True):
            wanted = f"{workload}: CPU per request ≤ {limit} × {peer}"
            if (workload, peer) in runs:
                ratio = cpu_ratio(runs[workload, GATEWAY], runs[workload, peer])
                yield Target(wanted, f"{ratio:.2f} ×", met=ratio <= limit)
            else:
                yield Target(wanted, "not installed", met=None)
