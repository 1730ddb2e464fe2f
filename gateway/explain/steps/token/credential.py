"""The step of the credential: what was pasted, and what a request with it carries."""

from typing import Final

from gateway.core.reasons import (
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MISSING,
    CREDENTIALS_MULTIPLE,
    Denial,
)
from gateway.explain.answer import Cause, Fix
from gateway.explain.pasted import Pasted
from gateway.explain.trail import Trail
from gateway.explain.wording import shown
from gateway.providers import no_tokens
from gateway.providers.no_tokens import NoToken

_EXPECTED: Final = "`Authorization: Bearer`, one space, and the token alone (RFC 6750 §2.1)"
_CAUSES: Final = {
    "placeholder": Cause.PLACEHOLDER_USED,
    "password": Cause.PASSWORD_USED,
    "api_key": Cause.API_KEY_USED,
    "refresh": Cause.REFRESH_TOKEN_USED,
    "encrypted": Cause.TOKEN_MALFORMED,
    "opaque": Cause.TOKEN_MALFORMED,
    "document": Cause.TOKEN_MALFORMED,
}
_OF_THE_FIELD: Final = (CREDENTIALS_MALFORMED, CREDENTIALS_MISSING, CREDENTIALS_MULTIPLE)


def check(trail: Trail, pasted: Pasted, denial: Denial | None, meant: Denial | None) -> None:
    """Take the step. `denial` is the request's, `meant` that of the token which was probably meant."""
    if pasted.plain:
        return
    refused = denial if denial is not None and denial.reason in _OF_THE_FIELD else None
    request = f"the request carries {_carried(pasted)}"
    told = f"{pasted.what}; {request}"
    if pasted.asked is not None and trail.request is not None:
        told += f"; it is {trail.request.method} {shown(trail.request.target.partition('?')[0])}"
    elif pasted.asked is not None:
        told += "; its URL has no route here, and is left aside: give `url` to explain that"
    removed = ""
    if pasted.removed:
        removed = f"left out, because copying adds it: {', '.join(pasted.removed)}"
    if refused is None and not pasted.faults:
        trail.step("pasted", "pass", _EXPECTED, told, removed or None)
        return
    faults = "; ".join(pasted.faults)
    detail = "; ".join(filter(None, (faults, removed)))
    trail.step("pasted", "fail" if refused else "warn", _EXPECTED, told, detail)
    if refused is None:
        return
    other = None if pasted.found else _other_text(pasted)
    if other is not None:
        _blame_other(trail, other, refused)
        return
    if not pasted.found:
        if pasted.what != "a token":
            trail.step("shape", "skipped", detail="the request carries no token")
            trail.blame(
                refused, Cause.CREDENTIALS_MALFORMED, _summary(refused, faults), Fix(_advice(refused, pasted))
            )
        return
    outcome = (
        "the request would be admitted" if meant is None else f"it would be refused with {meant.reason.code}"
    )
    trail.blame(
        refused,
        Cause.CREDENTIALS_MALFORMED,
        f"{_summary(refused, faults)}. With the token alone, {outcome}",
        Fix(f"{_advice(refused, pasted)} The steps below are about that token."),
    )


def _carried(pasted: Pasted) -> str:
    if pasted.faults:
        return "no token that can be read"
    return f"a token of {len(pasted.token)} bytes"


def _summary(refused: Denial, faults: str) -> str:
    return f"{refused.reason.title}: {faults}" if faults else refused.reason.title


def _advice(refused: Denial, pasted: Pasted) -> str:
    if any(value.lower().startswith(b"dpop ") for _, value in pasted.headers):
        return (
            "The gateway takes bearer tokens, and a DPoP token is bound to a key of its client (RFC 9449):"
            " sent as Bearer, it is refused, too. Let the issuer issue tokens to this client that are not"
            " bound."
        )
    if refused.reason is CREDENTIALS_MULTIPLE:
        return "Let the client, or the proxy that adds one, send one Authorization field."
    if refused.reason is CREDENTIALS_MISSING:
        return "Let the client send its access token as `Authorization: Bearer`, one space, and the token."
    return "Let the client send `Authorization: Bearer`, one space, and the token alone."


def _other_text(pasted: Pasted) -> NoToken | None:
    text = pasted.token.decode("utf-8", "replace")
    scheme, _, rest = text.partition(" ")
    if scheme.lower() in {"bearer", "token", "jwt", "apikey"}:
        return no_tokens.named(rest) or (no_tokens.named("bearer") if not rest else None)
    return no_tokens.named(text)


def is_no_token(trail: Trail, raw: bytes, denial: Denial) -> bool:
    """Name what was sent in place of a token, if it is known, and record it."""
    other = no_tokens.named(raw.decode("utf-8", "replace"))
    if other is None:
        return False
    _blame_other(trail, other, denial)
    return True


def _blame_other(trail: Trail, other: NoToken, denial: Denial) -> None:
    """Record what was sent in place of a token."""
    ending = f", which ends in {other.ending}" if other.ending else ""
    if not trail.knows("shape"):
        trail.step("shape", "fail", "a signed JWT", other.what, denial.detail or denial.reason.hint)
    trail.blame(
        denial,
        _CAUSES[other.kind],
        f"This is no access token but {other.what}{ending}",
        Fix(other.advice),
    )
