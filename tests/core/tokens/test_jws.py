"""A token taken apart: compact JWS (RFC 7515 §5.2), and nothing that looks almost like it."""

import base64
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import JSON
from gateway.core.reasons import Denial
from gateway.core.tokens.jws import (
    decode_segment,
    parse,
)
from tests.tokens import (
    base64url,
    claims,
    secret,
    sign,
    sign_raw,
    unsigned,
)

HEADER: dict[str, JSON] = {"alg": "HS256", "typ": "JWT"}
GOOD = sign({"sub": "member"}, secret())


def refused(token: bytes) -> str:
    with pytest.raises(Denial) as caught:
        parse(token)
    return caught.value.reason.code


# Shape ------------------------------------------------------------------------------------------


def test_a_token_is_taken_apart() -> None:
    token = parse(sign({"sub": "member"}, secret(), kid="k", zip="DEF", b64=True))

    assert (token.algorithm, token.kid, dict(token.payload)) == ("HS256", "k", {"sub": "member"})
    assert token.signing_input + b"." + base64url(token.signature) == sign(
        {"sub": "member"}, secret(), kid="k", zip="DEF", b64=True
    )


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"opaque",
        GOOD.rpartition(b".")[0],
        GOOD + b".",
        GOOD + b".e30",
        b"." + GOOD,
        GOOD.replace(b".", b".."),
        b".".join([base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}'), *[b"YQ"] * 4]),
        b'{"payload":"e30","signatures":[{"protected":"e30","signature":"YQ"}]}',
        b'{"protected":"e30","payload":"e30","signature":"YQ"}',
    ],
    ids=[
        "empty", "one dot", "two dots", "opaque", "two segments", "four segments, empty", "four segments",
        "leading dot", "doubled dots", "JWE", "general JSON serialisation", "flattened JSON serialisation",
    ],
)  # fmt: skip
def test_a_token_without_three_segments_of_json_is_malformed(token: bytes) -> None:
    assert refused(token) == "token_malformed"


@pytest.mark.parametrize("segment", [0, 1, 2], ids=["header", "payload", "signature"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s + b"=",
        lambda s: s + b"==",
        lambda s: s + b"\n",
        lambda s: b" " + s,
        lambda s: s[:4] + b"\r\n" + s[4:],
        lambda s: s[:4] + b"\x00" + s[4:],
        lambda s: s[:4] + b"!" + s[4:],
        lambda s: s[:4] + b"+" + s[5:],
        lambda s: s[:4] + b"/" + s[5:],
        lambda s: s[:4] + b"\xff" + s[5:],
        lambda s: s + b"A" * (1 + -len(s) % 4),
    ],
    ids=[
        "padding", "two of padding", "newline", "space", "CRLF", "NUL", "foreign character", "plus", "slash",
        "not ASCII", "impossible length",
    ],
)  # fmt: skip
def test_not_quite_base64url_is_malformed(segment: int, spoil: Callable[[bytes], bytes]) -> None:
    segments = GOOD.split(b".")
    segments[segment] = spoil(segments[segment])

    assert refused(b".".join(segments)) == "token_malformed"


def test_stray_bits_at_the_end_are_not_another_spelling_of_the_same_token() -> None:
    segments = GOOD.split(b".")
    assert len(segments[2]) % 4 == 3  # 32 octets leave two bits unused
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(segments[2][-1:])
    for stray in (1, 2, 3):
        other = segments[2][:-1] + alphabet[last ^ stray : (last ^ stray) + 1]
        assert base64.urlsafe_b64decode(other + b"=") == base64.urlsafe_b64decode(segments[2] + b"=")
        assert refused(b".".join([*segments[:2], other])) == "token_malformed"


@given(st.binary(max_size=40))
def test_every_octet_string_has_exactly_one_spelling(octets: bytes) -> None:
    assert decode_segment(base64url(octets)) == octets


@given(st.binary(max_size=12))
def test_nothing_else_decodes(segment: bytes) -> None:
    decoded = decode_segment(segment)

    assert decoded is None or base64url(decoded) == segment


@pytest.mark.parametrize(
    "spoilt",
    [
        b"",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"[{}]",
        b"{",
        b"{}x",
        b"{'a':1}",
        b'{"alg":"HS256",}',
        b'{"alg":"HS256","alg":"HS256"}',
        b'{"alg":"HS256","a":{"b":1,"b":2}}',
        b'{"alg":"HS256","\\u0061lg":"none"}',
        b'{"alg":"HS256","exp":NaN}',
        b'{"alg":"HS256","exp":Infinity}',
        b'{"alg":"HS256","exp":-Infinity}',
        b'{"alg":"HS256","exp":' + b"9" * 5000 + b"}",
        b'{"alg":"HS256","a":"\n"}',
        b'{"alg":"HS256","a":"\xff"}',
        b'\xef\xbb\xbf{"alg":"HS256"}',
        '{"alg":"HS256"}'.encode("utf-16"),
        b'{"alg":"HS256","a":' + b"[" * 6000 + b"]" * 6000 + b"}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        zlib.compress(b'{"alg":"HS256"}'),
    ],
    ids=[
        "empty", "null", "number", "string", "list", "list of objects", "cut off", "trailing text",
        "single quotes", "trailing comma", "duplicate key", "duplicate key inside",
        "duplicate key in disguise", "NaN", "Infinity", "-Infinity", "huge integer", "raw control character",
        "not UTF-8",
        "byte order mark", "UTF-16", "deep list", "deep object", "compressed",
    ],
)  # fmt: skip
def test_a_part_that_is_no_strict_json_object_is_malformed(spoilt: bytes) -> None:
    assert refused(sign_raw(spoilt, b"{}", secret(), "HS256")) == "token_malformed"
    assert refused(sign_raw(b'{"alg":"HS256"}', spoilt, secret(), "HS256")) == "token_malformed"


