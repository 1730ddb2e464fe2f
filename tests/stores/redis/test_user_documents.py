import math

import pytest

from gateway.core.model import User, UserStatus
from gateway.stores.redis.user_documents import CachedUser, decode, encode

ISS = "https://idp.example.com/"
ANN = User(
    id="0e5f2a31-7d0c-4d6e-9c2b-1f3a5b7c9d01",
    status=UserStatus.ACTIVE,
    tenant="acme",
    email="ann@example.com",
    display_name="Änn",
    roles=("a", "b"),
    attributes={"plan": [1, None, {"x": 2.5}]},
    tokens_valid_after=12.5,
)


@pytest.mark.parametrize("user", [ANN, User("x", UserStatus.LOCKED, tokens_valid_after=math.inf), None])
def test_a_written_document_is_read_back(user: User | None) -> None:
    cached = CachedUser(user, 99.5, "e1")
    assert decode(encode(cached, ISS), ISS) == cached


def test_a_document_that_is_too_deep_is_no_entry() -> None:
    document = encode(CachedUser(ANN, 5.0, "e1"), ISS)
    for levels, read in ((61, True), (62, False), (500, False), (100_000, False)):
        deep = document.replace(b'{"x":2.5}', b'{"x":' + b"[" * levels + b"]" * levels + b"}")
        assert (decode(deep, ISS) is not None) is read


@pytest.mark.parametrize("document", [b"", b"{", b"[]", b"null", b"7", b'{"version": 2}', b"\xff"])
def test_an_unreadable_document_is_no_entry(document: bytes) -> None:
    assert decode(document, ISS) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"version":2', b'"version":1'),
        (b'"iss":"https://idp', b'"iss":"https://elsewhere'),
        (b'"stored_at":5.0', b'"stored_at":"soon"'),
        (b'"epoch":"e1"', b'"epoch":null'),
        (b'"user":{', b'"user":[],"spare":{'),
        (b'"active"', b'"zombie"'),
        (b'"roles":["a","b"]', b'"roles":[1]'),
        (b'"roles":["a","b"]', b'"roles":"ab"'),
        (b'"tenant":"acme"', b'"tenant":7'),
        (b'"attributes":{', b'"attributes":[],"spare":{'),
        (b'"tokens_valid_after":"12.5"', b'"tokens_valid_after":12.5'),
    ],
)
def test_a_damaged_document_is_no_entry(before: bytes, after: bytes) -> None:
    document = encode(CachedUser(ANN, 5.0, "e1"), ISS)
    assert before in document
    assert decode(document.replace(before, after), ISS) is None
