"""The types of single values in a configuration. Each is checked when it is read.

A wrong value raises the error of `mistake`: what is wrong, and what to write.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.core.headers import HOP_BY_HOP, USER_FIELDS, fold
from gateway.core.reasons import Denial
from gateway.core.requests.upgrades import carries_requests
from gateway.core.routes import normal_path
from gateway.core.tokens.claim_paths import DOTTED, POINTER

MISTAKE: Final = "setting"
"""The type of the errors with the gateway's own texts."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SIZE: Final = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)")
_NAME: Final = re.compile(r"[a-z0-9_-]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):([0-9]{1,5})")
# The size of the kernel's `sun_path` without its final NUL.
UNIX_ADDRESS: Final = re.compile(r"unix:/[^\x00]{1,106}")
_AUTHORITY: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?"
)
_HOST: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
# How other routers write parameters: `:id`, `{id}`, `<int:id>`; and those that take the rest of a path.
_PARAMETER: Final = re.compile(r"^:[A-Za-z_]|[{}<>]|\*[A-Za-z_]")
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
}

_SOURCE: Final = re.compile(r"[^\s()\[\]{}\"'=!<>&|?+*,]*|claims\./.*", re.DOTALL)
"""A name with dots, without operators, brackets and quotes; or a JSON Pointer below `claims`."""

# The client's, without which a request would mean something else.
_NOT_STRIPPED: Final = frozenset({b"authorization", b"connection", b"content-length", b"host"})


def mistake(message: str, hint: str | None = None, at: int | None = None) -> PydanticCustomError:
    """Return the error for a wrong value. `hint` says what to write instead, `at` where in its text it is."""
    return PydanticCustomError(MISTAKE, "{message}", {"message": message, "hint": hint, "at": at})


def parse_duration(value: object) -> float:
    """Return a duration such as `500ms`, `30s`, `5m` or `24h` in seconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise mistake("must be a duration with its unit", "write 500ms, 30s, 5m or 24h")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(value: object) -> int:
    """Return a size such as `64KiB` or `1MiB` in bytes."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise mistake("must be a size with its unit", "write 512B, 64KiB or 1MiB")
    return int(match[1]) * _BYTES[match[2]]


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise mistake("must be longer than zero", "write 500ms, 30s, 5m or 24h")
    return seconds


def address(default: str) -> "Address":
    """Declare a field with a default address."""
    return Field(default_factory=lambda: Address(default), json_schema_extra={"default": default})


def duration(default: str) -> float:
    """Declare a field with a default duration. The schema shows it as in the file."""
    return Field(parse_duration(default), json_schema_extra={"default": default})


def size(default: str) -> int:
    """Declare a field with a default size. The schema shows it as in the file."""
    return Field(parse_size(default), json_schema_extra={"default": default})


