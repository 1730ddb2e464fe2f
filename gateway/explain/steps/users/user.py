"""The steps about the user: whether it exists, its status, its tenant, and the route's requirements."""

from dataclasses import replace
from typing import Final

from gateway.core import policy
from gateway.core.model import Claims, Requirement, Route, User, UserStatus
from gateway.core.reasons import (
    ROLE_MISSING,
    SCOPE_INSUFFICIENT,
    TENANT_MISMATCH,
    TOKENS_REVOKED_BEFORE,
    Denial,
)
from gateway.core.text.lookalikes import marked
from gateway.explain import changes
from gateway.explain.answer import Cause, Fix, Outcome
from gateway.explain.evidence.users import Users
from gateway.explain.fixes import policy_fixes
from gateway.explain.steps import conditions
from gateway.explain.steps.stores import revocation
from gateway.explain.steps.token.claims import ID_TOKEN_FIX, is_id_token
from gateway.explain.steps.users.same_person import is_younger
from gateway.explain.trail import Trail
from gateway.explain.wording import ago, listed, moment, shown, span
from gateway.stores.postgres.directory.user_rows import UserRecord
from gateway.stores.postgres.source.directory.diagnostics import HoldingRule

_STATUS_CAUSES: Final = {
    UserStatus.DELETED: Cause.USER_DELETED,
    UserStatus.SUSPENDED: Cause.USER_SUSPENDED,
    UserStatus.LOCKED: Cause.USER_LOCKED,
    UserStatus.PENDING: Cause.USER_PENDING,
}

CAUSES: Final = {
    ROLE_MISSING: Cause.ROLE_MISSING,
    SCOPE_INSUFFICIENT: Cause.SCOPE_INSUFFICIENT,
    TENANT_MISMATCH: Cause.TENANT_MISMATCH,
    **conditions.CAUSES,
}
"""The causes of a route's requirements."""


async def check(trail: Trail, claims: Claims, record: UserRecord, route: Route, users: Users) -> None:
    """Take the steps for an existing user. `route` is the route of the request."""
    refusals = _every_refusal(route, record.user, claims)
    await _user(trail, claims, record, route, refusals, users)
    await _tenant(trail, claims, record, route, refusals, users)
    _policy(trail, claims, record, route, refusals)


def _every_refusal(route: Route, user: User, claims: Claims) -> list[Denial]:
    """Ask the policy as the pipeline does; go on after each denial as if it were fixed."""
    refusals: list[Denial] = []
    while True:
        try:
            policy.authorize(route, user, claims)
        except Denial as denial:
            refusals.append(denial)
            require = route.require
            if denial.reason in policy.STATUS_REASONS.values():
                user = replace(user, status=UserStatus.ACTIVE)
            elif denial.reason is TOKENS_REVOKED_BEFORE:
                user = replace(user, tokens_valid_after=None)
            elif _tenants_differ(denial, user, claims):
                claims = replace(claims, tenant=None)
            elif denial.reason is TENANT_MISMATCH:
                route = replace(route, require=replace(require, tenant=None))
            elif denial.reason is SCOPE_INSUFFICIENT:
                route = replace(route, require=replace(require, scopes=frozenset()))
            elif _token_lacks_roles(require, claims):
                route = replace(route, require=replace(require, token_roles=frozenset()))
            elif denial.reason in conditions.CAUSES:
                route = replace(route, require=replace(require, condition=None))
            else:
                return refusals
        else:
            return refusals


def _tenants_differ(denial: Denial, user: User, claims: Claims) -> bool:
    return denial.reason is TENANT_MISMATCH and claims.tenant is not None and claims.tenant != user.tenant


def _token_lacks_roles(require: Requirement, claims: Claims) -> bool:
    return bool(require.token_roles) and require.token_roles.isdisjoint(claims.roles)


# The user's state ----------------------------------------------------------------------------------


