"""The responses of the admin API about issuers, caches, denials, explanations, metrics, and the audit log."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, RootModel

from gateway.admin.api.models import (
    CLEAN,
    Limit,
    Model,
    Params,
    RequestId,
    Subject,
    Text,
    UserId,
    instant,
)
from gateway.core.requests.token_marks import TokenMarks
from gateway.stores.postgres.directory.audit import AuditRow
from gateway.telemetry.denials import DenialRecord
from gateway.telemetry.history import MINUTES, Span

# Issuers and caches ----------------------------------------------------------------------------------


class IssuerParams(Params):
    name: Text


class Key(Model):
    kid: str | None
    algorithms: list[str]
    thumbprint: str | None
    """SHA-256; null for a shared secret."""


class ClaimPath(Model):
    """A path of an issuer's `claims`."""

    setting: Literal["claims.tenant", "claims.scopes", "claims.roles"]
    path: str
    found: bool | None
    """Whether any token of the issuer has had a claim there, in any worker; null: there was no token yet."""


class Issuer(Model):
    """A configured issuer, and the status of its keys."""

    name: str
    issuer: str
    audiences: list[str] | None
    """Null: any, because the issuer's `expect` names the client."""
    algorithms: list[str]
    ready: bool
    """Whether the gateway can verify its tokens."""
    keys: list[Key]
    age_seconds: float | None
    """The time since the keys were last loaded; null: never."""
    last_error: str | None
    """Why the last attempt failed."""
    skipped: list[str]
    """Why published keys are not used, with their `kid`."""
    tenants: list[str] | Literal["any"] | None
    """Of a pattern in `issuer`; null without one."""
    paths: list[ClaimPath]
    """Where tenant, scopes and roles are. One at which no token has anything is probably mistaken."""


class Issuers(RootModel[list[Issuer]]):
    """The configured issuers."""


class Caches(Model):
    """Entries in memory, of all workers."""

    tokens: int
    """Tokens with a verified signature."""
    users: int
    negative: int
    """Identities without a user."""
    verdicts: int
    """Tokens known not to be revoked."""
    trusted: bool
    """Whether memory is trusted: the worker receives every change."""


# Denials ---------------------------------------------------------------------------------------------


