"""Keys with the flaw ROCA (CVE-2017-15361) are recognised by their modulus."""

import random

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.core.tokens import roca
from gateway.core.tokens.key_material import KeyRejected, key_from_pem, keyset_from_jwks
from tests.tokens import base64url, rsa_key

# The product of two primes k · M + (65537ᵃ mod M), where M is the product of the first 126 primes: so the
# flawed library makes keys of 2048 bits.
FLAWED = int(
    "9e417635bd1f23e3f1c57e27b9b93ee448da9c3b654b36307727108d0dac5fc302c6a43e6784b480555d0b6a085c955f7dfa132f"
    "9bcb270c04e802c90533e36ee16af516c4b0a1d226a5c5ca97ecc6d862803e33acc57ff4669d20ef45f855f7250424d5dd9ca452"
    "d8f510eb2e3644e58b2892e648bb3c9990a202eca26c04b8279be54a1753a36b9798cd238763c5f75320180070c668e3bb21a113"
    "d7503642cf1b6bc26e8549778486e42a1b288d0c88e8aab306449e89b77a036b7f8595d10dddd37598b754bf253c862fd5eb4916"
    "d256bcfff60f902f12df28fc3fcaaef7f6fcd2eef8b20df3fe7fd7c1de8927b8dba150d6e8d210119397cd8506bfbe03",
    16,
)


def test_a_flawed_modulus_is_recognised() -> None:
    assert roca.is_vulnerable(FLAWED)


def test_a_modulus_that_differs_little_is_not() -> None:
    assert not roca.is_vulnerable(FLAWED + 2)
    assert not roca.is_vulnerable(FLAWED * 3)


def test_other_keys_are_not() -> None:
    numbers = random.Random(17)  # noqa: S311 -- test data
    assert not any(roca.is_vulnerable(numbers.getrandbits(2048) | 1) for _ in range(500))
    private = rsa_key().private
    assert isinstance(private, rsa.RSAPrivateKey)
    assert not roca.is_vulnerable(private.public_key().public_numbers().n)


def test_an_element_of_the_right_order_needs_a_logarithm() -> None:
    # Modulo two of the primes it is a power of 65537, but of different exponents.
    element = next(
        n
        for n in range(3, 10_000, 2)
        if pow(n, roca._ORDER, roca._MODULUS) == 1 and n != pow(65537, 0, roca._MODULUS)
    )
    assert roca._has_logarithm(element) == roca.is_vulnerable(element)


def test_such_a_key_is_refused_by_name() -> None:
    public = rsa.RSAPublicNumbers(65537, FLAWED).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyRejected, match="ROCA"):
        key_from_pem(pem)
    flawed = rsa_key().jwk(kid="smartcard", n=base64url(FLAWED.to_bytes(256, "big")).decode())
    short = rsa_key("short", 1024).jwk()
    read = keyset_from_jwks({"keys": [flawed, rsa_key().jwk(), short]})
    assert [key.kid for key in read.keys.keys] == ["rsa"]
    assert [("'smartcard'" in why, "ROCA" in why) for why in read.skipped] == [(True, True), (False, False)]
    assert read.skipped[1] == "keys[2]: kid 'short': an RSA key has 2048 to 8192 bits, this one 1024"
