"""Tokens of every kind that fails, and how to see that no part of one has got out."""

import time

from tests import tokens
from tests.harness import token

WINDOW = 24
"""Characters of a token that may stand nowhere in a row: fewer may do so by chance."""

GOOD = token("ann", jti="j" * 40)
NOW = int(time.time())
FAILING = {
    "passes": GOOD,
    "unknown-subject": token("s" * 60),
    "expired": token("ann", iat=NOW - 7200, exp=NOW - 3600),
    "unknown-key": tokens.sign(tokens.claims("ann"), tokens.rsa_key("other")),
    "wrong-signature": tokens.sign(tokens.claims("ann"), tokens.rsa_key("stranger"), kid="main"),
    "unsigned": tokens.unsigned({"alg": "none"}, tokens.claims("ann"), b"x" * 40),
    "cut-short": GOOD[:-30],
    "header-alone": GOOD.partition(b".")[0] + b".",
    "opaque": b"sk_live_" + b"0123456789abcdef" * 4,
    "encrypted": b".".join([b"a" * 40] * 5),
    "no-base64": b"!" * 40 + b"." + b"?" * 40 + b"." + b"*" * 40,
    "no-ascii": GOOD.replace(b".", "ä".encode() * 20),
    "too-large": b"a" * 20_000,
    "control-characters": GOOD[:60] + b"\r\n\x00" + GOOD[60:],
    "nul-in-subject": token("a\x00" * 20),
    "half-a-pair": token("\ud800" * 20),
    "no-dates": token("ann", iat=-(10**30), nbf=1e308, exp=10**400),
    "deep": tokens.unsigned({"alg": "RS256"}, {}, b"x").replace(b"e30", b"W1tb" * 2000),
    "odd-claims": token("ann", aud=[None, {}, 7], scope={"a": []}, roles="x" * 400, tenant_id=[[]], email=7),
}


def parts_of(raw: bytes) -> set[bytes]:
    return {raw[start : start + WINDOW] for start in range(max(1, len(raw) - WINDOW + 1))}


def assert_absent(raw: bytes, text: str | bytes) -> None:
    octets = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    assert [part for part in parts_of(raw) if part in octets] == []
