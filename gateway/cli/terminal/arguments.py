"""The arguments and options that commands share. A bad value is refused before a command changes anything."""

import getpass
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeAlias

import typer

from gateway.cli.terminal import output
from gateway.core.tokens.claims import is_clean

OfIssuer: TypeAlias = Annotated[
    str, typer.Argument(metavar="ISSUER", help="The configured name, or the `iss`.")
]
IssuerName: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME", help="The configured name, or the `iss`.")
]
Jti: TypeAlias = Annotated[str, typer.Argument(metavar="JTI", help="The token's `jti`.")]
AnyUser: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="The user: an id, an e-mail address, or ISSUER_NAME:SUBJECT.")
]
PastedToken: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[TOKEN]",
        help="The token, or a header or curl command with it; `-` reads it from stdin. Without it, the"
        " command asks for the token and does not show it.",
        show_default=False,
    ),
]

_STDIN: Final = "-"
LONGEST_LINE: Final = 4095
"""Bytes of a line that a terminal passes on; it cuts longer lines off (termios(3))."""


def token_text(argument: str | None, command: str) -> str | bytes:
    """Return the text of a `PastedToken` of `gateway COMMAND`: the argument, stdin, or what is typed."""
    if argument is not None and argument != _STDIN:
        output.warn(
            "the token is an argument, which every user of this machine can see in the list of processes",
            f"`gateway {command} -` reads it from stdin; `gateway {command}` asks for it",
        )
        return argument
    if argument is None and sys.stdin.isatty():
        typed = getpass.getpass("Token (not shown): ")
        if len(typed) >= LONGEST_LINE:
            output.fail(
                "the terminal cut the token off",
                f"put it into a file: gateway {command} - < FILE",
                output.USAGE,
            )
        text = typed.encode("utf-8", "backslashreplace")
    else:
        text = typer.get_binary_stream("stdin").read()
    if not text.strip():
        output.fail("there is no token", f"curl … | gateway {command} -", output.USAGE)
    return text


def is_stdin(argument: str | None) -> bool:
    """Return whether the text of a `PastedToken` comes from stdin, and not from a terminal."""
    return argument == _STDIN or (argument is None and not sys.stdin.isatty())


def utf8(value: str | None) -> str | None:
    """Refuse text that no store can hold: Python turns bytes that are not UTF-8 into lone surrogates."""
    if value is not None and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise typer.BadParameter("this is not UTF-8 text")
    return value


def clean(value: str | None) -> str | None:
    """Refuse text that no claim can equal."""
    if value is not None and not is_clean(value):
        raise typer.BadParameter("write at least one character, and no control characters")
    return value


def rfc3339(text: str) -> datetime | None:
    """Read an RFC 3339 time with its offset from UTC; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment


def method(value: str | None) -> str | None:
    """Refuse text that is not a method (RFC 9110 §9.1)."""
    if value is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise typer.BadParameter("a method is one word such as GET")
    return value


def each_clean(values: list[str] | None) -> list[str] | None:
    """Refuse a list with an entry that no claim can equal."""
    for value in values or ():
        clean(value)
    return values


def email(value: str | None) -> str | None:
    """Refuse text that is not an e-mail address: commands take text with an @ for one."""
    if value is not None and (not is_clean(value) or not re.fullmatch(r"[^@\s]+@[^@\s]+", value)):
        raise typer.BadParameter("this is not an e-mail address: write ann@example.com")
    return value


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """Open a file for the context, `-` for stdin; exit when it cannot be read."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 -- closed below; later errors are not about the name
    except OSError as error:
        output.fail(f"{name} cannot be read: {error.strerror}", "correct the path", output.USAGE)
    with file:
        yield file


def shown(name: str) -> str:
    """Return the name of a file for messages."""
    return "stdin" if name == "-" else name


def size(file: BinaryIO) -> int | None:
    """Return the number of bytes to read; None when there is no size, as for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None
