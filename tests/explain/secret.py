"""Tokens of every kind that fails, and a check that no part of them leaks."""

import time
from collections.abc import Callable

from tests import tokens
from tests.harness import token

WINDOW = 24
"""Characters of a token that may stand nowhere in a row: fewer may do so by chance."""


def good() -> bytes:
    return token("ann", jti="j" * 40)


def expired() -> bytes:
    now = int(time.time())
    return token("ann", iat=now - 7200, exp=now - 3600)


FAILING: dict[str, Callable[[], bytes]] = {
    "passes": good,
    "unknown-subject": lambda: token("s" * 60),
    "expired": expired,
    "unknown-key": lambda: tokens.sign(tokens.claims("ann"), tokens.rsa_key("other")),
    "wrong-signature": lambda: tokens.sign(tokens.claims("ann"), tokens.rsa_key("stranger"), kid="main"),
    "unsigned": lambda: tokens.unsigned({"alg": "none"}, tokens.claims("ann"), b"x" * 40),
    "cut-short": lambda: good()[:-30],
    "header-alone": lambda: good().partition(b".")[0] + b".",
    "opaque": lambda: b"sk_live_" + b"0123456789abcdef" * 4,
    "encrypted": lambda: b".".join([b"a" * 40] * 5),
    "no-base64": lambda: b"!" * 40 + b"." + b"?" * 40 + b"." + b"*" * 40,
    "no-ascii": lambda: good().replace(b".", "ä".encode() * 20),
    "too-large": lambda: b"a" * 20_000,
    "control-characters": lambda: good()[:60] + b"\r\n\x00" + good()[60:],
    "nul-in-subject": lambda: token("a\x00" * 20),
    "half-a-pair": lambda: token("\ud800" * 20),
    "no-dates": lambda: token("ann", iat=-(10**30), nbf=1e308, exp=10**400),
    "deep": lambda: tokens.unsigned({"alg": "RS256"}, {}, b"x").replace(b"e30", b"W1tb" * 2000),
    "odd-claims": lambda: token(
        "ann", aud=[None, {}, 7], scope={"a": []}, roles="x" * 400, tenant_id=[[]], email=7
    ),
}
"""Made when a test asks: one that was made with the module may have expired by then."""


def parts_of(raw: bytes) -> set[bytes]:
    return {raw[start : start + WINDOW] for start in range(max(1, len(raw) - WINDOW + 1))}


def assert_absent(raw: bytes, text: str | bytes) -> None:
    octets = text.encode("utf-8", "backslashreplace") if isinstance(text, str) else text
    assert [part for part in parts_of(raw) if part in octets] == []
