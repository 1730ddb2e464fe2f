"""The metrics of the gateway, by the conventions of Prometheus.

Label values come from configuration and the catalogue of reasons, never from a token or a path, so
the number of series is bounded whatever a client sends.
"""

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.core.model import Admission, Claims, Resolution
from gateway.core.reasons import (
    REVOCATION_UNAVAILABLE,
    USER_STORE_UNAVAILABLE,
    Denial,
    Group,
    Reason,
)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
UNMATCHED: Final = "unmatched"
"""The `route` label of a request that matched no route."""
NO_ISSUER: Final = "none"
"""The `issuer` label of a request whose token, if any, named no issuer."""
UNTRUSTED: Final = "untrusted"
"""The `issuer` label of a token whose issuer is not configured."""

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


# A creation time for each series would double what is scraped, and nothing here reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped


class Directory(Protocol):
    """What `MeteredDirectory` wraps."""

    async def resolve(self, claims: Claims) -> Resolution: ...


class Verifier(Protocol):
    """What `MeteredVerifier` wraps."""

    async def verify(self, raw: bytes) -> tuple[Claims, bool]: ...


class Pool(Protocol):
    """Connections to an upstream."""

    @property
    def name(self) -> str: ...

    @property
    def active(self) -> int: ...

    @property
    def idle(self) -> int: ...


class Metrics:
    """Every metric, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "gateway_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self._request_duration = Histogram(
            "gateway_request_duration_seconds",
            "From a request's head to the last byte of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._upstream_duration = Histogram(
            "gateway_upstream_duration_seconds",
            "From the admission of a request to the last byte of its response.",
            ["upstream"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._denials = Counter(
            "gateway_denials",
            "Requests refused, by reason.",
            ["route", "issuer", "reason"],
            registry=registry,
        )
        self._lookups = Counter(
            "gateway_user_lookups",
            "Look-ups of a token's user, by the tier that answered.",
            ["issuer", "tier", "result"],
            registry=registry,
        )
        self._lookup_failures = Counter(
            "gateway_user_lookup_failures",
            "Requests whose user was not found, may not pass, or could not be looked up.",
            ["issuer", "reason"],
            registry=registry,
        )
        self._lookup_duration = Histogram(
            "gateway_user_lookup_duration_seconds",
            "Time to find a token's user and its revocations.",
            ["tier"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._verifications = Counter(
            "gateway_token_verifications",
            "Tokens checked: `local` were remembered, `signature` were verified.",
            ["issuer", "tier", "result"],
            registry=registry,
        )
        self._revocation_checks = Counter(
            "gateway_revocation_checks",
            "Checks of a token against the revocations.",
            ["tier", "result"],
            registry=registry,
        )
        self._jwks_refreshes = Counter(
            "gateway_jwks_refreshes", "Fetches of an issuer's keys.", ["issuer", "result"], registry=registry
        )
        self._jwks_age = Gauge(
            "gateway_jwks_age_seconds",
            "Seconds since an issuer's keys were last fetched with success.",
            ["issuer"],
            registry=registry,
        )
        self._cache_entries = Gauge(
            "gateway_cache_entries", "Entries of a cache of this process.", ["cache"], registry=registry
        )
        self._upstream_connections = Gauge(
            "gateway_upstream_connections",
            "Connections to an upstream.",
            ["upstream", "state"],
            registry=registry,
        )
        self._broken_responses = Counter(
            "gateway_broken_responses",
            "Responses that an upstream broke off in the middle.",
            ["upstream"],
            registry=registry,
        )
        self._stale_answers = Counter(
            "gateway_stale_answers",
            "Requests admitted with a user older than the cache's time, because a store was down.",
            ["issuer"],
            registry=registry,
        )
        self.in_flight = Gauge("gateway_in_flight_requests", "Requests being handled.", registry=registry)

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    # One request ---------------------------------------------------------------------------------

    def admitted(self, admission: Admission) -> None:
        claims = admission.claims
        if claims is not None and admission.stale:
            self._stale_answers.labels(claims.issuer_name).inc()

    def denied(self, denial: Denial, route: str) -> None:
        reason = denial.reason
        issuer = issuer_label(denial)
        self._denials.labels(route, issuer, reason.code).inc()
        if is_lookup_failure(reason):
            self._lookup_failures.labels(issuer, reason.code).inc()

    def finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; `status` 499 means that the client left before its response was whole."""
        label = method if method in _METHODS else "OTHER"
        self._requests.labels(route, label, str(status)).inc()
        self._request_duration.labels(route).observe(seconds)

    def relayed(self, upstream: str, seconds: float, *, broken: bool) -> None:
        self._upstream_duration.labels(upstream).observe(seconds)
        if broken:
            self._broken_responses.labels(upstream).inc()

    # Parts ---------------------------------------------------------------------------------------

    def verified(self, claims: Claims, *, remembered: bool) -> None:
        tier = "local" if remembered else "signature"
        self._verifications.labels(claims.issuer_name, tier, "valid").inc()

    def verification_failed(self, denial: Denial) -> None:
        self._verifications.labels(issuer_label(denial), "signature", denial.reason.code).inc()

    def looked_up(self, issuer: str, resolution: Resolution, seconds: float) -> None:
        result = "found" if resolution.user is not None else "not_found"
        self._lookups.labels(issuer, resolution.tier, result).inc()
        self._lookup_duration.labels(resolution.tier).observe(seconds)
        if resolution.revocation_tier is not None:
            checked = "clear" if resolution.revoked is None else "revoked"
            self._revocation_checks.labels(resolution.revocation_tier, checked).inc()
        else:
            self._revocation_checks.labels("none", "skipped").inc()

    def lookup_failed(self, issuer: str, denial: Denial) -> None:
        if denial.reason is REVOCATION_UNAVAILABLE:
            self._revocation_checks.labels("none", "unavailable").inc()
        else:
            self._lookups.labels(issuer, denial.tier or "none", "unavailable").inc()

    def jwks_refreshed(self, issuer: str, result: str) -> None:
        self._jwks_refreshes.labels(issuer, result).inc()

    def watch_jwks_age(self, issuer: str, age: Callable[[], float]) -> None:
        """Report `age` at every scrape; NaN while there are no keys."""
        self._jwks_age.labels(issuer).set_function(age)

    def watch_cache(self, cache: str, size: Callable[[], float]) -> None:
        self._cache_entries.labels(cache).set_function(size)

    def watch_upstream(self, pool: Pool) -> None:
        self._upstream_connections.labels(pool.name, "active").set_function(lambda: pool.active)
        self._upstream_connections.labels(pool.name, "idle").set_function(lambda: pool.idle)

    def prepare(self, issuers: Iterable[str], reasons: Iterable[Reason]) -> None:
        """Create the series that alerts look at, so that a first failure is a step from zero."""
        for issuer in issuers:
            for reason in reasons:
                if is_lookup_failure(reason):
                    self._lookup_failures.labels(issuer, reason.code)


