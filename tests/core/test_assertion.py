"""Assertions: what they say, and which key signs and which are published at a moment."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.assertion import (
    OVERLAP,
    SigningKey,
    SigningKeyUnusable,
    jwks,
    new_pem,
    payload,
    published,
    signing,
)
from gateway.core.model import Claims, User, UserStatus
from tests.tokens import SigningKey as IssuerKey
from tests.tokens import rsa_key

NOW = 1_700_000_000.0
TTL = 300.0
CLAIMS = Claims(
    "https://idp.example.com/", "main", "ann|1", ("api",), NOW + 60, NOW, "j", "acme", ("a", "b"), ("r",), {}
)
USER = User("u-1", UserStatus.ACTIVE, tenant="acme", roles=("admin", "reader"))


def key(signs_from: float = 0.0, algorithm: str = "ES256") -> SigningKey:
    return SigningKey(new_pem(algorithm), algorithm, signs_from)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_verifier_reads_it_with_the_published_key(algorithm: str) -> None:
    signer = key(algorithm=algorithm)
    token = signer.token(
        payload(CLAIMS, USER, issuer="gateway", audience="orders", issued_at=NOW, ttl=TTL, jti="1")
    ).decode()
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": signer.kid, "typ": "JWT"}
    known = jwt.PyJWKSet.from_json(jwks([key(), signer]).decode())[signer.kid]
    read = jwt.decode(
        token, known, [algorithm], audience="orders", issuer="gateway", options={"verify_exp": False}
    )
    assert read == {
        "iss": "gateway", "aud": "orders", "sub": "u-1", "iat": NOW, "exp": NOW + TTL, "jti": "1",
        "status": "active", "roles": ["admin", "reader"], "tenant": "acme", "scope": "a b",
        "original_iss": "https://idp.example.com/", "original_sub": "ann|1",
    }  # fmt: skip
    other = jwt.PyJWKSet.from_json(jwks([key(algorithm=algorithm)]).decode()).keys[0]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, other, [algorithm], audience="orders", options={"verify_exp": False})


def test_without_a_user_there_is_no_subject() -> None:
    said = payload(CLAIMS, None, issuer="g", audience="a", issued_at=NOW, ttl=TTL, jti="1")
    assert said.keys() == {"iss", "aud", "iat", "exp", "jti", "original_iss", "original_sub", "scope"}


def test_only_public_parameters_are_published() -> None:
    for algorithm in ("ES256", "EdDSA"):
        (jwk,) = json.loads(jwks([key(algorithm=algorithm)]))["keys"]
        assert jwk.keys() <= {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (jwk["use"], jwk["alg"]) == ("sig", algorithm)


def test_a_private_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(key())


@pytest.mark.parametrize(
    ("pem", "algorithm"),
    [
        ("", "ES256"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "ES256"),
        (new_pem("EdDSA"), "ES256"),
        (new_pem("ES256"), "EdDSA"),
        (new_pem("ES256"), "none"),
        (IssuerKey("a", "ES384", ec.generate_private_key(ec.SECP384R1())).private_pem().decode(), "ES256"),
        (rsa_key().private_pem().decode(), "ES256"),
    ],
)
def test_a_key_for_another_algorithm_is_refused(pem: str, algorithm: str) -> None:
    with pytest.raises(SigningKeyUnusable) as caught:
        SigningKey(pem, algorithm, 0.0)
    assert "BEGIN" not in str(caught.value)


def test_the_latest_key_that_has_begun_signs() -> None:
    first, second, third = key(NOW - 100), key(NOW - 10), key(NOW + 10)
    assert signing([third, second, first], NOW) is second
    assert signing([third, second, first], NOW + 10) is third
    assert signing([third], NOW) is third, "the clock that made the first key is ahead"
    assert signing([], NOW) is None


def test_a_key_is_published_before_and_after_it_signs() -> None:
    first, second, third = key(NOW - 10_000), key(NOW), key(NOW + 300)
    assert published([third, first, second], NOW, TTL) == [first, second, third]
    assert published([first, second, third], NOW + TTL + OVERLAP - 1, TTL) == [first, second, third]
    assert published([first, second, third], NOW + TTL + OVERLAP, TTL) == [second, third]
    assert published([first, second, third], NOW + 10**9, TTL) == [third]
    assert published([], NOW, TTL) == []
