"""`gateway demo --chaos`: a live table of what is answered while stores fail, and what was promised of it."""

import asyncio
import signal
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NoReturn

import typer
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.terminal import output
from gateway.demo.chaos.faults import FAULTS, Fault
from gateway.demo.chaos.promises import ALLOWED, LEAVER, Phase, Promise, Run, delay, judged, recovery, slowest
from gateway.demo.chaos.run import CALM, ChaosError, Second, rehearse

_WHO: Final = {
    "member": "may pass",
    "suspended": "is suspended",
    "ghost": "has no user",
    "revoked": "has a revoked token",
    LEAVER: "is suspended in each fault",
}
_EXPLAINED: Final = {fault.name: fault.explained for fault in FAULTS}


def run_chaos(names: Iterable[str], seconds: float, *, json: bool) -> NoReturn:
    """Cause faults, show the answers, and exit with `DENIED` if a promise was broken."""
    from gateway.demo.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedRedis

    faults = _chosen(names)
    view = _Json() if json else _Live(seconds) if output.out.is_terminal else _Lines()
    # While the stores start, there is no event loop that could handle the signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gateway-chaos-") as folder,
            EmbeddedPostgres() as postgres,
            EmbeddedRedis() as redis,
            view,
        ):
            run = _run(postgres.dsn, redis.url, Path(folder), faults, seconds, view)
    except (EmbeddedError, ChaosError) as error:
        output.fail(str(error), code=output.UNREACHABLE)
    except KeyboardInterrupt:
        raise typer.Exit(output.OK) from None
    promises = judged(run)
    view.conclude(run, promises)
    raise typer.Exit(output.OK if all(promise.kept for promise in promises) else output.DENIED)


