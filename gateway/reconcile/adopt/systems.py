"""Well-known systems by their tables, and otherwise a table of users of one's own.

The names are from the systems' own schemas: those that `users.source.preset` knows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.reconcile.adopt import fields, naming
from gateway.reconcile.adopt.fields import Candidate
from gateway.stores.postgres.inspection.catalog import Column, Relation
from gateway.stores.postgres.inspection.session import comparable

GATEWAY: Final = "gateway"


@dataclass(frozen=True, slots=True)
class IdentityTable:
    """A table of subjects, each with its user."""

    relation: Relation
    subject: Column
    user: Column
    provider: Column | None = None
    """The column that tells apart the providers, or issuers, of subjects."""
    in_preset: bool = False
    """Whether it is where the preset looks, once it knows the provider."""
    score: int = 0

    @property
    def is_key(self) -> bool:
        """Return whether a subject has one row, or one for each provider: a table of events has more."""
        return any(
            self.subject.name in key and self.user.name not in key for key in self.relation.unique_keys
        )


@dataclass(frozen=True, slots=True)
class System:
    """Where users are."""

    preset: str | None
    """The name of the preset; `GATEWAY` for the gateway's own tables; None for a table of one's own."""
    title: str
    users: Relation
    id: Column
    identities: tuple[IdentityTable, ...] = ()
    own_subjects: bool = False
    """Whether the system issues tokens whose subject is the user's id, which its preset expects."""
    realms: Relation | None = None
    """Keycloak's table of realms."""


def recognise(relations: Sequence[Relation]) -> list[System]:
    """Return the well-known systems in a database, and the gateway itself last."""
    schemas: dict[str, dict[str, Relation]] = {}
    for relation in relations:
        schemas.setdefault(relation.schema, {})[relation.name] = relation
    found = [
        system
        for recogniser in (_supabase, _keycloak, _aspnet_identity, _django, _authjs, _gateway)
        for tables in schemas.values()
        if (system := recogniser(tables)) is not None
    ]
    # Supabase and others may have tables that look like another system's.
    taken: set[int] = set()
    distinct = []
    for system in found:
        if system.users.oid not in taken:
            distinct.append(system)
            taken.add(system.users.oid)
    return distinct


def _supabase(tables: dict[str, Relation]) -> System | None:
    users, identities = tables.get("users"), tables.get("identities")
    if users is None or not users.has("id", "instance_id", "aud", "raw_app_meta_data", "banned_until"):
        return None
    subjects = (
        (_identities(identities, "provider_id", "user_id", "provider"),)
        if identities is not None and identities.has("provider_id", "user_id", "provider", "identity_data")
        else ()
    )
    return System("supabase", "Supabase", users, users.columns["id"], subjects, own_subjects=True)


def _keycloak(tables: dict[str, Relation]) -> System | None:
    users, realms, federated = (tables.get(name) for name in ("user_entity", "realm", "federated_identity"))
    if users is None or realms is None or not users.has("id", "enabled", "realm_id", "username"):
        return None
    if not realms.has("id", "name") or "user_role_mapping" not in tables:
        return None
    subjects = (
        (_identities(federated, "federated_user_id", "user_id", "identity_provider"),)
        if federated is not None and federated.has("federated_user_id", "user_id", "identity_provider")
        else ()
    )
    return System(
        "keycloak", "Keycloak", users, users.columns["id"], subjects, own_subjects=True, realms=realms
    )


def _aspnet_identity(tables: dict[str, Relation]) -> System | None:
    users, logins = tables.get("AspNetUsers"), tables.get("AspNetUserLogins")
    if users is None or not users.has("Id", "LockoutEnd", "LockoutEnabled"):
        return None
    subjects = (
        (_identities(logins, "ProviderKey", "UserId", "LoginProvider", in_preset=True),)
        if logins is not None and logins.has("LoginProvider", "ProviderKey", "UserId")
        else ()
    )
    return System("aspnet-identity", "ASP.NET Core Identity", users, users.columns["Id"], subjects)


def _django(tables: dict[str, Relation]) -> System | None:
    if "django_migrations" not in tables and "django_content_type" not in tables:
        return None
    social = tables.get("social_auth_usersocialauth")
    allauth = tables.get("socialaccount_socialaccount")
    subjects = tuple(
        _identities(each, "uid", "user_id", "provider", in_preset=each is social)
        for each in (social, allauth)
        if each is not None and each.has("uid", "user_id", "provider")
    )
    users = _django_users(tables, (each.relation for each in subjects))
    if users is None or len(users.primary_key) != 1:
        return None
    extras = [
        title
        for title, table in (("social-auth-app-django", social), ("django-allauth", allauth))
        if table is not None
    ]
    title = "Django" + (f" with {' and '.join(extras)}" if extras else "")
    return System("django", title, users, users.columns[users.primary_key[0]], subjects)


