"""What two subjects have to do with each other, beyond their spelling; and how they are shown.

As in `core.text.spelling`, a similarity is a hint for people, and never a reason to admit.
"""

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote

Kind: TypeAlias = Literal[
    "case", "width", "turkish", "confusable", "quotes", "number", "encoded", "wrapped", "prefix", "tag",
    "domain", "truncated", "typed",
]  # fmt: skip

# An excerpt of confusables.txt (Unicode Technical Standard 39): the letters of other alphabets that look like
# those of ASCII, and the few of ASCII that look like each other.
_FOREIGN: Final = {
    # Cyrillic
    "аеорсхуіјѕһԁԛԝӏвкмнт": "aeopcxyijshdqwlbkmht",
    "АЕОРСХУІЈЅҺВКМНТԌԚԜӀ": "AEOPCXYIJSHBKMHTGQWI",
    # Greek
    "αιορνκτυχγε": "aiopvktuxye",
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ": "ABEZHIKMNOPTYX",
    # Armenian, Hebrew, Cherokee, Latin
    "օսհոցՕՍԼ": "ouhngOUL",
    "ᎪᏴᏟᎠᎬᎻᎫᏦᏞᎷᏢᏚᎢᏙᎳᏃ": "ABCDEHJKLMPSTVWZ",
    "ıɩɡɑʋᴏｏᴄᴠᴡᴢꜱǀ∣ℓ": "iigavoocvwzslll",
}
_SKELETON: Final = str.maketrans(
    {ord(a): b for letters, plain in _FOREIGN.items() for a, b in zip(letters, plain, strict=True)}
)
_TWINS: Final = str.maketrans({"1": "l", "I": "l", "|": "l", "0": "o", "O": "o"})
_DASHES: Final = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_LENGTHS: Final = (
    16, 20, 24, 30, 32, 36, 40, 45, 48, 50, 60, 63, 64, 80, 100, 120, 127, 128, 150, 191, 200, 250, 254, 255,
)  # fmt: skip
"""Usual lengths of columns."""
_TYPED: Final = re.compile(r"(?:uuid|guid|objectid|string|int|id)\((.*)\)", re.IGNORECASE)
_SHORTEST: Final = 3
"""A shorter subject is contained in too many others."""
_SEPARATORS: Final = "|:/\\#"
_SHOWN: Final = 4
"""Differences that are named."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """What one subject has to do with another."""

    kind: Kind
    words: str
    """After `differs`, or `it is`: see `sentence`."""


def similarity(token: str, held: str) -> Similarity | None:
    """Return what the token's subject has to do with one that has a user; None if nothing is seen.

    Both should be in different spellings (`core.spelling.difference` finds nothing).
    """
    if token == held:
        return None
    for kind, words, fold in _FOLDS:
        if fold(token) == fold(held):
            return Similarity(kind, words)
    return _relation(token, held) or _relation(held, token, back=True)


def _width(text: str) -> str:
    return unicodedata.normalize("NFKC", _DASHES.sub("-", text)).casefold()


def _turkish(text: str) -> str:
    return _width(text.replace("\u0130", "i").replace("\u0131", "i").replace("I", "i")).replace("\u0307", "")


def skeleton(text: str) -> str:
    """Return a text that is equal for subjects which look alike (Unicode Technical Standard 39 §4)."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.translate(_SKELETON).casefold()


def _twins(text: str) -> str:
    return skeleton(text.translate(_TWINS)).replace("rn", "m").replace("vv", "w")


def _unquoted(text: str) -> str:
    return text.strip(" \t\r\n").strip("\"'`\u201c\u201d\u2018\u2019<>{}[]()").casefold()


_FOLDS: Final[tuple[tuple[Kind, str, Callable[[str], str]], ...]] = (
    ("case", "only in upper and lower case", str.casefold),
    ("width", "only in the width or style of characters (Unicode NFKC)", _width),
    ("turkish", "only in the dotless or dotted i of Turkish", _turkish),
    ("quotes", "only in quotation marks or brackets around it", _unquoted),
    ("confusable", "only in letters of another alphabet that look the same", skeleton),
    ("confusable", "only in characters that look alike, as 0 and O, or 1, l and I", _twins),
)  # fmt: skip


def _relation(a: str, b: str, *, back: bool = False) -> Similarity | None:
    """Look for what program made `a` out of `b`. `back`: `a` is the one in the table."""
    which = "the one in the table" if back else "the token's"
    if _number(a, b) and not back:
        return Similarity("number", "only in the way that the number is written")
    if _decoded(a) == b:
        return Similarity("encoded", f"only in that {which} is in base64")
    if _hex(a) == b:
        return Similarity("encoded", f"only in that {which} is in hexadecimal")
    if (separator := _prefixed(a, b)) is not None:
        word = a[: len(a) - len(b) - 1]
        if "://" in word or word.lower().startswith(("urn:", "mailto", "acct", "uri", "tag:")):
            return Similarity("wrapped", f"only in that {which} is a URL or URN, which ends with the other")
        of = "probably a provider or tenant"
        return Similarity("prefix", f"only in a prefix before {separator!r}: {which} has it, {of}")
    if _tagged(a, b):
        return Similarity("tag", f"only in the tag after the plus sign, or in dots: {which} has it")
    if "@" in a and a.partition("@")[0].casefold() == b.casefold() and len(b) >= _SHORTEST:
        return Similarity("domain", f"only in that {which} has a domain after @")
    if len(b) in _LENGTHS and len(a) > len(b) and a.startswith(b):
        cut = f"in that the other is cut off after {len(b)} characters, as by the length of a column"
        return Similarity("truncated", cut)
    if (typed := _TYPED.fullmatch(a)) is not None and typed[1].strip("\"'") == b:
        return Similarity("typed", f"only in that {which} is the text of a value with its type")
    return None


