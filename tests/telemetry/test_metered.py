"""The metered parts give the same answers as the plain ones, and count them."""

import pytest

from gateway.core.model import Claims, Credential, Issuer, Resolution, Tier, User, UserStatus, Validity
from gateway.core.reasons import (
    CREDENTIALS_MISSING,
    ISSUER_UNTRUSTED,
    REVOCATION_UNAVAILABLE,
    SIGNATURE_INVALID,
    USER_STORE_UNAVAILABLE,
    Denial,
)
from gateway.core.revocations import Revocations
from gateway.core.tokens.jws import KeySet
from gateway.core.tokens.key_material import key_from_jwk
from gateway.core.tokens.verified import VerifiedToken
from gateway.identity.local_cache import LocalCache
from gateway.memo import Tokens
from gateway.telemetry.metered import MeteredDirectory, MeteredVerifier
from gateway.telemetry.metrics import Metrics, issuer_label
from gateway.verifier import TokenVerifier
from tests.fakes import FakeKeys
from tests.telemetry.scrape import value
from tests.tokens import ed25519_key, sign

CLAIMS = Claims("https://idp.example.com/", "main", "member", (), None, None, None, None, (), (), {})
MEMBER = User("id", UserStatus.ACTIVE)
VALIDITY = Validity(CLAIMS, Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL), 0.0, 0)
TOKEN = VerifiedToken(CLAIMS, key_from_jwk(ed25519_key().jwk()))
CREDENTIAL = Credential.of(b"")


class Verifier:
    """`gateway.telemetry.metered.Verifier` with one outcome."""

    def __init__(self, outcome: Denial | None = None) -> None:
        self.outcome = outcome

    async def verify(self, credential: Credential) -> VerifiedToken:  # noqa: ARG002 -- the Protocol's
        if self.outcome is not None:
            raise self.outcome
        return TOKEN


class Directory:
    """`gateway.telemetry.metered.Directory` with one outcome, remembered or not."""

    def __init__(self, outcome: Resolution | Denial, *, remembered: bool = False) -> None:
        self.outcome = outcome
        self.remembered = remembered

    def recall(self, claims: Claims) -> Resolution | None:  # noqa: ARG002 -- the Protocol's
        return self.outcome if self.remembered and isinstance(self.outcome, Resolution) else None

    def validity(self, claims: Claims) -> Validity | None:  # noqa: ARG002 -- the Protocol's
        return VALIDITY if self.remembered else None

    def is_valid(self, validity: Validity) -> bool:
        return self.remembered and validity is VALIDITY

    async def resolve(self, claims: Claims) -> Resolution:  # noqa: ARG002 -- the Protocol's
        if isinstance(self.outcome, Denial):
            raise self.outcome
        return self.outcome


async def test_a_verification_is_counted_by_tier() -> None:
    metrics = Metrics()
    assert await MeteredVerifier(Verifier(), metrics).verify(CREDENTIAL) is TOKEN
    assert value(metrics, "token_verifications_total", issuer="main", tier="signature", result="valid") == 1


async def test_a_remembered_token_is_counted_as_local() -> None:
    metrics, key = Metrics(), ed25519_key()
    keys = FakeKeys(main=KeySet([key_from_jwk(key.jwk())]))
    issuer = Issuer("main", CLAIMS.issuer, frozenset({"api"}), frozenset({"EdDSA"}))
    verifier = MeteredVerifier(TokenVerifier([issuer], keys, clock=lambda: 0.0), metrics)
    tokens = Tokens(keys, lambda: 0.0, 9, metrics.recalled_tokens)
    credential = Credential.of(sign({"iss": CLAIMS.issuer, "sub": "member", "aud": "api", "exp": 60}, key))
    assert tokens.recall(credential) is None
    token = tokens.keep(credential, await verifier.verify(credential))
    for number in (1, 2):
        assert tokens.recall(credential) is token
        assert (
            value(metrics, "token_verifications_total", issuer="main", tier="local", result="valid") == number
        )


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


def test_a_valid_answer_is_counted_as_local() -> None:
    metrics = Metrics()
    local = LocalCache(ttl=9, max_users=9, max_tokens=9, clock=lambda: 0.0, reused=metrics.recalled_users)
    local.open()
    local.fill(local.ticket(), CLAIMS, MEMBER, 0.0, Revocations(), 9.0)
    validity = local.validity(CLAIMS)
    assert validity is not None
    for number in (1, 2):
        assert local.is_valid(validity)
        assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") == number
        assert value(metrics, "revocation_checks_total", tier="local", result="clear") == number
    local.forget_users([MEMBER.id])
    assert not local.is_valid(validity)
    assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") == 2


def test_the_validity_is_passed_on() -> None:
    resolution = Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL)
    directory = MeteredDirectory(Directory(resolution, remembered=True), Metrics())
    assert directory.validity(CLAIMS) is VALIDITY
    assert directory.is_valid(VALIDITY)


async def test_find_counts_the_tier_of_the_answer() -> None:
    metrics, resolution = Metrics(), Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL)
    assert await MeteredDirectory(Directory(resolution, remembered=True), metrics).find(CLAIMS) is resolution
    assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") == 1
    stored = Resolution(MEMBER, Tier.POSTGRES, None, Tier.REDIS)
    assert await MeteredDirectory(Directory(stored), metrics).find(CLAIMS) is stored
    assert value(metrics, "user_lookups_total", issuer="main", tier="postgres", result="found") == 1


def test_an_unknown_token_is_not_counted_as_local() -> None:
    metrics = Metrics()
    resolution = Resolution(MEMBER, Tier.LOCAL, None, Tier.LOCAL)
    assert MeteredDirectory(Directory(resolution), metrics).recall(CLAIMS) is None
    assert value(metrics, "user_lookups_total", issuer="main", tier="local", result="found") is None


async def test_a_revoked_token_is_counted() -> None:
    metrics = Metrics()
    await MeteredDirectory(Directory(Resolution(MEMBER, Tier.REDIS, "jti", Tier.POSTGRES)), metrics).resolve(
        CLAIMS
    )
    assert value(metrics, "revocation_checks_total", tier="postgres", result="revoked") == 1


async def test_a_skipped_check_is_counted() -> None:
    metrics = Metrics()
    await MeteredDirectory(Directory(Resolution(MEMBER, Tier.LOCAL, None, None)), metrics).resolve(CLAIMS)
    assert value(metrics, "revocation_checks_total", tier="none", result="skipped") == 1


async def test_unavailable_stores_are_counted_separately() -> None:
    metrics = Metrics()
    for reason in (USER_STORE_UNAVAILABLE, REVOCATION_UNAVAILABLE):
        with pytest.raises(Denial):
            await MeteredDirectory(Directory(Denial(reason)), metrics).resolve(CLAIMS)
    assert value(metrics, "user_lookups_total", issuer="main", tier="none", result="unavailable") == 1
    assert value(metrics, "revocation_checks_total", tier="none", result="unavailable") == 1
