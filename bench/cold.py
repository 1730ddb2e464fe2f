"""New tokens: each is verified, and its user is looked up in Redis or in Postgres."""

from contextlib import ExitStack
from functools import partial
from typing import Final

from rich.console import Console

from bench.contenders import ENVOY, Missing, serves
from bench.crowd import fill, started
from bench.gateways import share
from bench.peers import start_envoy
from bench.population import Population
from bench.processes import Refused, free_port
from bench.programs import path_of
from bench.report import Report
from bench.runs import Contender, Run, columns, cpu_ratio
from bench.stage import USERS, Stage

TOKENS: Final = 20_000
SECONDS: Final = 1
"""Short enough that the tokens suffice."""
PURE: Final = 0.98
"""The share of the look-ups that the tier of the row must answer."""
_IN_REDIS: Final = "gateway, user in Redis"
_IN_POSTGRES: Final = "gateway, user in Postgres alone"


def measure(stage: Stage, console: Console, *, rounds: int, connections: int) -> Report:
    """Send tokens to gateways that were just started. Raises Refused."""
    console.print(f"  {TOKENS:,} tokens", style="dim")
    people = stage.population(
        "cold", users=USERS + TOKENS, signer=stage.signer, holders=range(USERS, USERS + TOKENS)
    )
    runs: dict[str, list[Run]] = {}
    missing = []
    with ExitStack() as stack:
        # It keeps running: the data in Redis counts only while a gateway receives every change.
        first = stack.enter_context(started(stage, people, title=_IN_REDIS))
        fill(first, people, stage.folder, console, connections=connections)
        envoy = None
        if program := path_of("envoy"):
            port = free_port()
            envoy = Contender(
                ENVOY, port, stack.enter_context(start_envoy(stage, port, program, cached=False))
            )
            envoy.process.until(partial(serves, port, people.tokens[0]))
        else:
            missing.append(Missing(ENVOY, "envoy"))
        for number in range(rounds):
            for title, tier, prefix in (
                (_IN_REDIS, "redis", None),
                (_IN_POSTGRES, "postgres", f"cold-{number}:"),
            ):
                console.print(f"  round {number + 1}/{rounds}: {title}", style="dim")
                with started(stage, people, title=title, prefix=prefix) as contender:
                    run = _run(contender, stage, people, connections=connections)
                if share(run.lookups, tier) < PURE:
                    raise Refused(f"not all users came from {tier}: {dict(run.lookups)}")
                runs.setdefault(title, []).append(run)
            if envoy is not None:
                console.print(f"  round {number + 1}/{rounds}: {ENVOY}", style="dim")
                runs.setdefault(ENVOY, []).append(_run(envoy, stage, people, connections=connections))
    return Report(
        title=f"Tokens never seen before, {connections} connections; median of {rounds} × {SECONDS} s",
        rows=[
            {"proxy": title, **columns(own), "÷ Envoy": cpu_ratio(own, runs[ENVOY]) if ENVOY in runs else "–"}
            for title, own in runs.items()
        ],
        notes=[
            "each token belongs to another user and is sent once; the connections to Redis and Postgres "
            "are already open",
            f"{ENVOY} verifies the same tokens and looks up no users; no row includes the CPU of Redis and "
            "Postgres",
            *map(str, missing),
        ],
    )


def _run(contender: Contender, stage: Stage, people: Population, *, connections: int) -> Run:
    """Send tokens of other users, so that all connections are open, then the tokens of the measurement."""
    contender.run(stage.people.tokens_file, connections=connections, seconds=1)
    return contender.run(people.tokens_file, connections=connections, seconds=SECONDS)
