"""An entry of `issuers` for tokens such as one that was inspected: to check, then to paste."""

from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from gateway.core.model import JSON
from gateway.core.tokens.claims import CLIENTS
from gateway.core.tokens.jws import ALGORITHMS, HMAC_ALGORITHMS
from gateway.providers.inspection import Inspection
from gateway.providers.presets import unfold
from gateway.providers.provider import IssuerSettings, Kind, Unverified, one_or_many

_REFUSED: Final = frozenset(
    {Kind.REFRESH, Kind.LOGOUT, Kind.EVENT, Kind.CUSTOM, Kind.API_KEY, Kind.ENCRYPTED}
)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What could be configured."""

    entry: IssuerSettings | None
    """None: no configuration should accept such a token."""
    cautions: tuple[str, ...]
    """What to check before the entry is used, or why there is none."""


def suggest(inspection: Inspection) -> Suggestion:
    """Fill in an entry of `issuers` from what a token says of itself."""
    if inspection.kind in _REFUSED:
        return Suggestion(None, (f"This is {inspection.what}: no API should accept it.", *inspection.notes))
    token = inspection.token
    if token is None:
        return _introspection(inspection)
    if token.text("iss") is None:
        return Suggestion(None, ("The token has no `iss`, and the gateway finds keys by it.",))
    entry = _preset(inspection)
    cautions = [
        "The token was not verified: check each line, above all `issuer`, `audiences` and the clients."
    ]
    if entry is None:
        entry = _general(token)
        if inspection.kind is Kind.ID:
            cautions.append(
                "This is an ID token. Better let the client send its access token, and look at that."
            )
            entry["id_tokens"] = "allow"
        if entry["audiences"] is None and "expect" not in entry:
            cautions.append(
                "The token names neither an API nor a client: such an issuer cannot be configured safely."
            )
            return Suggestion(None, tuple(cautions))
    return Suggestion(entry, tuple(cautions))


def _preset(inspection: Inspection) -> IssuerSettings | None:
    """Return an entry with a preset. Who is accepted stands in it in full, to be checked."""
    provider, recognition = inspection.provider, inspection.recognition
    if provider is None or recognition is None or not recognition.parameters:
        return None
    entry: IssuerSettings = {"name": "main", "preset": provider.name, **recognition.parameters}
    unfolded = unfold(entry)
    if unfolded.faults:
        return None
    settings = cast("IssuerSettings", dict(unfolded.settings))
    entry["audiences"] = settings.get("audiences")
    if provider.client is not None:
        entry = {
            name: value for name, value in entry.items() if name not in ("client_ids", "authorized_parties")
        }
        if "expect" in settings:
            entry["expect"] = settings["expect"]
    return entry


def _general(token: Unverified) -> IssuerSettings:
    issuer, named = token.text("iss"), token.header.get("alg")
    algorithm = named if isinstance(named, str) else ""
    audiences: JSON = [*token.audiences] or None
    entry: IssuerSettings = {"name": "main", "issuer": issuer, "audiences": audiences}
    client = next((name for name in CLIENTS if token.text(name) is not None), None)
    if client is not None:
        entry["expect"] = {client: one_or_many([token.text(client)])}
    if algorithm in ALGORITHMS:
        entry["algorithms"] = [algorithm]
    if algorithm in HMAC_ALGORITHMS:
        entry["keys"] = {"secret_file": "token-secret"}
    elif _is_url(issuer or ""):
        entry["keys"] = {"discovery": True}
    else:
        entry["keys"] = {"jwks_file": "jwks.json"}
    if str(token.header.get("typ")).lower() in ("at+jwt", "application/at+jwt"):
        entry["token_types"] = ["at+jwt"]
    scopes = next((name for name in ("scope", "scp", "scopes", "permissions") if name in token.payload), None)
    roles = next((name for name in ("roles", "groups", "role") if name in token.payload), None)
    claims: IssuerSettings = {}
    if scopes not in (None, "scope"):
        claims["scopes"] = scopes
    if roles not in (None, "roles"):
        claims["roles"] = roles
    return entry | ({"claims": claims} if claims else {})


def _is_url(text: str) -> bool:
    try:
        return urlsplit(text).scheme in ("http", "https")
    except ValueError:
        return False


def _introspection(inspection: Inspection) -> Suggestion:
    return Suggestion(
        None,
        (
            "The token does not say who issued it. Ask its issuer for the introspection endpoint (RFC 7662),"
            " and configure that.",
            *inspection.notes,
        ),
    )