async def _user(
    trail: Trail,
    claims: Claims,
    record: UserRecord,
    route: Route,
    refusals: list[Denial],
    users: Users,
) -> None:
    user, now = record.user, trail.now
    rule = None if users.diagnostics is None else await users.diagnostics.rule_of(user.id)
    since = record.deleted_at or record.updated_at
    found = user.status.value
    if record.updated_at is not None:
        found += f", last changed {moment(record.updated_at)}"
    if record.created_at is not None:
        found += f", created {moment(record.created_at)}"
    if record.deleted_at is not None:
        found = f"{user.status} since {moment(record.deleted_at)} ({ago(record.deleted_at, now)})"
    if rule is not None:
        found += f", by `{rule.rule.when}` (users.source.status[{rule.number}])"
        found += "" if rule.until is None else f", until {moment(rule.until)}"
    if user.tokens_valid_after is not None:
        found += f", tokens valid after {moment(user.tokens_valid_after)}"
    status = "of any status (`allow_inactive`)" if route.allow_inactive else "active"
    expected = f"{status}, and a token issued after `tokens_valid_after` and after the user was created"
    inactive = next((denial for denial in refusals if denial.reason in policy.STATUS_REASONS.values()), None)
    revoked = next((denial for denial in refusals if denial.reason is TOKENS_REVOKED_BEFORE), None)
    recreated = _is_recreated(trail, claims, record)
    outcome: Outcome = "fail" if inactive or revoked else "warn" if recreated else "pass"
    trail.step("user", outcome, expected, found, f"user {user.id}")
    if inactive is not None:
        await _blame_status(trail, claims, record, inactive, since, users, rule)
    if revoked is not None:
        _blame_revoked(trail, claims, record, revoked, recreated=recreated)
    elif recreated:
        trail.blame(None, Cause.ACCOUNT_RECREATED, _recreation(claims, record), _NEW_TOKEN)


_NEW_TOKEN: Final = Fix(
    "Let the user sign in again, and revoke earlier tokens: if the account was deleted and"
    " recreated, old tokens act for the new account. Setting `tokens_valid_after` at creation prevents that."
)


def _is_recreated(trail: Trail, claims: Claims, record: UserRecord) -> bool:
    """Return whether the user is younger than the token, by more than provisioning and clocks explain."""
    issuer = next(each for each in trail.setup.issuers if each.name == claims.issuer_name)
    if claims.issued_at is None or record.created_at is None or issuer.provisioning is not None:
        # A user who is created at the first request is younger than its token.
        return False
    return record.created_at - claims.issued_at > max(trail.setup.creation_grace, issuer.leeway)


def _recreation(claims: Claims, record: UserRecord) -> str:
    age = span((record.created_at or 0.0) - (claims.issued_at or 0.0))
    return (
        f"User {record.user.id} was created {moment(record.created_at)}, {age} after the token was issued:"
        " the account was probably deleted and recreated"
    )


async def _blame_status(
    trail: Trail,
    claims: Claims,
    record: UserRecord,
    denial: Denial,
    since: float | None,
    users: Users,
    rule: HoldingRule | None,
) -> None:
    user = record.user
    if user.status is UserStatus.DELETED:
        heir = await _heir(claims, user, users)
        if heir is not None:
            _blame_heir(trail, claims, record, heir, denial)
            return
        advice = "Restore the user, if the deletion was a mistake."
    else:
        advice = "Activate the user, once the reason for this status is settled."
    trail.blame(
        denial,
        _STATUS_CAUSES[user.status],
        f"User {user.id} is {user.status}"
        + ("" if since is None else f" since {moment(since)} ({ago(since, trail.now)})")
        + ("" if rule is None else _by(trail, rule)),
        trail.remedies.status(advice, user, () if rule is None else rule.holding),
    )


def _by(trail: Trail, rule: HoldingRule) -> str:
    """Return which rule of a source gives the status, and until when."""
    table = "" if trail.remedies.source is None else f" of {trail.remedies.source.table}"
    until = "" if rule.until is None else f", until {moment(rule.until)}"
    return f": `{rule.rule.when}` holds for the row{table}{until}"


async def _heir(claims: Claims, deleted: User, users: Users) -> UserRecord | None:
    """Find the account that replaced a deleted one: with the same address, younger than the token."""
    if deleted.email is None:
        return None
    for record in await users.directory.with_email(deleted.email):
        younger = claims.issued_at is None or is_younger(record, claims.issued_at)
        if record.user.id != deleted.id and record.user.status is UserStatus.ACTIVE and younger:
            return record
    return None


