"""Keycloak, and Red Hat build of Keycloak."""

import re
from typing import Final

from gateway.providers.provider import (
    Example,
    Given,
    IssuerSettings,
    Kind,
    Parameter,
    Provider,
    Recognition,
    Unverified,
    clients,
    expected,
)

_ISSUER: Final = re.compile(r"(https?://.+)/realms/([^/]+)")
_KINDS: Final = {
    "Bearer": Kind.ACCESS,
    "DPoP": Kind.ACCESS,
    "ID": Kind.ID,
    "Refresh": Kind.REFRESH,
    "Offline": Kind.REFRESH,
    "Logout": Kind.LOGOUT,
}


def _settings(given: Given) -> IssuerSettings:
    return {
        "issuer": f"{given.get('url')}/realms/{given.get('realm')}",
        "audiences": given.get("audiences"),
        "expect": expected(typ="Bearer", azp=given.get("client_ids")),
        "require": ["exp", "iat", "sub", "azp"],
        "claims": {"roles": "realm_access.roles"},
        "keys": {"discovery": True},
    }


def _recognise(token: Unverified) -> Recognition | None:
    found = _ISSUER.fullmatch(token.text("iss") or "")
    if found is None:
        return None
    kind = _KINDS.get(token.text("typ") or "")
    notes: tuple[str, ...] = ()
    if kind is Kind.ACCESS and set(token.audiences) <= {"account"}:
        notes = (
            "Keycloak names no API in `aud` unless a mapper does, so the preset goes by the client (`azp`).",
        )
    client = token.text("azp")
    if kind is Kind.ACCESS and "nonce" in token.payload:
        notes += (
            "It has a `nonce`, as access tokens of Keycloak before version 24 have, and is refused as an ID"
            " token. Write `id_tokens: allow` beside the preset: it still asks for `typ: Bearer`.",
        )
    parameters: IssuerSettings = {"url": found[1], "realm": found[2]}
    if client is not None:
        parameters["client_ids"] = [client]
    audiences = [each for each in token.audiences if each != "account"]
    if kind is Kind.ACCESS and audiences:
        parameters["audiences"] = [*audiences]
    return Recognition(parameters, kind, notes)


KEYCLOAK: Final = Provider(
    name="keycloak",
    title="Keycloak",
    parameters=(
        Parameter(
            "url",
            "Keycloak's own URL, up to `/realms`. Before version 17 it ends with `/auth`.",
            "https://sso.example.com",
            "an https URL without a final slash, and without `/realms`",
            r"https?://(?!\S*/realms(?:/|\Z))\S*[^\s/]",
        ),
        Parameter("realm", "The realm's name.", "shop", "the name of a realm", r"[^\s/]+"),
        clients("azp"),
    ),
    needs=(("url", "issuer"), ("realm", "issuer"), ("client_ids", "audiences")),
    client="azp",
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example(
            "Tokens of two clients",
            {"url": "https://sso.example.com", "realm": "shop", "client_ids": ["web", "mobile"]},
        ),
        Example(
            "Tokens for an API, which a mapper puts into `aud`",
            {"url": "https://sso.example.com", "realm": "shop", "audiences": ["orders-api"]},
        ),
    ),
    quirks=(
        "An access token names no API in `aud`, only `account` or nothing, until a mapper adds one. So the"
        " preset accepts tokens by the client that got them, `azp`.",
        "Access, ID and refresh tokens have the same `iss`. The claim `typ` tells them apart: `Bearer`, `ID`,"
        " `Refresh`, `Offline`.",
        "Before version 24, and with the mapper *Nonce backwards compatible*, access tokens have the `nonce`"
        " of the sign-in, and are refused as ID tokens. With such a Keycloak write `id_tokens: allow`: the"
        " preset still asks for `typ: Bearer`.",
        "Roles of the realm are in `realm_access.roles`; those of a client in"
        " `resource_access.<client>.roles`. Write `claims: {roles: [realm_access.roles,"
        " resource_access.web.roles]}` for both.",
        "`iss` is the URL through which the client reached Keycloak, unless Keycloak's `hostname` is set.",
        "From version 25 on, the client scope `basic` adds `sub`. A client without it gets tokens without a"
        " user.",
    ),
    console=(
        "Client IDs: *Clients*, the column *Client ID*.",
        "An audience: *Client scopes* › *Create client scope* › *Mappers* › *Configure a new mapper* ›"
        " *Audience*; then *Clients* › the client › *Client scopes* › *Add client scope*.",
        "The issuer: *Realm settings* › *General* › *OpenID Endpoint Configuration*.",
    ),
)
