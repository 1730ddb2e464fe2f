"""A subject without a user, on routes that forward it or create its user; on all others it is refused."""

from typing import Final

from gateway.core import policy
from gateway.core.model import Claims, MissingUser, Provisioning, Route, UserStatus
from gateway.core.provisioning import NewUser
from gateway.core.reasons import (
    ACCOUNT_NOT_LINKED,
    SCOPE_INSUFFICIENT,
    USER_DELETED,
    USER_NOT_FOUND,
    USER_STORE_UNAVAILABLE,
    Denial,
)
from gateway.core.tokens.claim_paths import at_path
from gateway.explain.answer import Cause, Fix
from gateway.explain.evidence.users import Users
from gateway.explain.provisioning_dry_run import ProvisioningDryRun
from gateway.explain.steps import conditions
from gateway.explain.steps.users import unknown_subject, user
from gateway.explain.steps.users.same_person import Lookalike
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown
from gateway.stores.postgres.directory.provisioning import FUNCTION
from gateway.stores.postgres.directory.user_rows import UserRecord


async def check(
    trail: Trail, claims: Claims, route: Route, dry_run: ProvisioningDryRun, users: Users
) -> None:
    """Take the steps of a token without a user. Raises `StoreUnavailable`."""
    if route.missing_user is MissingUser.FORWARD:
        await _forward(trail, claims, route, users)
    elif route.missing_user is MissingUser.PROVISION:
        await _provision(trail, claims, route, dry_run, users)
    else:
        others = [each.name for each in trail.setup.routes if each.missing_user is not MissingUser.DENY]
        told = f"give a URL to test the routes that do not need one: {listed(others)}"
        await unknown_subject.check(trail, claims, users, note=told if others and not route.name else None)


# Forward -------------------------------------------------------------------------------------------


async def _forward(trail: Trail, claims: Claims, route: Route, users: Users) -> None:
    refused: Denial | None = None
    try:
        policy.authorize_without_user(route, claims)
    except Denial as denial:
        if denial.reason is USER_NOT_FOUND:
            await unknown_subject.check(trail, claims, users)
            return
        refused = denial
    trail.step("user", "pass", "a user, or none", "none", "the upstream gets X-User-Missing: true")
    expected, found = f"scopes {listed(sorted(route.require.scopes))}", f"scopes {listed(claims.scopes)}"
    if route.require.token_roles:
        expected += f"; in the token one of the roles {listed(sorted(route.require.token_roles))}"
        found += f"; roles in the token {listed(claims.roles)}"
    named = refused is not None and refused.reason not in conditions.CAUSES
    trail.step("policy", "fail" if named else "pass", expected, found)
    if refused is not None and refused.reason not in conditions.CAUSES:
        blame = user.blame_scopes if refused.reason is SCOPE_INSUFFICIENT else user.blame_token_roles
        blame(trail, claims, route, refused)
    conditions.check(trail, claims, None, route)
    trail.skip_rest("there is no user")


# Provision -----------------------------------------------------------------------------------------


async def _provision(
    trail: Trail, claims: Claims, route: Route, dry_run: ProvisioningDryRun, users: Users
) -> None:
    try:
        await dry_run.provision(route, claims, None)
    except Denial as denial:
        await _blame(trail, claims, route, denial, dry_run, users)
        return
    if dry_run.user is not None:
        told = described(dry_run.user, _rules(trail, claims))
        second = await unknown_subject.warn_of_second(trail, claims, users)
        if second is None:
            trail.step("user", "pass", _EXPECTED, "none", told)
        else:
            trail.step("user", "warn", _EXPECTED, "none", f"{told}; but {second}")
    trail.skip_rest("there is no user yet")


_EXPECTED: Final = "a user, or one that the route may create"


def described(new: NewUser, rules: Provisioning | None) -> str:
    """Return what a new user would be, without personal data: of these only where they come from."""
    parts = ["the first request creates an active user"]
    if rules is not None and rules.email is not None:
        parts.append(f"e-mail address from `{rules.email}`")
    if rules is not None and rules.display_name is not None:
        found = "" if new.display_name is not None else ", which the token lacks"
        parts.append(f"name from `{rules.display_name}`{found}")
    parts.append("no tenant" if new.tenant is None else f"tenant {shown(new.tenant)}")
    parts.append(f"roles {listed(new.roles)}")
    return ", ".join(parts)


