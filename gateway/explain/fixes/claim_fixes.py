"""The fixes for claims that are not as the issuer's settings want them.

First the place where the configuration looks, then the kind of the token, then the client or the issuer. No
fix accepts another audience, client, claim or time. What would let more tokens in is told as a decision.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.model import JSON, Issuer
from gateway.core.reasons import Denial
from gateway.core.tokens.claim_paths import at_path
from gateway.core.tokens.claims import CLIENTS
from gateway.explain.answer import Fix
from gateway.explain.fixes import claim_places
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown, span, yaml_line

_FOREIGN: Final = {
    "00000003-0000-0000-c000-000000000000": "Microsoft Graph",
    "https://graph.microsoft.com": "Microsoft Graph",
    "https://graph.windows.net": "Azure AD Graph",
    "https://management.azure.com": "Azure Resource Manager",
    "https://vault.azure.net": "Azure Key Vault",
    "sts.amazonaws.com": "AWS STS",
    "https://kubernetes.default.svc": "the Kubernetes API",
    "account": "Keycloak's own account pages",
    "realm-management": "Keycloak's own administration",
}
_TENANTS: Final = ("tenant_id", "tid", "tenant", "org_id", "organization_id", "organization", "org")
_OF_SEVERAL: Final = ("Entra ID writes the audience with or without `api://`, by the version of its tokens.",)


def of_audience(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer) -> Fix:
    """Return the fix for an audience that is not configured."""
    aud, configured = payload.get("aud"), sorted(issuer.audiences or ())
    values = [each for each in (aud if isinstance(aud, list) else [aud]) if isinstance(each, str)]
    ask = f"Let the client request a token for {listed(configured)}"
    field = trail.field(issuer, "audiences")
    client = next((payload[name] for name in CLIENTS if isinstance(payload.get(name), str)), None)
    if not values:
        return _without_audience(trail, issuer, ask, client)
    if (within := _within(values, configured)) is not None:
        return Fix(
            f"The token has {shown(within)} inside one text, separated by commas or spaces: let the issuer"
            " write `aud` as a list (RFC 7519 §4.1.3)."
        )
    if (near := _nearly(values, configured)) is not None:
        return Fix(
            f"{shown(near[0])} and {shown(near[1])} differ only in spelling. Find out which one the issuer"
            f" uses for these services, and use it on both sides: in the client's request, or in `{field}`,"
            " in place of the other."
            f" {_OF_SEVERAL[0] if 'api://' in ''.join(near) else ''}".rstrip()
        )
    foreign = next((_FOREIGN[each.rstrip("/")] for each in values if each.rstrip("/") in _FOREIGN), None)
    if foreign is not None:
        return Fix(f"{ask}: this one is for {foreign}, and no other service may take it.{_how(values)}")
    if client in values:
        return Fix(
            f"{ask}: this one is for the client {shown(client)} itself, as if the client had asked for no"
            " API. If it is an ID token, let the client send the access token."
        )
    if any(each.rstrip("/").endswith(("/userinfo", "/api/v2")) for each in values):
        return Fix(f"{ask}: this one is for the issuer's own API, as when the client names no `audience`.")
    return Fix(
        f"{ask}. To accept {listed(values)} is a decision (`{field}`), not a repair: every token that this"
        " issuer makes for those services, for any client, would then be accepted here."
    )


def _without_audience(trail: Trail, issuer: Issuer, ask: str, client: JSON) -> Fix:
    told = ""
    if isinstance(client, str):
        told = (
            " The issuer may write no `aud` at all, as Amazon Cognito does; then"
            f" `{trail.field(issuer, 'audiences')}: null` together with `expect` on the claim that names the"
            f" client ({shown(client)} here) takes its place. Decide that only for an issuer whose access"
            " tokens never have an `aud`."
        )
    return Fix(f"{ask}, or the issuer put `aud` into its access tokens.{told}")


def _how(values: Sequence[str]) -> str:
    if "account" in values:
        return " In Keycloak, a mapper of the type Audience in the client's scopes adds it."
    if any("microsoft" in each or each.startswith("00000003") for each in values):
        return " In Entra ID, the client asks for the scope `api://<this API>/.default`."
    return ""


def _within(values: Sequence[str], configured: Sequence[str]) -> str | None:
    for value in values:
        for separator in (",", " "):
            if separator in value:
                parts = {part.strip() for part in value.split(separator)}
                return next((each for each in configured if each in parts), None)
    return None


def _nearly(values: Sequence[str], configured: Sequence[str]) -> tuple[str, str] | None:
    return next(
        (
            pair
            for pair in ((a, b) for a in values for b in configured)
            if _folded(pair[0]) == _folded(pair[1])
        ),
        None,
    )


def _folded(audience: str) -> str:
    text = audience.strip().lower().rstrip("/")
    for prefix in ("api://", "https://", "http://", "urn:", "spn:"):
        text = text.removeprefix(prefix)
    return text


def of_clocks(trail: Trail, issuer: Issuer, *, ahead: float) -> Fix:
    """Return the fix for clocks that differ. `ahead` is how far the token's time is ahead, in seconds."""
    off = span(ahead)
    if ahead > 0:
        who = f"the issuer's clock is at least {off} ahead of the gateway's"
    else:
        who = f"if the token was issued just now, the gateway's clock is about {off} ahead of the issuer's"
    return Fix(
        f"Synchronise the clocks of issuer and gateway (NTP): {who}. Which of them is wrong, a third clock"
        " shows (`chronyc tracking`, or the `Date` of any large site). A longer"
        f" `{trail.field(issuer, 'leeway')}` would accept expired tokens for as long, and is no repair."
    )


