"""Tokens with a good signature whose claims are mutated."""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from bench.tokens import AUDIENCE, ISSUER, subject
from bench.verdicts.minting import claims, signed, text, without
from gateway.core.model import JSON

_NAMES: Final = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "roles", "tenant_id")
_DAY: Final = 86_400


def of_wrong_types() -> Iterator[tuple[str, bytes]]:
    """Each claim, absent, and with a value of each type of JSON."""
    for name in _NAMES:
        good = claims().get(name, "x")
        values: Mapping[str, JSON] = {
            "null": None,
            "true": True,
            "zero": 0,
            "negative": -1,
            "fraction": 1.5,
            "empty": "",
            "text": "x",
            "object": {},
            "empty list": [],
            "good in a list": [good],
            "good in an object": {"value": good},
        }
        yield f"{name} absent", signed(payload=without(claims(), name))
        for what, value in values.items():
            yield f"{name} {what}", signed(payload={**claims(), name: value})


def of_dates() -> Iterator[tuple[str, bytes]]:
    """Each date near its limits, and in spellings that are JSON numbers, or nearly."""
    now = int(time.time())
    numbers: Mapping[str, JSON] = {
        "1 day ago": now - _DAY,
        "1 minute ago": now - 60,
        "10 s ago, within the leeway": now - 10,
        "10 s ahead, within the leeway": now + 10,
        "1 minute ahead": now + 60,
        "1 day ahead": now + _DAY,
        "in milliseconds": now * 1000,
        "as text": str(now),
        "in ISO 8601": "2036-01-01T00:00:00Z",
        "-1 day": -_DAY,
        "-2^63": -(2**63),
        "2^31": 2**31,
        "2^53+1": 2**53 + 1,
        "2^63": 2**63,
        "2^64": 2**64,
        "the year 9999": 253_402_300_799,
        "the year 10000": 253_402_300_800,
        "fraction, 1 minute ahead": now + 60.5,
        "fraction, 1 minute ago": now - 60.5,
    }
    for name in ("exp", "nbf", "iat"):
        for what, value in numbers.items():
            yield f"{name} {what}", signed(payload={**claims(), name: value})
        for spelling in (
            "1e9",
            "1E+9",
            "4e9",
            "1e400",
            "-1e400",
            "-0",
            "1.0e1",
            "NaN",
            "Infinity",
            "0x7fffffff",
        ):
            yield f"{name} spelt {spelling}", signed(payload=_raw(name, spelling))


def of_audiences() -> Iterator[tuple[str, bytes]]:
    values: Mapping[str, JSON] = {
        "with a slash": f"{AUDIENCE}/",
        "as http URL": f"http://{AUDIENCE}",
        "as https URL": f"https://{AUDIENCE}",
        "as https URL with a slash": f"https://{AUDIENCE}/",
        "in capitals": AUDIENCE.upper(),
        "with a space before": f" {AUDIENCE}",
        "with a space after": f"{AUDIENCE} ",
        "with NUL": f"{AUDIENCE}\0",
        "with a comma": f"other,{AUDIENCE}",
        "with a space": f"other {AUDIENCE}",
        "prefix": AUDIENCE[:-1],
        "suffix": f"{AUDIENCE}x",
        "star": "*",
        "Cyrillic e": AUDIENCE.replace("e", "е"),
        "among others": ["other", AUDIENCE, "more"],
        "twice": [AUDIENCE, AUDIENCE],
        "beside a number": [AUDIENCE, 1],
        "beside null": [AUDIENCE, None],
        "in a list in a list": [[AUDIENCE]],
        "as a name": {AUDIENCE: True},
        "beside 500 others": [*map(str, range(500)), AUDIENCE],
        "other": "other",
        "others": ["a", "b"],
    }
    for what, value in values.items():
        yield what, signed(payload=claims(aud=value))


def of_issuers() -> Iterator[tuple[str, bytes]]:
    host = ISSUER.removeprefix("https://").removesuffix("/")
    values = {
        "without the slash": ISSUER.rstrip("/"),
        "two slashes": f"{ISSUER}/",
        "http": f"http://{host}/",
        "capital scheme": f"HTTPS://{host}/",
        "capital host": f"https://{host.upper()}/",
        "with the port": f"https://{host}:443/",
        "dot after the host": f"https://{host}./",
        "user": f"https://{host}@evil.example/",
        "path": f"{ISSUER}x",
        "query": f"{ISSUER}?x",
        "fragment": f"{ISSUER}#x",
        "dot segment": f"{ISSUER}x/..",
        "percent": f"https://{host.replace('e', '%65', 1)}/",
        "space before": f" {ISSUER}",
        "space after": f"{ISSUER} ",
        "NUL": f"{ISSUER}\0",
        "line break": f"{ISSUER}\n",
        "Cyrillic e": ISSUER.replace("e", "е", 1),
        "zero width space": f"{ISSUER}\u200b",
        "other": "https://evil.example/",
    }
    for what, value in values.items():
        yield what, signed(payload=claims(iss=value))


def of_subjects() -> Iterator[tuple[str, bytes]]:
    name = subject(0)
    values = {
        "NUL after": f"{name}\0",
        "line break": f"{name}\nx",
        "carriage return": f"{name}\rx",
        "tab": f"{name}\t",
        "C1 control": f"{name}\x85",
        "DEL": f"{name}\x7f",
        "line separator": f"{name}\u2028",
        "lone surrogate": f"{name}\ud800",
        "right to left": f"\u202e{name}",
        "zero width": f"{name}\u200b",
        "emoji": "😀",
        "NFD": "e\u0301",
        "NFC": "é",
        "space": " ",
        "space after": f"{name} ",
        "in capitals": name.upper(),
        "255 characters": "a" * 255,
        "256 characters": "a" * 256,
        "5000 characters": "a" * 5000,
        "SQL": f"{name}' OR '1'='1",
        "path": f"../{name}",
    }
    for what, value in values.items():
        yield what, signed(payload=claims(sub=value))


def of_kinds() -> Iterator[tuple[str, bytes]]:
    """Claims that show that a token is no access token, or no plain one."""
    more: Mapping[str, dict[str, JSON]] = {
        "nonce": {"nonce": "n"},
        "at_hash": {"at_hash": "h"},
        "c_hash": {"c_hash": "h"},
        "s_hash": {"s_hash": "h"},
        "events": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        **{f"typ {kind}": {"typ": kind} for kind in ("ID", "Refresh", "Offline", "Logout", "Bearer")},
        **{f"token_use {kind}": {"token_use": kind} for kind in ("id", "refresh", "access")},
        "cnf jkt": {"cnf": {"jkt": "x"}},
        "cnf x5t#S256": {"cnf": {"x5t#S256": "x"}},
        "cnf text": {"cnf": "x"},
        "cnf null": {"cnf": None},
        "azp": {"azp": "web"},
        "act": {"act": {"sub": "x"}},
        "client_id": {"client_id": "c"},
    }
    for what, members in more.items():
        yield what, signed(payload={**claims(), **members})


def _raw(name: str, value: str) -> bytes:
    """Return a payload with a claim of any spelling."""
    return text({**without(claims(), name), name: 0})[:-2] + value.encode() + b"}"
