"""CPU per request, latency and memory: all proxies at the same job, in alternating rounds."""

import random
from collections.abc import Iterator, Mapping
from statistics import median

from rich.console import Console

from bench.contenders import ENVOY_CACHED, GATEWAY, HAPROXY, NGINX, contenders
from bench.gateways import share
from bench.report import Report, Target
from bench.runs import Run, columns, cpu_ratio
from bench.stage import USERS, Stage


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Measure each proxy once per round, in random order. Raises Refused."""
    runs: dict[str, list[Run]] = {}
    tokens = stage.people.tokens_file
    with contenders(stage) as (running, missing):
        order = list(running)
        for number in range(rounds):
            random.shuffle(order)
            for contender in order:
                console.print(f"  round {number + 1}/{rounds}: {contender.title}", style="dim")
                run = contender.warm_run(tokens, connections=connections, seconds=seconds)
                runs.setdefault(contender.title, []).append(run)
        titles = [contender.title for contender in running]
    least = min(share(run.lookups, "local") for run in runs[GATEWAY])
    return Report(
        title=f"Requests: {USERS:,} tokens, {connections} connections, one core for the proxy; "
        f"median of {rounds} × {seconds} s",
        rows=[_row(title, runs) for title in titles],
        targets=list(_targets(runs)),
        notes=[
            "all heads differ only in their token, and the gateway remembers 2,048 heads: see `traffic` "
            "for heads that differ",
            f"in each load, the gateway's memory answered at least {100 * least:.1f} % of the look-ups",
            "÷: CPU per request divided by the peer's (Envoy with its cache) in the same round, then the "
            "median",
            *map(str, missing),
        ],
    )


def _row(title: str, runs: Mapping[str, list[Run]]) -> dict[str, str | int | float]:
    own = runs[title]
    row = {"proxy": title, **columns(own), "RSS MiB": median(run.resident_mib for run in own)}
    for name, peer in (("nginx", NGINX), ("HAProxy", HAPROXY), ("Envoy", ENVOY_CACHED)):
        row[f"÷ {name}"] = cpu_ratio(own, runs[peer]) if peer in runs else "–"
    return row


def _targets(runs: Mapping[str, list[Run]]) -> Iterator[Target]:
    own = runs[GATEWAY]
    for limit, peer in ((0.9, ENVOY_CACHED), (1.0, HAPROXY), (2.5, NGINX)):
        wanted = f"CPU per request ≤ {limit} × {peer}"
        if peer in runs:
            ratio = cpu_ratio(own, runs[peer])
            yield Target(wanted, f"{ratio:.2f} ×", met=ratio <= limit)
        else:
            yield Target(wanted, "not installed", met=None)
    wanted = f"p99 ≤ {ENVOY_CACHED}"
    if ENVOY_CACHED in runs:
        mine, theirs = (median(run.p99_ms for run in each) for each in (own, runs[ENVOY_CACHED]))
        yield Target(wanted, f"{mine:.2f} ms to {theirs:.2f} ms", met=mine <= theirs)
    else:
        yield Target(wanted, "not installed", met=None)
