"""`gateway adopt`: looks at a live database, and proposes the `users.source` that fits its users."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from gateway.cli.config import Json
from gateway.cli.stores import refuse
from gateway.cli.terminal import output
from gateway.cli.terminal.arguments import clean, opened, shown, size
from gateway.core.model import StoreUnavailable
from gateway.reconcile.exports.text import BadExport, Text

if TYPE_CHECKING:  # the drivers take a while to import; `gateway --help` needs none of them
    from rich.progress import Progress

    from gateway.reconcile.adopt.subjects import SubjectSample
    from gateway.reconcile.adopt.survey import Survey

_BATCH: Final = 5_000
_STDIN: Final = "-"


def adopt(
    context: typer.Context,
    *,
    dsn: Annotated[
        str | None,
        typer.Option(
            metavar="DSN",
            envvar="GATEWAY_POSTGRES__DSN",
            help="The database with your users; `-` reads the DSN from stdin.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Tokens of your users, one in each line; `-` for stdin. Only their `sub` is used, and no"
            " signature is checked.",
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Subjects of your users, one in each line; `-` for stdin."),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The configured name of the issuer of these tokens.", callback=clean
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="The time limit of one query.")
    ] = 5.0,
    json: Json = False,
) -> None:
    """Look at a live database, and propose the `users.source` for the users that are in it.

    The command changes nothing: its session is read only. It prints names of tables and columns, and numbers,
    but no data of a person. What it prints is YAML, whose comments say what was found. The exit code is 1 if
    no table looks like one of users.
    """
    if tokens is not None and subjects is not None:
        output.fail("--tokens and --subjects exclude each other", "give one of both", output.USAGE)
    given = tokens if tokens is not None else subjects
    if dsn == _STDIN == given:
        output.fail("stdin cannot be both the DSN and the subjects", "give a file", output.USAGE)
    address = _dsn(context, dsn)

    from gateway.stores.postgres.inspection.session import Unread

    with output.progress() as progress:
        sample = None if given is None else _read(given, progress, as_tokens=tokens is not None)
        try:
            found = asyncio.run(_survey(address, timeout, sample, issuer, progress))
        except StoreUnavailable as error:
            refuse(error, "--dsn")
        except Unread as error:
            output.fail(
                f"the catalogs of the database could not be read: {error}",
                "--timeout SECONDS allows more time",
                output.UNREACHABLE,
            )
    from gateway.cli.adopt import report

    if json:
        output.emit_json(report.document(found))
    else:
        report.write(found)
    raise typer.Exit(output.DENIED if found.choice is None else output.OK)


def _dsn(context: typer.Context, dsn: str | None) -> str:
    if dsn == _STDIN:
        dsn = sys.stdin.readline().strip()
    elif dsn is not None and _has_password(dsn) and _is_argument(context):
        output.warn(
            "the password is an argument, which every user of this machine can see in the list of processes",
            "set GATEWAY_POSTGRES__DSN or PGPASSWORD, or let `--dsn -` read the DSN from stdin",
        )
    if not dsn:
        output.fail(
            "there is no database to look at",
            "--dsn postgresql://USER@HOST/DATABASE, with the password in PGPASSWORD",
            output.USAGE,
        )
    return dsn


def _is_argument(context: typer.Context) -> bool:
    """Return whether the DSN is on the command line, and not in the environment."""
    source = context.get_parameter_source("dsn")
    return source is not None and source.name == "COMMANDLINE"


def _has_password(dsn: str) -> bool:
    try:
        return bool(urlsplit(dsn).password) or "password=" in urlsplit(dsn).query
    except ValueError:
        return False


def _read(name: str, progress: "Progress", *, as_tokens: bool) -> "SubjectSample":
    """Read a file in bounded memory; exit when it has no subject."""
    from gateway.reconcile.adopt.subjects import SubjectSample

    sample = SubjectSample()
    add: Callable[[Iterable[str]], None] = sample.add_tokens if as_tokens else sample.add_subjects
    try:
        with opened(name) as file:
            text = Text(file)
            rows = text.lines()
            task = progress.add_task("Reading the subjects (bytes)", total=size(file))
            while batch := list(islice(rows, _BATCH)):
                add(batch)
                progress.update(task, completed=text.bytes_read)
    except BadExport as error:
        output.fail(f"{shown(name)}, {error}", error.advice, output.USAGE)
    what = "token" if as_tokens else "subject"
    if not sample.lines:
        output.fail(f"{shown(name)} is empty", f"write one {what} in each line", output.USAGE)
    if sample.lines == sample.unusable:
        output.fail(
            f"no line of {shown(name)} is a {what} that the gateway could accept",
            f"write one {what} in each line, and nothing else",
            output.USAGE,
        )
    return sample


async def _survey(
    dsn: str, time_limit: float, sample: "SubjectSample | None", issuer: str | None, progress: "Progress"
) -> "Survey":
    from gateway.reconcile.adopt.survey import survey
    from gateway.stores.postgres.inspection.session import inspection

    task = progress.add_task("Connecting", total=None)

    def step(what: str, done: int, of: int) -> None:
        progress.update(task, description=what, completed=done, total=of)

    async with inspection(dsn, statement_timeout=time_limit) as database:
        return await survey(database, sample, issuer=issuer, step=step)