async def _blame(
    trail: Trail, claims: Claims, route: Route, denial: Denial, dry_run: ProvisioningDryRun, users: Users
) -> None:
    reason, detail = denial.reason, denial.detail or denial.reason.title
    if reason is USER_NOT_FOUND:
        # The token may not create a user: the ordinary causes are the likelier ones.
        advice = unknown_subject.ADD_USER if _rules(trail, claims) is None else _BY_RULE
        await unknown_subject.check(trail, claims, users, note=detail, advice=advice)
        return
    trail.step("user", "fail", _EXPECTED, "none", detail)
    trail.skip_rest("there is no user")
    if reason is USER_STORE_UNAVAILABLE:
        _blame_store(trail, denial, detail, dry_run)
    elif reason in (USER_DELETED, ACCOUNT_NOT_LINKED):
        owners = await _owners(trail, claims, users)
        _blame_owner(trail, claims, denial, owners)
    else:
        rules = _rules(trail, claims)
        roles = () if rules is None else rules.roles
        trail.blame(
            denial,
            user.CAUSES[reason],
            f"No user is created, because a new one could not use route {route.name}: {detail}."
            f" New users have the roles {listed(roles)}",
            Fix("Add the user, with what the route requires; or use another route, where it is created."),
        )


_BY_RULE: Final = (
    "The route creates only users whose tokens are as the issuer's `provisioning` wants them. If the person"
    " should have access, first see to that, such as a verified address. To add the user by hand passes by"
    " that rule: decide whether it should exist."
)


def _blame_store(trail: Trail, denial: Denial, detail: str, dry_run: ProvisioningDryRun) -> None:
    if dry_run.allowed is None:
        migrate = Fix("Run `gateway migrate`.", command=trail.commands.gateway("migrate"))
        summary = f"No user can be created: the database has no function {FUNCTION}"
        trail.blame(denial, Cause.STORE_NOT_MIGRATED, summary, migrate)
    elif not dry_run.allowed:
        grant = f"GRANT EXECUTE ON FUNCTION {trail.commands.table(FUNCTION)} TO the gateway's role"
        fix = Fix(f"As the owner of the tables: {grant}.")
        trail.blame(denial, Cause.STORE_PERMISSION_DENIED, f"No user can be created: {detail}", fix)
    else:
        trail.blame(denial, Cause.STORE_UNREACHABLE, f"No user can be created: {detail}")


def _blame_owner(trail: Trail, claims: Claims, denial: Denial, owners: list[UserRecord]) -> None:
    ids = listed(owner.user.id for owner in owners)
    if denial.reason is ACCOUNT_NOT_LINKED:
        summary = f"No user is created, because the token's e-mail address is that of user {ids}"
        fix = Fix("If it is the same person, link the token's identity to that user.")
        if owners:
            found = Lookalike(Cause.ACCOUNT_NOT_LINKED, owners[0].user.id, summary)
            fix = unknown_subject.fix_of(trail, claims, found, owners, None)
        trail.blame(denial, Cause.ACCOUNT_NOT_LINKED, summary, fix)
        return
    summary = f"No user is created, because the token's e-mail address is that of deleted user {ids}"
    advice = "If the deletion was a mistake, restore that user, then link the token's identity to it."
    fix = trail.remedies.status(advice, owners[0].user) if owners else Fix(advice)
    trail.blame(denial, Cause.USER_DELETED, summary, fix)


async def _owners(trail: Trail, claims: Claims, users: Users) -> list[UserRecord]:
    """Return the users with the token's e-mail address, deleted ones first."""
    rules = _rules(trail, claims)
    email = None if rules is None or rules.email is None else at_path(claims.payload, rules.email)
    found = await users.directory.with_email(email) if isinstance(email, str) else []
    return sorted(found, key=lambda record: record.user.status is not UserStatus.DELETED)


def _rules(trail: Trail, claims: Claims) -> Provisioning | None:
    return next(each.provisioning for each in trail.setup.issuers if each.name == claims.issuer_name)
