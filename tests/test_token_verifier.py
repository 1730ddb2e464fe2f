"""Raw token → verified claims: every known way to forge one, and the memory of verified ones."""

import json
from dataclasses import replace

import pytest

from gateway.core.model import JSON, Claims, Credential, Issuer
from gateway.core.reasons import Denial
from gateway.core.tokens.jws import ALGORITHMS, KeySet
from gateway.core.tokens.key_material import key_from_jwk, key_from_pem, key_from_secret, keyset_from_jwks
from gateway.verifier import TokenVerifier
from tests.fakes import Clock, FakeKeys
from tests.tokens import (
    AUDIENCE,
    ISSUER,
    SigningKey,
    base64url,
    claims,
    ec_key,
    ed25519_key,
    resigned,
    rsa_key,
    secret,
    sign,
    sign_raw,
    unsigned,
    without,
)

NOW = 1_700_000_000
OTHER = "https://other.example.com/"
# Every algorithm is allowed: what is refused here is refused for the key's sake.
MAIN = Issuer("main", ISSUER, frozenset({AUDIENCE}), ALGORITHMS)
SECOND = Issuer("second", OTHER, frozenset({AUDIENCE}), ALGORITHMS)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(main=key_set(rsa_key(), ec_key(), ed25519_key()), second=key_set(rsa_key("second")))


@pytest.fixture
def verifier(keys: FakeKeys, clock: Clock) -> TokenVerifier:
    return TokenVerifier([MAIN, SECOND], keys, clock=clock)


def key_set(*keys: SigningKey) -> KeySet:
    return KeySet(key_from_jwk(key.jwk()) for key in keys)


def payload(**changes: JSON) -> dict[str, JSON]:
    return {**claims(now=NOW), **changes}


async def verified(verifier: TokenVerifier, token: bytes) -> Claims:
    return (await verifier.verify(Credential.of(token))).claims


async def refused(verifier: TokenVerifier, token: bytes) -> str:
    with pytest.raises(Denial) as caught:
        await verified(verifier, token)
    return caught.value.reason.code


# Good tokens ------------------------------------------------------------------------------------

