"""What the exports of the large providers look like: by which fields each is known, and which is the subject.

A name stands for a column of CSV, whatever its capitals, spaces and punctuation, and exactly for a member of
JSON; a dot leads into a member. Which field becomes the subject of tokens depends on the provider and on the
claim that the issuer's `subject` names.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

Names: TypeAlias = tuple[str, ...]

_BRACKETED: Final = re.compile(r"[\[(][^\])]*[\])]")
_PUNCTUATION: Final = re.compile(r"[\W_]+")


def normal(name: str) -> str:
    """Return what counts of the name of a column: `Email Address [Required]` is `emailaddress`."""
    return _PUNCTUATION.sub("", _BRACKETED.sub("", name)).casefold()


@dataclass(frozen=True, slots=True)
class SubjectField:
    """A field that may be the subject of tokens."""

    claim: str
    """The claim that holds it."""
    names: Names
    """The field, in each of its spellings."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The export of one provider."""

    title: str
    marks: tuple[Names, ...]
    """An export that has all names of one of these is this provider's."""
    subjects: tuple[SubjectField, ...]
    without_subject: str = ""
    """What to do if the export has no field for the issuer's subject."""

    def fits(self, names: Collection[str]) -> bool:
        """Return whether an export with these names, in their normal form, is this provider's."""
        return any(all(normal(each) in names for each in mark) for mark in self.marks)


LAYOUTS: Final = (
    Layout(
        "Cognito",
        (("Username", "Attributes"), ("Username", "UserStatus"), ("cognito:username",)),
        (
            SubjectField("sub", ("sub",)),
            SubjectField("username", ("Username", "cognito:username", "username")),
        ),
        "export the `sub`: aws cognito-idp list-users --user-pool-id POOL",
    ),
    Layout(
        "Firebase",
        (("localId",),),
        (SubjectField("sub", ("localId",)),),
    ),
    Layout(
        "Auth0",
        (("user_id", "identities"), ("user_id", "connection"), ("user_id", "nickname"),
         ("Id", "Connection", "Nickname"), ("Id", "Email Verified", "Connection")),
        (SubjectField("sub", ("user_id", "Id")),),
    ),
    Layout(
        "Okta",
        (("id", "profile", "status"), ("id", "login", "status"), ("user id", "login"),
         ("id", "profile.login"), ("login", "first name", "last name")),
        (
            SubjectField("uid", ("id", "user id", "okta id", "user.id")),
            SubjectField("sub", ("profile.login", "login", "user.login")),
        ),
        "export the ids: curl -H 'Authorization: SSWS …' https://ORG.okta.com/api/v1/users",
    ),
    Layout(
        "Keycloak",
        (("id", "username", "enabled"), ("id", "username", "createdTimestamp"),
         ("id", "username", "emailVerified")),
        (SubjectField("sub", ("id",)), SubjectField("preferred_username", ("username",))),
    ),
    Layout(
        "Supabase",
        (("id", "aud", "role", "email"), ("instance_id", "id"), ("id", "raw_app_meta_data"),
         ("id", "app_metadata", "aud")),
        (SubjectField("sub", ("id",)),),
    ),
    Layout(
        "Google Workspace",
        (("primaryEmail",), ("Email Address", "Org Unit Path"), ("Email Address", "Last Sign In")),
        (
            SubjectField("sub", ("id", "user id")),
            SubjectField("email", ("primaryEmail", "Email Address")),
        ),
        "this export has no account numbers, which are the `sub` of Google's tokens: export them with"
        " `gam print users id primaryEmail suspended`, or with users.list of the Directory API",
    ),
    Layout(
        "Entra ID",
        (("userPrincipalName",), ("Object Id", "Display name"), ("objectId", "displayName")),
        (
            SubjectField("oid", ("id", "Id", "objectId", "ObjectId", "Object Id")),
            SubjectField("upn", ("userPrincipalName", "UserPrincipalName", "User principal name")),
        ),
        "no export has the `sub` of Entra's tokens, which differs for each application: write `subject: oid`"
        " for the issuer",
    ),
)  # fmt: skip

PLAIN: Final = tuple(
    SubjectField(names[0], names)
    for names in (
        ("sub", "Sub", "subject", "Subject"),
        ("oid",),
        ("uid", "UID"),
        ("user_id", "userId", "UserId"),
        ("object_id",),
        ("id", "Id", "ID"),
    )
)
"""Fields that are usually the subject, in an export of no provider above."""

KEYCLOAK_REALM: Final = frozenset({"realm", "clients"})
"""Members of a realm's export, which may have been made without users."""
