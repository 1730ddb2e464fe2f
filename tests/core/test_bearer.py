"""One Authorization field, one bearer token (RFC 6750 §2.1)."""

import pytest

from gateway.core.reasons import CATALOGUE, Denial
from gateway.core.requests import bearer


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer abc.def.ghi", b"abc.def.ghi"),
        (b"bearer abc", b"abc"),
        (b"BEARER   abc", b"abc"),
        (b"  Bearer abc\t", b"abc"),
        (b"Bearer aZ09-._~+/==", b"aZ09-._~+/=="),
    ],
)
def test_the_token_follows_the_scheme(value: bytes, token: bytes) -> None:
    assert bearer.parse([value]) == token


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearerabc",
        b"Bearer\tabc",
        b"Basic dXNlcjpwYXNz",
        b"abc.def.ghi",
        b"Bearer abc def",
        b"Bearer abc,Bearer def",
        b'Bearer "abc"',
        b"Bearer abc\x00",
        b"Bearer abc\n",
        b"Bearer ab\r\nX-User-Id: 1",
        b"Bearer =abc",
        b"Bearer ab=c",
        "Bearer ü".encode(),
        b'Bearer {"payload":"","signatures":[]}',
    ],
)
def test_anything_else_is_malformed(value: bytes) -> None:
    assert refused([value]) == "credentials_malformed"


def test_no_field_is_missing_credentials() -> None:
    assert refused([]) == "credentials_missing"


@pytest.mark.parametrize("second", [b"Bearer abc", b"Basic x"])
def test_two_authorization_headers_are_refused_even_when_equal(second: bytes) -> None:
    assert refused([b"Bearer abc", second]) == "credentials_multiple"


def test_a_token_of_10_mb_is_refused_before_anyone_reads_it() -> None:
    assert refused([b"Bearer " + b"a" * 10_000_000]) == "token_too_large"


def test_the_largest_token_is_accepted() -> None:
    size = bearer.MAX_TOKEN_BYTES - len(b"Bearer ")

    assert bearer.parse([b"Bearer " + b"a" * size]) == b"a" * size
    assert refused([b"Bearer " + b"a" * (size + 1)]) == "token_too_large"


def test_the_refusal_never_quotes_the_credential() -> None:
    for value in (b"Basic c2VjcmV0", b"Bearer c2VjcmV0 c2VjcmV0", b"Bearer " + b"c2VjcmV0" * 9999):
        with pytest.raises(Denial) as caught:
            bearer.parse([value])
        assert "c2VjcmV0" not in str(caught.value)


def refused(authorizations: list[bytes]) -> str:
    with pytest.raises(Denial) as caught:
        bearer.parse(authorizations)
    assert CATALOGUE[caught.value.reason.code] is caught.value.reason
    return caught.value.reason.code
