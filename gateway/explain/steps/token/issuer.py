"""The step of the issuer: which configured one a token is from, or is nearly from."""

from dataclasses import replace
from typing import Final

from gateway.core.assertion import is_assertion
from gateway.core.model import Issuer
from gateway.core.reasons import ISSUER_UNTRUSTED, Denial
from gateway.core.tokens import claims as claim_rules
from gateway.core.tokens.issuer_patterns import IssuerPattern, IssuerTable, is_pattern
from gateway.core.tokens.jws import UnverifiedToken
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence import issuers
from gateway.explain.steps.token.payload import API_KEY_FIX, is_api_key
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown, yaml_line
from gateway.providers.catalogue import recognised
from gateway.providers.provider import Unverified


def check(trail: Trail, token: UnverifiedToken) -> Issuer | None:
    """Take the step; return the issuer whose keys are to be tried, None if there is none."""
    expected = f"`iss` one of {listed(issuer.issuer for issuer in trail.setup.issuers)}"
    try:
        iss = claim_rules.issuer_of(token.payload)
    except Denial as denial:
        found = shown(token.payload.get("iss"))
        trail.step("issuer", "fail", expected, found, denial.reason.hint)
        cause, fix = Cause.CLAIM_MISSING, Fix("Let the issuer put its `iss` into its tokens, as a text.")
        if is_api_key(token.payload):
            cause, fix = Cause.API_KEY_USED, API_KEY_FIX
        summary = denial.reason.title
        if token.payload.get("iss"):
            summary += f": `iss` is {found}, and must be a text"
        trail.blame(denial, cause, summary, fix)
        return None
    exact = IssuerTable(trail.setup.issuers).find(iss)
    if exact is not None:
        trail.step("issuer", "pass", expected, shown(iss), f"issuer {exact.realm}")
        return exact
    untrusted = Denial(ISSUER_UNTRUSTED)
    if is_api_key(token.payload):
        trail.step("issuer", "fail", expected, shown(iss))
        trail.blame(untrusted, Cause.API_KEY_USED, "This is an API key, not a user's token", API_KEY_FIX)
        return None
    if is_assertion(token.payload):
        trail.step("issuer", "fail", expected, shown(iss), "an assertion of a gateway")
        summary = "This is the assertion with which a gateway tells an upstream who the user is, not a token"
        trail.blame(untrusted, Cause.ISSUER_UNKNOWN, summary, _ASSERTION)
        return None
    other = _unlisted(trail, iss)
    if other is not None:
        trail.step("issuer", "fail", expected, shown(iss), f"another tenant of issuer {other.name}")
        fix = Fix(
            "Get the token from a configured tenant; or, if this one is yours or a customer's, add it to"
            f" `{trail.field(other, 'tenants')}`."
        )
        summary = f"The token's issuer {shown(iss)} is another tenant of issuer {other.name}"
        trail.blame(untrusted, Cause.ISSUER_UNKNOWN, summary, fix)
        return None
    near = issuers.nearest(iss, trail.setup.issuers)
    if near is None:
        trail.step("issuer", "fail", expected, shown(iss), "no configured issuer is similar")
        fix = Fix(f"Get the token from a configured issuer. {_to_trust(token)}")
        summary = f"The token's issuer {shown(iss)} is not configured, and no configured issuer is similar"
        trail.blame(untrusted, Cause.ISSUER_UNKNOWN, summary, fix)
        return None
    detail = f"issuer {near.issuer.name} differs from it by {near.difference}"
    trail.step("issuer", "fail", expected, shown(iss), detail)
    summary = (
        f"The token's issuer is {shown(iss)}, but the configured issuer is {shown(near.issuer.issuer)}:"
        f" they differ in {near.difference}, and must be exactly equal"
        f" ({shown(issuers.marked(iss, near.issuer.issuer))})"
    )
    trail.blame(untrusted, Cause.ISSUER_ALMOST_CONFIGURED, summary, _fix_of(trail, iss, near))
    return replace(near.issuer, issuer=iss) if near.same else None


def _fix_of(trail: Trail, iss: str, near: issuers.NearIssuer) -> Fix:
    """Return the fix for an `iss` that is nearly the one of a configured issuer."""
    if near.other == issuers.INTERNAL:
        return Fix(
            "Let the issuer write its public URL into all tokens, wherever they are requested: in Keycloak"
            " `hostname`, elsewhere the issuer's base URL. Or let the client ask at the public URL. To trust"
            " the internal address, too, is a decision: whatever answers there could issue tokens."
        )
    if not near.same:
        return Fix(
            f"Let the client sign in at this gateway's issuer: this token is from {near.other}. To trust that"
            " issuer, too, is a decision: all of its users would count here."
        )
    if iss.startswith("http:") and near.issuer.issuer.startswith("https:"):
        return Fix(
            "Let the issuer write `https` into its tokens: behind a proxy it has to be told its public URL."
            " With `http` in the configuration, keys may be fetched without TLS."
        )
    if iss != iss.strip():
        return Fix(
            "Let the issuer write its `iss` without the white space around it: `issuers[].issuer` has none"
            " either."
        )
    if "/.well-known/" in iss or "://" not in iss:
        return Fix(
            "Let the issuer write its own identifier as `iss`: the member `issuer` of its discovery document,"
            " which is a complete URL."
        )
    field = trail.field(near.issuer, "issuer")
    return Fix("Configure the `iss` exactly as in the tokens.", config=yaml_line(field, iss))


_ASSERTION: Final = Fix(
    "Do not trust it as an issuer. A service that calls another one through the gateway sends the access"
    " token of the user, which it gets with `forward_authorization`, or a token of its own; the assertion is"
    " for the one service that received it."
)


def _to_trust(token: UnverifiedToken) -> str:
    """Return what it means to trust an issuer that is not configured."""
    known = recognised(Unverified({}, token.payload))
    if known is None:
        return "If this issuer is yours and trusted, add it to `issuers` with its audiences and keys."
    provider, _ = known
    warning = "" if provider.open_to is None else f": {provider.open_to} gets tokens of this issuer"
    return (
        f"To trust this one ({provider.title}) is a decision: `preset: {provider.name}` has what it needs,"
        f" and what narrows it to tokens that were made for you{warning}."
    )


def _unlisted(trail: Trail, iss: str) -> Issuer | None:
    """Return the issuer whose pattern an `iss` matches, with a tenant that is not configured."""
    return next(
        (
            issuer
            for issuer in trail.setup.issuers
            if is_pattern(issuer.issuer) and IssuerPattern(issuer.issuer).tenant_of(iss) is not None
        ),
        None,
    )
