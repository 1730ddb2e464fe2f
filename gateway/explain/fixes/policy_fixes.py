"""The fixes for what a route requires: first the place of the configuration, then the token, then a grant.

No fix drops a requirement. An edit that would let more tokens in is told as a decision, with what it lets in.
"""

from gateway.core.model import Claims, Issuer, Route, User
from gateway.core.tokens.claims import CLIENTS
from gateway.explain import changes
from gateway.explain.answer import Fix
from gateway.explain.fixes import claim_places
from gateway.explain.trail import Trail
from gateway.explain.wording import listed, shown, yaml_line
from gateway.stores.postgres.directory.user_rows import UserChanges


def issuer_of(trail: Trail, claims: Claims) -> Issuer:
    """Return the configured issuer of a token."""
    return next(each for each in trail.setup.issuers if each.name == claims.issuer_name)


def _ours(issuer: Issuer) -> frozenset[str]:
    """Return the names by which the issuer may call these services."""
    return issuer.audiences or frozenset()


def of_scopes(trail: Trail, claims: Claims, route: Route) -> Fix:
    """Return the fix for scopes that the token lacks."""
    issuer, missing = issuer_of(trail, claims), route.require.scopes.difference(claims.scopes)
    place = claim_places.of_scopes(claims.payload, missing, _ours(issuer))
    if place is not None:
        return _path_of_scopes(trail, issuer, place, missing)
    asked = (
        f"Let the client request the scopes {listed(sorted(missing))} from the issuer, and grant them there"
        f" to {_client(claims)}if it should have them."
    )
    other = claim_places.spelt_otherwise(missing, frozenset(claims.scopes))
    if other:
        names = "; ".join(f"{shown(wanted)} is {shown(held)} in the token" for wanted, held in other.items())
        return Fix(
            f"The issuer may spell the scopes otherwise: {names}. If they are the same permissions, let the"
            f" route require the issuer's spelling (`{_requirement(trail, route)}`); else: {asked}"
        )
    wide = [each for each in claims.scopes if "*" in each]
    if wide:
        return Fix(
            f"The gateway compares names, and a `*` covers none: {listed(wide)} is not"
            f" {listed(sorted(missing))}. {asked}"
        )
    return Fix(asked)


def _path_of_scopes(trail: Trail, issuer: Issuer, place: claim_places.Place, missing: frozenset[str]) -> Fix:
    found = f"The token has {listed(sorted(missing))} at `{place.path}`"
    if place.separator in (None, " ") or place.separator == issuer.scope_separator:
        paths = [*issuer.claims.scopes, place.path]
        config = yaml_line(trail.field(issuer, "claims.scopes"), [*dict.fromkeys(paths)])
        return Fix(f"{found}, where the gateway does not look for scopes: add that path.", config=config)
    if place.path in issuer.claims.scopes:
        config = yaml_line(trail.field(issuer, "scope_separator"), place.separator)
        return Fix(f"{found}, separated by {shown(place.separator)}: set that separator.", config=config)
    return Fix(
        f"{found}, separated by {shown(place.separator)}, where the gateway does not look for scopes: add"
        f" the path to `{trail.field(issuer, 'claims.scopes')}`, and set"
        f" `{trail.field(issuer, 'scope_separator')}`."
    )


def of_token_roles(trail: Trail, claims: Claims, route: Route) -> Fix:
    """Return the fix for roles that the token lacks."""
    issuer, wanted = issuer_of(trail, claims), route.require.token_roles
    place = claim_places.of_roles(claims.payload, wanted, _ours(issuer))
    if place is None and (absent := claim_places.left_out(claims.payload)) is not None:
        return Fix(
            f"The token does not have the user's groups: there were too many (`{absent}`, Microsoft Entra"
            " ID). Let the application be sent app roles (`roles`), or only the groups that are assigned to"
            " it. The user may well be in the right group already."
        )
    if place is not None and place.separator in (None, " "):
        paths = [*dict.fromkeys((*issuer.claims.roles, place.path))]
        return Fix(
            f"The token has the role at `{place.path}`, where the gateway does not look for roles: add that"
            " path.",
            config=yaml_line(trail.field(issuer, "claims.roles"), [*paths]),
        )
    grant = (
        f"Grant the user one of the roles {listed(sorted(wanted))} at the issuer, if it should have it. The"
        f" gateway reads roles where `{trail.field(issuer, 'claims.roles')}` says."
    )
    if place is not None:
        return Fix(
            f"The token has the role at `{place.path}`, separated by {shown(place.separator)}, and the"
            " gateway reads roles from a list: let the issuer write one."
        )
    other = claim_places.spelt_otherwise(wanted, frozenset(claims.roles))
    if other:
        names = "; ".join(f"{shown(name)} is {shown(held)} in the token" for name, held in other.items())
        return Fix(
            f"The issuer may spell the role otherwise: {names}. Use one spelling on both sides; or: {grant}"
        )
    return Fix(grant)


def of_user_roles(trail: Trail, claims: Claims, route: Route, user: User) -> Fix:
    """Return the fix for roles that the user lacks."""
    wanted, field = route.require.roles, f"routes[{_index(trail, route)}].require.token_roles"
    other = claim_places.spelt_otherwise(wanted, frozenset(user.roles))
    if other:
        names = "; ".join(f"{shown(name)} is {shown(held)} at the user" for name, held in other.items())
        return Fix(f"The role is spelt otherwise: {names}. Use one spelling, in the route and at all users.")
    held = claim_places.of_roles(claims.payload, wanted, _ours(issuer_of(trail, claims)))
    note = ""
    if held is not None:
        note = (
            f" The token has such a role at `{held.path}`, but this route compares the user's roles: whether"
            f" the issuer decides on roles is for you to say (`{field}`)."
        )
    if len(wanted) > 1:
        roles = listed(sorted(wanted))
        return Fix(f"Decide whether the user should have one of the roles {roles}, and which one.{note}")
    role = next(iter(wanted))
    advice = (
        f"Decide whether the user should have the role {shown(role)}, on all routes that require it; if so,"
        f" add it.{note}"
    )
    added: UserChanges = {"roles": (*user.roles, role)}
    return trail.remedies.value(advice, user, added, changes.with_role(user, role), f"--add-role={role}")


def _client(claims: Claims) -> str:
    for name in CLIENTS:
        if isinstance(value := claims.payload.get(name), str):
            return f"the client {shown(value)}, "
    return "it, "


def _index(trail: Trail, route: Route) -> int:
    return next(place for place, each in enumerate(trail.setup.routes) if each.name == route.name)


def _requirement(trail: Trail, route: Route) -> str:
    return f"routes[{_index(trail, route)}].require.scopes"