class Address(str):
    """A listening address: `host:port`, an IPv6 host in brackets, port 0 for a free one; or `unix:/path`."""

    __slots__ = ()

    @property
    def endpoint(self) -> tuple[str, int] | Path:
        """Host and port, or the path of a Unix socket."""
        return Path(self.removeprefix("unix:")) if self.startswith("unix:") else (self.host, self.port)

    @property
    def host(self) -> str:
        """The host, without brackets."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])


def _address(value: object) -> Address:
    if isinstance(value, str) and UNIX_ADDRESS.fullmatch(value):
        return Address(value)
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 65535:
        raise mistake(
            "must be host:port, or unix: and a path",
            "write 127.0.0.1:8080, 0.0.0.0:8080, [::1]:8080 or unix:/run/gateway.sock",
        )
    return Address(match[0])


def _workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise mistake("must be a number of processes from 1, or auto", "write auto for one per core")
    return number


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise mistake(
            "must be a network in CIDR form, with host bits zero", "write 10.0.0.0/8 or 2001:db8::/32"
        ) from None


def _asking_network(value: object) -> IPv4Network | IPv6Network:
    network = _network(value)
    if network.prefixlen == 0:
        raise mistake(
            "would let any client ask, and say what it likes about itself",
            "write the networks of your proxies, such as 10.0.0.0/8",
        )
    return network


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise mistake(
            "must be a name of lower-case letters, digits, _ and -",
            "it is a metrics label and part of keys: write orders or main-idp",
        )
    return value


def _schema_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,62}", value):
        raise mistake("must be the name of a Postgres schema", "write public or gateway")
    return value


def _method(value: str) -> str:
    if not _TOKEN.fullmatch(value) or value != value.upper():
        raise mistake("must be an HTTP method in capitals", "methods are case-sensitive: write GET or POST")
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


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise mistake(
            "must be a header name (RFC 9110 §5.1)", "write letters, digits and -, such as X-User-Id"
        )
    folded = fold(value.encode())
    if folded in _NOT_IDENTITY or folded.startswith(b"x-forwarded-"):
        raise mistake("belongs to the connection or to the gateway", "choose another name, such as X-User-Id")
    return value


def _stripped_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise mistake(
            "must be a header name (RFC 9110 §5.1)", "write letters, digits and -, such as X-Remote-User"
        )
    if fold(value.encode()) in _NOT_STRIPPED:
        raise mistake(
            "is needed to forward requests", "remove it: the gateway decides on this header by itself"
        )
    return value


def _pseudonym(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise mistake("must be a name without spaces", "write gateway, or the host of the gateway")
    return value


def is_source(value: str) -> bool:
    """Return whether the value of an identity header names a field. Otherwise it is an expression."""
    return _SOURCE.fullmatch(value) is not None


def _identity_value(value: str) -> str:
    if not is_source(value):
        return value  # `settings.conditions` checks expressions
    source, _, path = value.partition(".")
    if source == "claims" and _is_path(path):
        return value
    attribute = path.removeprefix("attributes.")
    if source == "user" and (path in USER_FIELDS or (attribute != path and _is_path(attribute))):
        return value
    fields = ", ".join(f"user.{name}" for name in USER_FIELDS)
    raise mistake(
        "must be the source of the value", f"write {fields}, user.attributes.<path> or claims.<path>"
    )


def _is_path(path: str) -> bool:
    return (POINTER if path.startswith("/") else DOTTED).fullmatch(path) is not None


def _claim_path(value: str) -> str:
    if _is_path(value):
        return value
    if value.startswith("/"):
        raise mistake(
            "must be a JSON Pointer (RFC 6901), because it begins with a slash",
            "write /kubernetes.io/namespace, with ~1 for a slash and ~0 for a ~ within a name",
        )
    raise mistake("must be a dotted path into the token", "write scope or realm_access.roles")


def _upstream_host(value: str) -> str:
    if not _AUTHORITY.fullmatch(value):
        raise mistake(
            "must be preserve, upstream, or a host with or without a port",
            "write preserve to keep the client's Host, upstream to send that of the URL",
        )
    return value


def _scope(value: str) -> str:
    if not value or re.search(r"\s", value):
        raise mistake(
            "must be one scope without spaces", "write one entry for each: [orders:read, orders:write]"
        )
    return value


def _upgrade_protocol(value: str) -> str:
    protocol = value.lower()
    if not re.fullmatch(rf"{_TOKEN.pattern}(?:/{_TOKEN.pattern})?", protocol):
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


_TOKEN68: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")

_DURATION_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "x-kind": "duration", "pattern": f"^{_DURATION.pattern}$"}
)
Duration: TypeAlias = Annotated[float, BeforeValidator(parse_duration), _DURATION_SCHEMA]
Timeout: TypeAlias = Annotated[
    float, AfterValidator(_positive), BeforeValidator(parse_duration), _DURATION_SCHEMA
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "x-kind": "size", "pattern": f"^{_SIZE.pattern}$"}),
]
Listen: TypeAlias = Annotated[
    Address, PlainValidator(_address), WithJsonSchema({"type": "string", "x-kind": "host:port or unix:/path"})
]
Workers: TypeAlias = Annotated[
    int | Literal["auto"],
    PlainValidator(_workers),
    WithJsonSchema(
        {"x-kind": "number or auto", "oneOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}
    ),
]
Network: TypeAlias = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    WithJsonSchema({"type": "string", "x-kind": "CIDR"}),
]
AskingNetwork: TypeAlias = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_asking_network),
    WithJsonSchema({"type": "string", "x-kind": "CIDR"}),
]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Name: TypeAlias = Annotated[
    str,
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "x-kind": "name", "pattern": f"^{_NAME.pattern}$"}),
]
SchemaName: TypeAlias = Annotated[str, AfterValidator(_schema_name)]
Method: TypeAlias = Annotated[str, AfterValidator(_method)]
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
    WithJsonSchema({"type": "string", "x-kind": "header name", "pattern": f"^{_TOKEN.pattern}$"}),
]
Pseudonym: TypeAlias = Annotated[str, AfterValidator(_pseudonym)]
IdentityValue: TypeAlias = Annotated[
    str,
    AfterValidator(_identity_value),
    WithJsonSchema({"type": "string", "x-kind": "user.*, claims.* or CEL"}),
]
Mode: TypeAlias = Literal["enforce", "shadow"]
"""Whether denials are enforced, or only counted."""
Cel: TypeAlias = Annotated[
    str, Field(min_length=1), WithJsonSchema({"type": "string", "x-kind": "CEL", "minLength": 1})
]
"""An expression, which `settings.conditions` checks."""
ClaimPath: TypeAlias = Annotated[
    str, AfterValidator(_claim_path), WithJsonSchema({"type": "string", "x-kind": "path"})
]
UpstreamHost: TypeAlias = Annotated[
    str,
    AfterValidator(_upstream_host),
    WithJsonSchema({"type": "string", "x-kind": "preserve, upstream or host"}),
]
Scope: TypeAlias = Annotated[str, AfterValidator(_scope)]
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
Share: TypeAlias = Annotated[
    float,
    Field(ge=0, le=1),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1, "x-kind": "number from 0 to 1"}),
]
AdminToken: TypeAlias = Annotated[SecretStr, AfterValidator(_admin_token)]
