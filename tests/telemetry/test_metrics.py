"""What each metric counts, and what it is never labelled with."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.model import Claims, Credential, Lease, Resolution, Tier, User, UserStatus
from gateway.core.reasons import (
    CATALOGUE,
    CREDENTIALS_MISSING,
    ISSUER_UNTRUSTED,
    REVOCATION_UNAVAILABLE,
    SIGNATURE_INVALID,
    USER_NOT_FOUND,
    USER_STORE_UNAVAILABLE,
    Denial,
)
from gateway.core.tokens import key_from_jwk
from gateway.core.verified import VerifiedToken
from gateway.telemetry.metrics import (
    MeteredDirectory,
    MeteredVerifier,
    Metrics,
    is_lookup_failure,
    issuer_label,
)
from tests.tokens import ed25519_key

CLAIMS = Claims("https://idp.example.com/", "main", "member", (), None, None, None, None, (), (), {})
MEMBER = User("id", UserStatus.ACTIVE)
LEASE = Lease(CLAIMS, Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL), 0.0, 0)
TOKEN = VerifiedToken(CLAIMS, key_from_jwk(ed25519_key().jwk()))
CREDENTIAL = Credential.of(b"")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a series as a scrape reads it."""
    for family in text_string_to_metric_families(metrics.expose().decode()):
        for sample in family.samples:
            if sample.name == f"gateway_{name}" and sample.labels == labels:
                return sample.value
    return None


class Verifier:
    """`gateway.telemetry.metrics.Verifier`: one outcome, remembered or not."""

    def __init__(self, outcome: Denial | None = None, *, remembered: bool = False) -> None:
        self.outcome = outcome
        self.remembered = frozenset({CREDENTIAL.digest}) if remembered else frozenset()

    def recall(self, credential: Credential) -> VerifiedToken | None:  # noqa: ARG002 -- the Protocol's
        return TOKEN if self.remembered else None

    async def verify(self, credential: Credential) -> VerifiedToken:  # noqa: ARG002 -- the Protocol's
        if self.outcome is not None:
            raise self.outcome
        return TOKEN


class Directory:
    """`gateway.telemetry.metrics.Directory`: one outcome, remembered or not."""

    def __init__(self, outcome: Resolution | Denial, *, remembered: bool = False) -> None:
        self.outcome = outcome
        self.remembered = remembered

    def recall(self, claims: Claims) -> Resolution | None:  # noqa: ARG002 -- the Protocol's
        return self.outcome if self.remembered and isinstance(self.outcome, Resolution) else None

    def lease(self, claims: Claims) -> Lease | None:  # noqa: ARG002 -- the Protocol's
        return LEASE if self.remembered else None

    def stands(self, lease: Lease) -> bool:
        return self.remembered and lease is LEASE

    async def resolve(self, claims: Claims) -> Resolution:  # noqa: ARG002 -- the Protocol's
        if isinstance(self.outcome, Denial):
            raise self.outcome
        return self.outcome


async def test_a_verification_is_counted_by_where_its_answer_came_from() -> None:
    metrics = Metrics()
    assert await MeteredVerifier(Verifier(), metrics).verify(CREDENTIAL) is TOKEN
    assert value(metrics, "token_verifications_total", issuer="main", tier="signature", result="valid") == 1
    assert MeteredVerifier(Verifier(), metrics).recall(CREDENTIAL) is None
    assert MeteredVerifier(Verifier(remembered=True), metrics).recall(CREDENTIAL) is TOKEN
    assert value(metrics, "token_verifications_total", issuer="main", tier="signature", result="valid") == 1
    assert value(metrics, "token_verifications_total", issuer="main", tier="local", result="valid") == 1


@pytest.mark.parametrize(
    ("denial", "issuer"),
    [
        (Denial(SIGNATURE_INVALID, issuer="main"), "main"),
        (Denial(ISSUER_UNTRUSTED), "untrusted"),
        (Denial(CREDENTIALS_MISSING), "none"),
    ],
)
async def test_a_failed_verification_is_counted_by_its_reason(denial: Denial, issuer: str) -> None:
    metrics = Metrics()
    with pytest.raises(Denial):
        await MeteredVerifier(Verifier(denial), metrics).verify(CREDENTIAL)
    assert issuer_label(denial) == issuer
    code = denial.reason.code
    assert value(metrics, "token_verifications_total", issuer=issuer, tier="signature", result=code) == 1


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize(("user", "result"), [(MEMBER, "found"), (None, "not_found")])
async def test_a_look_up_is_counted_by_tier(tier: Tier, user: User | None, result: str) -> None:
    metrics = Metrics()
    await MeteredDirectory(Directory(Resolution(user, tier, None, Tier.REDIS)), metrics).resolve(CLAIMS)
    assert value(metrics, "user_lookups_total", issuer="main", tier=tier, result=result) == 1
    assert value(metrics, "user_lookup_duration_seconds_count", tier=tier) == 1
    assert value(metrics, "revocation_checks_total", tier="redis", result="clear") == 1


@pytest.mark.parametrize(("user", "result"), [(MEMBER, "found"), (None, "not_found")])
def test_an_answer_from_memory_is_counted_and_not_timed(user: User | None, result: str) -> None:
    metrics = Metrics()
    resolution = Resolution(user, Tier.LOCAL, None, Tier.LOCAL)
    for number in (1, 2):
        assert MeteredDirectory(Directory(resolution, remembered=True), metrics).recall(CLAIMS) is resolution
        assert value(metrics, "user_lookups_total", issuer="main", tier="local", result=result) == number
        assert value(metrics, "revocation_checks_total", tier="local", result="clear") == number
    assert value(metrics, "user_lookup_duration_seconds_count", tier="local") is None


