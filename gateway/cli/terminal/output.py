"""Output and exit codes, as all commands use them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # only the commands that take long show progress
    from rich.progress import Progress

OK: Final = 0
DENIED: Final = 1
"""The answer is no: denied, not found, invalid."""
USAGE: Final = 2
"""The command line or the configuration is wrong."""
UNREACHABLE: Final = 3
"""A dependency does not answer."""
BUG: Final = 70
"""A bug in the gateway (sysexits.h: EX_SOFTWARE)."""

# rich writes colours only to a terminal, and none with NO_COLOR.
# Lines that go into a pipe or a file are not wrapped.
_UNWRAPPED: Final = 10_000
out: Final = Console(highlight=False, width=None if sys.stdout.isatty() else _UNWRAPPED)
err: Final = Console(highlight=False, stderr=True, width=None if sys.stderr.isatty() else _UNWRAPPED)


def fail(message: str, hint: str | None = None, code: int = DENIED) -> NoReturn:
    """Write to stderr what is wrong and how to fix it, and exit with `code`."""
    _complain("error", message, hint, style="bold red")
    raise typer.Exit(code)


def warn(message: str, hint: str | None = None) -> None:
    """Write a warning to stderr."""
    _complain("warning", message, hint, style="yellow")


def _complain(label: str, message: str, hint: str | None, *, style: str) -> None:
    """Write `label: message → hint`; the text is shown as it is, without markup."""
    text = Text.assemble((f"{label}: ", style), message)
    if hint:
        text.append(" → ", style="dim").append(hint)
    err.print(text, soft_wrap=True)


def unreachable(what: str, address: str, why: str, hint: str | None = None) -> NoReturn:
    """Report that a dependency does not answer, and exit with `UNREACHABLE`.

    `address` is host and port, without credentials; `hint` names the command that starts it.
    """
    fail(f"{what} at {address} cannot be reached: {why}", hint, UNREACHABLE)


def plain(text: str) -> str:
    """Replace control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain_lines(text: str) -> str:
    """Replace control characters but the ends of lines."""
    return "\n".join(map(plain, text.split("\n")))


def emit_json(value: object) -> None:
    """Write one JSON document to stdout, for programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))


@contextmanager
def progress() -> "Iterator[Progress]":
    """Show the progress, only on a terminal. It disappears before results are written."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    ) as shown:
        yield shown
