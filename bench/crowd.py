"""Gateways whose memory is full of tokens: of a million users, and of ten."""

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
"""`cache.local_ttl`: its default is shorter than the time to send all tokens once."""
_FILL_SECONDS: Final = 5
_MOST_FILLS: Final = 40


def few(stage: Stage) -> Population:
    """Return ten users, each with one token."""
    return stage.population("few", users=FEW, signer=Signer.ed25519(), holders=range(FEW))


def crowd(stage: Stage, console: Console) -> Population:
    """Return a million users; every twentieth has a token. Ed25519 signs the tokens in seconds."""
    console.print(f"  {CROWD:,} users and {ACTIVE:,} tokens", style="dim")
    holders = range(0, CROWD, CROWD // ACTIVE)
    return stage.population("crowd", users=CROWD, signer=Signer.ed25519(), holders=holders)


def few_with_many_tokens(stage: Stage) -> Population:
    """Return ten users, with as many tokens as `crowd` has."""
    holders = [number % FEW for number in range(ACTIVE)]
    return stage.population("many_tokens", users=FEW, signer=Signer.ed25519(), holders=holders)


@contextmanager
def started(
    stage: Stage, people: Population, *, title: str, prefix: str | None = None
) -> Iterator[Contender]:
    """Run a gateway with these users, and the data in Redis under `prefix`. Raises Refused."""
    prefix = prefix or f"{people.schema}:"
    gateway = Gateway(stage, upstream=stage.upstream, people=people, prefix=prefix, local_ttl=LOCAL_TTL)
    with gateway.start() as process:
        process.until(lambda: gateway.ready)
        yield Contender(title, gateway.port, process, gateway)


def fill(
    contender: Contender, people: Population, folder: Path, console: Console, *, connections: int
) -> int:
    """Send all tokens until nearly all are remembered; return how many are.

    Some get lost when a load ends. Raises Refused when too few are remembered.
    """
    # More than the requests in flight when a load ends.
    lost = 100 + 2 * connections
    goal = len(people.tokens) - lost
    rest = folder / "rest.tokens"
    known = sent = 0
    gateway = contender.gateway
    if gateway is None:
        raise Refused(f"{contender.title} does not report what it remembers")
    for _ in range(_MOST_FILLS):
        # If the gateway has forgotten earlier tokens, because a heartbeat was late, send all of them again.
        rest.write_text("\n".join(people.tokens[max(0, sent - lost) :]))
        contender.run(rest, connections=connections, seconds=_FILL_SECONDS)
        entries = gateway.entries
        before, known = known, min(entries["tokens"], entries["verdicts"])
        sent = known if known > before else 0
        console.print(f"  {known:,} tokens known", style="dim")
        if known >= goal and entries["users"] >= min(known, people.users):
            return known
    raise Refused(f"of {len(people.tokens):,} tokens, only {known:,} are remembered")
