"""Finds the configured issuer that an unknown `iss` resembles."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.core.model import Issuer

_ENVIRONMENTS: Final = frozenset(
    {"dev", "develop", "development", "test", "testing", "tst", "qa", "uat", "int", "integration", "sandbox",
     "preview", "demo", "staging", "stage", "stg", "preprod", "pre", "prd", "prod", "production", "live",
     "local"}
)  # fmt: skip
_WORDS: Final = re.compile(r"[^a-z0-9]+")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class NearIssuer:
    """A configured issuer that resembles the one in the token."""

    place: int
    """Its position in the configuration's list."""
    issuer: Issuer
    difference: str
    """What differs, in words."""
    same: bool
    """True for another spelling of the same issuer; False for the issuer of another environment."""


def nearest(iss: str, issuers: Sequence[Issuer]) -> NearIssuer | None:
    """Return the configured issuer that is most similar to `iss`; None if none is similar."""
    found = [
        NearIssuer(place, issuer, *judged)
        for place, issuer in enumerate(issuers)
        if (judged := _difference(iss, issuer.issuer)) is not None
    ]
    return min(found, key=lambda near: not near.same, default=None)


def _difference(a: str, b: str) -> tuple[str, bool] | None:
    for what, fold in _FOLDS:
        a, b = fold(a), fold(b)
        if a == b:
            return what, True
    words, others = ([word for word in _WORDS.split(text) if word] for text in (a, b))
    if words != others and _timeless(words) == _timeless(others):
        return "the environment (staging, production …)", False
    return None


def _timeless(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ENVIRONMENTS]


def _origin_folded(text: str) -> str:
    """Fold the case of scheme and host, and drop the default port (RFC 3986 §6.2.3)."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return text
    if not parts.hostname:
        return text
    host = parts.hostname if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{parts.hostname}:{port}"
    return parts._replace(netloc=host).geturl()


_FOLDS: Final = (
    ("white space around it", str.strip),
    ("a slash at its end", lambda text: text.rstrip("/")),
    ("the case of the host, or the default port", _origin_folded),
    ("http instead of https", lambda text: re.sub(r"^https?://", "https://", text)),
    ("upper and lower case", str.lower),
)
"""From the smallest difference to the largest. Texts that are equal after one step stay equal."""
