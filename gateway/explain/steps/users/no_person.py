"""Tokens without a person: their subject stands for no value, for a guest, or for a client."""

import re
from typing import Final

from gateway.core.model import Claims
from gateway.core.reasons import USER_NOT_FOUND, Denial
from gateway.core.tokens.claims import CLIENTS
from gateway.explain.answer import Cause, Fix
from gateway.explain.trail import Trail
from gateway.explain.wording import shown

_EMPTY: Final = re.compile(
    r"|null|none|undefined|nil|nan|n/a|unknown|anonymous|-|\(null\)|\[object \w+\]|\{\}|\[\]|\$\{.*\}"
    r"|\{\{.*\}\}|<no value>|0{8}-?(?:0{4}-?){3}0{12}",
    re.IGNORECASE,
)
"""What programs write for a value that they do not have."""


def is_empty(subject: str) -> bool:
    """Return whether a subject stands for no value."""
    return _EMPTY.fullmatch(subject.strip()) is not None


def blame_empty(trail: Trail, claims: Claims) -> None:
    """Tell of a subject that stands for no subject: a user with it would be many persons."""
    summary = (
        f"The subject is {shown(claims.subject)}, which stands for no value: the issuer had none to write"
    )
    trail.step("user", "fail", "a user", "none", summary)
    trail.skip_rest("there is no user")
    trail.blame(
        Denial(USER_NOT_FOUND),
        Cause.SUBJECT_MISSING,
        summary,
        Fix(
            "Let the issuer write the id of the user: its mapping of the claim finds none. Do not add a user"
            " with this subject: all whose id is missing would be that user."
        ),
    )


def is_guest(claims: Claims) -> bool:
    """Return whether a token is of an anonymous sign-in, as of Supabase or Firebase."""
    payload, firebase = claims.payload, claims.payload.get("firebase")
    provider = firebase.get("sign_in_provider") if isinstance(firebase, dict) else None
    return payload.get("is_anonymous") is True or "anonymous" in (provider, payload.get("provider_id"))


def is_client(claims: Claims) -> bool:
    """Return whether a token says that a client got it for itself, and not for a person (RFC 6749 §4.4)."""
    payload, subject = claims.payload, claims.subject
    granted = {payload.get(name) for name in ("gty", "grant_type") if isinstance(payload.get(name), str)}
    return (
        bool(granted & {"client-credentials", "client_credentials"})
        or payload.get("idtyp") == "app"
        or f"{payload.get('preferred_username')}".startswith("service-account-")  # Keycloak
        or f"{payload.get('email')}".endswith(".gserviceaccount.com")
        or subject.startswith("system:serviceaccount:")  # Kubernetes
        or any(payload.get(name) == subject for name in CLIENTS)
        or any(f"{payload.get(name)}@clients" == subject for name in CLIENTS)
    )
