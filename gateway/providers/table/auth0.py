"""Auth0, now Okta Customer Identity Cloud."""

import re
from typing import Final

from gateway.core.model import JSON
from gateway.providers.provider import (
    A_HOST,
    HOST,
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

_ISSUER: Final = re.compile(r"https://([^/]+)/")


def _settings(given: Given) -> IssuerSettings:
    settings: IssuerSettings = {
        "issuer": f"https://{given.get('domain')}/",
        "audiences": given.get("audiences"),
        "algorithms": ["RS256", "PS256"],
        "require": ["exp", "iat", "sub"],
        "claims": {"scopes": ["scope", "permissions"]},
        "keys": {"discovery": True},
    }
    if given.get("client_ids") is not None:
        settings["expect"] = expected(azp=given["client_ids"])
    return settings


def _recognise(token: Unverified) -> Recognition | None:
    found = _ISSUER.fullmatch(token.text("iss") or "")
    user_info = found is not None and f"{found[0]}userinfo" in token.audiences
    if found is None or not (found[1].endswith(".auth0.com") or user_info or token.text("gty")):
        return None
    access = user_info or any(token.payload.get(name) is not None for name in ("scope", "gty", "permissions"))
    parameters: IssuerSettings = {"domain": found[1]}
    audiences: list[JSON] = [each for each in token.audiences if each != f"{found[0]}userinfo"]
    if access and audiences:
        parameters["audiences"] = audiences
    if access and (client := token.text("azp")) is not None:
        parameters["client_ids"] = [client]
    notes: tuple[str, ...] = ()
    if access and not audiences:
        notes = ("This token is for Auth0's own /userinfo: the client must ask for your API's `audience`.",)
    return Recognition(parameters, Kind.ACCESS if access else Kind.ID, notes)


AUTH0: Final = Provider(
    name="auth0",
    title="Auth0",
    parameters=(
        Parameter("domain", "The tenant's domain, or its custom domain.", "shop.eu.auth0.com", A_HOST, HOST),
        clients("azp"),
    ),
    needs=(("domain", "issuer"), ("audiences",)),
    client="azp",
    settings=_settings,
    slash=True,
    recognise=_recognise,
    examples=(
        Example(
            "Tokens for an API", {"domain": "shop.eu.auth0.com", "audiences": ["https://api.example.com"]}
        ),
        Example(
            "Tokens for an API, of one client alone",
            {
                "domain": "shop.eu.auth0.com",
                "audiences": ["https://api.example.com"],
                "client_ids": ["Yp3tQyKX2vq1nT8s"],
            },
        ),
    ),
    quirks=(
        "`iss` ends with a slash.",
        "A client that asks for no `audience` gets an opaque or encrypted access token, which no API can"
        " check.",
        "`aud` of an ID token is the client's ID. So never write a client ID into `audiences`.",
        "With the RFC 9068 profile, the client is in `client_id` and not in `azp`: write"
        " `expect: {client_id: …}` instead of `client_ids`, and `token_types: [at+jwt]`.",
        "Permissions of RBAC are in `permissions`. The preset joins them with the scopes. Roles are in no"
        " token until an Action adds them, under a name that is a URL: `claims: {roles:"
        " https://example.com/roles}`.",
        "`sub` of a machine's token (client credentials) is the client's ID with `@clients`.",
        "An API whose signing algorithm is HS256 signs with the API's own secret: write `algorithms:"
        " [HS256]` and `keys: {secret_file: …}`, or change the API to RS256.",
    ),
    console=(
        "The domain: *Applications* › the application › *Settings* › *Domain*.",
        "The audience: *Applications* › *APIs*, the column *Identifier*.",
        "Permissions in tokens: *APIs* › the API › *Settings* › *RBAC Settings* › *Add Permissions in the"
        " Access Token*.",
    ),
    prefixes={"v1.M": (Kind.REFRESH, "an Auth0 refresh token")},
)
