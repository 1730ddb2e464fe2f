"""Clerk: session tokens of version 1 and 2."""

import re
from typing import Final

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
    expected,
)

_ISSUER: Final = re.compile(rf"https://({HOST})")
_ORIGIN: Final = r"https?://[^\sA-Z/*{}]+|(?!https?:)[a-z][a-z0-9+.-]*://[^\s/*{}]*"


def _settings(given: Given) -> IssuerSettings:
    domain = given.get("domain")
    return {
        "issuer": f"https://{domain}",
        "audiences": None,
        "algorithms": ["RS256"],
        "expect": expected(azp=given.get("authorized_parties")),
        "require": ["exp", "iat", "nbf", "sub", "sid", "azp"],
        "max_lifetime": "1h",
        "claims": {"roles": ["o.rol", "org_role"], "scopes": ["org_permissions"]},
        "keys": {"jwks_uri": f"{given.get('issuer') or f'https://{domain}'}/.well-known/jwks.json"},
    }


def _recognise(token: Unverified) -> Recognition | None:
    found = _ISSUER.fullmatch(token.text("iss") or "")
    session = (token.text("sid") or "").startswith("sess_")
    user = (token.text("sub") or "").startswith("user_")
    if found is None:
        return None
    named = found[1].endswith(".clerk.accounts.dev") or (user and found[1].startswith("clerk."))
    if not (session or named):
        return None
    parameters: IssuerSettings = {"domain": found[1]}
    notes = []
    if (azp := token.text("azp")) is not None:
        parameters["authorized_parties"] = [azp]
    elif session:
        notes.append(
            "There is no `azp`, so nothing says which application the token is for: the preset refuses it."
            " Browsers leave it out when they send no Origin."
        )
    if not session:
        notes.append(
            "There is no `sid`: a JWT template made this token, and the preset takes session tokens alone."
        )
    if token.text("sts") == "pending":
        notes.append("The session is pending: the user has not finished signing in.")
    return Recognition(parameters, Kind.SESSION if session else Kind.CUSTOM, tuple(notes))


_KEY: Final = (Kind.API_KEY, "an API key of Clerk")

CLERK: Final = Provider(
    name="clerk",
    title="Clerk",
    parameters=(
        Parameter(
            "domain",
            "The host of the Frontend API: `clerk.` and your domain, or `….clerk.accounts.dev`.",
            "clerk.example.com",
            A_HOST,
            HOST,
        ),
        Parameter(
            "authorized_parties",
            "The origins of your applications: `azp` must be one of them.",
            "https://app.example.com",
            "an origin: scheme, host and port",
            _ORIGIN,
            many=True,
        ),
    ),
    needs=(("domain", "issuer"), ("authorized_parties",)),
    client="azp",
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example(
            "Session tokens",
            {"domain": "clerk.example.com", "authorized_parties": ["https://app.example.com"]},
        ),
    ),
    quirks=(
        "A session token has no `aud`. What says which application it is for is `azp`, the Origin of the"
        " page. A token that was requested without an Origin has none, and is refused.",
        "Session tokens live for a minute: the client must get a new one for each request, with"
        " `getToken()`.",
        "Version 2 has the active organisation in `o` (`o.id`, `o.rol`), version 1 in `org_id`, `org_role`. A"
        " user without an active organisation has neither. For tenants write"
        " `claims: {tenant: {path: o.id, optional: true}}`.",
        "A token of a JWT template has no `sid`, and is refused. To accept one, add another issuer entry"
        " without the preset.",
        "A session with unfinished tasks has `sts: pending`. If you use session tasks, write `expect: {sts:"
        " active}`.",
        "Development and production have different instances, with different issuers and keys.",
    ),
    console=(
        "The Frontend API: *Configure* › *API keys* › *Frontend API URL*.",
        "Origins: the addresses of your applications, as a browser shows them.",
        "The claims of session tokens: *Configure* › *Sessions* › *Customize session token*.",
    ),
    prefixes={
        "pk_live_": (Kind.API_KEY, "a publishable key of Clerk (or Stripe)"),
        "pk_test_": (Kind.API_KEY, "a publishable test key of Clerk (or Stripe)"),
        "sk_live_": (Kind.API_KEY, "a secret key of Clerk (or Stripe)"),
        "sk_test_": (Kind.API_KEY, "a secret test key of Clerk (or Stripe)"),
        "oat_": (Kind.ACCESS, "an opaque OAuth access token of Clerk"),
        "ak_": _KEY,
        "mt_": (Kind.ACCESS, "a token of Clerk for machines"),
    },
)
