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
_OTHER_ENVIRONMENT: Final = "another environment"
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
    """True for another spelling of the same issuer; False for another issuer, as of another environment."""
    other: str = ""
    """What the token's issuer is, if it is another one."""


def nearest(iss: str, issuers: Sequence[Issuer]) -> NearIssuer | None:
    """Return the configured issuer that is most similar to `iss`; None if none is similar."""
    found = [
        NearIssuer(place, issuer, *judged)
        for place, issuer in enumerate(issuers)
        if (judged := _difference(iss, issuer.issuer)) is not None
    ]
    return min(found, key=lambda near: not near.same, default=None)


def related(iss: str, other: str) -> bool:
    """Return whether two issuers are spellings, environments, realms or tenants of each other."""
    return iss == other or _difference(iss, other) is not None


def is_same(iss: str, other: str) -> bool:
    """Return whether two issuers are spellings of one."""
    judged = _difference(iss, other)
    return judged is not None and judged[1]


def is_other_environment(iss: str, other: str) -> bool:
    """Return whether two issuers are one in two environments, such as staging and production."""
    judged = _difference(iss, other)
    return judged is not None and judged[2] == _OTHER_ENVIRONMENT


def marked(iss: str, configured: str) -> str:
    """Return both, each with what differs in brackets."""
    start = next(
        (i for i, (a, b) in enumerate(zip(iss, configured, strict=False)) if a != b),
        min(len(iss), len(configured)),
    )
    room = min(len(iss), len(configured)) - start
    end = next((i for i in range(room) if iss[-1 - i] != configured[-1 - i]), room)
    return ", not ".join(
        f"{text[:start]}[{text[start : len(text) - end]}]{text[len(text) - end :]}"
        for text in (iss, configured)
    )


def _difference(a: str, b: str) -> tuple[str, bool, str] | None:
    for what, fold in _FOLDS:
        a, b = fold(a), fold(b)
        if a == b:
            return what, True, ""
    words, others = ([word for word in _WORDS.split(text) if word] for text in (a, b))
    if words != others and _timeless(words) == _timeless(others):
        return "the environment (staging, production …)", False, _OTHER_ENVIRONMENT
    return _relative(a, b)


def _relative(a: str, b: str) -> tuple[str, bool, str] | None:
    """Compare two issuers as URLs: another realm, tenant, region or pool of the same provider."""
    try:
        one, two = urlsplit(a), urlsplit(b)
    except ValueError:
        return None
    path, other = ([part for part in each.path.split("/") if part] for each in (one, two))
    if not one.hostname or not two.hostname or one.scheme not in _DEFAULT_PORTS:
        return None
    if one.netloc == two.netloc:
        return _of_one_host(path, other)
    if one.hostname == two.hostname and path == other:
        return "the port", False, "another server on the same host"
    if path == other and path and _INTERNAL_HOST.fullmatch(one.hostname):
        return "the address of the server", False, INTERNAL
    if {one.hostname, two.hostname} == _ENTRA and path[:1] == other[:1]:
        return (
            "the version of its tokens",
            False,
            "the same tenant of Entra ID, in the other version",
        )
    if _COGNITO.fullmatch(one.hostname) and _COGNITO.fullmatch(two.hostname):
        return "the region or the user pool", False, "another region or user pool of Amazon Cognito"
    labels, others = one.hostname.split("."), two.hostname.split(".")
    owned = 3 if len(labels[-1]) == 2 and len(labels[-2:][0]) <= 3 else 2
    if len(labels) == len(others) > owned and labels[-owned:] == others[-owned:] and path == other:
        return "one part of the host", False, "another tenant, region or environment of the same provider"
    return None


def _of_one_host(path: list[str], other: list[str]) -> tuple[str, bool, str] | None:
    if path != other and [part for part in path if part != "auth"] == [
        part for part in other if part != "auth"
    ]:
        return (
            "the path /auth, which older versions of Keycloak have",
            False,
            "a Keycloak with another base path",
        )
    if len(path) == len(other):
        differing = [place for place, (a, b) in enumerate(zip(path, other, strict=True)) if a != b]
        if len(differing) != 1:
            return None
        place = differing[0]
        if place and path[place - 1] == "realms":
            return "the realm", False, "another realm of the same server"
        return "one part of the path", False, "another tenant, pool or authorization server of the same host"
    if path[: len(other)] == other or other[: len(path)] == path:
        return "a part at the end of the path", False, "another authorization server of the same host"
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


INTERNAL: Final = "the same path at an internal address"
"""What a token's issuer is when its server was asked at an address of the internal network."""
_INTERNAL_HOST: Final = re.compile(
    r"[a-z0-9-]+|(?:127|10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.[\d.]+|.*\.(?:local|internal|svc|cluster\.local|lan|docker)"
)
_ENTRA: Final = {"sts.windows.net", "login.microsoftonline.com"}
_COGNITO: Final = re.compile(r"cognito-idp\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?")
_FOLDS: Final = (
    ("white space around it", str.strip),
    ("a slash at its end", lambda text: text.rstrip("/")),
    ("the case of the host, or the default port", _origin_folded),
    ("http instead of https", lambda text: re.sub(r"^https?://", "https://", text)),
    ("the scheme `https://`", lambda text: text if "://" in text else f"https://{text}"),
    ("the path of the discovery document", lambda text: re.sub(r"/\.well-known/.*$", "", text)),
    ("upper and lower case", str.lower),
)
"""From the smallest difference to the largest. Texts that are equal after one step stay equal."""
