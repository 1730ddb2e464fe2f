"""The cost of many users: a million with 50,000 active tokens, compared with ten, and their memory."""

import random
from contextlib import ExitStack
from typing import Final

from rich.console import Console

from bench.crowd import ACTIVE, CROWD, FEW, LOCAL_TTL, crowd, few, few_with_many_tokens, fill, started
from bench.population import Population
from bench.report import Report, Target
from bench.runs import Contender, Run, columns, cpu_ratio
from bench.stage import Stage

LEAST: Final = 0.9
"""The target: the speed with many users, as a share of the speed with few."""
LIMIT_BYTES: Final = 2048
_FEW: Final = f"{FEW} users"
_FEW_MANY_TOKENS: Final = f"{FEW} users, {ACTIVE:,} tokens"
_CROWD: Final = f"{CROWD:,} users, {ACTIVE:,} tokens"


def measure(stage: Stage, console: Console, *, rounds: int, seconds: int, connections: int) -> Report:
    """Load gateways that remember 50,000 tokens, and gateways that remember ten, in turn. Raises Refused."""
    people = {
        _FEW: few(stage),
        _FEW_MANY_TOKENS: few_with_many_tokens(stage),
        _CROWD: crowd(stage, console),
    }
    runs: dict[str, list[Run]] = {title: [] for title in people}
    with ExitStack() as stack:
        running = [stack.enter_context(started(stage, who, title=title)) for title, who in people.items()]
        fill(running[-2], people[_FEW_MANY_TOKENS], stage.folder, console, connections=connections)
        memory, note = _memory(running[-1], people[_CROWD], stage, console, connections=connections)
        for number in range(rounds):
            for contender in random.sample(running, len(running)):
                console.print(f"  round {number + 1}/{rounds}: {contender.title}", style="dim")
                tokens = people[contender.title].tokens_file
                run = contender.warm_run(tokens, connections=connections, seconds=seconds)
                runs[contender.title].append(run)
    ratio = 1 / cpu_ratio(runs[_CROWD], runs[_FEW])
    as_many = 1 / cpu_ratio(runs[_CROWD], runs[_FEW_MANY_TOKENS])
    wanted = f"requests per CPU time with {CROWD:,} users ≥ {LEAST} × with {FEW}"
    return Report(
        title=f"Few users and many, {connections} connections; median of {rounds} × {seconds} s",
        rows=[{"users": title, **columns(own)} for title, own in runs.items()],
        targets=[Target(wanted, f"{ratio:.2f} ×", met=ratio >= LEAST), memory],
        notes=[
            f"compared with {FEW} users who have as many tokens it is {as_many:.2f} ×",
            note,
            f"`cache.local_ttl` is {LOCAL_TTL}, so that what is known stays so throughout; tokens are signed "
            "with Ed25519, which is verified when they are first seen",
        ],
    )


def _memory(
    contender: Contender, people: Population, stage: Stage, console: Console, *, connections: int
) -> tuple[Target, str]:
    """Measure how the worker grows while it learns the tokens. Raises Refused."""
    one = stage.folder / "one.tokens"
    one.write_text(people.tokens[0])
    # Before that, open connections and make everything that is made at first use.
    contender.warm_run(one, connections=connections, seconds=1)
    before = contender.process.resident_bytes
    known = fill(contender, people, stage.folder, console, connections=connections)
    after = contender.process.resident_bytes
    each = (after - before) / known
    return (
        Target(
            f"memory per known token and its user ≤ {LIMIT_BYTES:,} bytes",
            f"{each:,.0f} bytes",
            met=each <= LIMIT_BYTES,
        ),
        f"resident memory went from {before / 2**20:.0f} to {after / 2**20:.0f} MiB while {known:,} tokens "
        "of as many users became known; the heads that are remembered are in it",
    )
