"""Writes the `users.source` for a system: what a preset does not know, or all of it without a preset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.core.model import JSON, UserStatus
from gateway.reconcile.adopt import fields, naming, roles, status
from gateway.reconcile.adopt.choice import Choice, SubjectColumn
from gateway.reconcile.adopt.status import Rule
from gateway.reconcile.adopt.systems import System
from gateway.stores.postgres.inspection.catalog import Column, Relation
from gateway.stores.postgres.inspection.session import comparable

Source: TypeAlias = dict[str, JSON]

_SURE: Final = 4
"""The score from which a tenant's column is proposed, and not only listed."""
_PRESET_SCHEMAS: Final[Mapping[str, str]] = {"supabase": "auth"}
_PRESET_TABLES: Final[Mapping[str, str]] = {
    "django": "auth_user", "supabase": "users", "keycloak": "user_entity", "authjs": "users",
    "aspnet-identity": "AspNetUsers",
}  # fmt: skip
_PRESET_STATUS: Final[Mapping[str, Sequence[tuple[tuple[str, ...], Rule]]]] = {
    "django": [(("is_active",), Rule("NOT is_active", UserStatus.SUSPENDED))],
    "supabase": [
        (("deleted_at",), Rule("deleted_at IS NOT NULL", UserStatus.DELETED)),
        (("banned_until",), Rule("banned_until > now()", UserStatus.SUSPENDED, "banned_until")),
    ],
    "keycloak": [(("enabled",), Rule("NOT enabled", UserStatus.SUSPENDED))],
    "authjs": [],
    "aspnet-identity": [
        (
            ("LockoutEnabled", "LockoutEnd"),
            Rule('"LockoutEnabled" AND "LockoutEnd" > now()', UserStatus.LOCKED, '"LockoutEnd"'),
        )
    ],
}
"""The rules of each preset, with their columns: a table with more columns needs more rules."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was read from rows: only names of providers and realms, and words of status that are known."""

    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The words of status, by the column of users."""
    providers: Mapping[int, str] = field(default_factory=dict)
    """The provider of the subjects, by the oid of the table of identities."""
    realm: str | None = None
    unknown: Sequence[str] = ()
    """The columns of status that have other words, or numbers."""
    several_providers: Mapping[str, int] = field(default_factory=dict)
    """How many providers a column names, where it names several."""


FILL_IN: Final = "FILL_IN"
"""In place of the name of a provider that could not be read. It admits no user."""


def source(choice: Choice, relations: Sequence[Relation], known: Known, issuer: str | None) -> Source:
    """Return the settings, in the order in which to show them."""
    system = choice.system
    written: Source = {}
    if system.preset is None:
        written.update(_table(choice, relations, known))
    else:
        written.update(_preset(choice, relations, known))
    identities = _identities(choice, known)
    if identities is not None:
        written["identities"] = [dict(each) for each in identities]
    if issuer is not None:
        if system.preset is None and identities is not None:
            written["identities"] = [{"issuer": issuer, **each} for each in identities]
        else:
            written["issuer"] = issuer
    if system.users.kind not in {"table", "partitioned table"}:
        written.update(_poll(system.users))
    elif system.preset is None:
        written["changes"] = "triggers"
    return written


def _table(choice: Choice, relations: Sequence[Relation], known: Known) -> Source:
    users = choice.system.users
    written: Source = {
        "table": users.shown,
        "id": choice.system.id.sql,
        "status": [_rule(each) for each in all_rules(choice.system, known)],
    }
    written.update(_tenant(users))
    for name, candidates in (("email", fields.emails(users)), ("display_name", fields.names(users))):
        if candidates:
            written[name] = candidates[0].column.sql
    written.update(_roles(users, relations))
    created = next(fields.instants(users, naming.CREATED), None)
    if created is not None:
        written["created_at"] = _moment(created.column)
    return written


def _preset(choice: Choice, relations: Sequence[Relation], known: Known) -> Source:
    system, users = choice.system, choice.system.users
    preset = str(system.preset)
    written: Source = {"preset": preset}
    first = choice.subjects[0].table
    if first is not None and first.in_preset and len(choice.subjects) == 1:
        written["provider"] = known.providers.get(first.relation.oid, FILL_IN)
    if preset == "keycloak":
        written["realm"] = known.realm or FILL_IN
    if users.schema != _PRESET_SCHEMAS.get(preset, "public"):
        written["schema"] = users.schema
    if users.name != _PRESET_TABLES[preset] or (preset == "supabase" and users.schema != "auth"):
        written["table"] = users.name_sql if preset != "supabase" else users.sql
    if system.id.name.lower() != "id":
        written["id"] = system.id.sql
    rules = all_rules(system, known)
    if rules != [rule for _, rule in _preset_rules(system)]:
        written["status"] = [_rule(each) for each in rules]
    if preset not in {"supabase", "keycloak"}:
        written.update(_tenant(users))
    if preset == "django":
        written.update(_django(users, relations))
    if preset == "authjs":
        written.update(_authjs(users, relations))
    return written


def all_rules(system: System, known: Known) -> list[Rule]:
    """Return the rules of the preset that a table has the columns for, and those for its other columns."""
    preset = [(names, rule) for names, rule in _preset_rules(system) if system.users.has(*names)]
    covered = [name for names, _ in preset for name in names]
    return [*(rule for _, rule in preset), *status.rules(system.users, known.words, leave_out=covered)]


def has_preset_roles(system: System) -> bool:
    """Return whether a preset knows where the roles are."""
    return system.preset in {"supabase", "keycloak", "aspnet-identity"}


def _preset_rules(system: System) -> Sequence[tuple[tuple[str, ...], Rule]]:
    return () if system.preset is None else _PRESET_STATUS.get(system.preset, ())


def _django(users: Relation, relations: Sequence[Relation]) -> Source:
    """Return what a user model of the project's own has otherwise than `auth_user`."""
    written: Source = {}
    if not users.has("email"):
        written["email"] = next((each.column.sql for each in fields.emails(users)), None)
    if not users.has("first_name", "last_name"):
        written["display_name"] = next((each.column.sql for each in fields.names(users)), None)
    if not users.has("date_joined"):
        created = next(fields.instants(users, naming.CREATED), None)
        written["created_at"] = None if created is None else _moment(created.column)
    owner = f"{users.name.rpartition('_')[2]}_id"
    by_name = {each.name: each for each in relations if each.schema == users.schema}
    groups = by_name.get(f"{users.name}_groups")
    if groups is None or not groups.has(owner) or "auth_group" not in by_name:
        written.update(_roles(users, relations) or {"roles": None})
    usual = ("username", "is_staff", "is_superuser")
    if not users.has(*usual):
        written["attributes"] = [name for name in usual if users.has(name)]
    return written