def _blame_heir(trail: Trail, claims: Claims, deleted: UserRecord, heir: UserRecord, denial: Denial) -> None:
    since = deleted.deleted_at or deleted.updated_at
    advice = "If it is the same person, move the identity to that account."
    trail.blame(
        denial,
        Cause.ACCOUNT_RECREATED,
        f"The identity leads to a user that was deleted {moment(since)}; {shown(deleted.user.email)} has"
        f" another account, {heir.user.id}, created {moment(heir.created_at)}",
        trail.remedies.link(advice, claims, heir.user.id, owner=deleted.user.id),
    )


def _blame_revoked(
    trail: Trail, claims: Claims, record: UserRecord, denial: Denial, *, recreated: bool
) -> None:
    user, after = record.user, record.user.tokens_valid_after
    summary = (
        f"Tokens of user {user.id} count only if issued after {moment(after or 0.0)} (`tokens_valid_after`)"
    )
    if recreated:
        summary += f"; the user was created {moment(record.created_at)}, later than the token"
    advice = "Let the user sign in again; or, if older tokens should be valid, remove `tokens_valid_after`."
    if claims.issued_at is None:
        summary += ", and this one does not tell when it was issued: it has no `iat`"
        advice = revocation.UNDATED
    elif (after or 0.0) > trail.now + revocation.AHEAD:
        summary += ", which is in the future: no new token counts until then"
        advice = revocation.lies_ahead("`tokens_valid_after`", "remove it")
    trail.blame(
        denial,
        Cause.ACCOUNT_RECREATED if recreated else Cause.USER_TOKENS_REVOKED,
        summary,
        trail.remedies.value(
            advice,
            user,
            {"tokens_valid_after": None},
            changes.accepting_older_tokens(user.id, after or 0.0),
            "--clear=tokens-valid-after",
        ),
    )


# Tenant --------------------------------------------------------------------------------------------


async def _tenant(
    trail: Trail,
    claims: Claims,
    record: UserRecord,
    route: Route,
    refusals: list[Denial],
    users: Users,
) -> None:
    user, wanted = record.user, route.require.tenant
    expected = "the user's tenant, if the token names one"
    if wanted is not None:
        expected += f"; on this route {shown(wanted)}"
    found = f"token {shown(claims.tenant)}, user {shown(user.tenant)}"
    wrong = [denial for denial in refusals if denial.reason is TENANT_MISMATCH]
    trail.step("tenant", "fail" if wrong else "pass", expected, found)
    for denial in wrong:
        if not _tenants_differ(denial, user, claims) or denial is not wrong[0]:
            trail.blame(
                denial,
                Cause.TENANT_MISMATCH,
                f"The route requires the tenant {shown(wanted)}, but user {user.id} has"
                f" {'none' if user.tenant is None else shown(user.tenant)}",
                Fix(
                    "Use a user of that tenant, or a route for the user's own tenant."
                    if user.tenant is not None
                    else "Find out whether the user belongs to that tenant. If it does, give the user this"
                    " tenant (`gateway users change --tenant`); if not, use a user of it."
                ),
            )
        else:
            await _blame_tenant(trail, claims, user, denial, users)


