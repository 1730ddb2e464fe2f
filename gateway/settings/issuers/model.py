"""The settings of issuers."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema

from gateway.settings.issuers.presets import extend_schema
from gateway.settings.issuers.provisioning import Provisioning
from gateway.settings.issuers.values import (
    ASYMMETRIC_ALGORITHMS,
    AcceptedValues,
    Algorithm,
    ClaimPaths,
    OpaquePrefix,
    Tenants,
    TokenType,
)
from gateway.settings.sections.section import Section
from gateway.settings.urls import KeyUrl
from gateway.settings.values import ClaimPath, Duration, Mode, Name, Text, Timeout, duration


class Keys(Section):
    """A source of an issuer's keys. Give exactly one kind of source in each entry."""

    discovery: bool = False
    """OpenID Connect discovery, then RFC 8414 metadata. The issuer must be a URL."""
    jwks_uri: KeyUrl | None = None
    """URL of a JWK set (RFC 7517)."""
    jwks_file: Path | None = None
    """File with a JWK set."""
    pem_file: Path | None = None
    """PEM file with one public key or certificate."""
    secret: SecretStr | None = None
    """Shared secret for HS*, at least as long as the hash: 32, 48 or 64 bytes (RFC 7518 §3.2)."""
    secret_file: Path | None = None
    """File with the shared secret. A newline at its end is ignored."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] | None = None
    """What the keys of this source are for, if the issuer has several sources. `null`: all that fits, with a
    secret HS256."""

    @property
    def has_secret(self) -> bool:
        return self.secret is not None or self.secret_file is not None

    @property
    def fitting_algorithms(self) -> tuple[Algorithm, ...]:
        """What its keys are for."""
        return self.algorithms or (("HS256",) if self.has_secret else ASYMMETRIC_ALGORITHMS)


class Introspection(Section):
    """The endpoint at which the issuer is asked about opaque tokens (RFC 7662), instead of `keys`."""

    endpoint: KeyUrl = Field(examples=["https://idp.example.com/oauth2/introspect"])
    """URL of the introspection endpoint."""
    client_id: Text = Field(examples=["gateway"])
    """The id of the gateway as a client of the issuer."""
    client_secret: SecretStr | None = None
    """The client's secret, sent by HTTP Basic (RFC 6749 §2.3.1)."""
    client_secret_file: Path | None = None
    """File with the client's secret. A newline at its end is ignored."""
    private_key_file: Path | None = None
    """Instead of a secret: PEM file with the client's private key, RSA, EC P-256 or Ed25519, for
    `private_key_jwt` (RFC 7523)."""
    key_id: Text | None = None
    """The `kid` under which the issuer knows the private key."""
    prefix: OpaquePrefix = ""
    """The beginning of its opaque tokens, such as `gho_`. Empty: all tokens that are no JWT. The longest
    prefix that fits counts."""
    cache_ttl: Duration = duration("30s")
    """How long the answer about an active token counts, at most until its `exp`. A revocation at the issuer
    counts after this time at the latest. The answer about other tokens counts for 5 seconds at most."""


class TenantClaim(Section):
    """The claim with the tenant."""

    path: ClaimPath
    """The path into the token."""
    optional: bool = False
    """Whether tokens without a tenant are accepted."""


def _tenant(value: object) -> object:
    """Take a path for a claim that must be there."""
    return {"path": value} if isinstance(value, str) else value


_TENANT_SCHEMA = {
    "x-kind": "path, or {path, optional}",
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"path": {"type": "string"}, "optional": {"type": "boolean"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ],
}


class Claims(Section):
    """The claims that differ between issuers, as paths into the token.

    A path is dotted (`realm_access.roles`), or a JSON Pointer (RFC 6901) if it begins with a slash
    (`/kubernetes.io/namespace`). A claim whose name is the whole path, dots and all, comes first.
    """

    tenant: Annotated[TenantClaim, BeforeValidator(_tenant), WithJsonSchema(_TENANT_SCHEMA)] = Field(
        default_factory=lambda: TenantClaim(path="tenant_id", optional=True),
        json_schema_extra={"default": "tenant_id"},
    )
    """The tenant. If the token has one, the user's must be equal. A path that is written here must be in each
    token, unless it is `{path: tenant_id, optional: true}`."""
    scopes: ClaimPaths = Field(default=("scope",), json_schema_extra={"default": "scope"})
    """The scopes: a string (see `scope_separator`), or a list. What several paths lead to is joined."""
    roles: ClaimPaths = Field(default=("roles",), json_schema_extra={"default": "roles"})
    """The token's roles, for `require.token_roles` of routes: a string with spaces, or a list. What several
    paths lead to is joined. `require.roles` are the user's."""