def of_missing(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denial: Denial) -> Fix:
    """Return the fix for a claim that is required and missing."""
    path = denial.claim or ""
    other = claim_places.of_claim(payload, path)
    if other is None and path in _TENANTS:
        named = [name for name in _TENANTS if isinstance(payload.get(name), str)]
        if len(named) == 1:
            return Fix(
                f"The token has {shown(payload[named[0]])} at `{named[0]}`. If that is the tenant, the paths"
                f" of the configuration name it (`{trail.field(issuer, 'claims.tenant')}`,"
                f" `{trail.field(issuer, 'require')}`); if not, let the issuer add `{path}`."
            )
    if path not in issuer.require:
        field = trail.field(issuer, "claims.tenant")
        if other is not None:
            return Fix(f"The token has it at `{other}`: correct the path.", config=yaml_line(field, other))
        return Fix(
            f"Let the issuer add the tenant, or correct the path to it: `{field}`. Without it, the user's"
            " tenant would not be compared."
        )
    field = trail.field(issuer, "require")
    if other is not None:
        paths: list[JSON] = [other if each == path else each for each in sorted(issuer.require)]
        return Fix(f"The token has it at `{other}`: correct the path.", config=yaml_line(field, paths))
    return Fix(f"Let the issuer add `{path}` to the tokens of this client. `{field}` wants it in all tokens.")


def of_value(trail: Trail, payload: Mapping[str, JSON], issuer: Issuer, denial: Denial) -> Fix:
    """Return the fix for a claim whose value is not accepted."""
    path = denial.claim or ""
    accepted, value = issuer.expect.get(path), at_path(payload, path)
    if accepted is None:
        return Fix("Let the issuer issue tokens that are not bound to a key (RFC 7800), for this client.")
    field = f"`{trail.field(issuer, 'expect')}`"
    if value is None and (other := claim_places.of_claim(payload, path)) is not None:
        return Fix(
            f"The token has {shown(at_path(payload, other))} at `{other}`: {field} may name the wrong path."
        )
    if path.removeprefix("/") not in CLIENTS or not isinstance(value, str):
        return Fix(f"Get a token with another value: {field} accepts {shown([*accepted])} at `{path}`.")
    return Fix(
        f"Get the token for a configured client. To accept the client {shown(value)} is a decision"
        f" ({field}), not a repair: all tokens that the issuer makes for it would then be accepted here."
    )
