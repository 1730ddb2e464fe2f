"""The time from the command to readiness."""

from statistics import median
from time import perf_counter
from typing import Final

from rich.console import Console

from bench.gateways import Gateway
from bench.report import Report, Target
from bench.stage import Stage

LIMIT_SECONDS: Final = 1.5


def measure(stage: Stage, console: Console, *, rounds: int) -> Report:
    """Start the gateway `rounds` times while its stores run. Raises Refused."""
    gateway = Gateway(stage, upstream=stage.upstream)
    seconds = []
    for number in range(rounds):
        console.print(f"  start {number + 1}/{rounds}", style="dim")
        started = perf_counter()
        with gateway.start() as process:
            process.until(lambda: gateway.ready, pause=0.005)
            seconds.append(perf_counter() - started)
    found = median(seconds)
    return Report(
        title=f"Start to ready, stores up, one core; median of {rounds}",
        rows=[{"fastest s": min(seconds), "median s": found, "slowest s": max(seconds)}],
        targets=[Target(f"< {LIMIT_SECONDS} s", f"{found:.2f} s", met=found < LIMIT_SECONDS)],
    )
