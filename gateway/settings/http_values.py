"""The types of single values that HTTP knows: methods, hosts, paths, and the names of fields.

As in `gateway.settings.values`, a wrong value raises the error of `mistake`.
"""

import re
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, SecretStr, WithJsonSchema

from gateway.core.headers import HOP_BY_HOP, OF_OTHER_REQUESTS, fold
from gateway.core.reasons import Denial
from gateway.core.requests.upgrades import carries_requests
from gateway.core.routes import normal_path
from gateway.settings.values import mistake

TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110 §5.6.2, such as a method or the name of a field."""
_AUTHORITY: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
)
_HOST: Final = re.compile(r"\[[0-9a-f:.]+\]|(?!.*\.\.)[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
# How other routers write parameters: `:id`, `{id}`, `<int:id>`, `[0-9]+`; and those that take the rest of a
# path.
_PARAMETER: Final = re.compile(r"^:[A-Za-z_]|[{}<>\[\]^|]|\*[A-Za-z_]|\.[*+]\)?\$?$")
_CATCH_ALL: Final = re.compile(r"\*|\.\.\.|:path\}|<path:|:[A-Za-z_]\w*\+$")
# Headers of the gateway, the connection or the message's framing, as `fold` spells them.
_NOT_IDENTITY: Final = HOP_BY_HOP | {
    b"authorization",
    b"content-length",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"x-auth-stale",
    b"x-real-ip",
    b"x-request-id",
    b"x-user-missing",
    *OF_OTHER_REQUESTS,
}
# The client's, without which a request would mean something else.
_NOT_STRIPPED: Final = frozenset({b"authorization", b"connection", b"content-length", b"host"})
_NEVER_FORWARDED: Final = frozenset({"CONNECT", "PRI"})
_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def method(value: str) -> str:
    """Return an HTTP method that requests can have."""
    if value == "*":
        raise mistake("must be an HTTP method, and `*` is none", "leave `methods` out for any method")
    if not TOKEN.fullmatch(value) or value != value.upper():
        raise mistake("must be an HTTP method in capitals", "methods are case-sensitive: write GET or POST")
    if value in _NEVER_FORWARDED:
        raise mistake("is never forwarded, so no request would match", "remove it")
    return value


def _host(value: str) -> str:
    host = value.lower().removesuffix(".")
    if not _HOST.fullmatch(host):
        raise mistake("must be a host name without scheme, port or wildcard", "write api.example.com")
    return host


def _host_pattern(value: str) -> str:
    wildcard, dot, rest = value.partition("*.")
    if dot and not wildcard:
        host = rest.lower().removesuffix(".")
        if _HOST.fullmatch(host) and not host.startswith("[") and not host.rpartition(".")[2].isdecimal():
            return f"*.{host}"
    if "*" in value:
        raise mistake(
            "`*` must be the first label of a name, and stands for one or more",
            "write *.example.com, which does not include example.com",
        )
    return _host(value)


def _path_pattern(value: str) -> str:
    if value.startswith(("^", "~")):
        raise mistake(
            "is a regular expression, which would be matched as it stands here",
            "write a path, such as /orders/**: `*` is one segment, a final `**` the rest",
        )
    if not value.startswith("/"):
        raise mistake("must start with a slash", f"write /{value.lstrip('/')}")
    segments = value.split("/")[1:]
    if any(map(_PARAMETER.search, segments)):
        raise mistake(
            "has a parameter of another router, which would be matched as it stands here",
            f"write {_without_parameters(segments)}: `*` is one segment, a final `**` the rest",
        )
    if "**" in segments[:-1]:
        raise mistake("`**` is allowed only at the end", "write `*` for one segment in the middle")
    if any("*" in segment and segment not in ("*", "**") for segment in segments):
        raise mistake("`*` must be a whole segment", "write /orders/* or /orders/**")
    if "?" in value:
        raise mistake(
            "must be a path without a query", "routes match only the path: remove `?` and the query"
        )
    try:
        return normal_path(value)
    except Denial as denial:
        raise mistake(
            f"no request can match this: {denial.detail}", "write a plain path, such as /orders/**"
        ) from denial


def _without_parameters(segments: list[str]) -> str:
    """Return a pattern with `*` for `:id`, `{id}` and `<id>`, and `**` where the last one takes the rest."""
    plain = ["*" if _PARAMETER.search(segment) else segment for segment in segments]
    if plain[-1] == "*" and _CATCH_ALL.search(segments[-1]):
        plain[-1] = "**"
    return "/" + "/".join(plain)


def field_name(value: str, example: str) -> str:
    """Return the name of a header. A wildcard would be compared as it stands."""
    if "*" in value:
        raise mistake("has a wildcard, and names are compared as they stand", "list each header by itself")
    if not TOKEN.fullmatch(value):
        raise mistake(
            "must be a header name (RFC 9110 §5.1)", f"write letters, digits and -, such as {example}"
        )
    return value


def _header_name(value: str) -> str:
    folded = fold(field_name(value, "X-User-Id").encode())
    if folded in _NOT_IDENTITY or folded.startswith(b"x-forwarded-"):
        raise mistake("belongs to the connection or to the gateway", "choose another name, such as X-User-Id")
    return value


def _stripped_name(value: str) -> str:
    if fold(field_name(value, "X-Remote-User").encode()) in _NOT_STRIPPED:
        raise mistake(
            "is needed to forward requests", "remove it: the gateway decides on this header by itself"
        )
    return value


def _pseudonym(value: str) -> str:
    if not TOKEN.fullmatch(value):
        raise mistake("must be a name without spaces", "write gateway, or the host of the gateway")
    return value


def _upstream_host(value: str) -> str:
    if not _AUTHORITY.fullmatch(value):
        raise mistake(
            "must be preserve, upstream, or a host with or without a port",
            "write preserve to keep the client's Host, upstream to send that of the URL",
        )
    return value


def _upgrade_protocol(value: str) -> str:
    protocol = value.lower()
    if not re.fullmatch(rf"{TOKEN.pattern}(?:/{TOKEN.pattern})?", protocol):
        raise mistake("must be a protocol name of the Upgrade header", "write websocket; `*` allows any")
    if carries_requests(protocol):
        raise mistake(
            "would carry requests that the gateway cannot check",
            "put an HTTP/2 proxy in front of the gateway",
        )
    return protocol


def _credential_name(value: str) -> str:
    # Characters with the same meaning in the name of a cookie, in a query and in a subprotocol.
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", value):
        raise mistake("must be a name of letters, digits, `.`, `_` and `-`", "write access_token, or bearer")
    return value


def _origin(value: str) -> str:
    if not re.fullmatch(rf"https?://{_AUTHORITY.pattern}", value, re.IGNORECASE):
        raise mistake("must be an origin: only scheme, host and port", "write https://app.example.com")
    return value.lower()


def _plain_path(value: str) -> str:
    if not value.startswith("/") or not re.fullmatch(r"[\x21-\x7e]+", value) or "#" in value:
        raise mistake("must be a path of printable ASCII, with or without a query", "write /healthz")
    return value


def _path_prefix(value: str) -> str:
    if not value.startswith("/") or value.endswith("/") or "*" in value or "?" in value:
        raise mistake("must be whole segments of a path", "write /api: no `*`, no final slash")
    try:
        return normal_path(value)
    except Denial as denial:
        raise mistake(f"no request can match this: {denial.detail}", "write a plain path") from denial


def _health_path(value: str) -> str:
    try:
        if value.startswith("/") and "?" not in value and normal_path(value) == value:
            return value
    except Denial:
        pass
    raise mistake("must be a plain path without a query", "write /healthz")


def _admin_token(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 16 or not _TOKEN68.fullmatch(value.get_secret_value()):
        raise mistake(
            "must have at least 16 characters, all allowed in a bearer token (RFC 6750 §2.1)",
            "create one with: openssl rand -hex 32",
        )
    return value


Method: TypeAlias = Annotated[str, AfterValidator(method)]
Host: TypeAlias = Annotated[str, AfterValidator(_host)]
HostPattern: TypeAlias = Annotated[str, AfterValidator(_host_pattern)]
PathPattern: TypeAlias = Annotated[
    str,
    AfterValidator(_path_pattern),
    WithJsonSchema({"type": "string", "x-kind": "path pattern", "pattern": "^/"}),
]
HeaderName: TypeAlias = Annotated[str, AfterValidator(_header_name)]
StrippedName: TypeAlias = Annotated[
    str,
    AfterValidator(_stripped_name),
    WithJsonSchema({"type": "string", "x-kind": "header name", "pattern": f"^{TOKEN.pattern}$"}),
]
Pseudonym: TypeAlias = Annotated[str, AfterValidator(_pseudonym)]
UpstreamHost: TypeAlias = Annotated[
    str,
    AfterValidator(_upstream_host),
    WithJsonSchema({"type": "string", "x-kind": "preserve, upstream or host"}),
]
UpgradeProtocol: TypeAlias = Annotated[str, AfterValidator(_upgrade_protocol)]
Origin: TypeAlias = Annotated[
    str, AfterValidator(_origin), WithJsonSchema({"type": "string", "x-kind": "origin"})
]
CredentialName: TypeAlias = Annotated[str, AfterValidator(_credential_name)]
PlainPath: TypeAlias = Annotated[
    str, AfterValidator(_plain_path), WithJsonSchema({"type": "string", "x-kind": "path", "pattern": "^/"})
]
HealthPath: TypeAlias = Annotated[
    str, AfterValidator(_health_path), WithJsonSchema({"type": "string", "x-kind": "path", "pattern": "^/"})
]
PathPrefix: TypeAlias = Annotated[
    str, AfterValidator(_path_prefix), WithJsonSchema({"type": "string", "x-kind": "path", "pattern": "^/"})
]
AdminToken: TypeAlias = Annotated[SecretStr, AfterValidator(_admin_token)]
