"""The requests and responses of the admin API about users and revocations.

These models, and those of `reports`, validate requests, write responses, and define the OpenAPI document.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from gateway.core.model import RevocationKind
from gateway.core.revocations import Revocation as RevocationRow
from gateway.core.tokens.claims import MAX_SUBJECT_CHARACTERS
from gateway.stores.postgres.directory.user_rows import UserRecord

# Like `core.tokens.claims.is_clean`, in a syntax with one meaning in JSON Schema, Rust and Python.
CLEAN: Final = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"
_EMAIL: Final = (
    r"^[^@\s\u0000-\u001f\u007f-\u009f\u2028\u2029]+@[^@\s\u0000-\u001f\u007f-\u009f\u2028\u2029]+$"
)
_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

Text: TypeAlias = Annotated[str, Field(pattern=CLEAN, max_length=255)]
Subject: TypeAlias = Annotated[
    str,
    Field(
        pattern=CLEAN, max_length=MAX_SUBJECT_CHARACTERS, description="The `sub`, exactly as in the tokens."
    ),
]
Email: TypeAlias = Annotated[str, Field(pattern=_EMAIL, max_length=320)]
Roles: TypeAlias = Annotated[list[Text], Field(max_length=100)]
IssuerName: TypeAlias = Annotated[
    str,
    Field(pattern=CLEAN, max_length=2000, description="The configured name of an issuer, or its `iss`."),
]
RequestId: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/+=-]+$", max_length=128)]
Reason: TypeAlias = Annotated[
    str, Field(pattern=CLEAN, max_length=1000, description="Why, for the audit log.")
]
Limit: TypeAlias = Annotated[int, Field(ge=1, le=500)]


class Status(StrEnum):
    """Only an `active` user is admitted. Other requests delete and restore a user."""

    ACTIVE = "active"
    PENDING = "pending"
    SUSPENDED = "suspended"
    LOCKED = "locked"


class Model(BaseModel):
    """Refuses undeclared fields, and converts no types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Params(BaseModel):
    """Parameters are text, and are converted to their types."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class NoParams(Params):
    """An operation without parameters."""


# Users ---------------------------------------------------------------------------------------------


UserId: TypeAlias = Annotated[str, Field(pattern=CLEAN, max_length=255)]


class UserParams(Params):
    id: UserId
    """A UUID; with `users.source` the id in its table."""


class UserSearch(Params):
    status: Literal["active", "pending", "suspended", "locked", "deleted"] | None = None
    tenant: Text | None = None
    q: Text | None = None
    """A subject, an id, or the beginning of an e-mail address or display name."""
    limit: Limit = 50
    after: Annotated[
        str | None,
        Field(pattern=r"^[0-9]{1,16}\.[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+$", max_length=300),
    ] = None
    """`next` of the previous page."""


class IdentityParams(Params):
    id: UserId
    issuer: IssuerName
    subject: Subject


class NewIdentity(Model):
    """An identity: tokens of this issuer with this subject belong to the user."""

    issuer: IssuerName
    subject: Subject


class NewUser(NewIdentity):
    """A user with its first identity."""

    status: Status = Status.ACTIVE
    tenant: Text | None = None
    email: Email | None = None
    display_name: Text | None = None
    roles: Roles = []


class UserChange(Model):
    """The fields to change. Omitted fields stay, `null` removes a value (RFC 7396)."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _without_defaults(schema))

    status: Status = Status.ACTIVE
    tenant: Text | None = None
    email: Email | None = None
    display_name: Text | None = None
    roles: Roles = []
    tokens_valid_after: AwareDatetime | None = None
    """Tokens issued at or before this time are refused."""
    reason: Reason | None = None


def _without_defaults(schema: JsonDict) -> None:
    """Remove the defaults: they are for new users, not for changes."""
    properties = schema["properties"]
    if isinstance(properties, dict):
        for field in properties.values():
            if isinstance(field, dict):
                field.pop("default", None)


class Identity(Model):
    """An issuer and subject that lead to a user."""

    issuer: str
    """The `iss` of the tokens."""
    issuer_name: str | None
    """The configured name; null if no issuer with this `iss` is configured."""
    subject: str