@pytest.mark.parametrize("levels", [65, 66, 200, 900, 1000, 5000])
@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_json_nested_deeper_than_64_levels_is_malformed(levels: int, opened: bytes) -> None:
    """By a rule of our own: the parser's bound is another one in each version of Python."""
    closed = b"]" if opened == b"[" else b"}"
    inner = opened * (levels - 1) + b"1" + closed * (levels - 1)
    deep = b'{"alg":"HS256","a":' + inner + b"}"
    assert refused(sign_raw(deep, b"{}", secret(), "HS256")) == "token_malformed"
    assert refused(sign_raw(b'{"alg":"HS256"}', deep, secret(), "HS256")) == "token_malformed"


def test_64_levels_are_read() -> None:
    deep = b'{"alg":"HS256","a":' + b"[" * 63 + b"]" * 63 + b"}"
    assert parse(sign_raw(deep, deep, secret(), "HS256")).algorithm == "HS256"


def test_a_bomb_is_never_inflated() -> None:
    """`zip` means something in a JWE alone (RFC 7516 §4.1.3): here the payload must be JSON as it is."""
    bomb = zlib.compress(b'{"a":"' + b"a" * 10_000_000 + b'"}', 9)

    assert refused(sign(bomb, secret(), zip="DEF")) == "token_malformed"


def test_a_token_of_10_mb_is_refused() -> None:
    assert refused(b"a" * 10_000_000) == "token_malformed"
    assert refused(b"." * 10_000_000) == "token_malformed"


@given(st.lists(st.sampled_from([*GOOD.split(b"."), b".", b"e30", b"=", b"\n", b"A", b"\xff"]), max_size=8))
def test_no_bytes_are_anything_but_a_token_or_a_denial(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    try:
        token = parse(raw)
    except Denial:
        return
    assert token.signing_input + b"." + base64url(token.signature) == raw


# Header -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "none ",
        "hs256",
        "Hs256",
        "HS1",
        "RS1",
        "HS256\x00",
        "ES256K",
        "RSA-OAEP",
    ],
)
def test_alg_none_in_any_case_and_every_unknown_alg_are_refused(algorithm: str) -> None:
    for mac in (b"", b"\0" * 32):
        assert refused(unsigned({"alg": algorithm}, claims(), mac)) == "algorithm_not_allowed"


@pytest.mark.parametrize("algorithm", [None, 7, True, ["HS256"], {"alg": "HS256"}])
def test_an_alg_that_is_no_string_is_malformed(algorithm: JSON) -> None:
    assert refused(unsigned({"alg": algorithm}, claims())) == "token_malformed"
    assert refused(unsigned({}, claims())) == "token_malformed"


@pytest.mark.parametrize("kid", [7, True, ["k"], {"k": 1}])
def test_a_kid_that_is_no_string_is_malformed(kid: JSON) -> None:
    assert refused(unsigned({**HEADER, "kid": kid}, claims())) == "token_malformed"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["x"], [], None, "exp", 7, {}])
def test_any_crit_is_refused(crit: JSON) -> None:
    assert refused(unsigned({**HEADER, "crit": crit, "exp": 1, "b64": False}, claims())) == (
        "critical_header_unsupported"
    )


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt", None]
)
def test_an_access_token_says_so_or_nothing(typ: JSON) -> None:
    assert parse(unsigned({"alg": "HS256", "typ": typ}, {})).algorithm == "HS256"


@pytest.mark.parametrize(
    "typ",
    ["logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", "JOSE", "", " JWT", "text/jwt", 7, True, ["JWT"], {}],
)
def test_a_token_of_another_type_is_refused(typ: JSON) -> None:
    assert refused(unsigned({"alg": "HS256", "typ": typ}, {})) == "token_type_invalid"


@given(st.text("ABQgwz089-_+/= \n!é", max_size=9).map(str.encode))
def test_only_the_canonical_spelling_is_base64url(segment: bytes) -> None:
    """By the definition: what is decoded, encoded again (RFC 7515 §2)."""
    try:
        decoded = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
    except ValueError:
        assert decode_segment(segment) is None
        return
    again = base64.urlsafe_b64encode(decoded).rstrip(b"=")
    assert decode_segment(segment) == (decoded if again == segment else None)
