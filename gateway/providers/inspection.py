"""What is in a token, without verifying it: the facts, in plain words.

Neither the signature nor a secret is part of the result. `now` is in Unix seconds.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tokens.claim_paths import at_path
from gateway.core.tokens.claims import CLIENTS
from gateway.providers import marks
from gateway.providers.catalogue import by_prefix, recognised
from gateway.providers.presets import unfold
from gateway.providers.provider import Kind, Provider, Recognition, Unverified

MAX_CHARACTERS: Final = 64 * 1024
"""A longer text is not taken apart."""
_SHOWN: Final = 6
"""Characters of an opaque token that are shown, if it is four times as long."""
_SPACE: Final = re.compile(r"\s")
_LONGEST: Final = 200
"""Characters of a claim's value that are shown."""
_SECRET: Final = 12
"""A shorter text is no secret: `token_use` has one, too."""
_SECRETIVE: Final = re.compile(
    r"token|secret|passw|pwd|api_?key|private|credential|cookie|assertion", re.IGNORECASE
)
_TOKEN_WITHIN: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a token says of itself. Nothing of it has been verified."""

    kind: Kind
    what: str
    """The kind in words."""
    provider: Provider | None
    recognition: Recognition | None
    token: Unverified | None
    """None: it is no JWT that can be read."""
    fingerprint: str
    """The SHA-256 of the token in hexadecimal."""
    characters: int
    lifetime: marks.Lifetime | None = None
    subject: str | None = None
    subject_claim: str = "sub"
    """Where the subject stands: for some providers it is not `sub`."""
    client: str | None = None
    client_claim: str = ""
    notes: tuple[str, ...] = ()
    """What is unusual, and what follows from it."""
    beginning: str = ""
    """Of a token that is no JWT: its first characters."""


def inspect(text: str, now: float) -> Inspection:
    """Tell what a token is: a JWT, an encrypted token, an API key, or text that says nothing of itself."""
    if len(text) > MAX_CHARACTERS:
        return _opaque(text, f"It has more than {MAX_CHARACTERS} characters: this is no token.")
    segments = text.split(".")
    if len(segments) == 5:
        header = _object(segments[0])
        if header is not None and "enc" in header:
            return _encrypted(text, header)
    if len(segments) in (2, 3) and (header := _object(segments[0])) is not None:
        payload = _object(segments[1])
        if payload is not None:
            return _jwt(text, Unverified(header, payload), now)
        return _opaque(text, "It begins like a JWT, but its second part is no JSON object.")
    return _opaque(text)


def _jwt(text: str, token: Unverified, now: float) -> Inspection:
    found = recognised(token)
    provider, recognition = found or (None, None)
    own = None if recognition is None else recognition.kind
    general, why = marks.kind_of(token)
    # What a claim says outright is worth more than whose token it is.
    kind = general if own is None or general in (Kind.LOGOUT, Kind.EVENT) else own
    notes = [
        *(recognition.notes if recognition is not None else ()),
        *marks.notes_of(token, text, now, known=provider is not None),
    ]
    if kind is general and why is not None:
        notes.insert(0, why)
    subject_claim = _subject_claim(provider, recognition)
    client_claim = next((name for name in CLIENTS if token.text(name) is not None), "")
    subject = at_path(token.payload, subject_claim)
    return Inspection(
        subject=subject if isinstance(subject, str) else None,
        subject_claim=subject_claim,
        client=token.text(client_claim),
        client_claim=client_claim,
        kind=kind,
        what=marks.WORDS[kind],
        provider=provider,
        recognition=recognition,
        token=token,
        fingerprint=_fingerprint(text),
        characters=len(text),
        lifetime=marks.lifetime_of(token.payload, now),
        notes=tuple(dict.fromkeys(notes)),
    )


def _subject_claim(provider: Provider | None, recognition: Recognition | None) -> str:
    """Return where the provider's preset finds the subject."""
    if provider is None or recognition is None:
        return "sub"
    path = unfold({"preset": provider.name, **recognition.parameters}).settings.get("subject")
    return path if isinstance(path, str) else "sub"


def harmless(value: JSON, name: str = "") -> JSON:
    """Return a value without secrets: long texts are cut, texts with a secret name left out."""
    match value:
        case dict():
            return {key: harmless(each, key) for key, each in value.items()}
        case list():
            return [harmless(each, name) for each in value]
        case str() if _TOKEN_WITHIN.search(value) or (len(value) >= _SECRET and _SECRETIVE.search(name)):
            return f"(hidden, {len(value)} characters)"
        case str() if len(value) > _LONGEST:
            return f"{value[: _LONGEST // 2]}… ({len(value)} characters)"
        case _:
            return value


def _encrypted(text: str, header: Mapping[str, JSON]) -> Inspection:
    """Tell of a JWE (RFC 7516), of which only the header can be read."""
    notes = ["Only the service that holds the key can read it. The gateway refuses it as token_malformed."]
    issuer = header.get("iss")
    if isinstance(issuer, str):
        notes.append(f"Its header names the issuer {json.dumps(issuer)}.")
        if header.get("alg") == "dir":
            notes.append(
                "Auth0 issues such access tokens when a client asks for no `audience`: let it ask for your"
                " API's."
            )
    if header.get("alg") == "RSA-OAEP" and header.get("cty") == "JWT":
        notes.append("Amazon Cognito's refresh tokens look like this: send the access token.")
    return Inspection(
        kind=Kind.ENCRYPTED,
        what=marks.WORDS[Kind.ENCRYPTED],
        provider=None,
        recognition=None,
        token=Unverified(header, {}),
        fingerprint=_fingerprint(text),
        characters=len(text),
        notes=tuple(notes),
    )


def _opaque(text: str, note: str | None = None) -> Inspection:
    """Tell of a text that is no JWT: whose it is can only be seen from its beginning."""
    known = by_prefix(text)
    notes = [] if note is None else [note]
    if _SPACE.search(text):
        notes.append("It has spaces or line breaks inside, which no token has: it was not copied as a whole.")
    if known is None:
        kind, what = Kind.OPAQUE, marks.WORDS[Kind.OPAQUE]
    else:
        _, kind, what = known
    if kind is Kind.API_KEY:
        notes.append(
            "An API key is no user's token: let the client send the token that the user got at sign-in."
        )
    elif kind is not Kind.REFRESH:
        notes.append(
            "Only its issuer can say what it is good for: configure `introspection` (RFC 7662) for it, or"
            " let the issuer issue JWT access tokens."
        )
    else:
        notes.append("A refresh token is for its issuer alone: let the client send the access token.")
    return Inspection(
        kind=kind,
        what=what,
        provider=None if known is None else known[0],
        recognition=None,
        token=None,
        fingerprint=_fingerprint(text),
        characters=len(text),
        notes=tuple(notes),
        beginning=text[:_SHOWN] if len(text) >= 4 * _SHOWN else "",
    )


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _object(segment: str) -> Mapping[str, JSON] | None:
    """Read a part of a JWT, more leniently than a gateway may."""
    try:
        octets = base64.b64decode(
            segment.rstrip("=").translate(_URL_SAFE) + "=" * (-len(segment.rstrip("=")) % 4), validate=True
        )
        value = json_text.read(octets)
    except (ValueError, binascii.Error):
        return None
    return value if isinstance(value, dict) else None


_URL_SAFE: Final = str.maketrans("-_", "+/")
