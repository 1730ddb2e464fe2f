import base64
import hashlib
import json
from dataclasses import replace

import pytest

from gateway.core.caches import FIFO
from gateway.core.model import Credential, Request
from gateway.core.requests.token_marks import TokenMarks, marks_of


def part(value: object) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def request(*authorizations: bytes) -> Request:
    fields = tuple((b"Authorization", value) for value in authorizations)
    return Request("GET", "/x", fields, "192.0.2.1", "http", "the-id")


def digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()[:16]


def test_marks_are_the_values_of_the_token() -> None:
    header = {"alg": "RS256", "kid": "k1", "typ": "JWT"}
    payload = {"iss": "https://idp/", "sub": "ann", "aud": ["a", 7, "b"], "iat": 1, "nbf": 2.5, "exp": 3}
    token = b".".join((part(header), part(payload), b"c2ln"))

    marks = marks_of(request(b"Bearer " + token), None)

    assert marks == TokenMarks(digest(token), "RS256", "k1", "JWT", "https://idp/", "a b", 1.0, 2.5, 3.0)
    assert "ann" not in repr(marks)
    moved = replace(request(), credential=Credential.of(token))
    assert marks_of(moved, None) == marks


@pytest.mark.parametrize(
    "token",
    [
        b"opaque",
        b"a.b.c",
        part({"alg": "x"}) + b"." + part([]) + b".c",
        part({"alg": "x"}) + b"." + part(b"[" * 9000) + b".c",
        part({"alg": "x"}) + b"." + part({}),
        part(b"\xff") + b"." + part({}) + b".c",
    ],
)
def test_other_tokens_have_a_digest_alone(token: bytes) -> None:
    assert marks_of(request(b"Bearer " + token), None) == TokenMarks(digest(token))


def test_odd_values_are_left_out_and_long_ones_cut() -> None:
    payload = {"iss": 7, "aud": None, "iat": True, "nbf": "soon", "exp": 1e300}
    token = b".".join((part({"alg": "a" * 5000, "kid": ["k"]}), part(payload), b"c"))

    assert marks_of(request(b"Bearer " + token), None) == TokenMarks(digest(token), "a" * 200)


def test_a_token_that_comes_again_is_not_read_again() -> None:
    one, other = (part({"alg": name}) + b"." + part({}) + b".c" for name in ("x", "y"))
    known = FIFO[bytes, TokenMarks](8)
    marks = marks_of(request(b"Bearer " + one), None, known)
    assert marks == marks_of(request(b"Bearer " + one), None)
    assert marks_of(replace(request(), credential=Credential.of(one)), None, known) is marks
    assert marks_of(request(b"Bearer " + other), None, known) == TokenMarks(digest(other), "y")
    assert len(known) == 2


@pytest.mark.parametrize("values", [(), (b"Basic abc",), (b"Bearer a", b"Bearer b")])
def test_without_one_token_there_are_no_marks(values: tuple[bytes, ...]) -> None:
    assert marks_of(request(*values), None) is None