class DenialSearch(Params):
    reason: Text | None = None
    issuer: Text | None = None
    """The configured name, `untrusted` or `none`."""
    route: Text | None = None
    """The name of a route, or `unmatched`."""
    request_id: RequestId | None = None
    """The id that the client was told."""
    subject: Subject | None = None
    """A subject, or its hash as in the log."""
    user_id: UserId | None = None
    client: Text | None = None
    """The address of the client, exactly as in the log."""
    since: AwareDatetime | None = None
    """RFC 3339: only denials from then on."""
    shadow: bool = False
    """True: the denials that were only counted, because something is in shadow; false: all others."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    after: Annotated[str | None, Field(pattern=r"^[0-9a-f]{22}$")] = None
    """`next` of the previous page."""


class DenialQuestion(Params):
    request_id: RequestId
    """The id that the client was told."""


class DeniedToken(Model):
    """What a refused token said. Nothing of it has been verified; the token itself is not kept."""

    digest: str
    """The first 16 hex digits of its SHA-256."""
    alg: str | None
    kid: str | None
    typ: str | None
    iss: str | None
    aud: str | None
    """The first values, separated by spaces."""
    iat: float | None
    nbf: float | None
    exp: float | None

    @classmethod
    def of(cls, marks: TokenMarks) -> "DeniedToken":
        return cls(
            digest=marks.digest,
            alg=marks.algorithm,
            kid=marks.key,
            typ=marks.type,
            iss=marks.issuer,
            aud=marks.audience,
            iat=marks.issued_at,
            nbf=marks.not_before,
            exp=marks.expires_at,
        )


class Denial(Model):
    """A denied request, without its token and its subject."""

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
    user_id: str | None
    """The user who was found behind the token."""
    shadow: bool
    """Whether it was only counted, and the request passed."""
    token: DeniedToken | None
    """Null: there was no token, or more than one."""

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
            user_id=record.user_id,
            shadow=record.shadow,
            token=None if record.token is None else DeniedToken.of(record.token),
        )


class DenialPage(Model):
    items: list[Denial]
    next: str | None


# Overview and audit --------------------------------------------------------------------------------------


class Dependency(Model):
    status: Literal["up", "degraded", "down"]
    detail: str | None


class Readiness(Model):
    status: Literal["ready", "degraded", "not_ready", "draining"]
    dependencies: dict[str, Dependency]


class Latency(Model):
    """The durations of requests since the start."""

    bounds: list[float]
    """Upper bounds of the buckets, in seconds."""
    counts: list[int]
    """Requests in each bucket. The last bucket is above all bounds."""
    sum: float


class Numbers(Model):
    """Counts of all workers since the start."""

    requests: dict[str, int]
    """By class of status, such as `2xx`."""
    denials: dict[str, int]
    """By reason."""
    lookups: dict[str, int]
    """Look-ups of users, by the tier that answered."""
    latency: Latency
    limited: dict[str, int]
    """Requests that were over a limit and refused, by its name."""
    overlooked: dict[str, int]
    """Requests that were over a limit and passed, because something is in shadow."""
    in_flight: int
    workers: int
    caches: dict[str, int]
    dependency_up: dict[str, bool | None]
    streams: dict[str, bool | None]
    """Whether the workers receive changes, by stream."""


class Overview(Model):
    """The first page for an operator."""

    at: datetime
    readiness: Readiness
    metrics: Numbers


class HistorySearch(Params):
    minutes: Annotated[int, Field(ge=1, le=MINUTES)] = 60
    """How far back."""
    step: Annotated[int, Field(ge=1, le=60)] = 1
    """How many minutes are one point."""


class HistoryPoint(Model):
    """What all workers have counted in some time."""

    at: datetime
    """Its end."""
    seconds: float
    """How long it lasted."""
    requests: dict[str, int]
    """By class of status, such as `2xx`."""
    denials: dict[str, int]
    """By reason; those without a denial are left out."""
    lookups: dict[str, int]
    """Look-ups of users, by the tier that answered."""
    latency: list[int]
    """Requests in each bucket of durations. The last bucket is above all bounds."""
    limited: dict[str, int]
    """Requests that were over a limit and refused, by its name."""
    overlooked: dict[str, int]
    """Requests that were over a limit and passed, because something was in shadow."""

    @classmethod
    def of(cls, span: Span) -> "HistoryPoint":
        counts = span.counts
        return cls(
            at=instant(span.at),
            seconds=span.seconds,
            requests=dict(counts.requests),
            denials=dict(counts.denials),
            lookups=dict(counts.lookups),
            latency=list(counts.latency),
            limited=dict(counts.limited),
            overlooked=dict(counts.overlooked),
        )


class History(Model):
    """The last hours, for charts: kept in memory since the gateway started, across reloads."""

    bounds: list[float]
    """Upper bounds of the buckets of durations, in seconds."""
    points: list[HistoryPoint]


class Setting(Model):
    """A setting that is in force in this worker."""

    name: str
    """Its place, such as `cache.local_ttl` or `routes[orders].auth`."""
    value: JsonValue
    """As in the file; a secret is `***`."""
    given: bool
    """Whether the file, a preset or the environment has it; otherwise it is the default."""


class Configuration(Model):
    """What is configured, without secrets."""

    version: str
    read_at: datetime
    """When this worker read it."""
    settings: list[Setting]


class AuditSearch(Params):
    target: Annotated[str | None, Field(pattern=CLEAN, max_length=300)] = None
    """What was changed, as in the log: `user:<id>`, `revocation:<kind>`, `issuer:<name>`, `caches`."""
    limit: Limit = 50
    after: Annotated[str | None, Field(pattern=r"^[0-9]{1,18}$")] = None
    """`next` of the previous page."""


class AuditEntry(Model):
    """An entry of the audit log."""

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