def test_an_answer_that_stands_is_counted_as_one_from_memory() -> None:
    metrics = Metrics()
    resolution = Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL)
    directory = MeteredDirectory(Directory(resolution, remembered=True), metrics)
    assert directory.lease(CLAIMS) is LEASE
    for number in (1, 2):
        assert directory.stands(LEASE)
        assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") == number
        assert value(metrics, "revocation_checks_total", tier="local", result="clear") == number
    assert not MeteredDirectory(Directory(resolution), metrics).stands(LEASE)
    assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") == 2


def test_what_memory_does_not_know_is_not_counted() -> None:
    metrics = Metrics()
    resolution = Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL)
    assert MeteredDirectory(Directory(resolution), metrics).recall(CLAIMS) is None
    assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") is None


def test_changes_are_counted_by_who_told_of_them() -> None:
    metrics = Metrics()
    metrics.prepare(["main"], [])
    metrics.invalidated("postgres")
    assert value(metrics, "invalidations_total", source="postgres") == 1
    assert value(metrics, "invalidations_total", source="redis") == 0


async def test_a_revoked_token_is_counted() -> None:
    metrics = Metrics()
    await MeteredDirectory(Directory(Resolution(MEMBER, Tier.REDIS, "jti", Tier.POSTGRES)), metrics).resolve(
        CLAIMS
    )
    assert value(metrics, "revocation_checks_total", tier="postgres", result="revoked") == 1


async def test_a_check_that_was_skipped_is_counted() -> None:
    metrics = Metrics()
    await MeteredDirectory(Directory(Resolution(MEMBER, Tier.LOCAL, None, None)), metrics).resolve(CLAIMS)
    assert value(metrics, "revocation_checks_total", tier="none", result="skipped") == 1


async def test_stores_that_cannot_answer_are_counted_apart() -> None:
    metrics = Metrics()
    for reason in (USER_STORE_UNAVAILABLE, REVOCATION_UNAVAILABLE):
        with pytest.raises(Denial):
            await MeteredDirectory(Directory(Denial(reason)), metrics).resolve(CLAIMS)
    assert value(metrics, "user_lookups_total", issuer="main", tier="none", result="unavailable") == 1
    assert value(metrics, "revocation_checks_total", tier="none", result="unavailable") == 1


@pytest.mark.parametrize("reason", CATALOGUE.values(), ids=CATALOGUE)
def test_a_denial_is_counted_once_and_as_a_failed_look_up_if_it_is_one(reason: object) -> None:
    metrics = Metrics()
    denial = Denial(reason, issuer="main")  # type: ignore[arg-type]  # parametrize loses the type
    metrics.denied(denial, "orders")
    code = denial.reason.code
    assert value(metrics, "denials_total", route="orders", issuer="main", reason=code) == 1
    failures = value(metrics, "user_lookup_failures_total", issuer="main", reason=code)
    assert (failures == 1) is (
        code == "user_store_unavailable" or code.startswith(("user_", "tokens_", "tenant_"))
    )


def test_alerts_have_their_series_from_the_start() -> None:
    metrics = Metrics()
    metrics.prepare(["main", "second"], CATALOGUE.values())
    assert value(metrics, "user_lookup_failures_total", issuer="second", reason=USER_NOT_FOUND.code) == 0
    assert sum(map(is_lookup_failure, CATALOGUE.values())) == 8


@pytest.mark.parametrize("method", ["PROPFIND", "get", "A" * 100])
def test_an_unusual_method_is_other(method: str) -> None:
    metrics = Metrics()
    metrics.finished("orders", method, 200, 0.1)
    assert value(metrics, "requests_total", route="orders", method="OTHER", status="200") == 1
    assert value(metrics, "request_duration_seconds_sum", route="orders") == 0.1


@pytest.mark.parametrize(
    ("watch", "name", "labels"),
    [
        (
            lambda metrics, read: metrics.cache_entries.read(("users",), read),
            "cache_entries",
            {"cache": "users"},
        ),
        (
            lambda metrics, read: metrics.jwks_age.read(("main",), read),
            "jwks_age_seconds",
            {"issuer": "main"},
        ),
    ],
    ids=["cache", "jwks-age"],
)
def test_a_gauge_is_read_at_each_scrape(
    watch: Callable[[Metrics, Callable[[], float]], None], name: str, labels: dict[str, str]
) -> None:
    metrics = Metrics()
    current = 1.0
    watch(metrics, lambda: current)
    assert value(metrics, name, **labels) == 1
    current = 2.0
    assert value(metrics, name, **labels) == 2


def test_names_units_and_types_are_those_of_prometheus() -> None:
    metrics = Metrics()
    metrics.finished("orders", "GET", 200, 0.1)
    metrics.relayed("orders", 0.1, broken=True)
    families = list(text_string_to_metric_families(metrics.expose().decode()))
    assert families
    for family in families:
        assert family.name.startswith("gateway_")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_two_gateways_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.jwks_refreshed("main", "success")
    assert value(first, "jwks_refreshes_total", issuer="main", result="success") == 1
    assert value(second, "jwks_refreshes_total", issuer="main", result="success") is None