def _django_users(tables: dict[str, Relation], identities: Iterable[Relation]) -> Relation | None:
    """Return the table of the user model, which a project may have replaced: other tables refer to it."""
    by_oid = {each.oid: each for each in tables.values()}
    for table in (*identities, *(tables[name] for name in ("django_admin_log",) if name in tables)):
        for key in table.foreign_keys:
            if key.column == "user_id" and key.target in by_oid:
                return by_oid[key.target]
    models = [each for each in tables.values() if each.has("password", "last_login")]
    return min(models, key=lambda each: (not each.has("is_active"), each.name), default=None)


def _authjs(tables: dict[str, Relation]) -> System | None:
    for accounts in tables.values():
        if not accounts.has("userId", "provider", "providerAccountId"):
            continue
        users = _authjs_users(accounts, tables)
        if users is not None and len(users.primary_key) == 1:
            found = _identities(
                accounts, "providerAccountId", "userId", "provider", in_preset=accounts.name == "accounts"
            )
            return System("authjs", "Auth.js", users, users.columns[users.primary_key[0]], (found,))
    return None


def _authjs_users(accounts: Relation, tables: dict[str, Relation]) -> Relation | None:
    """Return the users of a table of accounts. Adapters name them differently, not all with foreign keys."""
    by_oid = {each.oid: each for each in tables.values()}
    for key in accounts.foreign_keys:
        if key.column == "userId" and key.target in by_oid:
            return by_oid[key.target]
    named = (tables.get(name) for name in ("users", "user", "User"))
    return next((each for each in named if each is not None and each.has("id", "emailVerified")), None)


def _gateway(tables: dict[str, Relation]) -> System | None:
    users, identities, revocations = (tables.get(name) for name in ("users", "identities", "revocations"))
    if users is None or identities is None or revocations is None or "gateway_migrations" not in tables:
        return None
    if not users.has("id", "tokens_valid_after") or not identities.has("issuer", "subject", "user_id"):
        return None
    subjects = _identities(identities, "subject", "user_id", "issuer")
    return System(GATEWAY, "the gateway's own tables", users, users.columns["id"], (subjects,))


def _identities(
    relation: Relation, subject: str, user: str, provider: str, *, in_preset: bool = False
) -> IdentityTable:
    columns = relation.columns
    return IdentityTable(relation, columns[subject], columns[user], columns[provider], in_preset=in_preset)


def own(users: Relation, relations: Sequence[Relation]) -> System | None:
    """Return a table of one's own as a system; None if it has no column for the id."""
    ids = fields.ids(users)
    if not ids:
        return None
    found = []
    for relation in relations:
        if relation.oid == users.oid:
            continue
        references = fields.user_references(relation, users)
        subjects = [
            each
            for each in fields.by_name(relation, naming.SUBJECT)
            if not references or each.column.name != references[0].column.name
        ]
        if not references or not subjects or _is_id(subjects[0], relation):
            continue
        if naming.thing(relation.name) in naming.EVENTS and not subjects[0].column.unique:
            continue
        provider = provider_of(relation)
        score = subjects[0].score + (0 if provider is None else 2)
        found.append(IdentityTable(relation, subjects[0].column, references[0].column, provider, score=score))
    found.sort(key=lambda each: (not each.is_key, each.relation.kind != "table", -each.score))
    title = "a table of your own" if users.kind == "table" else f"a {users.kind} of your own"
    return System(None, title, users, ids[0].column, tuple(found))


def provider_of(relation: Relation) -> Column | None:
    """Return the column that tells apart the providers, or issuers, of subjects."""
    found = (
        each.column
        for each in fields.by_name(relation, naming.PROVIDER)
        if each.score > naming.PROVIDER["realm"]
    )
    return next((column for column in found if column.category == "S"), None)


def _is_id(candidate: Candidate, relation: Relation) -> bool:
    return relation.primary_key == (candidate.column.name,) and candidate.score < naming.SUBJECT["sub"]


def columns_to_search(
    relations: Sequence[Relation], systems: Sequence[System], likely: Sequence[Relation]
) -> list[Candidate]:
    """Return the columns that may have subjects, the likeliest first."""
    known = {
        (table.relation.oid, table.subject.name) for system in systems for table in system.identities
    } | {(system.users.oid, system.id.name) for system in systems}
    near = {each.oid for each in likely}

    def weight(relation: Relation, column: Column) -> int:
        related = relation.oid in near or any(key.target in near for key in relation.foreign_keys)
        return (
            20 * ((relation.oid, column.name) in known)
            + 2 * naming.score(column.name, naming.SUBJECT, relation.name)
            + 4 * related
            + 2 * column.indexed
            + column.unique
            - 2 * any(key.column == column.name for key in relation.foreign_keys)
        )

    found = [
        Candidate(relation, column, weight(relation, column), "it may have subjects")
        for relation in relations
        if relation.usable
        for column in relation.columns.values()
        if column.readable and comparable(column)
    ]
    return sorted(found, key=lambda each: -each.score)
