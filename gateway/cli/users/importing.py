"""`gateway users import`: creates the users of a provider's export, after showing what it would do."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import orjson
import typer

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, Json
from gateway.cli.orphans.choice import choose_field
from gateway.cli.orphans.report import link_command, shown
from gateway.cli.stores import Stores, with_stores
from gateway.cli.terminal import arguments, output
from gateway.core.model import JSON, StoreUnavailable
from gateway.reconcile.exports.export import Export, Format
from gateway.reconcile.exports.text import BadExport

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from rich.progress import Progress

    from gateway.reconcile.exports.accounts import Account
    from gateway.reconcile.imports import Candidate, Candidates, Skipped
    from gateway.stores.postgres.directory.imports import UserImport
    from gateway.stores.postgres.source.directory.imports import SourceImport

_LISTED: Final = 100
"""Users skipped for one reason whom the report for people lists."""
_INTERRUPTED: Final = 130
_SLICE: Final = 100
"""Users that are read at once, while Postgres works on those before: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Requested:
    """What a person asked for."""

    export: str
    issuer: str
    tenant: str | None
    tenant_column: str | None
    roles: list[str]
    roles_column: str | None
    column: str | None
    style: Format
    config: Path
    json: bool


@dataclass(slots=True)
class Result:
    """What was done, or would be."""

    issuer: str = ""
    """The configured name."""
    statuses: Counter[str] = field(default_factory=Counter)
    """The users who were created, by their status."""
    skipped: Counter[str] = field(default_factory=Counter)
    listed: "list[Skipped]" = field(default_factory=list)
    """Some of those who were skipped."""

    @property
    def created(self) -> int:
        return self.statuses.total()


def import_users(
    *,
    export: Annotated[
        str, typer.Argument(metavar="FILE", help="What the provider exported, unedited; `-` for stdin.")
    ],
    issuer: Annotated[str, typer.Option(help="The configured name of the issuer, or its `iss`.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done. Without it, the command asks.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking, for scripts.")] = False,
    tenant: Annotated[
        str | None, typer.Option(help="The tenant of all users.", callback=arguments.clean)
    ] = None,
    tenant_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column or JSON member with the user's tenant.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="A role of all users; may be repeated.", callback=arguments.each_clean),
    ] = None,
    roles_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column or JSON member with the user's roles.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The column or JSON member with the subject, if it is not found."),
    ] = None,
    style: Annotated[Format, typer.Option("--format", help="The format of the export.")] = Format.AUTO,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> None:
    """Create the users of an export of the identity provider. Users who exist stay as they are.

    First the command shows what it would do, and asks. It may be interrupted at any time: run it again, and
    it goes on. The exit code is 1 when users were skipped who have no account here.
    """
    if dry_run and yes:
        output.fail("--dry-run and --yes exclude each other", "give only one of them", output.USAGE)
    asks = not dry_run and not yes
    wish = Requested(
        export, issuer, tenant, tenant_column, role or [], roles_column, column, style, config, json
    )  # fmt: skip
    with arguments.opened(export) as file:
        if asks and (json or not _can_ask() or not file.seekable()):
            output.fail(
                "the command cannot ask whether to import",
                "--dry-run shows what would be done; --yes does it",
                output.USAGE,
            )
        result = _run(wish, file, writes=yes, reports=True)
        if asks and result.created:
            if not typer.confirm(f"Create {_users(result.created)}?"):
                output.fail("nothing was imported", code=output.DENIED)
            file.seek(0)
            result = _run(wish, file, writes=True, reports=False)
    from gateway.reconcile.imports import Skip

    missing = sum(number for why, number in result.skipped.items() if why != Skip.EXISTS)
    raise typer.Exit(output.DENIED if missing else output.OK)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _run(wish: Requested, file: BinaryIO, *, writes: bool, reports: bool) -> Result:
    """Read the export once; create its users if `writes`. Exit when that fails."""
    from gateway.reconcile.imports import Candidates
    from gateway.reconcile.orphans import ScratchFailed, scratch
    from gateway.stores.postgres.directory.user_rows import ChangeRefused

    result = Result()
    try:
        with scratch() as database, output.progress() as progress:
            candidates = Candidates(database, tenant=wish.tenant, roles=wish.roles)

            async def work(stores: Stores) -> None:
                await _import(
                    wish, stores, file, candidates, result, progress, writes=writes, quiet=not reports
                )

            with_stores(wish.config, work)
    except BadExport as error:
        _tell_progress(result, writes=writes)
        output.fail(f"{arguments.shown(wish.export)}, {error}", error.advice, output.USAGE)
    except ChangeRefused as error:
        _tell_progress(result, writes=writes)
        output.fail(str(error))
    except ScratchFailed as error:
        output.fail(
            f"the temporary database cannot be used: {error}",
            "point SQLITE_TMPDIR at a folder with more room",
            output.UNREACHABLE,
        )
    except KeyboardInterrupt:
        _tell_progress(result, writes=writes)
        output.fail("interrupted", code=_INTERRUPTED)
    _report(wish, result, writes=writes, lists=reports)
    return result


