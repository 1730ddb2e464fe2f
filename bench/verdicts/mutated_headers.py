"""Tokens whose header is mutated: algorithm, key, type and extensions."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from cryptography.hazmat.primitives import serialization

from bench.verdicts.minting import (
    ED25519,
    FOREIGN,
    KEYS,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    claims,
    header,
    resealed,
    sealed,
    signed,
    text,
    without,
)
from gateway.core.model import JSON
from gateway.core.tokens.jws import ALGORITHMS, HMAC_ALGORITHMS
from tests.tokens import base64url

_OF_KEY: Final = {
    RSA: frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    P256: frozenset({"ES256"}),
    P384: frozenset({"ES384"}),
    P521: frozenset({"ES512"}),
    ED25519: frozenset({"EdDSA", "Ed25519"}),
}


def of_algorithms() -> Iterator[tuple[str, bytes]]:
    """Each algorithm in the header with each key, which signs with it, or with its own if it cannot."""
    for algorithm, (key, able) in product(sorted(ALGORITHMS - HMAC_ALGORITHMS), _OF_KEY.items()):
        doing = algorithm if algorithm in able else key.algorithm
        yield f"{algorithm}, key {key.kid}", signed(header(key, algorithm), key=key, algorithm=doing)
    yield "PS256, signed as RS256", signed(header(RSA, "PS256"), algorithm="RS256")
    yield "RS256, signed as PS256", signed(header(RSA), algorithm="PS256")
    yield "RS256, signed as RS512", signed(header(RSA), algorithm="RS512")
    for value in (
        "rs256",
        "RS256 ",
        "Rs256",
        "RS1",
        "ES256K",
        "EDDSA",
        "eddsa",
        "Ed448",
        "RSA1_5",
        "dir",
        "A128KW",
        "",
    ):
        key = ED25519 if value.lower().startswith("ed") else P256 if value.startswith("ES") else RSA
        yield f"{value!r}", signed(header(key, alg=value), key=key)
    odd: Mapping[str, JSON] = {
        "null": None,
        "number": 256,
        "list": ["RS256"],
        "object": {"RS256": 1},
        "true": True,
    }
    for what, each in odd.items():
        yield what, signed(header(alg=each))
    yield "absent", signed(without(header(), "alg"))


def of_no_algorithm() -> Iterator[tuple[str, bytes]]:
    for alg, (what, mac) in product(
        ("none", "None", "NONE", "nOnE", "none "), (("empty", b""), ("any", b"x" * 256))
    ):
        yield f"{alg!r}, signature {what}", resealed(signed(header(alg=alg)), mac)
    yield "'none', signature good", signed(header(alg="none"))
    yield "'none', no third segment", signed(header(alg="none")).rpartition(b".")[0]


def of_public_keys_as_secrets() -> Iterator[tuple[str, bytes]]:
    for key in (RSA, P256, ED25519):
        public = key.private.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        secrets = {
            "PEM": key.pem(),
            "PEM, stripped": key.pem().strip(),
            "DER": der,
            "JWK": text(key.jwk()),
            "nothing": b"",
        }
        for what, secret in secrets.items():
            yield f"HS256, {what} of {key.kid}", signed(header(key, "HS256"), key=secret, algorithm="HS256")
    for algorithm in ("HS384", "HS512"):
        yield f"{algorithm}, PEM", signed(header(RSA, algorithm), key=RSA.pem(), algorithm=algorithm)
    yield "HS256, PEM, no kid", signed({"alg": "HS256"}, key=RSA.pem(), algorithm="HS256")


def of_key_names() -> Iterator[tuple[str, bytes]]:
    values: Mapping[str, JSON] = {
        "null": None,
        "empty": "",
        "number": 1,
        "true": True,
        "list": [RSA.kid],
        "object": {"kid": RSA.kid},
        "of another key": OTHER_RSA.kid,
        "of a key of another kind": P256.kid,
        "unknown": "x",
        "in capitals": RSA.kid.upper(),
        "with a space": f"{RSA.kid} ",
        "with NUL": f"{RSA.kid}\0",
        "with a path": "../../dev/null",
        "with SQL": "x' OR '1'='1",
        "with a command": "|/bin/id",
        "with a URL": "https://evil.example/jwks",
        "8000 characters": "k" * 8000,
        "Cyrillic": "rsа",
    }
    for what, value in values.items():
        yield what, signed(header(kid=value))
    for key in KEYS:
        yield f"absent, {key.kid}", signed(without(header(key), "kid"), key=key)
    yield "absent, a key that is not published", signed(without(header(FOREIGN), "kid"), key=FOREIGN)


def of_types() -> Iterator[tuple[str, bytes]]:
    values: Mapping[str, JSON] = {
        **{
            f"{typ!r}": typ
            for typ in (
                "jwt",
                "JOSE",
                "at+jwt",
                "AT+JWT",
                "application/at+jwt",
                "application/jwt",
                "id+jwt",
                "dpop+jwt",
                "logout+jwt",
                "secevent+jwt",
                "token-introspection+jwt",
                "JWT ",
                "",
            )
        },
        "null": None,
        "number": 1,
        "list": ["JWT"],
        "true": True,
    }
    yield "absent", signed(without(header(), "typ"))
    for what, value in values.items():
        yield what, signed(header(typ=value))
    for cty in ("JWT", "", "json"):
        yield f"cty {cty!r}", signed(header(cty=cty))


def of_extensions() -> Iterator[tuple[str, bytes]]:
    """Members that a verifier must understand or ignore, and those that name another key."""
    crits: Mapping[str, dict[str, JSON]] = {
        "empty": {"crit": []},
        "unknown": {"crit": ["x"], "x": 1},
        "unknown and absent": {"crit": ["x"]},
        "exp": {"crit": ["exp"], "exp": 1},
        "alg": {"crit": ["alg"]},
        "b64 true": {"crit": ["b64"], "b64": True},
        "b64 false": {"crit": ["b64"], "b64": False},
        "text": {"crit": "b64", "b64": True},
        "null": {"crit": None},
        "number": {"crit": 1},
        "object": {"crit": {}},
        "numbers": {"crit": [1]},
        "twice": {"crit": ["x", "x"], "x": 1},
        "an empty name": {"crit": [""], "": 1},
    }
    for what, members in crits.items():
        yield f"crit {what}", signed(header(**members))
    raw = text(claims())
    yield "crit b64 false, payload not encoded", sealed(base64url(text(header(crit=["b64"], b64=False))), raw)
    yield "b64 false without crit", signed(header(b64=False))
    yield "b64 true without crit", signed(header(b64=True))
    others: Mapping[str, JSON] = {
        "zip": "DEF",
        "enc": "A128GCM",
        "epk": {},
        "p2c": 10**9,
        "exp": 1,
        "iss": "x",
    }
    for name, value in others.items():
        yield f"{name} in the header", signed(header(**{name: value}))
    keys: Mapping[str, JSON] = {
        "jwk": FOREIGN.jwk(),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/x5u",
        "x5c": ["MIIB"],
        "x5t": "AAAA",
        "x5t#S256": "AAAA",
    }
    for name, value in keys.items():
        yield f"{name}, signed by our key", signed(header(**{name: value}))
        for kid in (RSA.kid, FOREIGN.kid, None):
            head = {each: member for each, member in header(FOREIGN, kid=kid).items() if member is not None}
            yield f"{name}, signed by its key, kid {kid}", signed({**head, name: value}, key=FOREIGN)
    yield "jwk of none of them", signed(header(jwk="x"))
    yield "many members", signed(header(**{f"x{number}": number for number in range(300)}))
