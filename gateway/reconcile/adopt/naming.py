"""What tables and columns of users are usually called. `emailVerified` and `email_verified` are one name."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SUFFIXES: Final = frozenset({"tbl", "table", "data", "info", "master", "record", "v"})
_PLURALS: Final = {"people": "person", "personnes": "person", "kunden": "kunde", "identities": "identity"}

Names = Mapping[str, int]
"""A name, in words joined by underscores, and how much it says."""

USER_WORDS: Final[Names] = {
    "user": 6, "usr": 5, "member": 5, "person": 5, "account": 5, "customer": 4, "employee": 4,
    "principal": 4, "client": 3, "student": 4, "subscriber": 4, "staff": 3, "teacher": 3, "patient": 3,
    "profile": 2, "contact": 2, "login": 2, "usuario": 6, "benutzer": 6, "nutzer": 6, "utilisateur": 6,
    "kunde": 4, "mitglied": 5, "gebruiker": 6,
}  # fmt: skip
SUBJECT: Final[Names] = {
    "sub": 6, "subject": 5, "subject_id": 5, "oidc_sub": 6, "oidc_subject": 6, "oidc_id": 5, "idp_sub": 6,
    "idp_subject": 6, "idp_id": 5, "idp_user_id": 5, "jwt_sub": 6, "jwt_subject": 6, "token_subject": 6,
    "external_id": 4, "external_user_id": 4, "external_uid": 4, "ext_id": 3, "auth_id": 4, "auth_uid": 4,
    "auth_user_id": 4, "auth_sub": 6, "auth_subject": 6, "auth_0_id": 6, "auth_0_user_id": 6,
    "auth_0_sub": 6, "okta_id": 6, "okta_user_id": 6, "cognito_sub": 6, "cognito_id": 6,
    "cognito_user_id": 6, "firebase_uid": 6, "firebase_id": 6, "clerk_id": 6, "clerk_user_id": 6,
    "keycloak_id": 6, "keycloak_user_id": 6, "kc_id": 5, "supabase_id": 6, "supabase_user_id": 6,
    "entra_id": 6, "entra_oid": 6, "azure_oid": 6, "azure_id": 5, "azure_ad_id": 6, "aad_object_id": 6,
    "oid": 4, "object_id": 2, "google_id": 5, "google_sub": 6, "uid": 4, "user_uid": 3, "sso_id": 5,
    "sso_subject": 5, "oauth_id": 5, "oauth_uid": 5, "oauth_subject": 6, "openid": 4, "open_id": 4,
    "identity_id": 3, "provider_user_id": 5, "provider_uid": 5, "provider_account_id": 6,
    "provider_subject": 6, "provider_key": 5, "provider_id": 2, "federated_user_id": 6, "federated_id": 5,
    "principal_id": 2, "principal": 2, "workos_id": 6, "stytch_id": 6, "logto_id": 6, "zitadel_id": 6,
}  # fmt: skip
OF_ANY_PROVIDER: Final = frozenset(
    {
        *(
            "sub",
            "subject",
            "subject_id",
            "external_id",
            "external_user_id",
            "external_uid",
            "ext_id",
            "auth_id",
        ),
        *("auth_uid", "auth_sub", "auth_subject", "uid", "oidc_sub", "oidc_subject", "oidc_id", "idp_sub"),
        *("idp_subject", "idp_id", "idp_user_id", "sso_id", "sso_subject", "oauth_id", "oauth_uid"),
        *("oauth_subject", "openid", "open_id", "identity_id", "provider_user_id", "provider_uid"),
        *("provider_account_id", "provider_subject", "provider_key", "provider_id", "federated_user_id"),
        *("federated_id", "token_subject", "jwt_sub", "jwt_subject"),
    }
)
"""The names of columns of subjects that say nothing of the provider, which another column may name."""
PROVIDER: Final[Names] = {
    "iss": 6, "issuer": 6, "provider": 5, "provider_name": 5, "login_provider": 5, "identity_provider": 5,
    "idp": 5, "oauth_provider": 5, "auth_provider": 5, "sso_provider": 5, "connection": 3,
    "provider_type": 2, "realm": 2,
}  # fmt: skip
EMAIL: Final[Names] = {
    "email": 6, "email_address": 5, "mail": 4, "e_mail": 5, "mail_address": 4, "user_email": 4,
    "primary_email": 5, "normalized_email": 1, "contact_email": 2,
}  # fmt: skip
TENANT: Final[Names] = {
    "tenant": 5, "tenant_id": 6, "tenant_key": 5, "tenant_slug": 5, "organization_id": 5,
    "organisation_id": 5, "organization": 4, "organisation": 4, "org_id": 5, "org": 4, "workspace_id": 4,
    "company_id": 4, "company": 2, "account_id": 2, "customer_id": 2, "team_id": 2,
}  # fmt: skip
NAME: Final[Names] = {
    "display_name": 6, "full_name": 5, "name": 4, "preferred_name": 3, "user_name": 2, "username": 2,
    "login": 1, "first_name": 1, "nickname": 1,
}  # fmt: skip
ROLES: Final[Names] = {"roles": 6, "role": 5, "user_roles": 5, "role_name": 4, "user_role": 4, "groups": 3}
EVENTS: Final = frozenset(
    {
        "event",
        "log",
        "history",
        "audit",
        "session",
        "token",
        "order",
        "message",
        "notification",
        "job",
        "request",
    }
)
"""Things of which a user has many, so that they are nowhere to look for one."""
ROLE_TABLES: Final = frozenset({"role", "group", "rolle", "gruppe"})
ROLE_NAMES: Final[Names] = {"name": 6, "code": 5, "key": 5, "slug": 5, "role_name": 5, "role": 4, "title": 3}
USER_ID: Final[Names] = {
    "user_id": 6, "uid": 1, "owner_id": 2, "member_id": 5, "account_id": 4, "person_id": 5,
}  # fmt: skip
CREATED: Final[Names] = {
    "created_at": 6, "created": 5, "created_on": 5, "date_joined": 5, "inserted_at": 5, "registered_at": 5,
    "creation_date": 4, "date_created": 5, "joined_at": 4, "signup_at": 4,
}  # fmt: skip
UPDATED: Final[Names] = {
    "updated_at": 6, "updated": 5, "updated_on": 5, "modified_at": 5, "modified": 5, "last_modified": 5,
    "changed_at": 5, "date_updated": 5, "date_modified": 5,
}  # fmt: skip
PASSWORD: Final[Names] = {
    "password": 2, "password_hash": 2, "hashed_password": 2, "encrypted_password": 2, "pwd_hash": 2,
}  # fmt: skip


@lru_cache(maxsize=10_000)
def words(name: str) -> str:
    """Return a name in lower-case words that are joined by underscores."""
    return "_".join(_WORD.findall(name)).lower()


def singular(word: str) -> str:
    """Return an English plural in the singular."""
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def thing(table: str) -> str:
    """Return what a row of a table is, by its last word: `auth_user` and `AppUsers` have a `user`."""
    each = words(table).split("_")
    while len(each) > 1 and (each[-1] in _SUFFIXES or each[-1].isdigit()):
        each.pop()
    return singular(each[-1])


def score(column: str, names: Names, table: str = "") -> int:
    """Return how much the name of a column says; 0: nothing.

    A prefix that only repeats what the table is of, as `user_` in `users`, is dropped.
    """
    name = words(column)
    prefix = f"{thing(table)}_" if table else ""
    return max(names.get(name, 0), names.get(name.removeprefix(prefix), 0) if prefix and prefix != "_" else 0)
