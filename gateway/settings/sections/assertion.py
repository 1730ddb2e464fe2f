"""The settings of signed identity, and the rules about them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from gateway.core.assertion import HEADER
from gateway.core.headers import MISSING_HEADER, STATUS_HEADER, fold
from gateway.settings.findings import Finding
from gateway.settings.http_values import HeaderName
from gateway.settings.sections.section import Section
from gateway.settings.values import Text, Timeout, duration, mistake, parse_duration

_TIMES: Final = (10.0, 3600.0)


def _lifetime(seconds: float) -> float:
    if not _TIMES[0] <= seconds <= _TIMES[1]:
        raise mistake("must be from 10s to 1h", "write 5m")
    return seconds


Lifetime: TypeAlias = Annotated[
    float,
    AfterValidator(_lifetime),
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "x-kind": "duration"}),
]


class Assertion(Section):
    """Signed identity: a JWT for upstreams, with keys of the gateway (docs/signed-identity.md)."""

    header: HeaderName = HEADER
    """The header for upstreams. The gateway removes a client's own in any spelling."""
    ttl: Lifetime = duration("5m")
    """The lifetime, from 10s to 1h. A request carries one that is valid for at least half of it."""
    algorithm: Literal["ES256", "EdDSA"] = "ES256"
    """The signature algorithm: `ES256`, or `EdDSA` with Ed25519."""
    issuer: Text = "gateway"
    """The `iss`. Verifiers compare it: give each environment its own, such as its URL."""
    key_file: Path | None = None
    """The file of the keys, which all gateways must share; made if it does not exist. `null`: in Postgres."""
    publish_ahead: Timeout = duration("5m")
    """How long a new key is published before it signs: longer than verifiers remember the JWK set."""


def assertion_findings(data: Mapping[str, object], identity: list[str]) -> Iterator[Finding]:
    """Yield the mistakes of a raw section. `identity` are the names of the identity headers."""
    header = data.get("header", HEADER)
    if not isinstance(header, str):
        return
    ours = [name.decode() for name in (STATUS_HEADER, MISSING_HEADER)]
    for name in (*identity, *ours):
        if fold(name.encode("utf-8", "replace")) == fold(header.encode("utf-8", "replace")):
            yield Finding(
                ("assertion", "header"),
                f"is the same header as {name} for many servers",
                f"choose another name, such as {HEADER}",
            )
