"""The metrics of the gateway, by the conventions of Prometheus.

Label values come from configuration and the catalogue of reasons, never from a token or a path. So clients
cannot increase the number of series.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal, Protocol, TypeAlias, get_args

from gateway import __version__
from gateway.core.admission import Admission
from gateway.core.model import Resolution
from gateway.core.provisioning import ProvisioningResult
from gateway.core.reasons import (
    INTROSPECTION_UNAVAILABLE,
    REVOCATION_UNAVAILABLE,
    TOKEN_INACTIVE,
    USER_STORE_UNAVAILABLE,
    Denial,
    Group,
    Reason,
)
from gateway.core.tokens.introspection import INTROSPECTED
from gateway.core.tokens.verified import VerifiedToken
from gateway.telemetry.process import ProcessMetrics
from gateway.telemetry.series import Counter, Gauge, Histogram, Snapshot, Traffic, expose

UNMATCHED: Final = "unmatched"
"""The `route` label of a request that matched no route."""
CLIENT_CLOSED_REQUEST: Final = 499
"""Counted, never sent: the client left before its answer was complete (nginx's number)."""
NO_ISSUER: Final = "none"
"""The `issuer` label of a request whose token, if any, named no issuer."""
UNTRUSTED: Final = "untrusted"
"""The `issuer` label of a token whose issuer is not configured."""

Limit: TypeAlias = Literal[
    "target_length",
    "field_size",
    "header_count",
    "head_size",
    "header_timeout",
    "keepalive_requests",
    "body_size",
    "body_min_rate",
    "response_min_rate",
    "connections_per_client",
    "max_connections",
]
"""The limits that a client can exceed, by the names of the settings."""

Learning: TypeAlias = Literal["learnt", "lifted", "dropped", "refused", "failed"]
"""The result of copying a revocation from Redis to Postgres."""

_STATUSES: Final = tuple(map(str, range(1000)))
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Pool(Protocol):
    """Connections to an upstream."""

    @property
    def name(self) -> str: ...

    @property
    def active(self) -> int: ...

    @property
    def idle(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def healthy(self) -> int: ...

    @property
    def ejected(self) -> int: ...


class Metrics:
    """Every metric of this process."""

    def __init__(self) -> None:
        self.requests = Counter("gateway_requests", "Requests answered.", ["route", "method", "status"])
        self.request_duration = Histogram(
            "gateway_request_duration_seconds",
            "From a request's head to the last byte of its response.",
            ["route"],
        )
        self.request_bytes = Counter(
            "gateway_request_bytes", "Bytes of request bodies and tunnels that went upstream.", ["route"]
        )
        self.response_bytes = Counter(
            "gateway_response_bytes", "Bytes of response bodies and tunnels from upstreams.", ["route"]
        )
        self.upstream_duration = Histogram(
            "gateway_upstream_duration_seconds",
            "From the admission of a request to the last byte of its response.",
            ["upstream"],
        )
        self.denials = Counter(
            "gateway_denials", "Requests refused, by reason.", ["route", "issuer", "reason"]
        )
        self.shadow_denials = Counter(
            "gateway_shadow_denials",
            "Requests that passed in shadow, and would be refused, by reason.",
            ["route", "issuer", "reason"],
        )
        self.limit_hits = Counter(
            "gateway_limit_hits",
            "Requests counted by a limit of `limits`: `allowed`, `denied`, or `shadow`: would be denied.",
            ["limit", "result"],
        )
        self.limits_workers = Gauge(
            "gateway_limits_workers",
            "The workers of all gateways that share the limits, as far as is known; the smallest number.",
            together="min",
        )
        self.limits_shared = Gauge(
            "gateway_limits_shared",
            "1 while all workers share the limits in Redis, 0 while a worker goes on with its share.",
            together="min",
        )
        self.decisions = Counter(
            "gateway_decisions", "Answers to other proxies, by the kind of proxy.", ["front", "status"]
        )
        self.lookups = Counter(
            "gateway_user_lookups",
            "Look-ups of a token's user, by the tier that answered.",
            ["issuer", "tier", "result"],
        )
        self.lookup_failures = Counter(
            "gateway_user_lookup_failures",
            "Requests whose user was not found, was refused, or could not be looked up.",
            ["issuer", "reason"],
        )
        self.lookup_duration = Histogram(
            "gateway_user_lookup_duration_seconds",
            "Time to ask the stores for a token's user and its revocations.",
            ["tier"],
        )
        self.verifications = Counter(
            "gateway_token_verifications",
            "Tokens checked: `local` were remembered, `signature` verified, `introspection` asked about.",
            ["issuer", "tier", "result"],
        )
        self.claim_paths_found = Counter(
            "gateway_claim_paths_found",
            "Workers in which a token had a claim at this path of its issuer's `claims`.",
            ["issuer", "path"],
        )
        self.revocation_checks = Counter(
            "gateway_revocation_checks", "Checks of a token against the revocations.", ["tier", "result"]
        )
        self.users_provisioned = Counter(
            "gateway_users_provisioned",
            "Attempts to create a user at its first request, by result.",
            ["issuer", "result"],
        )
        self.jwks_refreshes = Counter(
            "gateway_jwks_refreshes", "Attempts to load an issuer's keys.", ["issuer", "result"]
        )
        self.jwks_age = Gauge(
            "gateway_jwks_age_seconds",
            "Seconds since an issuer's keys were last loaded successfully; NaN before the first time.",
            ["issuer"],
            together="max",
        )
        self.introspections = Counter(
            "gateway_introspections",
            "Calls to issuers about opaque tokens: `active`, `inactive` (or not for us), `failure`.",
            ["issuer", "result"],
        )
        self.introspection_duration = Histogram(
            "gateway_introspection_duration_seconds",
            "Time of a call to an issuer about an opaque token.",
            ["issuer"],
        )
        self.invalidations = Counter("gateway_invalidations", "Changes received, by source.", ["source"])
        self.invalidation_stream_up = Gauge(
            "gateway_invalidation_stream_up",
            "1 while every change is received, 0 while changes may be missed and memory is not trusted.",
            ["stream"],
            together="min",
        )
        self.cache_entries = Gauge("gateway_cache_entries", "Entries of a cache in memory.", ["cache"])
        self.upstream_connections = Gauge(
            "gateway_upstream_connections",
            "Connections to an upstream; `pending`: requests that wait for one.",
            ["upstream", "state"],
        )
        self.upstream_endpoints = Gauge(
            "gateway_upstream_endpoints",
            "Endpoints of an upstream; ejected endpoints get no requests while there are others.",
            ["upstream", "state"],
            together="max",
        )
        self.upstream_retries = Counter(
            "gateway_upstream_retries", "Retried requests, by reason.", ["upstream", "reason"]
        )
        self.broken_responses = Counter(
            "gateway_broken_responses", "Responses that an upstream broke off.", ["upstream"]
        )
        self.stale_answers = Counter(
            "gateway_stale_answers",
            "Requests admitted with an expired cache entry, because a store was down.",
            ["issuer"],
        )
        self.tunnels = Gauge(
            "gateway_tunnels", "Open WebSockets and other upgraded connections.", ["upstream"]
        )
        self.tunnels_ended = Counter(
            "gateway_tunnels_ended",
            "Upgraded connections that ended, by the first cause.",
            ["upstream", "by"],
        )
        self.live_connections = Gauge(
            "gateway_live_connections",
            "Open responses and tunnels that are re-authorized.",
        )
        self.connections_closed = Counter(
            "gateway_connections_closed",
            "Responses and tunnels that re-authorization ended, by reason.",
            ["route", "issuer", "reason"],
        )
        self.dependency_up = Gauge(
            "gateway_dependency_up",
            "1 while a store answers, 0 while it does not; NaN before it has been asked.",
            ["dependency"],
            together="min",
        )
        self.redis_foreign = Gauge(
            "gateway_redis_foreign",
            "1 while the data in Redis belongs to another database, and is neither read nor written.",
            together="max",
        )
        self.revocations_learnt = Counter(
            "gateway_revocations_learnt",
            "Revocations that existed in Redis only, by the result of the copy to Postgres.",
            ["result"],
        )
        self.in_flight = Gauge("gateway_in_flight_requests", "Requests being handled.")
        self.client_connections = Gauge("gateway_client_connections", "Open connections from clients.")
        self.limits_exceeded = Counter(
            "gateway_limits_exceeded", "Requests and connections that exceeded a limit.", ["limit"]
        )
        self.workers = Gauge("gateway_workers", "Processes that accept connections.")
        self.build_info = Gauge(
            "gateway_build_info", "1, with the version of the program.", ["version"], together="max"
        )
        self.build_info.values[(__version__,)] = 1.0
        self.certificate_expiry = Gauge(
            "gateway_certificate_expiry_timestamp_seconds",
            "When the certificate of a listener expires.",
            ["listener"],
            together="min",
        )
        self._process = ProcessMetrics()
        self.traffic: defaultdict[str, Traffic] = defaultdict(Traffic)
        """By route: the bodies that passed. An exchange takes its route's once, and counts there."""
        # By issuer: frequent events are counted in one number, which the scrape converts to series.
        self.recalled_tokens: defaultdict[str, int] = defaultdict(int)
        """By issuer: tokens that were remembered as verified."""
        self.recalled_users: defaultdict[str, int] = defaultdict(int)
        """By issuer: remembered users whose token was remembered as not revoked."""

    def snapshot(self) -> list[Snapshot]:
        """Return all metrics as plain data."""
        self._spell_out()
        self._process.read()
        series = [*vars(self).values(), *vars(self._process).values()]
        return [each.snapshot() for each in series if isinstance(each, Counter | Gauge | Histogram)]

    def _spell_out(self) -> None:
        """Convert these counts to their series."""
        for issuer, number in self.recalled_tokens.items():
            self.verifications.inc((issuer, "local", "valid"), number)
        for issuer, number in self.recalled_users.items():
            self.lookups.inc((issuer, "local", "found"), number)
            self.revocation_checks.inc(("local", "clear"), number)
        self.recalled_tokens.clear()
        self.recalled_users.clear()
        for route, traffic in self.traffic.items():
            self.request_bytes.values[(route,)] = float(traffic.received)
            self.response_bytes.values[(route,)] = float(traffic.sent)

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return expose(self.snapshot())

    # One request ---------------------------------------------------------------------------------

    def admitted_by_stale(self, admission: Admission) -> None:
        """Count an admission with an expired cache entry, because the store is down."""
        if admission.claims is not None:
            self.stale_answers.inc((admission.claims.issuer_name,))

    def denied(self, denial: Denial, route: str) -> None:
        reason = denial.reason
        issuer = issuer_label(denial)
        self.denials.inc((route, issuer, reason.code))
        if is_lookup_failure(reason):
            self.lookup_failures.inc((issuer, reason.code))

    def shadow_denied(self, denial: Denial, route: str) -> None:
        """Count a request that passed, and would be refused if nothing were in shadow."""
        self.shadow_denials.inc((route, issuer_label(denial), denial.reason.code))

    def connection_closed(self, denial: Denial, route: str) -> None:
        """Count an admitted exchange that a later denial ended."""
        self.connections_closed.inc((route, issuer_label(denial), denial.reason.code))

    def finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `status` may be `CLIENT_CLOSED_REQUEST`."""
        # Without `inc`, to save a call.
        self.requests.values[route, method if method in _METHODS else "OTHER", _STATUSES[status]] += 1
        self.request_duration.observe((route,), seconds)

    def decided(self, front: str, status: int) -> None:
        """Count an answer to another proxy; `status` is that of the reason, 200 for a success."""
        self.decisions.values[front, _STATUSES[status]] += 1

    def relayed(self, upstream: str, seconds: float, *, broken: bool) -> None:
        self.upstream_duration.observe((upstream,), seconds)
        if broken:
            self.broken_responses.inc((upstream,))

    def prepare_paths(self, issuer: str, paths: Iterable[str]) -> None:
        """Create the series of an issuer's paths, so that one that is never found is zero."""
        for path in paths:
            self.claim_paths_found.inc((issuer, path), by=0)

    # Parts ---------------------------------------------------------------------------------------

    def verified(self, token: VerifiedToken) -> None:
        tier = "introspection" if token.key is INTROSPECTED else "signature"
        self.verifications.inc((token.claims.issuer_name, tier, "valid"))

    def path_found(self, issuer: str, path: str) -> None:
        self.claim_paths_found.inc((issuer, path))

    def verification_failed(self, denial: Denial) -> None:
        asked = denial.reason in (TOKEN_INACTIVE, INTROSPECTION_UNAVAILABLE)
        tier = "introspection" if asked else "signature"
        self.verifications.inc((issuer_label(denial), tier, denial.reason.code))

    def refusal_recalled(self, denial: Denial) -> None:
        """Count a token that was refused before, and is refused again without verification."""
        self.verifications.inc((issuer_label(denial), "local", denial.reason.code))

    def user_recalled(self, issuer: str, resolution: Resolution) -> None:
        """Count an answer from memory. Measuring its time would cost too much."""
        if resolution.user is not None and resolution.revoked is None:
            self.recalled_users[issuer] += 1
        else:
            self._count_lookup(issuer, resolution)

    def looked_up(self, issuer: str, resolution: Resolution, seconds: float) -> None:
        self.lookup_duration.observe((resolution.tier.value,), seconds)
        self._count_lookup(issuer, resolution)

    def _count_lookup(self, issuer: str, resolution: Resolution) -> None:
        found = "found" if resolution.user is not None else "not_found"
        self.lookups.inc((issuer, resolution.tier.value, found))
        if resolution.revocation_tier is None:
            self.revocation_checks.inc(("none", "skipped"))
        else:
            result = "clear" if resolution.revoked is None else "revoked"
            self.revocation_checks.inc((resolution.revocation_tier.value, result))

    def lookup_failed(self, issuer: str, denial: Denial) -> None:
        if denial.reason is REVOCATION_UNAVAILABLE:
            self.revocation_checks.inc(("none", "unavailable"))
        else:
            self.lookups.inc((issuer, denial.tier or "none", "unavailable"))

    def learnt(self, result: Learning, count: int) -> None:
        if count:
            self.revocations_learnt.inc((result,), by=count)

    def invalidated(self, source: Literal["postgres", "redis"]) -> None:
        self.invalidations.inc((source,))

    def jwks_refreshed(self, issuer: str, result: Literal["success", "failure"]) -> None:
        self.jwks_refreshes.inc((issuer, result))

    def user_provisioned(
        self, issuer: str, result: ProvisioningResult | Literal["not_eligible", "failed"]
    ) -> None:
        self.users_provisioned.inc((issuer, result))

    def introspected(
        self, issuer: str, result: Literal["active", "inactive", "failure"], seconds: float
    ) -> None:
        self.introspections.inc((issuer, result))
        self.introspection_duration.observe((issuer,), seconds)

    def limit_exceeded(self, limit: Limit) -> None:
        self.limits_exceeded.inc((limit,))

    def upstream_retried(self, upstream: str, reason: str) -> None:
        self.upstream_retries.inc((upstream, reason))

    def tunnel_opened(self, upstream: str) -> None:
        self.tunnels.inc((upstream,))

    def tunnel_ended(self, upstream: str, by: str) -> None:
        self.tunnels.inc((upstream,), by=-1)
        self.tunnels_ended.inc((upstream, by))

    def watch_upstream(self, pool: Pool) -> None:
        self.upstream_connections.read((pool.name, "active"), lambda: pool.active)
        self.upstream_connections.read((pool.name, "idle"), lambda: pool.idle)
        self.upstream_connections.read((pool.name, "pending"), lambda: pool.pending)
        self.upstream_endpoints.read((pool.name, "healthy"), lambda: pool.healthy)
        self.upstream_endpoints.read((pool.name, "ejected"), lambda: pool.ejected)
        self.broken_responses.inc((pool.name,), by=0)
        self.tunnels.inc((pool.name,), by=0)
        for reason in ("connect_failed", "connection_closed"):
            self.upstream_retries.inc((pool.name, reason), by=0)

    def prepare_traffic(self, routes: Iterable[str]) -> None:
        """Create the series of the routes that forward."""
        for route in routes:
            self.traffic[route] = Traffic()

    def prepare(self, issuers: Iterable[str], reasons: Iterable[Reason]) -> None:
        """Create the series for alerts, so that a first failure is a step from zero."""
        failures = [reason.code for reason in reasons if is_lookup_failure(reason)]
        for issuer in issuers:
            for code in failures:
                self.lookup_failures.inc((issuer, code), by=0)
            self.stale_answers.inc((issuer,), by=0)
            for result in ("success", "failure"):
                self.jwks_refreshes.inc((issuer, result), by=0)
        for learning in get_args(Learning):
            self.revocations_learnt.inc((learning,), by=0)
        for source in ("postgres", "redis"):
            self.invalidations.inc((source,), by=0)
        for limit in get_args(Limit):
            self.limits_exceeded.inc((limit,), by=0)


def issuer_label(denial: Denial) -> str:
    """Return the `issuer` label of a denial: a configured name, `untrusted` or `none`."""
    if denial.issuer is not None:
        return denial.issuer
    return UNTRUSTED if denial.reason.code == "issuer_untrusted" else NO_ISSUER


def is_lookup_failure(reason: Reason) -> bool:
    """Return whether a reason means that the user of a valid token was not found or refused."""
    return reason.group is Group.USER or reason is USER_STORE_UNAVAILABLE
