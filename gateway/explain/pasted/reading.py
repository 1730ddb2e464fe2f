"""What a person pasted, and the request that it stands for.

A header is taken as the request has it. From a token alone, only what copying adds is taken away.
`gateway.core.requests.bearer` alone decides what a request's credential is.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.core.model import JSON, Header
from gateway.core.reasons import Denial
from gateway.core.requests import bearer
from gateway.explain.pasted.fields import COMMAND, SCHEME, WRAPPED, fields, of_command
from gateway.explain.pasted.request import asked

_SPACE: Final = " \t\r\n\x0b\x0c"
_UNSEEN: Final = "\u00a0\u2028\u2029\ufeff\u200b\u200c\u200d\u2060\u00ad"
"""Characters that copying may leave around a text, and that belong to no token."""
_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_MEMBER: Final = re.compile(
    r"[\"']?\bauthorization\b[\"']?\s*[:=,]\s*\[?\s*(?:[fbru]{1,2}(?=[\"']))?([\"'`])(.*?)\1",
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|const\s+|let\s+|var\s+|set\s+|\$)?(?!bearer\b)[\"']?[\w.:-]*?[\"']?\s*[:=]\s*([\"'`]?eyJ.+)",
    re.IGNORECASE | re.DOTALL,
)
_COOKIES: Final = re.compile(r"[\w.-]+=[^;=\s]+(?:;\s*[\w.-]+(?:=[^;]*)?)+;?")
_QUOTED_LINE: Final = re.compile(r"^>[ >]*", re.MULTILINE)
_SOFT_BREAK: Final = re.compile(r"=\r?\n")
"""In quoted-printable (RFC 2045 §6.7)."""
_JWT: Final = re.compile(rb"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_PAIR: Final = re.compile(
    r"[\"']name[\"']\s*:\s*[\"']authorization[\"']\s*,\s*[\"']value[\"']\s*:\s*([\"'])(.*?)\1"
    r"|[\"']value[\"']\s*:\s*([\"'])([^\"']*)\3\s*,\s*[\"']name[\"']\s*:\s*[\"']authorization[\"']",
    re.IGNORECASE,
)
"""A field as browsers export it (HAR)."""
_URL: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_OTHER_FIELD: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+|[Aa]uth[a-z]+)[ \t]*:[ \t]*(\S.*)")
_OF_SECRETS: Final = re.compile(r"auth|token|key|secret|cookie|jwt|assertion", re.IGNORECASE)
_NAMES: Final = ("accesstoken", "token", "idtoken", "jwt", "authorization")
"""Of members, in lower case and without `_` and `-`."""
_MEMBERS: Final = 4000
"""Members of a JSON document that are looked at."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """What was pasted, as a request."""

    what: str
    """In words."""
    headers: tuple[Header, ...]
    """The fields of the request that carry credentials."""
    token: bytes
    """The token of the request; if it has none, the one that was probably meant, or all that was pasted."""
    removed: tuple[str, ...] = ()
    """What came from copying, and is not in the request."""
    faults: tuple[str, ...] = ()
    """Why the request has no token."""
    found: bool = False
    """Whether `token` is one that the request does not have, but was probably meant."""
    asked: tuple[str, str] | None = None
    """The method and the URL of the request, if they were pasted with it."""

    @property
    def plain(self) -> bool:
        """Whether there is nothing to say: a token, and nothing else."""
        return not self.removed and not self.faults and self.what == "a token"


def read(pasted: str | bytes) -> Pasted:
    """Tell which request a text stands for: a token, a header, a command, or the answer of an issuer."""
    whole = _decoded(pasted)
    return replace(_credential(whole), asked=asked(whole.strip(_SPACE)))


def _credential(whole: str) -> Pasted:
    header, before = _freed(whole, _SPACE)
    if (code := _of_code(header)) is not None:
        return _of_fields(*code, before)
    if (values := list(of_command(header))) or (values := list(fields(header))):
        what = "a command" if COMMAND.match(header) else "a header"
        return _of_fields(what, values, before)
    text, removed = _freed(whole, _SPACE + _UNSEEN)
    if (other := _in_another_place(text, removed)) is not None:
        return other
    if (code := _of_member(text)) is not None:
        return _of_fields(*code, removed)
    if SCHEME.match(text) or text.lower() in {"bearer", "basic"}:
        return _of_fields(
            "the value of an Authorization header", [("Authorization", _joined(header)[0])], before
        )
    if (answer := _member(text)) is not None:
        removed = (*removed, f"the JSON around its `{answer[0]}`" if answer[0] else "the JSON around it")
        return _bare(answer[1], removed)
    if (within := re.search(r"\bbearer[ \t]+([A-Za-z0-9._~+/\-]+=*)", text, re.IGNORECASE)) is not None:
        return _of_fields("text with a header", [("Authorization", f"Bearer {within[1]}")], removed)
    return _bare(text, removed)


def _of_code(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    """Read the header in a program, or in JSON: unlike in a request, quotation marks are not part of it."""
    at = text.lower().find("authorization")
    if at < 0 or "{" not in text[:at] or COMMAND.match(text):
        return None
    return _of_member(text)


def _of_member(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    if (pair := _PAIR.search(text)) is not None:
        return "an exported header", [("Authorization", pair[2] or pair[4])]
    if (member := _MEMBER.search(text)) is not None:
        return "code with a header", [("Authorization", member[2])]
    return None


def _in_another_place(text: str, removed: tuple[str, ...]) -> Pasted | None:
    """Read a URL with a token, or a header field that is not read: the request has no credential."""
    if _URL.fullmatch(text) and (meant := _meant(_octets(text))) is not None:
        fault = (
            "the token is in the URL, where it counts only on routes whose `credentials` name the parameter"
        )
        if _JWT.search(_octets(text.partition("#")[2])):
            fault = "the token is behind the `#` of a URL, which browsers send to no server"
        return Pasted("a URL", (), meant, removed, (fault,), found=True)
    if _COOKIES.fullmatch(text) and _JWT.search(_octets(text)):
        return _of_fields("a cookie", [("Cookie", text)], removed)
    field = _OTHER_FIELD.fullmatch(text)
    if field is None or not _OF_SECRETS.search(field[1]):
        return None
    name, value = field[1], _octets(field[2])
    meant = _meant(value)
    fault = f"the token is in the field {name}, and the gateway reads Authorization"
    if name.lower() == "www-authenticate":
        fault = "this is a field of an answer, which says why a request was refused"
    return Pasted(
        f"the field {name}", ((name.encode(), value),), meant or value, removed, (fault,), meant is not None
    )


def _decoded(pasted: str | bytes) -> str:
    if isinstance(pasted, str):
        return pasted
    if pasted[:2] in (b"\xff\xfe", b"\xfe\xff") and len(pasted) % 2 == 0:
        return pasted.decode("utf-16", "replace")
    return pasted.decode("utf-8", "surrogateescape")


def _freed(whole: str, after: str) -> tuple[str, tuple[str, ...]]:
    """Take away what copying left before a text, and the characters `after` behind it.

    Also returns the name of each that cannot be seen.
    """
    text = whole.lstrip(_SPACE + _UNSEEN)
    before = whole[: len(whole) - len(text)]
    text = text.rstrip(after)
    around = {*before, *whole[len(before) + len(text) :]}
    return text, tuple(f"{_named(character)} around it" for character in sorted(around & {*_UNSEEN}))


def _named(character: str) -> str:
    if character == "\ufeff":
        return "a byte order mark (U+FEFF)"
    return f"U+{ord(character):04X} {unicodedata.name(character, 'a control character')}"


# Headers -------------------------------------------------------------------------------------------


def _of_fields(what: str, values: list[tuple[str, str]], removed: tuple[str, ...]) -> Pasted:
    headers = tuple((name.encode(), _octets(value)) for name, value in values)
    authorizations = [value for name, value in headers if name == b"Authorization"]
    try:
        return Pasted(what, headers, bearer.parse(authorizations), removed)
    except Denial as denial:
        meant = next((found for _, value in headers if (found := _meant(value)) is not None), None)
        faults = tuple(_faults([value for name, value in values if name == "Authorization"]))
        if not authorizations:
            what = "a cookie"
        whole = b" ".join(value for _, value in headers)
        faults = faults or (denial.reason.hint.rstrip("."),)
        return Pasted(what, headers, meant or whole, removed, faults, meant is not None)


def _octets(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which JSON may have
        return text.encode("utf-8", "backslashreplace")


def _meant(value: bytes) -> bytes | None:
    """Return the token that a value was probably meant to carry."""
    plain = unquote_to_bytes(value)
    found = _JWT.search(plain) or _JWT.search(re.sub(rb"\s+", b"", plain))
    return None if found is None else found[0]


def _faults(values: list[str]) -> Iterator[str]:
    """Yield what is wrong with the Authorization fields of a request."""
    if not values:
        yield "there is no Authorization field: a cookie counts only on routes whose `credentials` name it"
        return
    if len(values) > 1:
        yield f"there are {len(values)} Authorization fields"
    for value in values:
        yield from _value_faults(value)


def _value_faults(value: str) -> Iterator[str]:
    scheme, space, rest = value.partition(" ")
    rest = rest.lstrip(" ")
    if not value:
        yield "the field is empty"
    elif scheme.lower() == "bearer":
        if not rest:
            yield "no token follows the scheme"
        elif rest.lower().startswith("bearer"):
            yield "it has the scheme `Bearer` twice"
        else:
            yield from _token_faults(rest)
    elif scheme.lower() == "bearer:":
        yield "a colon follows the scheme"
    elif value.lower().startswith("bearer"):
        yield "the scheme `Bearer` is not followed by a space"
    elif space and scheme.isascii() and re.fullmatch(r"[A-Za-z0-9-]{2,20}", scheme):
        yield f"its scheme is {scheme}, and not Bearer"
    else:
        yield "it has no scheme: `Bearer` and a space stand before a token (RFC 6750 §2.1)"
        yield from _token_faults(value)


def _token_faults(token: str) -> Iterator[str]:
    if re.match(r"b[\"']", token):
        yield "it is a Python `bytes` object as text (`b'…'`): the client has to decode it"
    elif token and (token[0] in _QUOTES or token[-1] in _QUOTES):
        yield "the token is in quotation marks"
    elif token[:1] + token[-1:] in {"<>", "{}", "[]", "()"}:
        yield f"the token is in brackets {token[:1]}{token[-1:]}"
    for escape in dict.fromkeys(re.findall("%[0-9A-Fa-f]{2}", token)):
        yield f"`{escape}` at character {token.index(escape) + 1} is percent-encoding, which is only for URLs"
    for character in dict.fromkeys(re.findall(r"[^A-Za-z0-9._~+/=%\-]", token)):
        if character not in _QUOTES + "<>{}[]()":
            yield f"{_named(character)} at character {token.index(character) + 1} belongs to no token"
    if re.search("=[^=]", token):
        yield "`=` stands before its end"


# A token alone -------------------------------------------------------------------------------------


def _bare(text: str, removed: tuple[str, ...]) -> Pasted:
    kept, notes = _unwrapped(text)
    token = _octets(kept)
    removed = (*removed, *notes)
    headers = ((b"Authorization", b"Bearer " + token),)
    try:
        bearer.parse([headers[0][1]])
    except Denial:
        meant = _meant(token)
        return Pasted(
            "a token", headers, meant or token, removed, tuple(_token_faults(kept)), meant is not None
        )
    return Pasted("a token", headers, token, removed)


def _unwrapped(text: str) -> tuple[str, list[str]]:
    """Take away what copying puts around a token, and the line ends that it puts into it."""
    notes: list[str] = []
    if (unquoted := _of_mail(text)) != text:
        notes.append("the marks of a quoted mail")
        text = unquoted.strip(_SPACE)
    assigned = _ASSIGNMENT.fullmatch(text)
    if assigned is not None and _JWT.search(_octets(assigned[1])):
        notes.append("the name of a variable")
        text = assigned[1]
        first, *others = text.splitlines()
        if any(re.match(r"(?:export\s+)?[\w.-]+\s*[:=]", line.strip()) for line in others):
            notes.append("the lines after it")
            text = first
    bare = text.rstrip(",; ").strip(_QUOTES)
    if bare and bare != text:
        notes.append("quotation marks or punctuation around it")
        text = bare.strip(_SPACE + _UNSEEN)
    if len(tokens := [line for line in text.split() if _JWT.fullmatch(_octets(line))]) > 1:
        notes.append(f"{len(tokens) - 1} more after the first token")
        text = tokens[0]
    joined, breaks = _joined(text)
    if breaks:
        notes.append(f"{breaks} line end{'s' if breaks > 1 else ''} inside")
    return joined, notes


def _joined(text: str) -> tuple[str, int]:
    """Join the lines of a token that was wrapped; returns how many line ends were taken away."""
    first, *others = (line.strip() for line in text.splitlines()) if text else ("",)
    if others and all(WRAPPED.fullmatch(line) for line in others if line):
        return first + "".join(others), len(others)
    return text, 0


def _of_mail(text: str) -> str:
    """Take away what mail puts into a long line: marks of quotation, soft line breaks."""
    lines = text.splitlines()
    if len(lines) > 1 and all(line.startswith(">") for line in lines):
        text = _QUOTED_LINE.sub("", text)
    return _SOFT_BREAK.sub("", text) if text.startswith("eyJ") else text


def _member(text: str) -> tuple[str, str] | None:
    """Return the token in a token response (RFC 6749 §5.1), or in other JSON, and its name.

    In an object, it is any text with a usual name; deeper in a document, only a JWT.
    """
    if not text.startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    held = [*islice(_texts(value), _MEMBERS)]
    for wanted in _NAMES:
        for depth, name, each in held:
            named = re.sub("[_-]", "", name).lower() == wanted
            if named and (depth == 1 or _JWT.fullmatch(_octets(each))):
                return name, each
    tokens = {each: name for _, name, each in held if _JWT.fullmatch(_octets(each))}
    return next(((name, each) for each, name in tokens.items()), None) if len(tokens) == 1 else None


def _texts(value: JSON) -> Iterator[tuple[int, str, str]]:
    """Yield the texts of a document with the depth and the name of each, the shallow ones first."""
    level: list[tuple[str, JSON]] = [("", value)]
    depth = 0
    while level:
        below: list[tuple[str, JSON]] = []
        for name, each in level:
            match each:
                case str():
                    yield depth, name, each
                case dict():
                    below += each.items()
                case list():
                    below += [(name, inner) for inner in each]
        level, depth = below, depth + 1
