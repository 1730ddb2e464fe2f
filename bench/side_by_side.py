"""Gateways that differ in one thing, loaded in turn, so that a busy minute affects all of them."""

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from rich.console import Console

from bench.contenders import serves
from bench.gateways import Gateway
from bench.load import Workload
from bench.runs import Contender, Run
from bench.stage import Stage


def load_in_turn(
    stage: Stage,
    console: Console,
    gateways: Mapping[str, Gateway],
    *,
    workloads: Sequence[Workload] = ("repeat",),
    rounds: int,
    seconds: int,
    connections: int,
) -> dict[tuple[Workload, str], list[Run]]:
    """Return the runs of each workload on each gateway, by its title; one for each round. Raises Refused."""
    runs: dict[tuple[Workload, str], list[Run]] = {
        (workload, title): [] for workload in workloads for title in gateways
    }
    with ExitStack() as stack:
        running = []
        for title, gateway in gateways.items():
            process = stack.enter_context(gateway.start())
            process.until(partial(serves, gateway.port, stage.people.tokens[0]))
            running.append(Contender(title, gateway.port, process, gateway))
        for workload in workloads:
            for number in range(rounds):
                for contender in random.sample(running, len(running)):
                    told = f"  {workload}, round {number + 1}/{rounds}: {contender.title}"
                    console.print(told, style="dim")
                    run = contender.warm_run(
                        stage.people.tokens_file, connections=connections, seconds=seconds, workload=workload
                    )
                    runs[workload, contender.title].append(run)
    return runs
