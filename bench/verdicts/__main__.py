"""`python -m bench.verdicts`: ask the gateway and Envoy about each mutated token, and compare.

The exit code is 1 if a difference has no clause, or if a good token is refused; 2 if nothing can be compared.
"""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.processes import Refused
from bench.programs import versions
from bench.verdicts.cases import good, mutated
from bench.verdicts.clauses import CLAUSES, Clause, Side, clause_of
from bench.verdicts.minting import Case
from bench.verdicts.proxies import NO_ANSWER, Proxies, Verdict, running
from gateway.demo.embedded import EmbeddedError

_SAYS: Final = {True: "accepted", False: "refused"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both verdicts on a token."""

    case: str
    gateway: Verdict
    envoy: Verdict

    @property
    def stricter(self) -> Side | None:
        if self.gateway.accepted == self.envoy.accepted:
            return None
        return Side.ENVOY if self.gateway.accepted else Side.GATEWAY

    @property
    def clause(self) -> Clause | None:
        if self.stricter is None:
            return None
        refused = self.envoy if self.gateway.accepted else self.gateway
        return clause_of(self.case, self.stricter, refused.why)


def compare(
    *,
    show_all: Annotated[bool, typer.Option("--all", help="List the verdicts on every token.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write the verdicts here, too.")
    ] = None,
) -> None:
    """Compare the verdicts of the gateway and of Envoy's jwt_authn on mutated tokens."""
    console = Console(highlight=False, emoji=False, markup=False, width=None if sys.stdout.isatty() else 120)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all started programs are stopped
    try:
        with running() as proxies:
            refused = [pair for pair in _asked(proxies, good()) if not both_accept(pair)]
            pairs = list(_asked(proxies, mutated()))
    except (Refused, EmbeddedError) as error:
        console.print(f"Nothing can be compared: {error}")
        raise typer.Exit(2) from error
    if show_all:
        _show_pairs(pairs, console)
    _show_counts(pairs, console)
    _show_classes(pairs, console)
    unexplained = [pair for pair in pairs if pair.stricter is not None and pair.clause is None]
    for title, wrong in (
        ("Good tokens that are refused", refused),
        ("Differences without a clause", unexplained),
    ):
        if wrong:
            console.print(f"\n{title}:")
            _show_pairs(wrong, console)
    if json_file is not None:
        _write(json_file, pairs)
    if refused or unexplained:
        raise typer.Exit(1)


def both_accept(pair: Pair) -> bool:
    return pair.gateway.accepted and pair.envoy.accepted


def _asked(proxies: Proxies, cases: Iterator[Case]) -> Iterator[Pair]:
    for case in cases:
        gateway, envoy = proxies.verdicts(case)
        if NO_ANSWER in {gateway.why, envoy.why}:
            raise Refused(f"{case.name}: gateway {gateway.why!r}, Envoy {envoy.why!r}")
        yield Pair(case.name, gateway, envoy)


def _show_counts(pairs: Sequence[Pair], console: Console) -> None:
    table = Table("gateway", "Envoy", "tokens", box=SIMPLE)
    for ours in (True, False):
        for theirs in (True, False):
            count = sum(pair.gateway.accepted is ours and pair.envoy.accepted is theirs for pair in pairs)
            table.add_row(_SAYS[ours], _SAYS[theirs], str(count))
    console.print(table)


def _show_classes(pairs: Sequence[Pair], console: Console) -> None:
    for clause in CLAUSES:
        cases = [pair.case for pair in pairs if pair.clause is clause]
        console.print(
            f"{clause.title} ({clause.source}): {clause.stricter} is stricter, tokens: {len(cases)}"
        )
        console.print(f"  {clause.why}")
        console.print(
            f"  {' | '.join(cases)}\n" if cases else "  No token shows it any more: remove the class.\n"
        )


def _show_pairs(pairs: Sequence[Pair], console: Console) -> None:
    table = Table("token", "gateway", "Envoy", "clause", box=SIMPLE)
    for pair in pairs:
        clause = "" if pair.stricter is None else pair.clause.source if pair.clause else "none"
        table.add_row(pair.case, _told(pair.gateway), _told(pair.envoy), clause)
    console.print(table)


def _told(verdict: Verdict) -> str:
    return f"{_SAYS[verdict.accepted]} {verdict.why}".strip()


def _write(path: Path, pairs: Sequence[Pair]) -> None:
    document = {
        "versions": {name: version for name, version in versions().items() if name in {"gateway", "Envoy"}},
        "tokens": len(pairs),
        "pairs": [
            {
                **asdict(pair),
                "stricter": pair.stricter,
                "class": pair.clause and pair.clause.title,
                "clause": pair.clause and pair.clause.source,
            }
            for pair in pairs
        ],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(compare)
