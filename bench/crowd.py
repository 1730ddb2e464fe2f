"""Gateways with as many active tokens as they remember: of a million users, and of ten."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.gateways import Gateway
from bench.population import Population
from bench.processes import Refused
from bench.runs import Contender
from bench.stage import Stage
from bench.tokens import Signer

FEW: Final = 10
CROWD: Final = 1_000_000
ACTIVE: Final = 50_000
LOCAL_TTL: Final = "5m"
"""`cache.local_ttl`: coming to know all tokens takes longer than its default."""
_FILL_SECONDS: Final = 5
_LOST: Final = 100
"""More tokens than are under way when a load is cut off."""


def few(stage: Stage) -> Population:
    """Return ten users, with a token each."""
    return stage.population("few", users=FEW, signer=Signer.ed25519(), holders=range(FEW))


def crowd(stage: Stage, console: Console) -> Population:
    """Return a million users, every twentieth of them with a token. Ed25519 signs them in seconds."""
    console.print(f"  {CROWD:,} users and {ACTIVE:,} tokens", style="dim")
    holders = range(0, CROWD, CROWD // ACTIVE)
    return stage.population("crowd", users=CROWD, signer=Signer.ed25519(), holders=holders)


def few_with_many_tokens(stage: Stage) -> Population:
    """Return ten users, with as many tokens as the crowd has."""
    holders = [number % FEW for number in range(ACTIVE)]
    return stage.population("many_tokens", users=FEW, signer=Signer.ed25519(), holders=holders)


@contextmanager
def started(
    stage: Stage, people: Population, *, title: str, prefix: str | None = None, new_heads: bool = False
) -> Iterator[Contender]:
    """Run a gateway with these users, and what is in Redis under a prefix. Raises Refused."""
    prefix = prefix or f"{people.schema}:"
    gateway = Gateway(stage, upstream=stage.upstream, people=people, prefix=prefix, local_ttl=LOCAL_TTL)
    with gateway.start() as process:
        process.until(lambda: gateway.ready)
        yield Contender(title, gateway.port, process, gateway, new_heads)


def fill(
    contender: Contender, people: Population, folder: Path, console: Console, *, connections: int
) -> int:
    """Send all tokens, until all are remembered but those that got lost; returns how many are.

    Raises Refused when they are not.
    """
    known, goal = 0, len(people.tokens) - _LOST
    rest = folder / "rest.tokens"
    while known < goal and contender.gateway is not None:
        rest.write_text("\n".join(people.tokens[max(0, known - _LOST) :]))
        contender.run(rest, connections=connections, seconds=_FILL_SECONDS)
        entries = contender.gateway.entries
        held = min(entries["tokens"], entries["verdicts"])
        if held <= known or entries["users"] < min(held, people.users):
            raise Refused(f"of {len(people.tokens):,} tokens no more than {held:,} are remembered")
        known = held
        console.print(f"  {known:,} tokens known", style="dim")
    return known
