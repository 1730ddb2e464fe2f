"""The steps of an opaque token (RFC 7662): its issuer is asked about it, as for a request."""

from collections.abc import Mapping
from typing import Final

from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import ID_TOKEN_NOT_ACCEPTED, INTROSPECTION_UNAVAILABLE, TOKEN_INACTIVE, Denial
from gateway.core.requests import bearer
from gateway.explain.answer import Cause, Fix
from gateway.explain.setup import Introspector
from gateway.explain.trail import Trail
from gateway.explain.wording import span

_EXPECTED: Final = "`active` is true, and the token is an access token of this issuer (RFC 7662 §2.2)"


async def ask(
    trail: Trail, introspector: Introspector, issuer: Issuer, raw: bytes
) -> Mapping[str, JSON] | None:
    """Take the steps; return the claims that the issuer gives, None if there are none."""
    try:
        bearer.parse([b"Bearer " + raw])
    except Denial as denial:
        trail.step("shape", "fail", "a bearer token (RFC 6750 §2.1)", f"{len(raw)} bytes", denial.detail)
        advice = "Copy the complete token, without additions and line breaks."
        trail.blame(denial, Cause.TOKEN_MALFORMED, denial.reason.title, Fix(advice))
        trail.skip_rest("the token could not be read")
        return None
    trail.step("shape", "pass", "a bearer token (RFC 6750 §2.1)", f"an opaque token of {len(raw)} bytes")
    trail.step("header", "skipped", detail="an opaque token has none")
    trail.step("issuer", "pass", found=f"issuer {issuer.name}", detail="its tokens are introspected")
    why = "the issuer is asked instead"
    trail.step("key", "skipped", detail=why)
    trail.step("signature", "skipped", detail=why)
    try:
        said = await introspector.introspect(issuer, Credential.of(raw))
    except Denial as denial:
        _blame(trail, introspector, issuer, denial)
        trail.skip_rest("the issuer does not vouch for the token")
        return None
    counts = f"the answer counts for {span(max(said.until - trail.now, 0.0))}"
    trail.step("introspection", "pass", _EXPECTED, "active", counts)
    return said.payload


def _blame(trail: Trail, introspector: Introspector, issuer: Issuer, denial: Denial) -> None:
    name, field = issuer.name, trail.field(issuer, "introspection")
    if denial.reason is INTROSPECTION_UNAVAILABLE:
        error = introspector.last_error(name) or denial.detail or "there is no answer"
        trail.step("introspection", "fail", _EXPECTED, "no answer", error)
        trail.blame(
            denial,
            Cause.INTROSPECTION_UNAVAILABLE,
            f"Issuer {name} cannot be asked about the token: {error}",
            Fix(f"Make the introspection endpoint available, or correct `{field}`."),
        )
    elif denial.reason is TOKEN_INACTIVE:
        trail.step("introspection", "fail", _EXPECTED, "`active` is false")
        trail.blame(
            denial,
            Cause.TOKEN_INACTIVE,
            f"Issuer {name} says that the token is not active: expired, revoked, or never issued",
            Fix(
                "Let the client get a new token. If that is refused, too, it is from another issuer, or"
                f" the issuer does not let the gateway's client (`{field}.client_id`) see it."
            ),
        )
    elif denial.reason is ID_TOKEN_NOT_ACCEPTED:
        trail.step("introspection", "fail", _EXPECTED, "no access token", denial.detail)
        trail.blame(
            denial,
            Cause.ID_TOKEN_USED,
            f"The token is no access token: {denial.detail}",
            Fix("Let the client send its access token."),
        )
    else:
        trail.step("introspection", "fail", _EXPECTED, "another token", denial.detail)
        summary = f"Issuer {name} describes another token: {denial.detail or denial.reason.title}"
        trail.blame(denial, None, summary, Fix(denial.reason.hint))
