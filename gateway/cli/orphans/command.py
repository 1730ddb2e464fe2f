"""`gateway orphans`: subjects without a user, users without a subject, and differences in spelling."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import orjson
import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.orphans.denied_requests import DenialLog, denials_of_api
from gateway.cli.orphans.report import DeniedFindings, ExportFindings
from gateway.cli.stores import Stores, with_stores
from gateway.cli.terminal import output
from gateway.cli.terminal.arguments import opened, shown, size
from gateway.core.model import JSON
from gateway.reconcile.exports.export import Export, Format
from gateway.reconcile.exports.text import BadExport

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    import sqlite3

    from rich.progress import Progress

    from gateway.reconcile.denied_subjects import DeniedSubjects
    from gateway.reconcile.orphans import Comparison

_BATCH: Final = 5_000


def orphans(
    *,
    issuer: Annotated[
        str | None,
        typer.Option(help="The configured name of the issuer, or its `iss`. Needed with --export."),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="What the provider exported, unedited: CSV or JSON; `-` for stdin."
        ),
    ] = None,
    denials: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A log of the gateway, whose denials are read; `-` for stdin."),
    ] = None,
    from_api: Annotated[
        bool, typer.Option("--from-api", help="Read the denials that a running gateway keeps.")
    ] = False,
    style: Annotated[Format, typer.Option("--format", help="The format of the export.")] = Format.AUTO,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column or JSON member with the subject, if it is not found."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Find subjects without a user, users without a subject, and subjects that differ only in spelling.

    The command changes nothing. The exit code is 1 when it finds any.
    """
    if [export is not None, denials is not None, from_api].count(True) != 1:
        output.fail(
            "there is nothing to compare the users with",
            "give one of --export FILE, --denials FILE, --from-api",
            output.USAGE,
        )
    if export is not None and issuer is None:
        output.fail("the issuer of the export's subjects is missing", "--issuer NAME", output.USAGE)
    with _room() as database:
        if export is not None and issuer is not None:
            found = _compare(database, config, issuer, export, style, column, json=json)
        else:
            found = _recognise(database, config, issuer, denials, json=json)
    raise typer.Exit(output.DENIED if found else output.OK)


@contextmanager
def _room() -> "Iterator[sqlite3.Connection]":
    """Open a temporary database for the context; exit when there is no room for it."""
    from gateway.reconcile.orphans import ScratchFailed, scratch

    try:
        with scratch() as database:
            yield database
    except ScratchFailed as error:
        output.fail(
            f"the temporary database cannot be used: {error}",
            "point SQLITE_TMPDIR at a folder with more room",
            output.UNREACHABLE,
        )


def _compare(
    database: "sqlite3.Connection",
    config: Path,
    issuer: str,
    export: str,
    style: Format,
    column: str | None,
    *,
    json: bool,
) -> bool:
    from gateway.cli.orphans.choice import choose_field
    from gateway.reconcile.orphans import Comparison

    comparison = Comparison(database)
    with output.progress() as progress:

        async def work(stores: Stores) -> tuple[str, bool, str | None]:
            configured = stores.issuer_of_users(issuer)
            with opened(export) as file:
                read = Export(file, claim=configured.subject, column=column, style=style, name=export)
                await choose_field(read, stores, configured.issuer, or_email=True)
                await _read_export(comparison, read, size(file), progress)
            await _read_identities(comparison, stores, configured.issuer, progress, by_email=read.by_email)
            return configured.name, read.by_email, await stores.obstacle_to_link(configured.issuer)

        try:
            name, by_email, obstacle = with_stores(config, work)
        except BadExport as error:
            output.fail(f"{shown(export)}, {error}", error.advice, output.USAGE)
        progress.add_task("Comparing", total=None)
        comparison.compare()
    findings = ExportFindings(name, config, links=not by_email, obstacle=obstacle)
    counts: Counter[str] = Counter()
    for finding in comparison.findings():
        counts[finding.kind] += 1
        _write(findings.document(finding) if json else findings.text(finding))
    summary = findings.summary(counts, comparison.subjects, comparison.identities)
    _write(summary if json else findings.closing(summary))
    return any(counts[kind] for kind in findings.ORPHANS)