SIGNERS = [
    *((rsa_key(), algorithm) for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    (ec_key(), "ES256"),
    (ec_key("384", "P-384"), "ES384"),
    (ec_key("521", "P-521"), "ES512"),
    (ed25519_key(), "EdDSA"),
    (ed25519_key(), "Ed25519"),
]


@pytest.mark.parametrize(("key", "algorithm"), SIGNERS, ids=[algorithm for _, algorithm in SIGNERS])
async def test_a_good_signature_is_accepted_and_a_tampered_token_refused(
    verifier: TokenVerifier, keys: FakeKeys, key: SigningKey, algorithm: str
) -> None:
    keys.sets["main"] = key_set(key)
    token = sign(payload(), key, algorithm)
    header, _, mac = token.split(b".")
    elevated = base64url(json.dumps(payload(sub="admin")).encode())

    assert await refused(verifier, b".".join([header, elevated, mac])) == "signature_invalid"
    assert await refused(verifier, resigned(token, b"")) == "signature_invalid"
    assert await refused(verifier, resigned(token, b"\0" * 64)) == "signature_invalid"
    assert (await verified(verifier, token)).subject == "member"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_shared_secret_verifies_its_own_tokens_alone(
    verifier: TokenVerifier, keys: FakeKeys, algorithm: str
) -> None:
    keys.sets["main"] = KeySet([key_from_secret(secret())])

    assert await refused(verifier, sign(payload(), secret("guess"), algorithm)) == "signature_invalid"
    assert (await verified(verifier, sign(payload(), secret(), algorithm))).subject == "member"


# Algorithms and keys ----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
async def test_alg_none_is_refused_in_any_case(verifier: TokenVerifier, algorithm: str) -> None:
    for mac in (b"", rsa_key().pem()):
        token = unsigned({"alg": algorithm, "kid": "rsa"}, payload(), mac)
        assert await refused(verifier, token) == "algorithm_not_allowed"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("kid", ["rsa", None])
async def test_a_public_key_as_hmac_secret_is_refused(
    verifier: TokenVerifier, keys: FakeKeys, algorithm: str, kid: str | None
) -> None:
    key = rsa_key()
    keys.sets["main"] = key_set(key)
    jwk = json.dumps(key.jwk())
    for public in (key.pem(), key.pem().strip(), jwk.encode(), jwk.replace(" ", "").encode()):
        token = sign(payload(), public, algorithm, kid=kid)
        assert await refused(verifier, token) == ("algorithm_not_allowed" if kid else "key_unknown")


async def test_an_algorithm_the_issuer_does_not_use_is_refused(keys: FakeKeys, clock: Clock) -> None:
    strict = Issuer("main", ISSUER, frozenset({AUDIENCE}), frozenset({"ES256"}))
    verifier = TokenVerifier([strict], keys, clock=clock)

    assert await refused(verifier, sign(payload(), rsa_key())) == "algorithm_not_allowed"
    assert keys.refreshed == []
    await verified(verifier, sign(payload(), ec_key()))


async def test_the_alg_of_a_jwk_is_the_only_one_it_verifies(verifier: TokenVerifier, keys: FakeKeys) -> None:
    keys.sets["main"] = KeySet([key_from_jwk(rsa_key().jwk(alg="PS256"))])

    assert await refused(verifier, sign(payload(), rsa_key(), "RS256")) == "algorithm_not_allowed"
    assert await refused(verifier, sign(payload(), rsa_key(), "PS384")) == "algorithm_not_allowed"
    await verified(verifier, sign(payload(), rsa_key(), "PS256"))


async def test_an_ecdsa_algorithm_of_another_curve_is_refused(verifier: TokenVerifier) -> None:
    assert await refused(verifier, sign(payload(), ec_key(), "ES384")) == "algorithm_not_allowed"
    other_curve = sign(payload(), ec_key("384", "P-384"), "ES256", kid="ec")
    assert await refused(verifier, other_curve) == "signature_invalid"
    koblitz = sign(payload(), ec_key("k1", "secp256k1"), "ES256", kid="ec")
    assert await refused(verifier, koblitz) == "signature_invalid"


@pytest.mark.parametrize(
    "mac",
    [
        bytes(64),
        bytes(32) + b"\1" * 32,
        b"\1" * 32 + bytes(32),
        P256_ORDER.to_bytes(32, "big") * 2,
        b"\xff" * 64,
        (1).to_bytes(32, "big") + P256_ORDER.to_bytes(32, "big"),
        bytes(63),
        bytes(65),
        bytes(96),
        b"",
        bytes.fromhex("3006020101020101"),
    ],
    ids=[
        "both zero", "r zero", "s zero", "both the order", "too large", "s the order", "short", "long",
        "of another curve", "empty", "DER",
    ],
)  # fmt: skip
async def test_ecdsa_r_and_s_out_of_range_are_refused(verifier: TokenVerifier, mac: bytes) -> None:
    token = sign(payload(), ec_key())

    assert await refused(verifier, resigned(token, mac)) == "signature_invalid"


async def test_a_short_rsa_key_and_one_for_encryption_verify_nothing(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    short = rsa_key("short", 1024)
    read = keyset_from_jwks({"keys": [short.jwk(), rsa_key().jwk(use="enc")]})
    keys.sets["main"] = read.keys

    assert len(read.skipped) == 2
    assert await refused(verifier, sign(payload(), short)) == "key_unknown"
    assert await refused(verifier, sign(payload(), rsa_key())) == "key_unknown"


# Keys that share a name ---------------------------------------------------------------------------


async def test_two_keys_of_one_name_and_type_are_both_tried(verifier: TokenVerifier, keys: FakeKeys) -> None:
    old, new, other = (rsa_key(name) for name in ("old", "new", "other"))
    keys.sets["main"] = KeySet(key_from_jwk(key.jwk(kid="same")) for key in (old, new))
    by_old, by_new = (sign(payload(), key, kid="same") for key in (old, new))

    for token in (by_old, by_new):
        assert (await verified(verifier, token)).subject == "member"
    with pytest.raises(Denial, match="signature_invalid"):
        await verified(verifier, sign(payload(), other, kid="same"))
    assert keys.refreshed == []


# Headers that point elsewhere -------------------------------------------------------------------


@pytest.mark.parametrize("with_kid", [True, False])
async def test_jku_x5u_jwk_and_x5c_are_ignored(verifier: TokenVerifier, with_kid: bool) -> None:
    attacker = rsa_key("attacker")
    pointers: dict[str, JSON] = {
        "jku": "http://127.0.0.1:9/jwks.json",
        "x5u": "http://169.254.169.254/key.pem",
        "jwk": attacker.jwk(kid="rsa"),
        "x5c": [base64url(attacker.pem()).decode()],
        "x5t": "x",
        "kid": "rsa" if with_kid else None,
    }

    assert await refused(verifier, sign(payload(), attacker, None, **pointers)) == "signature_invalid"
    # The same members on a token of the right key change nothing.
    assert (await verified(verifier, sign(payload(), rsa_key(), None, **pointers))).subject == "member"


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null", "/etc/passwd", "' OR 1=1 --", "x' UNION SELECT 'secret", "|id",
        "http://127.0.0.1/", "", "rsa\x00", "RSA", " rsa", "\ud800", "k" * 4096,
    ],
)  # fmt: skip
async def test_a_kid_is_a_name_in_the_set_and_nothing_else(
    verifier: TokenVerifier, keys: FakeKeys, kid: str
) -> None:
    assert await refused(verifier, sign(payload(), rsa_key(), kid=kid)) == "key_unknown"
    assert await refused(verifier, sign(payload(), bytes(32), kid=kid)) == "key_unknown"
    assert keys.refreshed == ["main", "main"]


