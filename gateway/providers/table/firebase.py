"""Firebase Authentication, and Google Cloud Identity Platform."""

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
)

_PROJECT: Final = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
_ISSUER: Final = re.compile(rf"https://securetoken\.google\.com/({_PROJECT})")
_COOKIE: Final = re.compile(rf"https://session\.firebase\.google\.com/({_PROJECT})")
_KEYS: Final = "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
_TOOLKIT: Final = "google.identity.identitytoolkit"


def _settings(given: Given) -> IssuerSettings:
    project = given.get("project")
    settings: IssuerSettings = {
        "issuer": f"https://securetoken.google.com/{project}",
        "audiences": [project],
        "algorithms": ["RS256"],
        "id_tokens": "allow",
        "require": ["exp", "iat", "sub", "auth_time", "firebase.sign_in_provider"],
        "max_lifetime": "1h",
        "keys": {"jwks_uri": _KEYS},
    }
    if given.get("tenant") is not None:
        settings["expect"] = {"firebase.tenant": given["tenant"]}
    return settings


def _recognise(token: Unverified) -> Recognition | None:
    issuer = token.text("iss") or ""
    cookie = _COOKIE.fullmatch(issuer)
    if cookie is not None:
        note = "This is a session cookie, signed with other keys: send the ID token."
        return Recognition({"project": cookie[1]}, Kind.SESSION, (note,))
    if any(_TOOLKIT in audience for audience in token.audiences):
        note = "This is a custom token: a client exchanges it for an ID token with signInWithCustomToken()."
        return Recognition({}, Kind.CUSTOM, (note,))
    found = _ISSUER.fullmatch(issuer)
    if found is None:
        return None
    parameters: IssuerSettings = {"project": found[1]}
    firebase = token.payload.get("firebase")
    tenant = firebase.get("tenant") if isinstance(firebase, dict) else None
    if isinstance(tenant, str):
        parameters["tenant"] = tenant
    return Recognition(
        parameters, Kind.ID, ("Firebase's APIs are called with ID tokens: the preset allows them.",)
    )


FIREBASE: Final = Provider(
    name="firebase",
    title="Firebase Authentication",
    parameters=(
        Parameter("project", "The project's ID.", "shop-12345", "the ID of a project", _PROJECT),
        Parameter(
            "tenant",
            "Identity Platform's tenant: tokens of other tenants, and of none, are refused.",
            "customer-a1b2c",
            "the ID of a tenant",
        ),
    ),
    needs=(("project", "issuer"),),
    settings=_settings,
    recognise=_recognise,
    examples=(
        Example("A project", {"project": "shop-12345"}),
        Example("A tenant of Identity Platform", {"project": "shop-12345", "tenant": "customer-a1b2c"}),
    ),
    quirks=(
        "APIs are called with ID tokens: the preset has `id_tokens: allow`. Every application of the project"
        " gets tokens with the same `aud`, the project's ID.",
        "Custom claims stand at the top of the token: a role of `setCustomUserClaims(uid, {roles: […]})` is"
        " in `roles`.",
        "Anonymous users have tokens: `firebase.sign_in_provider` is `anonymous`. To refuse them, list the"
        " others: `expect: {firebase.sign_in_provider: [password, google.com]}`.",
        "Without `tenant`, tokens of all tenants of the project are accepted.",
        "The keys that Google's pages name first are certificates (`/metadata/x509/…`), which are no JWK"
        " set.",
        "The emulator's tokens have no signature (`alg: none`), and are never accepted.",
    ),
    console=(
        "The project's ID: *Project settings* › *General* › *Project ID*.",
        "Tenants: Google Cloud console › *Identity Platform* › *Tenants*.",
    ),
    prefixes={"AMf-v": (Kind.REFRESH, "a Firebase refresh token")},
)