async def _blame_tenant(trail: Trail, claims: Claims, user: User, denial: Denial, users: Users) -> None:
    tenant = claims.tenant or ""

    def moved(advice: str) -> Fix:
        change = changes.with_tenant(user, tenant)
        return trail.remedies.value(advice, user, {"tenant": tenant}, change, f"--tenant={tenant}")

    if user.tenant is None:
        summary = f"The token is for the tenant {shown(tenant)}, but user {user.id} has none"
        advice = (
            f"Find out whether the user belongs to the tenant {shown(tenant)}: the token alone does not prove"
            " that. If it does, give the user this tenant."
        )
        trail.blame(denial, Cause.TENANT_MISMATCH, summary, moved(advice))
        return
    summary = (
        f"The token is for the tenant {shown(tenant)}, but its identity is linked to user {user.id}"
        f" of the tenant {shown(user.tenant)}"
    )
    if tenant.strip().casefold() == user.tenant.strip().casefold():
        summary += f": they differ only in spelling ({marked(tenant, user.tenant)})"
        fix = Fix(
            "Tenants are compared exactly. If both are the same one, use one spelling: let the issuer write"
            " it as the users have it. To write it anew at this user alone would take the user out of its"
            " tenant."
        )
        trail.blame(denial, Cause.TENANT_MISMATCH, summary, fix)
        return
    same = [] if user.email is None else await users.directory.with_email(user.email)
    right = [
        each.user for each in same if (each.user.tenant, each.user.status) == (tenant, UserStatus.ACTIVE)
    ]
    if len(right) == 1:
        advice = f"Link the identity to user {right[0].id}, who has the same e-mail address in that tenant."
        fix = trail.remedies.link(advice, claims, right[0].id, owner=user.id)
    else:
        advice = (
            "Find out which tenant is right: a user has one, and loses what it has in"
            f" {shown(user.tenant)} when it is moved. If the token's is right and this is the same account,"
            " change the user's; if the person has another account there, link that one."
        )
        fix = moved(advice)
    trail.blame(denial, Cause.IDENTITY_LINKED_TO_OTHER_TENANT, summary, fix)


# The route's requirement ---------------------------------------------------------------------------


def _policy(trail: Trail, claims: Claims, record: UserRecord, route: Route, refusals: list[Denial]) -> None:
    if not route.name:
        trail.step("policy", "skipped", detail="give a method and a URL to check scopes and roles")
        return
    require, user = route.require, record.user
    expected = f"scopes {listed(sorted(require.scopes))}; one of the roles {listed(sorted(require.roles))}"
    found = f"scopes {listed(claims.scopes)}; roles {listed(user.roles)}"
    if require.token_roles:
        expected += f"; in the token one of the roles {listed(sorted(require.token_roles))}"
        found += f"; roles in the token {listed(claims.roles)}"
    wrong = [denial for denial in refusals if denial.reason in (SCOPE_INSUFFICIENT, ROLE_MISSING)]
    trail.step("policy", "fail" if wrong else "pass", expected, found)
    of_token = _token_lacks_roles(require, claims)
    for denial in wrong:
        if denial.reason is SCOPE_INSUFFICIENT:
            blame_scopes(trail, claims, route, denial)
        elif of_token:
            blame_token_roles(trail, claims, route, denial)
            of_token = False
        else:
            _blame_roles(trail, claims, route, user, denial)
    conditions.check(trail, claims, user, route)


def blame_token_roles(trail: Trail, claims: Claims, route: Route, denial: Denial) -> None:
    """Record the roles that the token lacks, and the fix."""
    issuer = next(each for each in trail.setup.issuers if each.name == claims.issuer_name)
    paths = " and ".join(f"`{path}`" for path in issuer.claims.roles)
    trail.blame(
        denial,
        Cause.ROLE_MISSING,
        f"Route {route.name} requires that the token has a role of"
        f" {listed(sorted(route.require.token_roles))}; at {paths} it has {listed(claims.roles)}",
        policy_fixes.of_token_roles(trail, claims, route),
    )


def _blame_roles(trail: Trail, claims: Claims, route: Route, user: User, denial: Denial) -> None:
    roles = sorted(route.require.roles)
    trail.blame(
        denial,
        Cause.ROLE_MISSING,
        f"Route {route.name} requires a role of {listed(roles)}, but user {user.id} has {listed(user.roles)}",
        policy_fixes.of_user_roles(trail, claims, route, user),
    )


def blame_scopes(trail: Trail, claims: Claims, route: Route, denial: Denial) -> None:
    """Record the scopes that the token lacks, and the fix."""
    missing = route.require.scopes.difference(claims.scopes)
    scopes = listed(sorted(missing))
    summary = f"Route {route.name} also requires the scopes {scopes}; the token has {listed(claims.scopes)}"
    if is_id_token(claims.payload):
        trail.blame(denial, Cause.ID_TOKEN_USED, f"{summary}: it is an ID token", ID_TOKEN_FIX)
        return
    trail.blame(denial, Cause.SCOPE_INSUFFICIENT, summary, policy_fixes.of_scopes(trail, claims, route))
