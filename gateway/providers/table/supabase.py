"""Supabase Auth, with signing keys, the old secret, or both during a move."""

import re
from typing import Final

from gateway.core.model import JSON
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

_PROJECT: Final = r"[a-z0-9]{20}"
_HOSTED: Final = re.compile(rf"https://({_PROJECT})\.supabase\.co/auth/v1")
_OTHER: Final = re.compile(r"(https?://.+)/auth/v1")
_KEY_ROLES: Final = frozenset({"anon", "service_role"})


def _settings(given: Given) -> IssuerSettings:
    url = given.get("url") or f"https://{given.get('project')}.supabase.co"
    issuer = given.get("issuer") or f"{url}/auth/v1"
    signing_keys: JSON = {"jwks_uri": f"{issuer}/.well-known/jwks.json", "algorithms": ["ES256", "RS256"]}
    settings: IssuerSettings = {
        "issuer": f"{url}/auth/v1",
        "audiences": ["authenticated"],
        "algorithms": ["ES256", "RS256"],
        "expect": {"role": "authenticated"},
        "require": ["exp", "iat", "sub", "session_id"],
        "claims": {"roles": "app_metadata.roles"},
        "keys": {"jwks_uri": f"{issuer}/.well-known/jwks.json"},
    }
    if (secret := given.get("secret_file")) is not None:
        settings["algorithms"] = ["ES256", "RS256", "HS256"]
        settings["keys"] = [signing_keys, {"secret_file": secret, "algorithms": ["HS256"]}]
    return settings


def _recognise(token: Unverified) -> Recognition | None:
    issuer = token.text("iss") or ""
    role = token.text("role")
    if issuer == "supabase" and role in _KEY_ROLES:
        note = f"This is the project's API key for the role `{role}`, not a user's token."
        if role == "service_role":
            note += " It bypasses row level security: keep it out of browsers, logs and tickets."
        return Recognition({"project": token.text("ref")}, Kind.API_KEY, (note,))
    found, other = _HOSTED.fullmatch(issuer), _OTHER.fullmatch(issuer)
    if found is None and (other is None or token.text("session_id") is None):
        return None
    parameters: IssuerSettings = {}
    if found is not None:
        parameters["project"] = found[1]
    elif other is not None:
        parameters["url"] = other[1]
    notes = []
    if token.header.get("alg") == "HS256":
        parameters["secret_file"] = "supabase-jwt-secret"  # noqa: S105 -- the name of a file
        notes.append(
            "It is signed with the project's old secret (HS256): put that into a file, and name it as"
            " `secret_file`."
        )
    if token.payload.get("is_anonymous") is True:
        notes.append("The user is anonymous. `expect: {is_anonymous: false}` refuses such users.")
    return Recognition(parameters, Kind.ACCESS, tuple(notes))


SUPABASE: Final = Provider(
    name="supabase",
    title="Supabase",
    parameters=(
        Parameter(
            "project",
            "The project's reference: the first part of its URL.",
            "abcdefghijklmnopqrst",
            "the reference of a project, 20 letters and digits",
            _PROJECT,
        ),
        Parameter(
            "url",
            "Instead of `project`: the URL of a custom domain, or of your own Supabase.",
            "https://api.example.com",
            "a URL without a final slash, and without `/auth/v1`",
            r"https?://(?!\S*/auth/v1)\S*[^\s/]",
        ),
        Parameter(
            "secret_file",
            "A file with the old JWT secret, while tokens signed with it (HS256) are still in use.",
            "/run/secrets/supabase-jwt-secret",
            "a path",
        ),
    ),
    needs=(("project", "url", "issuer"),),
    settings=_settings,
    slash=None,
    recognise=_recognise,
    examples=(
        Example("Signing keys", {"project": "abcdefghijklmnopqrst"}),
        Example(
            "Signing keys, and the old secret during the move",
            {"project": "abcdefghijklmnopqrst", "secret_file": "/run/secrets/supabase-jwt-secret"},
        ),
    ),
    quirks=(
        "`aud` and `role` are `authenticated` for every user of the project.",
        "The `anon` and `service_role` keys are tokens as well, with `iss: supabase` and no `sub`. The"
        " preset refuses them; `gateway explain` says `api_key_used`.",
        "Projects from before 2025 sign with a shared secret (HS256). A move to signing keys keeps the old"
        " tokens valid until they expire: give `secret_file` during that time, and remove it afterwards.",
        "Only `app_metadata` may be believed: users can write `user_metadata` themselves. The preset takes"
        " roles from `app_metadata.roles`.",
        "Anonymous users have tokens, too, with `is_anonymous: true`. `expect: {is_anonymous: false}`"
        " refuses them; `expect: {aal: aal2}` asks for a second factor.",
    ),
    console=(
        "The reference: *Project Settings* › *General* › *Project ID*.",
        "Signing keys and the old secret: *Project Settings* › *JWT Keys*.",
    ),
    prefixes={
        "sb_publishable_": (Kind.API_KEY, "a publishable API key of Supabase"),
        "sb_secret_": (Kind.API_KEY, "a secret API key of Supabase, which bypasses row level security"),
        "sbp_": (Kind.API_KEY, "a personal access token of Supabase's management API"),
    },
)
