"""CPU per request, latency and memory: everyone at the same job, in alternating rounds."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from bench.contenders import ENVOY_CACHED, HAPROXY, NGINX, Contender, contenders
from bench.gateways import STUBBED_TITLE
from bench.load import Wrk
from bench.processes import Refused
from bench.report import Report, Target
from bench.stage import USERS, Stage

WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class _Run:
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time per request of all processes of the proxy, in µs."""
    resident_mib: float


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Measure everyone once per round, in another order each round. Raises Refused."""
    runs: dict[str, list[_Run]] = {}
    with contenders(stage) as (running, missing):
        order = list(running)
        for number in range(rounds):
            random.shuffle(order)
            for contender in order:
                console.print(f"  round {number + 1}/{rounds}: {contender.title}", style="dim")
                run = _run(contender, stage, seconds=seconds, connections=connections)
                runs.setdefault(contender.title, []).append(run)
        titles = [contender.title for contender in running]
    return Report(
        title=f"Requests: {USERS:,} tokens, {connections} connections, one core for the proxy; "
        f"median of {rounds} × {seconds} s",
        rows=[_row(title, runs) for title in titles],
        targets=list(_targets(runs)),
        notes=[
            f"{STUBBED_TITLE}: the gateway as it is, except that its lookup of user and revocations is "
            "stubbed to a dict; the targets are about this one",
            "÷: CPU per request divided by the peer's (Envoy with its cache) in the same round, then the "
            "median",
            *map(str, missing),
        ],
    )


def _run(contender: Contender, stage: Stage, *, seconds: int, connections: int) -> _Run:
    Wrk(contender.port, stage.tokens_file, connections=connections, seconds=WARM_UP_SECONDS).result()
    before = contender.process.cpu_seconds
    load = Wrk(contender.port, stage.tokens_file, connections=connections, seconds=seconds).result()
    cpu = contender.process.cpu_seconds - before
    if load.failed:
        raise Refused(f"{contender.title} failed requests, so its numbers mean nothing: {load.failures_text}")
    return _Run(
        requests_per_second=load.requests / load.seconds,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_us=cpu / load.requests * 1e6,
        resident_mib=contender.process.resident_bytes / 2**20,
    )


def _row(title: str, runs: Mapping[str, list[_Run]]) -> dict[str, str | int | float]:
    own = runs[title]
    row: dict[str, str | int | float] = {
        "proxy": title,
        "requests/s": median(run.requests_per_second for run in own),
        "p50 ms": median(run.p50_ms for run in own),
        "p99 ms": median(run.p99_ms for run in own),
        "CPU µs/req": median(run.cpu_us for run in own),
        "RSS MiB": median(run.resident_mib for run in own),
    }
    for name, peer in (("nginx", NGINX), ("HAProxy", HAPROXY), ("Envoy", ENVOY_CACHED)):
        row[f"÷ {name}"] = _cpu_ratio(own, runs[peer]) if peer in runs else "–"
    return row


def _cpu_ratio(own: list[_Run], peer: list[_Run]) -> float:
    """Compare round by round: what slows the machine for a while then slows both."""
    return median(mine.cpu_us / theirs.cpu_us for mine, theirs in zip(own, peer, strict=True))


def _targets(runs: Mapping[str, list[_Run]]) -> Iterator[Target]:
    own = runs[STUBBED_TITLE]
    for limit, peer in ((0.9, ENVOY_CACHED), (1.0, HAPROXY), (2.5, NGINX)):
        wanted = f"CPU per request ≤ {limit} × {peer}"
        if peer in runs:
            ratio = _cpu_ratio(own, runs[peer])
            yield Target(wanted, f"{ratio:.2f} ×", met=ratio <= limit)
        else:
            yield Target(wanted, "not installed", met=None)
    wanted = f"p99 ≤ {ENVOY_CACHED}"
    if ENVOY_CACHED in runs:
        mine, theirs = (median(run.p99_ms for run in each) for each in (own, runs[ENVOY_CACHED]))
        yield Target(wanted, f"{mine:.2f} ms to {theirs:.2f} ms", met=mine <= theirs)
    else:
        yield Target(wanted, "not installed", met=None)