def _number(a: str, b: str) -> bool:
    if max(len(a), len(b)) > 40 or not (a.isascii() and b.isascii()):
        return False
    try:
        return float(a.replace("_", "x")) == float(b.replace("_", "x")) and a != b
    except ValueError:
        return False


def _decoded(text: str) -> str | None:
    bare = text.rstrip("=")
    if len(bare) < _SHORTEST + 1 or not re.fullmatch(r"[A-Za-z0-9+/_-]+", bare):
        return None
    try:
        standard = bare.replace("-", "+").replace("_", "/") + "=" * (-len(bare) % 4)
        return base64.b64decode(standard, validate=True).decode()
    except (ValueError, binascii.Error):
        return None


def _hex(text: str) -> str | None:
    try:
        return bytes.fromhex(text.removeprefix("0x")).decode() if len(text) > _SHORTEST + 2 else None
    except ValueError:
        return None


def _prefixed(long: str, short: str) -> str | None:
    """Return the character between a prefix and the other subject."""
    long, short = unquote(long), unquote(short)
    if len(short) < 1 or not long.endswith(short) or len(long) < len(short) + 2:
        return None
    separator = long[len(long) - len(short) - 1]
    return separator if separator in _SEPARATORS else None


def _tagged(a: str, b: str) -> bool:
    local, at, domain = a.casefold().partition("@")
    other, other_at, other_domain = b.casefold().partition("@")
    if not at or not other_at or domain != other_domain or (local == other):
        return False
    untagged = local.partition("+")[0]
    if domain in {"gmail.com", "googlemail.com"}:
        return untagged.replace(".", "") == other.partition("+")[0].replace(".", "")
    return untagged == other


def guesses(subject: str) -> Iterator[str]:
    """Yield texts that a table may hold for a subject: what can be computed, and so found by an index."""
    yield unicodedata.normalize("NFKC", subject)
    yield skeleton(subject)
    yield _turkish(subject)
    yield subject.upper()
    yield subject.lower()
    if (typed := _TYPED.fullmatch(subject)) is not None:
        yield typed[1].strip("\"'")
    yield _unquoted(subject)
    yield from filter(None, (_decoded(subject), _hex(subject)))
    octets = subject.encode("utf-8", "replace")
    yield octets.hex()
    for separator in _SEPARATORS:
        yield subject.rpartition(separator)[2] or subject
        yield subject.partition(separator)[2] or subject
    local, at, domain = subject.partition("@")
    if at:
        yield local
        yield f"{local.partition('+')[0]}@{domain}"
        yield f"{local.replace('.', '')}@{domain}"
    if re.fullmatch(r"[+-]?\d{1,18}(\.0+)?", subject):
        yield str(int(float(subject)) if "." in subject else int(subject))
    for length in _LENGTHS:
        if len(subject) > length:
            yield subject[:length]


# Showing ------------------------------------------------------------------------------------------


def escaped(subject: str) -> str:
    """Return a subject so that every character can be told from every other."""
    return json.dumps(subject)


def marked(token: str, held: str) -> str:
    """Return both subjects, escaped, with the characters that differ and their positions (from 1)."""
    both = f"{escaped(token)} in the token, {escaped(held)} in the table"
    return f"{both}: {'; '.join(_differences(token, held))}"


def _differences(token: str, held: str) -> Iterator[str]:
    if len(token) == len(held):
        found = [place for place, pair in enumerate(zip(token, held, strict=True)) if pair[0] != pair[1]]
        for place in found[:_SHOWN]:
            yield f"character {place + 1} is {named(token[place])}, and {named(held[place])} in the table"
        if len(found) > _SHOWN:
            yield f"and {len(found) - _SHOWN} more"
        return
    pairs = enumerate(zip(token, held, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), min(len(token), len(held)))
    long, where = (token, "the token") if len(token) > len(held) else (held, "the table")
    more = abs(len(token) - len(held))
    yield f"they differ from character {start + 1} on; {where} has {more} characters more"
    for place, character in enumerate(long[start : start + 200], start):
        if not character.isascii() or not character.isprintable() or character == " ":
            yield f"character {place + 1} of {where} is {named(character)}"
            return


def named(character: str) -> str:
    """Return a character with its number, and its name where that tells more."""
    number = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "a control character")
    plain = character.isascii() and character.isalnum()
    return f"{character!r} ({number})" if plain else f"{number} {name}"