async def _import(
    wish: Requested,
    stores: Stores,
    file: BinaryIO,
    candidates: "Candidates",
    result: Result,
    progress: "Progress",
    *,
    writes: bool,
    quiet: bool,
) -> None:
    from gateway.reconcile.imports import held
    from gateway.stores.postgres.directory.imports import BATCH

    configured = stores.issuer_of_users(wish.issuer)
    result.issuer = configured.name
    target = _target(stores, configured.issuer)
    export = Export(
        file, claim=configured.subject, column=wish.column, style=wish.style, name=wish.export
    )  # fmt: skip
    await choose_field(export, stores, configured.issuer, quiet=quiet)
    accounts = export.accounts(now=time.time(), tenant=wish.tenant_column, roles=wish.roles_column)
    task = progress.add_task(
        "Importing (bytes)" if writes else "Reading (bytes)", total=arguments.size(file)
    )  # fmt: skip

    async def settle(found: "list[Candidate]", unusable: "list[Skipped]") -> None:
        users = [each.new for each in found]
        try:
            holders = await (target.create(users, stores.author) if writes else target.holders(users))
        except StoreUnavailable:
            _tell_progress(result, writes=writes)
            raise
        for user, holder in zip(users, holders, strict=True):
            result.statuses[user.status] += holder is None
        for skipped in chain(unusable, held(found, holders)):
            result.skipped[skipped.why] += 1
            if wish.json:
                _write(_document(skipped, result.issuer, wish.config))
            elif not quiet and result.skipped[skipped.why] <= _LISTED:
                result.listed.append(skipped)
        progress.update(task, completed=export.bytes_read)

    # Postgres works on a batch while the next one is read. They are settled in their order, one at a time.
    before: asyncio.Task[None] | None = None
    try:
        async for found, unusable in _batches(candidates, accounts, BATCH):
            if before is not None:
                await before
            before = asyncio.create_task(settle(found, unusable))
        if before is not None:
            await before
    finally:
        # What is told of a mistake further on counts the batch before it, too.
        if before is not None:
            await asyncio.wait([before])
            with suppress(asyncio.CancelledError):
                before.exception()


async def _batches(
    candidates: "Candidates", accounts: "Iterator[Account]", size: int
) -> "AsyncIterator[tuple[list[Candidate], list[Skipped]]]":
    """Yield batches of an export; while one is read, others get their turn, and an interrupt is heard."""
    found: list[Candidate] = []
    unusable: list[Skipped] = []
    read = 0
    slice_ = min(_SLICE, size)
    for some, others in candidates.batches(accounts, slice_):
        found += some
        unusable += others
        read += slice_
        await asyncio.sleep(0)
        if read >= size:
            yield found, unusable
            found, unusable, read = [], [], 0
    if read:
        yield found, unusable


def _target(stores: Stores, iss: str) -> "UserImport | SourceImport":
    """Return what creates the users; exit if they are in a source that is read-only."""
    from gateway.stores.postgres.directory.imports import UserImport
    from gateway.stores.postgres.source.directory.imports import SourceImport
    from gateway.stores.postgres.source.directory.users import SourceDirectory

    if not isinstance(stores.directory, SourceDirectory):
        return UserImport(stores.postgres, iss)
    if not stores.directory.source.writable:
        output.fail(
            "the users are in `users.source`, and the gateway may not write there",
            "import them with the means of that system, or set users.source.writable: true",
        )
    return SourceImport(stores.directory, iss)


def _tell_progress(result: Result, *, writes: bool) -> None:
    """Say how far a failed import came."""
    if writes and result.created:
        output.err.print(
            f"{_users(result.created)} were created before; run the command again, and it goes on.",
            soft_wrap=True,
        )


def _report(wish: Requested, result: Result, *, writes: bool, lists: bool) -> None:
    from gateway.reconcile.imports import MEANS, Skip

    if wish.json:
        _write(
            {
                "kind": "summary",
                "issuer": result.issuer,
                "dry_run": not writes,
                "created": result.created,
                "statuses": {str(status): number for status, number in result.statuses.items() if number},
                "skipped": {str(why): number for why, number in result.skipped.items()},
            }
        )
        return
    statuses = ", ".join(f"{number:,} {status}" for status, number in result.statuses.items() if number)
    done = "Created" if writes else "Would create"
    _write(f"{done} {_users(result.created)} of {result.issuer}{f': {statuses}' if statuses else ''}.")
    for why in Skip:
        number = result.skipped[why]
        if not number:
            continue
        _write(f"{'Skipped' if writes else 'Would skip'} {_users(number)}: {MEANS[why]}.")
        if why is Skip.EXISTS or not lists:
            continue
        for skipped in result.listed:
            if skipped.why is why:
                _write(f"  {_text(skipped, result.issuer, wish.config)}")
        if number > _LISTED:
            _write(f"  and {number - _LISTED:,} more: --json lists them all")


def _text(skipped: "Skipped", issuer: str, config: Path) -> str:
    text = f"line {skipped.line}" + ("" if skipped.subject is None else f": {shown(skipped.subject)}")
    if skipped.before is not None:
        return f"{text}, and line {skipped.before}"
    if skipped.user is not None:
        text += f": user {skipped.user}"
    command = _command(skipped, issuer, config)
    return text if command is None else f"{text}; if it is the same person:\n      {command}"


def _document(skipped: "Skipped", issuer: str, config: Path) -> dict[str, JSON]:
    return {
        "kind": "skipped",
        "line": skipped.line,
        "subject": skipped.subject,
        "why": skipped.why.value,
        "user": skipped.user,
        "before": skipped.before,
        "command": _command(skipped, issuer, config),
    }


def _command(skipped: "Skipped", issuer: str, config: Path) -> str | None:
    """Return the command for one person with two accounts: it links the second."""
    from gateway.reconcile.imports import Skip

    if skipped.why is not Skip.EMAIL_TAKEN or skipped.user is None or skipped.subject is None:
        return None
    return link_command(skipped.user, issuer, skipped.subject, config)


def _users(number: int) -> str:
    return "1 user" if number == 1 else f"{number:,} users"


def _write(line: str | dict[str, JSON]) -> None:
    text = line if isinstance(line, str) else orjson.dumps(line).decode()
    sys.stdout.write(text + "\n")