def _authjs(users: Relation, relations: Sequence[Relation]) -> Source:
    """Return what adapters and projects have otherwise than the adapter for Postgres."""
    written: Source = {}
    for name in ("email", "name"):
        if not users.has(name):
            written["email" if name == "email" else "display_name"] = None
    return {**written, **_roles(users, relations)}


def _identities(choice: Choice, known: Known) -> list[Source] | None:
    """Return the identities; None if the preset finds them by itself."""
    system = choice.system
    usual = len(choice.subjects) == 1 and system.preset is not None
    if usual and (first := choice.subjects[0].table) is not None and first.in_preset:
        return None
    if usual and system.own_subjects and choice.subjects[0].column == system.id:
        return None
    return [_identity(choice, each, known) for each in choice.subjects]


def _identity(choice: Choice, subjects: SubjectColumn, known: Known) -> Source:
    column, table = subjects.column, subjects.table
    text = column.sql if comparable(column) == "text" else f"{column.sql}::text"
    realm = _in_realm(known) if choice.system.realms is not None else None
    written: Source = {"subject": text}
    if table is not None:
        name = table.relation.shown
        if choice.system.preset is not None and table.relation.schema == choice.system.users.schema:
            # A preset's tables are looked for in its schema.
            name = table.relation.name_sql
        written = {"table": name, "subject": text, "user": table.user.sql}
    conditions = [] if realm is None else [realm]
    if subjects.provider is not None:
        provider = known.providers.get(subjects.relation.oid, FILL_IN)
        conditions.append(f"{subjects.provider.sql} = {quoted_text(provider)}")
    if conditions:
        written["where"] = " AND ".join(conditions)
    return written


def _in_realm(known: Known) -> str:
    return f"realm_id = (SELECT r.id FROM realm r WHERE r.name = {quoted_text(known.realm or FILL_IN)})"  # noqa: S608 -- quoted, and shown only


def _rule(rule: Rule) -> Source:
    written: Source = {"when": rule.when, "is": rule.status.value}
    return written if rule.until is None else {**written, "until": rule.until}


def _tenant(users: Relation) -> Source:
    best = next(iter(fields.tenants(users)), None)
    if best is None or best.score < _SURE:
        return {}
    return {"tenant": best.column.sql if comparable(best.column) == "text" else f"{best.column.sql}::text"}


def _roles(users: Relation, relations: Sequence[Relation]) -> Source:
    best = next(iter(roles.roles(users, relations)), None)
    if best is None:
        return {}
    return {"roles": {"query": best.sql, "watch": dict(best.watch)} if best.watch else best.sql}


def _poll(users: Relation) -> Source:
    """Return how changes of a view, or of another server's table, are found: no trigger can tell of them."""
    updated = next(fields.instants(users, naming.UPDATED), None)
    return {
        "changes": "poll",
        **({} if updated is None else {"poll": {"column": updated.column.sql, "interval": "1s"}}),
    }


def _moment(column: Column) -> str:
    return column.sql if column.type == "timestamptz" else f"({column.sql})::timestamp AT TIME ZONE 'UTC'"


def quoted_text(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
