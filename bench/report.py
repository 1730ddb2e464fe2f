"""The results of a measurement: a table for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Target:
    """A target."""

    wanted: str
    found: str
    met: bool | None
    """None if it was not measured."""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: "not measured"}[self.met]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one measurement."""

    title: str
    rows: Sequence[Mapping[str, str | int | float]] = ()
    """The rows of the table. All have the same columns."""
    targets: Sequence[Target] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def show(report: Report, console: Console) -> None:
    """Print tables, with the significant digits of each number."""
    console.print(f"\n[bold]{report.title}[/bold]")
    if report.rows:
        table = Table(box=SIMPLE)
        for column, value in report.rows[0].items():
            table.add_column(column, justify="left" if isinstance(value, str) else "right", no_wrap=True)
        for row in report.rows:
            table.add_row(*map(_cell, row.values()))
        console.print(table)
    if report.targets:
        table = Table("target", "found", "", box=SIMPLE)
        colours = {True: "green", False: "red", None: "yellow"}
        for target in report.targets:
            table.add_row(target.wanted, target.found, target.verdict, style=colours[target.met])
        console.print(table)
    for note in report.notes:
        console.print(f"  · {note}", markup=False)


def write(path: Path, machine: str, versions: Mapping[str, str], reports: Sequence[Report]) -> None:
    """Write everything as one JSON document."""
    document = {"machine": machine, "versions": versions, "reports": [asdict(report) for report in reports]}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"