class User(Model):
    """A user and its identities."""

    id: str
    status: Literal["active", "pending", "suspended", "locked", "deleted"]
    tenant: str | None
    email: str | None
    display_name: str | None
    roles: list[str]
    tokens_valid_after: datetime | None
    """Tokens issued at or before this time are refused."""
    created_at: datetime | None
    """null: `users.source` does not say it."""
    updated_at: datetime | None
    """null with `users.source`."""
    deleted_at: datetime | None
    """null with `users.source`."""
    identities: list[Identity]

    @classmethod
    def of(cls, record: UserRecord, names: Mapping[str, str]) -> "User":
        """`names` maps `iss` to the configured name."""
        user = record.user
        return cls(
            id=user.id,
            status=user.status.value,
            tenant=user.tenant,
            email=user.email,
            display_name=user.display_name,
            roles=list(user.roles),
            tokens_valid_after=moment(user.tokens_valid_after),
            created_at=moment(record.created_at),
            updated_at=moment(record.updated_at),
            deleted_at=moment(record.deleted_at),
            identities=[
                Identity(issuer=each.issuer, issuer_name=names.get(each.issuer), subject=each.subject)
                for each in record.identities
            ],
        )


class UserPage(Model):
    items: list[User]
    next: str | None
    """The value of `after` for the next page; null: there is none."""


# Revocations ---------------------------------------------------------------------------------------


class RevocationSearch(Params):
    expired: bool = False
    """Also list revocations that have ended."""
    limit: Limit = 50
    after: Annotated[str | None, Field(pattern=r"^[0-9]{1,16}\.[0-9a-f]{64}$")] = None
    """`next` of the previous page."""


class RevocationParams(Params):
    kind: RevocationKind
    issuer: IssuerName | None = None
    """For `jti` and `issuer`."""
    value: Annotated[str | None, Field(pattern=CLEAN, max_length=500)] = None
    """The `jti`, or the id of the user."""


class NewRevocation(Model):
    """Revokes a token (`jti`), or all tokens issued so far to a user or by an issuer."""

    kind: RevocationKind
    issuer: IssuerName | None = None
    """For `jti` and `issuer`."""
    value: Annotated[str | None, Field(pattern=CLEAN, max_length=500)] = None
    """The `jti`, or the id of the user."""
    until: AwareDatetime | None = None
    """When it ends. null: a `jti` after the issuer's `max_lifetime`, if it has one; otherwise never."""
    reason: Reason | None = None


class TokenRevocation(Model):
    """Revokes the token that is given, by its `jti`, until it has expired."""

    token: Annotated[str, Field(min_length=1, max_length=32_768, repr=False)]
    """The raw token. It is read and then forgotten; its signature is not checked."""
    until: AwareDatetime | None = None
    """When it ends. null: when the token has expired; without `exp`, as for a `jti`."""
    reason: Reason | None = None


class Revocation(Model):
    """A row of the blacklist."""

    kind: RevocationKind
    issuer: str | None
    """The configured name of the issuer, or its `iss`."""
    value: str | None
    revoked_at: datetime
    expires_at: datetime | None
    """null: it never ends."""
    reason: str | None
    revoked_by: str | None

    @classmethod
    def of(cls, row: RevocationRow) -> "Revocation":
        return cls(
            kind=row.kind,
            issuer=row.issuer or None,
            value=row.value or None,
            revoked_at=instant(row.revoked_at),
            expires_at=moment(row.expires_at),
            reason=row.reason,
            revoked_by=row.revoked_by,
        )


class RevocationPage(Model):
    items: list[Revocation]
    next: str | None


# Refusals ----------------------------------------------------------------------------------------


class FieldProblem(Model):
    field: str
    message: str


class Problem(Model):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: Sequence[FieldProblem] = ()
    """The errors, field by field."""


def instant(seconds: float) -> datetime:
    """Return a Unix time as a date; a time outside the calendar becomes the first or the last date."""
    if seconds >= _LAST.timestamp():
        return _LAST
    return max(_FIRST, datetime.fromtimestamp(seconds, UTC)) if seconds > _FIRST.timestamp() else _FIRST


def moment(seconds: float | None) -> datetime | None:
    """Like `instant`; None stays None."""
    return None if seconds is None else instant(seconds)
