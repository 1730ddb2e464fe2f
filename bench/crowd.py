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
_MOST_FILLS: Final = 40


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
    stage: Stage, people: Population, *, title: str, prefix: str | None = None
) -> Iterator[Contender]:
    """Run a gateway with these users, and what is in Redis under a prefix. Raises Refused."""
    prefix = prefix or f"{people.schema}:"
    gateway = Gateway(stage, upstream=stage.upstream, people=people, prefix=prefix, local_ttl=LOCAL_TTL)
    with gateway.start() as process:
        process.until(lambda: gateway.ready)
        yield Contender(title, gateway.port, process, gateway)


def fill(
    contender: Contender, people: Population, folder: Path, console: Console, *, connections: int
) -> int:
    """Send all tokens, until all are remembered but those that got lost; returns how many are.

    Raises Refused when they are not.
    """
    # More than are under way when a load is cut off.
    lost = 100 + 2 * connections
    goal = len(people.tokens) - lost
    rest = folder / "rest.tokens"
    known = sent = 0
    gateway = contender.gateway
    if gateway is None:
        raise Refused(f"{contender.title} does not tell what it remembers")
    for _ in range(_MOST_FILLS):
        # All of them when those before are not known any more: a heartbeat came late, and all was forgotten.
        rest.write_text("\n".join(people.tokens[max(0, sent - lost) :]))
        contender.run(rest, connections=connections, seconds=_FILL_SECONDS)
        entries = gateway.entries
        before, known = known, min(entries["tokens"], entries["verdicts"])
        sent = known if known > before else 0
        console.print(f"  {known:,} tokens known", style="dim")
        if known >= goal and entries["users"] >= min(known, people.users):
            return known
    raise Refused(f"of {len(people.tokens):,} tokens no more than {known:,} are remembered")
