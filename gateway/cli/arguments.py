"""What arguments and options mean and may hold: what is wrong with one is told before anything is changed."""

import re
from datetime import datetime
from typing import Annotated, TypeAlias

import typer

from gateway.core.claims import is_clean

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


def utf8(value: str | None) -> str | None:
    """Refuse what no store can hold: bytes that are no UTF-8 come as halves of surrogate pairs."""
    if value is not None and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise typer.BadParameter("this is not UTF-8 text")
    return value


def clean(value: str | None) -> str | None:
    """Refuse what no claim could equal."""
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
    """Refuse what is no method (RFC 9110 §9.1)."""
    if value is not None and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise typer.BadParameter("a method is one word such as GET")
    return value


def each_clean(values: list[str] | None) -> list[str] | None:
    """Refuse a list with an entry that no claim could equal."""
    for value in values or ():
        clean(value)
    return values


def email(value: str | None) -> str | None:
    """Refuse what is no address: a user is found by text with an @ in it."""
    if value is not None and (not is_clean(value) or not re.fullmatch(r"[^@\s]+@[^@\s]+", value)):
        raise typer.BadParameter("this is no e-mail address: write ann@example.com")
    return value
