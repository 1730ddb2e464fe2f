"""The differences between two subjects in spelling. This file defines what counts as spelling.

Similarity is a hint for people, never a reason to admit: `Anna` and `anna` may be two persons.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote

Difference: TypeAlias = Literal["case", "spacing", "encoding", "prefix", "uuid"]

_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
"""Invisible characters that come with copied text. Unicode does not count them as white space."""

_PROVIDERS: Final = ("auth0", "google-oauth2", "github", "windowslive", "apple")
"""The usual providers that identity brokers put before a bar."""
_WORD: Final = re.compile(r"[^\W\d_]+")
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")

_UUID: Final = re.compile(
    r"(?:urn:uuid:)?\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?",
    re.IGNORECASE,
)


def normal_form(subject: str) -> str:
    """Return the normal form, which all spellings of a subject share.

    Subjects with a `difference` have equal normal forms. The reverse does not hold: `auth0|7` and
    `github|7` share one, too, but are two persons.
    """
    for _, step in _STEPS:
        subject = step(subject)
    return subject.rpartition("|")[2] or subject


def difference(a: str, b: str) -> Difference | None:
    """Return the difference of two subjects; None if they are equal, or differ in more than spelling.

    `spacing` is white space and invisible characters; `encoding` percent-encoding (RFC 3986 §2.1)
    and composed letters (Unicode NFC); `uuid` the case, dashes and braces of a UUID (RFC 9562 §4);
    `prefix` a provider before a bar, as in `auth0|7`, on one side only. Of several differences, the
    last one in this list is returned, with `case` before `prefix`.
    """
    if a == b:
        return None
    for name, step in _STEPS:
        a, b = step(a), step(b)
        if a == b:
            return name
    short, long = sorted((a, b), key=len)
    return "prefix" if short and short[-1] != "|" and long.endswith("|" + short) else None


def spellings(subject: str) -> Iterator[tuple[str, Difference]]:
    """Yield the other common spellings of a subject by providers and programs.

    These are not all spellings, but those that can be guessed, to find a subject whose hash is known.
    """
    for spelling in dict.fromkeys(_guesses(subject)):
        differs = difference(spelling, subject)
        if differs is not None:
            yield spelling, differs


def _guesses(subject: str) -> Iterator[str]:
    yield subject.lower()
    yield subject.upper()
    prefix, bar, bare = subject.rpartition("|")
    for spelling in (bare, bare.lower(), bare.upper(), bare[:1].upper() + bare[1:], _capitalised(bare)):
        yield spelling
        yield prefix + bar + spelling
    yield _compact(subject)
    yield f" {subject}"
    yield f"{subject} "
    yield _decoded(subject)
    encoded = quote(subject, safe="", errors="replace")
    yield encoded
    yield _ESCAPE.sub(lambda octet: octet[0].lower(), encoded)
    if not bar:
        for provider in _PROVIDERS:
            yield f"{provider}|{subject}"
    if uuid := _UUID.fullmatch(bare):
        dashed, plain = "-".join(uuid.groups()), "".join(uuid.groups())
        for spelling in (dashed, plain, "{" + dashed + "}", f"urn:uuid:{dashed}"):
            yield spelling.lower()
            yield spelling.upper()


def _capitalised(text: str) -> str:
    """Capitalise each word of a name, or of the part of an address before the @."""
    local, at, domain = text.lower().partition("@")
    return _WORD.sub(lambda word: word[0].capitalize(), local) + at + domain


def _compact(text: str) -> str:
    text = _INVISIBLE.sub("", text)
    if "|" not in text:
        return " ".join(text.split())
    return "|".join(" ".join(part.split()) for part in text.split("|"))


def _decoded(text: str) -> str:
    if text.isascii() and "%" not in text:
        return text
    # Repeat until nothing is left to decode: `%257C` was encoded by two programs.
    while "%" in text:
        try:
            decoded = unquote(text, errors="strict")
        except UnicodeDecodeError:
            break
        if decoded == text:
            break
        text = decoded
    return _compact(unicodedata.normalize("NFC", text))


def _uuid(text: str) -> str:
    prefix, bar, bare = text.rpartition("|")
    found = _UUID.fullmatch(bare)
    return prefix + bar + "-".join(found.groups()).lower() if found else text


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


_STEPS: Final[tuple[tuple[Difference, Callable[[str], str]], ...]] = (
    ("spacing", _compact),
    ("encoding", _decoded),
    ("uuid", _uuid),
    ("case", _folded),
)
"""From the smallest change to the largest. Texts that are equal after one step stay equal."""
