"""Remembered heads, with the same token or another."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Credential
from gateway.proxy.downstream.head_cache import LONGEST, MOST_FIELDS, HeadCache
from gateway.proxy.downstream.incoming import RecurringRequest
from gateway.proxy.downstream.limits import Limits
from gateway.proxy.downstream.parser import RequestParser

ANN, BOB, EVE = b"eyJh.ann.0", b"eyJh.bob-is-longer.1=", b"eyJh.eve.2"
VERIFIED = frozenset(Credential.of(token).digest for token in (ANN, BOB))
AUTHORIZATION = b"Authorization: Bearer "
ADMITTED: set[object] = set()


def head(*tokens: bytes, fields: bytes = b"", name: bytes = AUTHORIZATION) -> bytes:
    lines = b"".join(name + token + b"\r\n" for token in tokens)
    return b"GET /x?y HTTP/1.1\r\nHost: a\r\n" + lines + fields + b"\r\n"


def read(data: bytes, known: HeadCache) -> RecurringRequest | None:
    """Read one head, and remember it as the memo does with an admitted one."""
    parser = RequestParser(Limits(), known)
    parser.feed(data)
    (incoming,) = parser.arrived
    if incoming.recurring is not None:
        ADMITTED.add(incoming.recurring)
    return incoming.recurring


@pytest.fixture
def known() -> HeadCache:
    return HeadCache(VERIFIED, ADMITTED, 10)


@pytest.mark.parametrize("name", [AUTHORIZATION, AUTHORIZATION.lower().replace(b"bearer", b"Bearer")])
def test_a_head_with_another_verified_token_is_recalled_with_it(known: HeadCache, name: bytes) -> None:
    first = read(head(ANN, name=name), known)
    for token in (ANN, BOB):
        assert known.recall(head(token, name=name)) == (first, Credential.of(token))
    assert len(known) == 1


def test_a_head_without_a_token_is_recalled(known: HeadCache) -> None:
    first = read(head(), known)
    assert known.recall(head()) == (first, None)
    assert known.recall(head(ANN)) is None


def test_a_head_with_an_unverified_token_is_not_recalled(known: HeadCache) -> None:
    """Only verified text is known to be a token, and so cannot end the field."""
    read(head(ANN), known)
    for raw in (EVE, b"x\nX-Evil: 1", b"x\n\nGET /admin HTTP/1.1", b"x\0", b"\xff", b" ", b"a b"):
        assert known.recall(head(raw)) is None


def test_an_empty_token_does_not_match_another(known: HeadCache) -> None:
    """Without its token, a head looks like one with an empty token."""
    anns = read(head(ANN), known)
    assert known.recall(head(b"")) is None
    read(head(b""), known)
    assert known.recall(head(b"")) is None
    assert known.recall(head(ANN)) == (anns, Credential.of(ANN))
    credulous = HeadCache({Credential.of(b"").digest}, ADMITTED, 10)
    read(head(ANN), credulous)
    assert credulous.recall(head(b"")) is None


def test_a_head_of_many_fields_is_not_kept(known: HeadCache) -> None:
    for number, kept in ((MOST_FIELDS - 2, True), (MOST_FIELDS - 1, False)):
        data = head(ANN, fields=b"".join(b"X-%d: y\r\n" % each for each in range(number)))
        read(data, known)
        assert (known.recall(data) is not None) is kept


def test_a_refused_head_is_not_recalled_with_another_token(known: HeadCache) -> None:
    parser = RequestParser(Limits(), known)
    parser.feed(head(EVE))
    assert known.recall(head(ANN)) is None


@pytest.mark.parametrize(
    "other",
    [
        head(ANN, fields=b"X: y\r\n"),
        head(ANN).replace(b"/x?y", b"/x?z"),
        head(ANN).replace(b"GET", b"PUT"),
        head(ANN, ANN),
        head(ANN, name=b"authorization: bearer "),
        head(ANN)[:-1],
        head(ANN)[:-4],
        head(ANN).partition(b"\r\n\r\n")[0],
        head(ANN) + b"G",
        b"\r\n" + head(ANN),
    ],
)
def test_a_different_head_is_not_recalled(known: HeadCache, other: bytes) -> None:
    read(head(BOB), known)
    assert known.recall(other) is None


def test_a_second_token_belongs_to_the_head(known: HeadCache) -> None:
    read(head(ANN, BOB), known)
    assert known.recall(head(BOB, ANN)) is None
    assert known.recall(head(ANN)) is None


def test_a_long_head_is_not_kept(known: HeadCache) -> None:
    long = head(ANN, fields=b"X: " + b"y" * LONGEST + b"\r\n")
    read(long, known)
    assert len(known) == 0
    assert known.recall(long) is None


def test_another_token_does_not_exceed_a_limit() -> None:
    known = HeadCache(VERIFIED, ADMITTED, 10, longest=len(head(ANN)))
    read(head(ANN), known)
    assert len(known) == 1
    assert len(BOB) > len(ANN)
    assert known.recall(head(BOB)) is None


PARTS = [
    *(b"", ANN, BOB, EVE, b"\r\n", b"\n", b" ", b"x", b":", b"=", b"GET / HTTP/1.1\r\n", b"Host: a\r\n"),
    *(AUTHORIZATION, AUTHORIZATION.lower(), b"Bearer ", b"Content-Length: 3\r\n", head(ANN), head(BOB)),
]


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.binary(max_size=3), st.integers(0, 100))
def test_a_recalled_request_equals_a_parsed_one(parts: list[bytes], octets: bytes, at: int) -> None:
    """llhttp would read the same from these bytes, except for the token, which is separate."""
    known = HeadCache(VERIFIED, ADMITTED, 100)
    for before, fields in product((ANN, BOB), (b"", b"X: 1\r\n", b"Authorization: Basic x\r\n")):
        read(head(before, fields=fields), known)
    joined = b"".join(parts)
    data = joined[:at] + octets + joined[at:]
    recalled = known.recall(data)
    if recalled is None:
        return
    found, credential = recalled
    whole = RequestParser(Limits())
    whole.feed(data)
    (expected,) = whole.arrived
    assert (whole.pending, expected.error) == (0, None)
    for name in ("method", "target", "length", "modern", "keep_alive", "complete", "chunked", "upgrade"):
        assert getattr(found, name) == getattr(expected, name)
    changed = [pair for pair in zip(found.headers, expected.headers, strict=True) if pair[0] != pair[1]]
    if credential is None:
        assert not changed
    else:
        mine = (b"Authorization", b"Bearer " + credential.raw)
        assert mine in expected.headers
        assert [theirs for _, theirs in changed] in ([], [mine])
