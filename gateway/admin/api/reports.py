"""What the admin API tells of the gateway: issuers, caches, denials, diagnoses, figures, and its audit."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, RootModel

from gateway.admin.api.models import CLEAN, Limit, Model, Params, Text, instant
from gateway.stores.postgres.directory.audit import AuditRow
from gateway.telemetry.denials import DenialRecord

# Issuers and caches ----------------------------------------------------------------------------------


class IssuerParams(Params):
    name: Text


class Key(Model):
    kid: str | None
    algorithms: list[str]
    thumbprint: str | None
    """SHA-256; null for a shared secret, of which nothing is told."""


class Issuer(Model):
    """A configured issuer, and how things stand with its keys."""

    name: str
    issuer: str
    audiences: list[str]
    algorithms: list[str]
    ready: bool
    """Whether its tokens can be verified."""
    keys: list[Key]
    age_seconds: float | None
    """Since the keys were last loaded; null: never."""
    last_error: str | None
    """Why the latest attempt failed."""


class Issuers(RootModel[list[Issuer]]):
    """Every configured issuer."""


class Caches(Model):
    """Entries in memory, of all workers together."""

    tokens: int
    """Tokens whose signature was verified."""
    users: int
    negative: int
    """Identities without a user."""
    verdicts: int
    """Tokens known not to be revoked."""
    trusted: bool
    """Whether memory answers: every change is heard of."""


# Denials ---------------------------------------------------------------------------------------------


class DenialSearch(Params):
    reason: Text | None = None
    issuer: Text | None = None
    """The configured name, `untrusted` or `none`."""
    route: Text | None = None
    """The name of a route, or `unmatched`."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    after: Annotated[str | None, Field(pattern=r"^[0-9a-f]{22}$")] = None
    """`next` of the page before."""


class Denial(Model):
    """A refused request, without what identifies anybody."""

    id: str
    at: datetime
    reason: str
    status: int
    route: str
    issuer: str
    subject_hash: str | None
    """The first 16 hex digits of the subject's SHA-256, as in the log."""
    method: str
    path: str
    client: str
    request_id: str
    detail: str | None
    tier: str | None

    @classmethod
    def of(cls, record: DenialRecord) -> "Denial":
        return cls(
            id=record.id,
            at=instant(record.at),
            reason=record.reason,
            status=record.status,
            route=record.route,
            issuer=record.issuer,
            subject_hash=record.subject_hash,
            method=record.method,
            path=record.path,
            client=record.client,
            request_id=record.request_id,
            detail=record.detail,
            tier=record.tier,
        )


class DenialPage(Model):
    items: list[Denial]
    next: str | None


# Explain -----------------------------------------------------------------------------------------------


class Question(Model):
    """Asks why a token is, or would be, refused."""

    token: Annotated[str, Field(max_length=32_768, repr=False)]
    method: Annotated[str | None, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", max_length=32)] = None
    url: Annotated[str | None, Field(pattern=CLEAN, max_length=8192)] = None
    """A path, or a whole URL, of the gateway: policy is checked for it too."""


class Fix(Model):
    text: str
    command: str | None
    config: str | None


class Step(Model):
    name: str
    outcome: Literal["pass", "fail", "warn", "skipped"]
    expected: str | None
    found: str | None
    detail: str | None


class Explanation(Model):
    """What is decided about a token, why, and what to do."""

    decision: Literal["allow", "deny"]
    reason: str | None
    """The code with which the request was or would be denied."""
    cause: str | None
    """Why that is so."""
    summary: str
    fix: Fix | None
    steps: list[Step]


# Overview and audit --------------------------------------------------------------------------------------


class Dependency(Model):
    status: Literal["up", "degraded", "down"]
    detail: str | None


class Readiness(Model):
    status: Literal["ready", "degraded", "not_ready", "draining"]
    dependencies: dict[str, Dependency]


class Latency(Model):
    """How long requests took, since the start."""

    bounds: list[float]
    """Upper bounds of the buckets, in seconds."""
    counts: list[int]
    """Requests in each bucket; the last is of those above all bounds."""
    sum: float


class Numbers(Model):
    """Of all workers together, since the start."""

    requests: dict[str, int]
    """By class of status: `2xx`."""
    denials: dict[str, int]
    """By reason."""
    lookups: dict[str, int]
    """Look-ups of users, by the tier that answered."""
    latency: Latency
    in_flight: int
    workers: int
    caches: dict[str, int]
    dependency_up: dict[str, bool | None]
    streams: dict[str, bool | None]
    """Whether changes are heard of, by who tells of them."""


class Overview(Model):
    """What an operator sees first."""

    at: datetime
    readiness: Readiness
    metrics: Numbers


class AuditSearch(Params):
    limit: Limit = 50
    after: Annotated[str | None, Field(pattern=r"^[0-9]{1,18}$")] = None
    """`next` of the page before."""


class AuditEntry(Model):
    """What somebody did."""

    id: str
    at: datetime
    actor: str
    action: str
    target: str
    request_id: str
    detail: dict[str, JsonValue]

    @classmethod
    def of(cls, row: AuditRow) -> "AuditEntry":
        return cls(
            id=str(row.id),
            at=instant(row.at),
            actor=row.actor,
            action=row.action,
            target=row.target,
            request_id=row.request_id,
            detail=row.detail,
        )


class AuditPage(Model):
    items: list[AuditEntry]
    next: str | None