async def _read_export(
    comparison: "Comparison", export: Export, total: int | None, progress: "Progress"
) -> None:
    rows = export.subjects()
    task = progress.add_task("Reading the export (bytes)", total=total)
    while batch := list(islice(rows, _BATCH)):
        comparison.add_subjects(batch)
        progress.update(task, completed=export.bytes_read)
        await asyncio.sleep(0)  # lets an interrupt through


async def _read_identities(
    comparison: "Comparison", stores: Stores, iss: str, progress: "Progress", *, by_email: bool
) -> None:
    from gateway.reconcile.orphans import known_identities

    task = progress.add_task("Reading the identities", total=None)
    known = known_identities(stores.postgres, iss, by_email=by_email, source=stores.source)
    async for batch in known:
        comparison.add_identities(batch)
        progress.update(task, advance=len(batch))


def _recognise(
    database: "sqlite3.Connection", config: Path, issuer: str | None, log: str | None, *, json: bool
) -> bool:
    from gateway.reconcile.denied_subjects import DeniedSubjects

    denied = DeniedSubjects(database)
    with output.progress() as progress:

        async def work(stores: Stores) -> tuple[dict[str, str], dict[str, str]]:
            name = None if issuer is None else stores.issuer(issuer).name
            if log is None:
                async for refusals in denials_of_api(stores.settings.admin, name):
                    denied.add(refusals)
            else:
                with opened(log) as file:
                    await _read_log(denied, file, log, name, progress)
            await _read_all_identities(denied, stores, progress)
            issuers = {each.name: each.issuer for each in stores.settings.issuers}
            obstacles = {name: await stores.obstacle_to_link(iss) for name, iss in issuers.items()}
            return issuers, {name: why for name, why in obstacles.items() if why is not None}

        issuers, obstacles = with_stores(config, work)
    findings = DeniedFindings(issuers, config, obstacles)
    counts: Counter[str] = Counter()
    for subject in denied.subjects(issuers.items()):
        counts[findings.cause(subject)] += 1
        _write(findings.document(subject) if json else findings.text(subject))
    summary = findings.summary(counts, denied.denials)
    _write(summary if json else findings.closing(summary))
    return any(counts[cause] for cause in counts if cause != findings.SETTLED)


async def _read_log(
    denied: "DeniedSubjects", file: BinaryIO, name: str, issuer: str | None, progress: "Progress"
) -> None:
    log = DenialLog(file)
    lines = iter(log)
    task = progress.add_task("Reading the log (bytes)", total=size(file))
    while batch := list(islice(lines, _BATCH)):
        denied.add(refusal for refusal in batch if refusal is not None and issuer in {None, refusal.issuer})
        progress.update(task, completed=log.bytes_read)
        await asyncio.sleep(0)  # lets an interrupt through
    if log.bytes_read and not log.events:
        output.fail(
            f"{shown(name)} has no log line of the gateway",
            "give the gateway's stderr: JSON, one event in each line",
            output.USAGE,
        )


async def _read_all_identities(denied: "DeniedSubjects", stores: Stores, progress: "Progress") -> None:
    from gateway.reconcile.orphans import known_identities

    task = progress.add_task("Reading the identities", total=None)
    async for batch in known_identities(stores.postgres, source=stores.source):
        denied.recognise(batch)
        progress.update(task, advance=len(batch))


def _write(line: "str | dict[str, JSON]") -> None:
    """Write a document as JSON, or text unchanged. Without rich: there may be a million lines."""
    text = line if isinstance(line, str) else orjson.dumps(line).decode()
    sys.stdout.write(text + "\n")
