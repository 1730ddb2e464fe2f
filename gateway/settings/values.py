"""The types of single values in a configuration. Each is checked when it is read.

A wrong value raises the error of `mistake`: what is wrong, and what to write. The values of HTTP are in
`gateway.settings.http_values`.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.core.headers import USER_FIELDS
from gateway.core.tokens.claim_paths import DOTTED, POINTER

MISTAKE: Final = "setting"
"""The type of the errors with the gateway's own texts."""

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SIZE: Final = re.compile(r"([0-9]+)(B|KiB|MiB|GiB)")
_NAME: Final = re.compile(r"[a-z0-9_-]+")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]+):([0-9]{1,5})")
# The size of the kernel's `sun_path` without its final NUL.
UNIX_ADDRESS: Final = re.compile(r"unix:/[^\x00]{1,106}")
_SOURCE: Final = re.compile(r"[^\s()\[\]{}\"'=!<>&|?+*,]*|claims\./.*", re.DOTALL)
"""A name with dots, without operators, brackets and quotes; or a JSON Pointer below `claims`."""


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
    if isinstance(value, str) and value.startswith("*:"):
        raise mistake(
            "has no host `*`", f"write [::]{value[1:]} for all addresses, 0.0.0.0{value[1:]} for IPv4"
        )
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


_MAPPED_BITS: Final = 96
"""Before the address of IPv4 in one of IPv6 (RFC 4291 §2.5.5.2)."""


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise mistake(
            "must be a network in CIDR form, with host bits zero", "write 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    four = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if four is not None and network.prefixlen >= _MAPPED_BITS:
        raise mistake(
            "has addresses of IPv4, written as IPv6: no peer would be in it",
            f"write {four}/{network.prefixlen - _MAPPED_BITS}",
        )
    return network


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


def _scope(value: str) -> str:
    if not value or re.search(r"\s", value):
        raise mistake(
            "must be one scope without spaces", "write one entry for each: [orders:read, orders:write]"
        )
    return value


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
Scope: TypeAlias = Annotated[str, AfterValidator(_scope)]
Share: TypeAlias = Annotated[
    float,
    Field(ge=0, le=1),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1, "x-kind": "number from 0 to 1"}),
]
