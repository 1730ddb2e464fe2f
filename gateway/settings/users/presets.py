"""What the presets of `users.source` fill in: the tables of well-known systems, as they are by default.

The facts are from the systems' own schemas: Django's `django.contrib.auth` and social-auth-app-django,
Supabase's `auth` schema, Keycloak's JPA entities, the Postgres adapter of Auth.js, ASP.NET Core Identity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Preset: TypeAlias = Literal["django", "supabase", "keycloak", "authjs", "aspnet-identity"]
Fields: TypeAlias = dict[str, Any]  # Any: a part of the configuration, as it is written in YAML


@dataclass(frozen=True, slots=True)
class UserPreset:
    """One system's tables."""

    fields: Callable[[Mapping[str, Any]], Fields]
    """What is filled in, given what is written."""
    provider_column: str = ""
    """The column that tells the providers of identities apart; empty: subjects are the system's own ids."""

    @property
    def needs_provider(self) -> bool:
        return bool(self.provider_column)


def quoted_text(value: object) -> str:
    """Return a text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def _django(given: Mapping[str, Any]) -> Fields:
    table = str(given.get("table", "auth_user"))
    # Django names the column of a many-to-many table after the model: the part behind the application's name.
    owner = f"{table.rpartition('_')[2]}_id"
    return {
        "table": "auth_user",
        "id": "id",
        "status": [{"when": "NOT is_active", "is": "suspended"}],
        "email": "email",
        "display_name": "nullif(trim(first_name || ' ' || last_name), '')",
        "created_at": "date_joined",
        "roles": {
            "query": f"SELECT g.name FROM {table}_groups u JOIN auth_group g ON g.id = u.group_id"  # noqa: S608 -- the operator's own table
            f" WHERE u.{owner} = $1",
            "watch": {f"{table}_groups": owner, "auth_group": "*"},
        },
        "attributes": ["username", "is_staff", "is_superuser"],
        "identities": [
            {
                "table": "social_auth_usersocialauth",
                "subject": "uid",
                "user": "user_id",
                "where": f"provider = {quoted_text(given.get('provider'))}",
            }
        ],
    }


def _supabase(_: Mapping[str, Any]) -> Fields:
    return {
        "schema": "auth",
        "table": "auth.users",
        "id": "id",
        "status": [
            {"when": "deleted_at IS NOT NULL", "is": "deleted"},
            {"when": "banned_until > now()", "is": "suspended", "until": "banned_until"},
        ],
        "email": "email",
        "display_name": "raw_user_meta_data ->> 'full_name'",
        "created_at": "created_at",
        "roles": "raw_app_meta_data -> 'roles'",
        "identities": [{"subject": "id::text"}],
    }


def _keycloak(given: Mapping[str, Any]) -> Fields:
    where: Fields = {}
    if given.get("realm"):
        realm = quoted_text(given["realm"])
        where = {"where": f"realm_id = (SELECT r.id FROM realm r WHERE r.name = {realm})"}  # noqa: S608 -- quoted
    return {
        **({"watch": {"realm": "*"}} if where else {}),
        "table": "user_entity",
        "id": "id",
        "status": [{"when": "NOT enabled", "is": "suspended"}],
        "email": "email",
        "display_name": "nullif(trim(concat_ws(' ', first_name, last_name)), '')",
        "created_at": "to_timestamp(created_timestamp / 1000.0)",
        "roles": {
            "query": "SELECT r.name FROM keycloak_role r WHERE NOT r.client_role AND r.id IN ("
            "SELECT m.role_id FROM user_role_mapping m WHERE m.user_id = $1"
            " UNION SELECT g.role_id FROM user_group_membership u"
            " JOIN group_role_mapping g ON g.group_id = u.group_id WHERE u.user_id = $1)",
            "watch": {
                "user_role_mapping": "user_id",
                "user_group_membership": "user_id",
                "group_role_mapping": "*",
                "keycloak_role": "*",
            },
        },
        "attributes": ["username"],
        "identities": [{"subject": "id", **where}],
        "changes": "poll",
    }


def _authjs(given: Mapping[str, Any]) -> Fields:
    return {
        "table": "users",
        "id": "id",
        "email": "email",
        "display_name": "name",
        "identities": [
            {
                "table": "accounts",
                "subject": '"providerAccountId"',
                "user": '"userId"',
                "where": f"provider = {quoted_text(given.get('provider'))}",
            }
        ],
    }


def _aspnet_identity(given: Mapping[str, Any]) -> Fields:
    return {
        "table": '"AspNetUsers"',
        "id": '"Id"',
        "status": [
            {
                "when": '"LockoutEnabled" AND "LockoutEnd" > now()',
                "is": "locked",
                "until": '"LockoutEnd"',
            }
        ],
        "email": '"Email"',
        "display_name": '"UserName"',
        "roles": {
            "query": 'SELECT r."Name" FROM "AspNetUserRoles" u JOIN "AspNetRoles" r ON r."Id" = u."RoleId"'
            ' WHERE u."UserId" = $1',
            "watch": {'"AspNetUserRoles"': '"UserId"', '"AspNetRoles"': "*"},
        },
        "identities": [
            {
                "table": '"AspNetUserLogins"',
                "subject": '"ProviderKey"',
                "user": '"UserId"',
                "where": f'"LoginProvider" = {quoted_text(given.get("provider"))}',
            }
        ],
    }


PRESETS: Final[Mapping[str, UserPreset]] = {
    "django": UserPreset(_django, "social_auth_usersocialauth.provider"),
    "supabase": UserPreset(_supabase),
    "keycloak": UserPreset(_keycloak),
    "authjs": UserPreset(_authjs, "accounts.provider"),
    "aspnet-identity": UserPreset(_aspnet_identity, '"AspNetUserLogins"."LoginProvider"'),
}