def _of_all_sources(data: dict[str, object]) -> tuple[Algorithm, ...]:
    keys = data.get("keys")
    sources = keys if isinstance(keys, tuple) else ()
    found = dict.fromkeys(
        name for each in sources if isinstance(each, Keys) for name in each.fitting_algorithms
    )
    return tuple(found) or ASYMMETRIC_ALGORITHMS


def _one_or_more(value: object) -> object:
    """Take one source for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _or_one(schema: dict[str, Any]) -> None:
    """Let the schema of a list also be that of one entry."""
    entries = {name: schema.pop(name) for name in ("type", "items", "minItems")}
    schema["anyOf"] = [entries["items"], entries]
    schema["x-one-or-more"] = True


class Issuer(Section):
    """A trusted issuer, and the requirements for its tokens."""

    model_config = ConfigDict(json_schema_extra=extend_schema)

    name: Name = Field(examples=["main"])
    """A unique name. It is a metrics label and part of the blacklist's keys: do not change it."""
    issuer: Text = Field(examples=["https://idp.example.com/"])
    """The exact `iss` of its tokens. A trailing slash matters. Or a pattern: `{tenant}` is one segment of the
    path or one label of the host, see `tenants`."""
    audiences: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(examples=[["orders-api"]])
    """A token's `aud` must contain one of these. `null`: `aud` is not checked; needs an `expect` on `azp`,
    `client_id`, `appid` or `cid`, so that tokens of other clients are refused."""
    expect: dict[ClaimPath, AcceptedValues] = Field(default_factory=dict)
    """Claim path → the accepted value, or a list of them. Of a claim that is a list, one element suffices.
    All must hold: `{azp: [web, mobile], token_use: access}`. With `tenants`, `{tenant}` in a value is
    the tenant in the token's `iss`."""
    tenants: Tenants | None = None
    """For an `issuer` with `{tenant}`: the list of values that it may have, or `any` for which the issuer has
    keys. Each tenant's keys verify only its own tokens."""
    introspection: Introspection | None = None
    """For opaque tokens: the issuer is asked about each (RFC 7662). Instead of `keys`."""
    keys: Annotated[tuple[Keys, ...], Field(min_length=1), BeforeValidator(_one_or_more)] = Field(
        default_factory=lambda: (Keys(discovery=True),), json_schema_extra=_or_one
    )
    """The source of the keys, or a list of several. Default: `{discovery: true}`."""
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1)] = Field(default_factory=_of_all_sources)
    """Accepted signature algorithms (RFC 7518 §3.1). Default: RS*, PS*, ES*, EdDSA, Ed25519; with a secret
    HS256; with several sources, those of each."""
    leeway: Duration = duration("30s")
    """The allowed difference between the clocks of issuer and gateway."""
    require: tuple[ClaimPath, ...] = ("exp", "sub")
    """Claims that a token must have, as paths like those of `claims`."""
    max_lifetime: Timeout | None = None
    """Refuse tokens whose `exp` − `iat` is longer. `null`: no limit."""
    token_types: Annotated[tuple[TokenType, ...], Field(min_length=1)] | None = None
    """The accepted `typ` of the token's header, such as `[at+jwt]` (RFC 9068); others, and none, are refused.
    `null`: none, `JWT` and `at+jwt`."""
    id_tokens: Literal["deny", "allow"] = "deny"
    """`deny` refuses ID tokens, which are made for the client: those with `nonce`, `at_hash`, `c_hash` or
    `s_hash`, `typ: ID` or `token_use: id`. Refresh and logout tokens are refused in any case."""
    allow_unbound: bool = False
    """Accept tokens with `cnf` (RFC 7800) as plain bearer tokens, without proof of the client's key."""
    subject: ClaimPath = "sub"
    """The path of the claim that names the user, such as `oid` or `uid`. The identities have its values."""
    claims: Claims = Field(default_factory=Claims)
    """The claims with tenant, scopes and roles."""
    scope_separator: Annotated[str, Field(min_length=1)] = " "
    """What separates the scopes in a string, such as `","`. Spaces around a scope are ignored."""
    provisioning: Provisioning | None = None
    """The users that its tokens may create. `null`: none."""
    mode: Mode = "enforce"
    """`shadow`: signed tokens of this issuer that would be refused pass, and are counted (docs/policy.md)."""