class MeteredVerifier:
    """A verifier, counted."""

    def __init__(self, verifier: Verifier, metrics: Metrics) -> None:
        self._verifier = verifier
        self._metrics = metrics

    async def verify(self, raw: bytes) -> tuple[Claims, bool]:
        try:
            claims, remembered = await self._verifier.verify(raw)
        except Denial as denial:
            self._metrics.verification_failed(denial)
            raise
        self._metrics.verified(claims, remembered=remembered)
        return claims, remembered


class MeteredDirectory:
    """A directory, timed and counted."""

    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics

    async def resolve(self, claims: Claims) -> Resolution:
        started = perf_counter()
        try:
            resolution = await self._directory.resolve(claims)
        except Denial as denial:
            self._metrics.lookup_failed(claims.issuer_name, denial)
            raise
        self._metrics.looked_up(claims.issuer_name, resolution, perf_counter() - started)
        return resolution


def issuer_label(denial: Denial) -> str:
    """Return the `issuer` label of a denial: a configured name, `untrusted` or `none`."""
    if denial.issuer is not None:
        return denial.issuer
    return UNTRUSTED if denial.reason.code == "issuer_untrusted" else NO_ISSUER


def is_lookup_failure(reason: Reason) -> bool:
    """Tell whether a reason means that no user could be put behind a good token."""
    return reason.group is Group.USER or reason is USER_STORE_UNAVAILABLE
