"""Tokens whose signature is mutated: bits, encodings, and what the mathematics allows."""

import hashlib
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from bench.verdicts.minting import (
    ED25519,
    FOREIGN,
    KEYS,
    P256,
    P384,
    P521,
    RSA,
    SMALL_ORDER,
    claims,
    header,
    resealed,
    signed,
)
from gateway.core.tokens.jws import decode_segment

_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def of_bits() -> Iterator[tuple[str, bytes]]:
    """Bits flipped, octets added and removed."""
    for key in KEYS[:1] + KEYS[2:]:
        token = signed(key=key)
        mac = _mac(token)
        last = len(mac) * 8 - 1
        for bit in sorted({0, 7, last // 3, last // 2, last - 7, last}):
            flipped = int.from_bytes(mac, "big") ^ (1 << (last - bit))
            yield f"{key.kid}, bit {bit} flipped", resealed(token, flipped.to_bytes(len(mac), "big"))
        for what, other in (
            ("empty", b""),
            ("zeros", bytes(len(mac))),
            ("ones", b"\xff" * len(mac)),
            ("less", mac[:-1]),
            ("zero after", mac + b"\0"),
            ("zero before", b"\0" + mac),
            ("twice", mac + mac),
            ("reversed", mac[::-1]),
            ("of another token", _mac(signed(payload=claims(jti="other"), key=key))),
        ):
            yield f"{key.kid}, {what}", resealed(token, other)
    yield "of a foreign key", resealed(signed(), _mac(signed(header(), key=FOREIGN)))


def of_rsa() -> Iterator[tuple[str, bytes]]:
    assert isinstance(RSA.private, rsa.RSAPrivateKey)  # noqa: S101 -- for mypy
    token = signed()
    modulus = RSA.private.public_key().public_numbers().n
    more = int.from_bytes(_mac(token), "big") + modulus
    yield "larger than the modulus", resealed(token, more.to_bytes(257, "big"))
    for number, what in ((0, "0"), (1, "1"), (modulus - 1, "modulus - 1"), (modulus, "modulus")):
        yield f"is {what}", resealed(token, number.to_bytes(256, "big"))
    data = token.rpartition(b".")[0]
    pkcs1 = padding.PKCS1v15()
    yield "with SHA-1", resealed(token, RSA.private.sign(data, pkcs1, hashes.SHA1()))  # noqa: S303 -- forged
    yield "with SHA-512/256", resealed(token, RSA.private.sign(data, pkcs1, hashes.SHA512_256()))
    yield (
        "with the hash in place of the text",
        resealed(token, RSA.private.sign(_hashed(data), pkcs1, hashes.SHA256())),
    )
    token = signed(header(RSA, "PS256"), algorithm="PS256")
    data = token.rpartition(b".")[0]
    mgf = padding.MGF1(hashes.SHA256())
    for salt in (0, 20, 32, 222):
        mac = RSA.private.sign(data, padding.PSS(mgf, salt), hashes.SHA256())
        yield f"PS256 with a salt of {salt} octets", resealed(token, mac)
    mgf1_sha1 = padding.PSS(padding.MGF1(hashes.SHA1()), 32)  # noqa: S303 -- forged
    yield "PS256 with MGF1 of SHA-1", resealed(token, RSA.private.sign(data, mgf1_sha1, hashes.SHA256()))


def of_ecdsa() -> Iterator[tuple[str, bytes]]:
    for key, size in ((P256, 32), (P384, 48), (P521, 66)):
        token = signed(key=key)
        r, s = _pair(token)
        yield f"{key.kid} in DER", resealed(token, encode_dss_signature(r, s))
        longer = r.to_bytes(size + 8, "big") + s.to_bytes(size + 8, "big")
        yield f"{key.kid}, longer numbers", resealed(token, longer)
        yield f"{key.kid}, numbers swapped", resealed(token, _mac(token)[size:] + _mac(token)[:size])
    token = signed(key=P521)
    r, s = _pair(token)
    while max(r, s) >= 2**520:  # one pair in four is smaller
        token = signed(key=P521)
        r, s = _pair(token)
    yield "p521, shorter numbers", resealed(token, r.to_bytes(65, "big") + s.to_bytes(65, "big"))
    token = signed(key=P256)
    r, s = _pair(token)
    order = _P256_ORDER
    for what, (first, second) in {
        "0, 0": (0, 0),
        "0, 1": (0, 1),
        "1, 0": (1, 0),
        "1, 1": (1, 1),
        "order, order": (order, order),
        "r, order - s": (r, order - s),
        "r, s = 0": (r, 0),
        "r = order, s": (order, s),
        "largest": (2**256 - 1, 2**256 - 1),
    }.items():
        yield f"p256 is {what}", resealed(token, first.to_bytes(32, "big") + second.to_bytes(32, "big"))
    assert isinstance(P256.private, ec.EllipticCurvePrivateKey)  # noqa: S101 -- for mypy
    for name, digest in (("SHA-384", hashes.SHA384()), ("SHA-1", hashes.SHA1())):  # noqa: S303 -- forged
        yield (
            f"p256 with {name}",
            resealed(token, _raw(P256.private.sign(token.rpartition(b".")[0], ec.ECDSA(digest)))),
        )


def of_ed25519() -> Iterator[tuple[str, bytes]]:
    token = signed(key=ED25519)
    mac = _mac(token)
    r, s = mac[:32], int.from_bytes(mac[32:], "little")
    for times in (1, 2, 7):
        yield f"s + {times} × order", resealed(token, r + (s + times * _ED25519_ORDER).to_bytes(32, "little"))
    yield "s with its high bit", resealed(token, r + (s | 1 << 255).to_bytes(32, "little"))
    yield "r with its sign flipped", resealed(token, r[:31] + bytes([r[31] ^ 0x80]) + mac[32:])
    for name, point in SMALL_ORDER.items():
        yield f"r is the point {name}, s is 0", resealed(token, point + bytes(32))
        yield f"r is the point {name}", resealed(token, point + mac[32:])
    for order, (name, point) in zip((1, 2, 4), SMALL_ORDER.items(), strict=True):
        yield f"key {name}", _forged(name, point, order)


def _forged(kid: str, key: bytes, order: int) -> bytes:
    """Return a token for a key of small order, signed without a private key.

    The equation is s·B = r + k·A, with k the hash of r, A and the text. s = 0 and r = 1 meet it if k·A = 1.
    """
    r = SMALL_ORDER["one"]
    number = 0
    while True:
        token = signed({"alg": "EdDSA", "kid": kid}, claims(jti=f"{number}"), key=ED25519)
        digest = hashlib.sha512(r + key + token.rpartition(b".")[0]).digest()
        if int.from_bytes(digest, "little") % _ED25519_ORDER % order == 0:
            return resealed(token, r + bytes(32))
        number += 1


def _hashed(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def _mac(token: bytes) -> bytes:
    return decode_segment(token.rpartition(b".")[2]) or b""


def _pair(token: bytes) -> tuple[int, int]:
    mac = _mac(token)
    half = len(mac) // 2
    return int.from_bytes(mac[:half], "big"), int.from_bytes(mac[half:], "big")


def _raw(der: bytes) -> bytes:
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