def _chosen(names: Iterable[str]) -> Sequence[Fault]:
    by_name = {fault.name: fault for fault in FAULTS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        output.fail(f"there is no fault {unknown[0]}", f"one of {', '.join(by_name)}", output.USAGE)
    return [by_name[name] for name in names] or FAULTS


def _run(
    postgres: str, redis: str, folder: Path, faults: Sequence[Fault], seconds: float, view: "_View"
) -> Run:
    import uvloop

    async def work() -> Run:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await rehearse(postgres, redis, folder, faults, seconds, stop, view.show)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


class _View(ABC):
    """Shows a run. It is a context as long as the run takes."""

    def __enter__(self) -> "_View":
        return self

    def __exit__(self, *_: object) -> None:
        return

    @abstractmethod
    def show(self, second: Second, run: Run) -> None:
        """Show one second."""

    @abstractmethod
    def conclude(self, run: Run, promises: Sequence[Promise]) -> None:
        """Show what came of it."""


class _Json(_View):
    """One document a second, and one at the end."""

    def show(self, second: Second, run: Run) -> None:  # noqa: ARG002 -- as all views
        answers: dict[str, dict[str, int]] = {who: {} for who in _WHO}
        for (who, label), count in second.answers.items():
            answers[who][label] = count
        output.emit_json({"second": second.number, "fault": second.phase.fault, "answers": answers})

    def conclude(self, run: Run, promises: Sequence[Promise]) -> None:
        output.emit_json(
            {
                "kept": all(promise.kept for promise in promises),
                "promises": [
                    {"promise": each.text, "seen": each.seen, "kept": each.kept} for each in promises
                ],
                "faults": [
                    {
                        "fault": phase.fault,
                        "answers": _within(run, phase),
                        "suspension_counted_after": delay(run, phase),
                        "last_503_after": recovery(run, phase),
                        "slowest": slowest(run, phase),
                    }
                    for phase in run.phases
                    if phase.fault
                ],
            }
        )


class _Lines(_View):
    """One line a second, for a pipe or a file."""

    def __init__(self) -> None:
        self._title = ""

    def show(self, second: Second, run: Run) -> None:  # noqa: ARG002 -- as all views
        phase = second.phase
        if phase.title != self._title:
            self._title = phase.title
            output.out.print(_heading(phase), soft_wrap=True)
        counts: Counter[str] = Counter()
        for (_, label), count in second.answers.items():
            counts[label] += count
        output.out.print(f"{second.number:>4} s  {_listed(counts)}", markup=False, soft_wrap=True)

    def conclude(self, run: Run, promises: Sequence[Promise]) -> None:
        _conclude(run, promises)


class _Live(_View):
    """A table that changes each second, on a terminal."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._live = Live(
            Text("Postgres, Redis and the gateway start …"), console=output.out, refresh_per_second=4
        )

    def __enter__(self) -> "_View":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, second: Second, run: Run) -> None:
        self._live.update(picture(second, run, self._seconds))

    def conclude(self, run: Run, promises: Sequence[Promise]) -> None:
        _conclude(run, promises, faults=False)


def picture(second: Second, run: Run, seconds: float) -> Group:
    """Return what the terminal shows in a second."""
    now = Table("user", "who", "answers in this second", box=box.SIMPLE_HEAD, padding=(0, 1))
    for who, description in _WHO.items():
        counts = Counter({label: n for (asked, label), n in second.answers.items() if asked == who})
        now.add_row(who, Text(description, "dim"), _coloured(who, counts))
    return Group(
        Text(f"{second.number} s of {seconds:g} s", "dim"),
        _heading(second.phase),
        now,
        _phases(run),
    )


def _heading(phase: Phase) -> Text:
    if phase.fault is None:
        return Text(f"● {CALM}", "green")
    return Text.assemble((f"● {phase.title}", "bold red"), f": {_EXPLAINED[phase.fault]}.")


def _coloured(who: str, counts: Counter[str]) -> Text:
    """Return the answers with colours: as without a fault, because of a fault, and what must not be."""
    text = Text()
    for label, count in sorted(counts.items()):
        status = label.partition(" ")[0]
        good = who == LEAVER or label == ALLOWED[who] or (who == "member" and status == "200")
        style = "green" if good else "yellow" if status in {"503", "no"} else "bold red"
        text.append(f"{'  ' if text else ''}{label} ×{count}", style)
    return text


def _phases(run: Run) -> Table:
    """Return what was answered in each fault until now."""
    table = Table(
        "fault", "200", "stale", "401", "503", "lost", "slowest", "late", "last 503",
        box=box.SIMPLE_HEAD, padding=(0, 1),
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for phase in run.phases:
        if phase.fault is None:
            continue
        counts = _within(run, phase)
        statuses: Counter[str] = Counter()
        for label, count in counts.items():
            statuses["stale" if label == "200 stale" else label.partition(" ")[0]] += count
        late, last = delay(run, phase), recovery(run, phase)
        cells = [str(statuses[status] or "–") for status in ("200", "stale", "401", "503", "no")]
        table.add_row(
            phase.title,
            *cells,
            f"{slowest(run, phase):.2f} s",
            "–" if late is None else f"{late:.2f} s",
            "–" if last is None else f"+{last:.1f} s",
        )
    return table


def _conclude(run: Run, promises: Sequence[Promise], *, faults: bool = True) -> None:
    if faults:
        output.out.print(_phases(run))
    output.out.print(
        "late: how long a suspended user still passed. last 503: after the fault.\n",
        style="dim",
    )
    for promise in promises:
        mark = ("kept    ", "green") if promise.kept else ("BROKEN  ", "bold red")
        output.out.print(Text.assemble(mark, promise.text))
        output.out.print(Text(f"        {promise.seen}", "dim"))
    output.out.print("\ndocs/consistency.md has the promises in full, and how they are tested.")


def _within(run: Run, phase: Phase) -> Counter[str]:
    return Counter(answer.label for answer in run.answers if phase.begins <= answer.asked_at < phase.ends)


def _listed(counts: Counter[str]) -> str:
    return "  ".join(f"{label} ×{count}" for label, count in sorted(counts.items()))
