"""The settings of the control plane, with the sign-in to its console."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WithJsonSchema

from gateway.settings.findings import Finding
from gateway.settings.http_values import AdminToken
from gateway.settings.issuers.values import ASYMMETRIC_ALGORITHMS, AsymmetricAlgorithm
from gateway.settings.listening import ADMIN_ADDRESS
from gateway.settings.sections.section import Section
from gateway.settings.urls import KeyUrl, is_loopback
from gateway.settings.values import ClaimPath, Listen, Text, address, duration, mistake, parse_duration

CALLBACK: Final = "/console/callback"
_LIFETIMES: Final = (300.0, 86_400.0)


def _client_secret(value: SecretStr) -> SecretStr:
    # The key of the sessions is derived from it, so that a short one could be guessed.
    if len(value.get_secret_value()) < 16:
        raise mistake("must have at least 16 characters", "let the provider generate a longer one")
    return value


def _redirect_uri(value: str) -> str:
    url = urlsplit(value)
    if not url.path.endswith(CALLBACK) or url.query:
        raise mistake(
            f"must be the console's URL with {CALLBACK}", f"write https://gateway.example.com{CALLBACK}"
        )
    if url.scheme != "https" and not is_loopback(value):
        raise mistake("must be https, or the session could be read on the way", "put TLS in front of it")
    return value


def _session_lifetime(seconds: float) -> float:
    if not _LIFETIMES[0] <= seconds <= _LIFETIMES[1]:
        raise mistake("must be from 5m to 24h", "write 1h")
    return seconds


def _scopes(value: tuple[str, ...]) -> tuple[str, ...]:
    if "openid" not in value:
        raise mistake("must contain openid, or there is no ID token", "write [openid, profile]")
    return value


SessionLifetime: TypeAlias = Annotated[
    float,
    AfterValidator(_session_lifetime),
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "x-kind": "duration"}),
]


class OidcRoles(Section):
    """The roles of people in the console, by a claim of the ID token."""

    claim: ClaimPath = "roles"
    """The path of the claim with the person's roles or groups, such as `groups` or `realm_access.roles`.
    A text is split at spaces; elements of a list are taken as they are, so names with spaces need a list."""
    viewer: tuple[Text, ...] = ()
    """Values that make a viewer, who may read everything."""
    operator: tuple[Text, ...] = ()
    """Values that make an operator, who may change things, too."""


class Oidc(Section):
    """Sign-in to the console by OpenID Connect, beside the token (docs/console.md)."""

    issuer: KeyUrl = Field(examples=["https://idp.example.com/"])
    """The provider's issuer identifier, exactly as in its metadata."""
    client_id: Text = Field(examples=["gateway-console"])
    """The id of the console as a client of the provider."""
    client_secret: Annotated[SecretStr, AfterValidator(_client_secret)]
    """The client's secret, at least 16 characters. Sessions are sealed with it: a new one ends all."""
    redirect_uri: Annotated[KeyUrl, AfterValidator(_redirect_uri)] = Field(
        examples=["https://gateway.example.com/console/callback"]
    )
    """The console's URL in browsers, with `/console/callback`, as registered at the provider."""
    scopes: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_scopes)] = ("openid", "profile")
    """The scopes that are asked for."""
    algorithms: Annotated[tuple[AsymmetricAlgorithm, ...], Field(min_length=1)] = ASYMMETRIC_ALGORITHMS
    """Accepted signature algorithms of ID tokens."""
    roles: OidcRoles
    """The roles of people who sign in."""
    session_lifetime: SessionLifetime = duration("1h")
    """The time of a session, from 5m to 24h. A role that the provider takes away counts until its end."""


class Admin(Section):
    """The control plane on its own port: health, metrics, the admin API and the console."""

    listen: Listen = address(ADMIN_ADDRESS)
    """Address and port, or `unix:` and a path; keep it off the public network."""
    token: AdminToken | None = None
    """The bearer token of the admin API (docs/admin-api.md), at least 16 characters. `null`: no API, or with
    `oidc` only for its sessions."""
    oidc: Oidc | None = None
    """Sign-in to the console by OpenID Connect. `null`: by the token alone."""


def admin_findings(data: Mapping[str, object]) -> Iterator[Finding]:
    """Yield the mistakes of a raw section."""
    oidc = data.get("oidc")
    roles = oidc.get("roles") if isinstance(oidc, Mapping) else None
    if isinstance(roles, Mapping) and not roles.get("viewer") and not roles.get("operator"):
        yield Finding(
            ("admin", "oidc", "roles"),
            "has neither viewer nor operator, so no person could sign in",
            "write the values of the claim that make an operator: operator: [gateway-operators]",
        )