async def test_without_kid_the_only_key_that_fits_is_used(verifier: TokenVerifier, keys: FakeKeys) -> None:
    assert (await verified(verifier, sign(payload(), rsa_key(), kid=None))).subject == "member"
    assert keys.refreshed == []


async def test_without_kid_several_keys_count_as_none(verifier: TokenVerifier, keys: FakeKeys) -> None:
    keys.sets["main"] = key_set(rsa_key(), rsa_key("b"))

    assert await refused(verifier, sign(payload(), rsa_key(), kid=None)) == "key_unknown"


async def test_a_key_without_a_name_verifies_tokens_with_any_kid(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    keys.sets["main"] = KeySet([key_from_pem(rsa_key().pem())])

    assert await refused(verifier, sign(payload(), rsa_key("b"), kid="x")) == "signature_invalid"
    await verified(verifier, sign(payload(), rsa_key(), kid="x"))


@pytest.mark.parametrize("kid", ["next", None])
async def test_keys_that_were_guesses_may_have_been_rotated(
    verifier: TokenVerifier, keys: FakeKeys, kid: str | None
) -> None:
    pem, late = key_from_pem(rsa_key().pem()), KeySet([key_from_jwk(rsa_key("next").jwk(kid="next"))])
    keys.sets["main"] = KeySet([pem])
    token = sign(payload(), rsa_key("next"), kid=kid)
    keys.on_refresh = lambda: keys.sets.update(main=KeySet.joined([KeySet([pem]), late]))

    # New keys verify the token, too.
    assert await refused(verifier, sign(payload(), rsa_key("attacker"), kid=kid)) == "signature_invalid"
    keys.sets["main"] = KeySet([pem])
    assert (await verifier.verify(Credential.of(token))).key is late.keys[0]
    assert keys.refreshed == ["main"] * 2


async def test_a_rotated_key_of_that_name_that_does_not_fit_is_not_tried(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    keys.sets["main"] = KeySet([key_from_pem(rsa_key().pem())])
    keys.on_refresh = lambda: keys.sets.update(main=KeySet([key_from_jwk(ec_key().jwk(kid="next"))]))

    assert await refused(verifier, sign(payload(), rsa_key("next"), kid="next")) == "signature_invalid"


async def test_a_guess_that_fails_is_no_bad_signature_while_the_issuer_is_silent(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    keys.sets["main"], keys.heard = KeySet([key_from_pem(rsa_key().pem())]), False

    assert await refused(verifier, sign(payload(), rsa_key("b"), kid="b")) == "keys_unavailable"
    assert await refused(verifier, sign(payload(), rsa_key("b"), kid=None)) == "signature_invalid"


async def test_crit_is_refused(verifier: TokenVerifier) -> None:
    token = sign(payload(), rsa_key(), crit=["b64"], b64=False)

    assert await refused(verifier, token) == "critical_header_unsupported"


# Issuers ----------------------------------------------------------------------------------------


async def test_one_issuers_key_never_signs_for_another(verifier: TokenVerifier) -> None:
    for kid in ("second", "rsa", None):
        token = sign(payload(), rsa_key("second"), kid=kid)
        assert await refused(verifier, token) == ("key_unknown" if kid == "second" else "signature_invalid")
    # The same kid in both sets is two keys.
    shared = sign(payload(iss=OTHER), rsa_key(), kid="second")
    assert await refused(verifier, shared) == "signature_invalid"


@pytest.mark.parametrize(
    "iss",
    [
        ISSUER.rstrip("/"),
        ISSUER + "/",
        ISSUER.upper(),
        " " + ISSUER,
        ISSUER + "\x00",
        "main",
        "https://evil.example/",
    ],
)
async def test_an_issuer_is_trusted_by_its_exact_name(
    verifier: TokenVerifier, keys: FakeKeys, iss: str
) -> None:
    assert await refused(verifier, sign(payload(iss=iss), rsa_key())) == "issuer_untrusted"
    assert keys.refreshed == []


async def test_a_token_without_issuer_has_no_keys(verifier: TokenVerifier) -> None:
    assert await refused(verifier, sign(without(payload(), "iss"), rsa_key())) == "issuer_missing"


# Claims -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exp", "reason"),
    [
        ("null", "claim_missing"),
        ('"1700000300"', "claim_malformed"),
        ("true", "claim_malformed"),
        ("-1", "claim_malformed"),
        ("1e999", "claim_malformed"),
        ("-1e999", "claim_malformed"),
        ("1" * 401, "claim_malformed"),
        ("9e15", "claim_malformed"),
        ("NaN", "token_malformed"),
        ("9" * 5000, "token_malformed"),
        ("1699999970", "token_expired"),
        ("1699999970.5", None),
        ("1.7000003e9", None),
        ("253402300799", None),
    ],
)
async def test_exp_in_every_shape(verifier: TokenVerifier, exp: str, reason: str | None) -> None:
    rest = json.dumps(without(payload(), "exp")).removesuffix("}")
    token = sign_raw(b'{"alg":"RS256","kid":"rsa"}', f'{rest},"exp":{exp}}}'.encode(), rsa_key(), "RS256")

    if reason is None:
        assert (await verified(verifier, token)).expires_at == float(exp)
    else:
        assert await refused(verifier, token) == reason


async def test_no_claim_is_looked_at_before_the_signature(verifier: TokenVerifier) -> None:
    forged = sign(payload(exp=1, aud="x", sub=None), rsa_key("attacker"), kid="rsa")

    assert await refused(verifier, forged) == "signature_invalid"


async def test_an_issuer_s_own_type_is_no_other_issuer_s(keys: FakeKeys, clock: Clock) -> None:
    own = replace(SECOND, token_types=frozenset({"own+jwt"}))
    verifier = TokenVerifier([MAIN, own], keys, clock=clock)

    await verified(verifier, sign(payload(iss=OTHER), rsa_key("second"), typ="own+jwt"))
    assert await refused(verifier, sign(payload(iss=OTHER), rsa_key("second"))) == "token_type_invalid"
    assert await refused(verifier, sign(payload(), rsa_key(), typ="own+jwt")) == "token_type_invalid"


TENANTS = replace(
    MAIN, issuer="https://{tenant}.example.com/", tenants="any", algorithms=frozenset({"RS256"})
)
ACME = payload(iss="https://acme.example.com/")


@pytest.mark.parametrize(
    ("known", "heard", "token", "reason", "realm"),
    [
        (key_set(rsa_key()), True, sign(ACME, ec_key()), "algorithm_not_allowed", "main/acme"),
        (key_set(ec_key()), True, sign(ACME, rsa_key(), kid="ec"), "algorithm_not_allowed", "main/acme"),
        (key_set(rsa_key()), True, sign(ACME, rsa_key("b"), kid="rsa"), "signature_invalid", "main/acme"),
        (key_set(rsa_key()), True, sign(ACME, rsa_key("b")), "key_unknown", "main"),
        (key_set(rsa_key()), False, sign(ACME, rsa_key("b")), "keys_unavailable", "main"),
        (
            KeySet([key_from_pem(rsa_key().pem())]),
            False,
            sign(ACME, rsa_key("b")),
            "keys_unavailable",
            "main",
        ),
        (None, True, sign(ACME, rsa_key()), "issuer_untrusted", "main"),
        (None, False, sign(ACME, rsa_key()), "keys_unavailable", "main"),
    ],
)
async def test_a_denial_names_the_issuer_and_the_keys_that_it_depends_on(
    clock: Clock, known: KeySet | None, heard: bool, token: bytes, reason: str, realm: str
) -> None:
    keys = FakeKeys()
    keys.sets["main/acme"], keys.heard = known, heard
    with pytest.raises(Denial) as caught:
        await verified(TokenVerifier([TENANTS], keys, clock=clock), token)
    denial = caught.value
    assert (denial.reason.code, denial.issuer, denial.realm) == (reason, "main", realm)


# Keys that change -------------------------------------------------------------------------------


async def test_an_unknown_kid_is_looked_for_once_more(verifier: TokenVerifier, keys: FakeKeys) -> None:
    keys.on_refresh = lambda: keys.sets.update(main=key_set(rsa_key(), rsa_key("new")))

    assert (await verified(verifier, sign(payload(), rsa_key("new")))).subject == "member"
    assert keys.refreshed == ["main"]


async def test_an_unknown_kid_is_keys_unavailable_while_the_issuer_does_not_answer(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    keys.heard = False
    assert await refused(verifier, sign(payload(), rsa_key("new"))) == "keys_unavailable"
    # Without a name, several keys fit, or none.
    keys.sets["main"] = key_set(rsa_key(), rsa_key("b"))
    assert await refused(verifier, sign(payload(), rsa_key(), kid=None)) == "keys_unavailable"
    # A key that is known needs no issuer.
    assert await refused(verifier, sign(payload(), ec_key(), kid="rsa")) == "algorithm_not_allowed"
    assert (await verified(verifier, sign(payload(), rsa_key()))).subject == "member"


async def test_an_issuer_without_keys_is_our_fault_not_the_tokens(
    verifier: TokenVerifier, keys: FakeKeys
) -> None:
    keys.sets["main"] = None

    assert await refused(verifier, sign(payload(), rsa_key())) == "keys_unavailable"
    assert keys.refreshed == ["main"]
    # Another issuer's tokens are not concerned.
    await verified(verifier, sign(payload(iss=OTHER), rsa_key("second")))


# What is kept ------------------------------------------------------------------------------------


async def test_only_the_claims_that_are_read_are_kept(clock: Clock) -> None:
    keys = FakeKeys(main=KeySet([key_from_jwk(rsa_key().jwk())]))
    reads_one = TokenVerifier([MAIN], keys, clock=clock, claims_read=frozenset({"acr", "amr"}))
    assert dict((await verified(reads_one, sign(payload(acr="2", other="x"), rsa_key()))).payload) == {
        "acr": "2"
    }
    reads_none = TokenVerifier([MAIN], keys, clock=clock)
    assert dict((await verified(reads_none, sign(payload(), rsa_key()))).payload) == {}
