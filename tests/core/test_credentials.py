from collections.abc import Callable
from dataclasses import replace
from typing import Literal
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import CredentialSources, Header, Request
from gateway.core.reasons import (
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MISSING,
    CREDENTIALS_MULTIPLE,
    ORIGIN_NOT_ALLOWED,
    TOKEN_TOO_LARGE,
    Denial,
    Reason,
)
from gateway.core.requests.bearer import MAX_TOKEN_BYTES
from gateway.core.requests.credentials import Place, Presented, check_origin, find, subprotocol_answer

TOKEN = b"eyJhbGciOi.eyJzdWIiOi-_.c2lnbmF0dXJl"
BEARER = (b"Authorization", b"Bearer " + TOKEN)
EVERYWHERE = CredentialSources(cookie="session", query="access_token", subprotocol="bearer")


def request(*headers: Header, method: str = "GET") -> Request:
    return Request(method, "/ws", headers, "192.0.2.1", "http", "id")


def refused(reason: Reason, *headers: Header, query: str = "", method: str = "GET") -> None:
    with pytest.raises(Denial) as caught:
        find(request(*headers, method=method), query, EVERYWHERE)
    assert caught.value.reason is reason
    assert TOKEN.decode() not in str(caught.value)


def cookie(value: bytes) -> Header:
    return (b"Cookie", value)


def offer(value: bytes) -> Header:
    return (b"Sec-WebSocket-Protocol", value)


def test_authorization_is_taken_first_and_left_alone() -> None:
    sent = request(BEARER, cookie(b"a=1"), offer(b"chat"))
    presented = find(sent, "?b=2", EVERYWHERE)
    assert presented == Presented(TOKEN, Place.AUTHORIZATION, sent, "?b=2")


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        (b"session=" + TOKEN, None),
        (b"a=1; session=" + TOKEN + b"; b=2", b"a=1; b=2"),
        (b"session=" + TOKEN + b"; b=2", b"b=2"),
        (b"a=1;session=" + TOKEN, b"a=1"),
        (b'a="x;  y"; session=' + TOKEN, b'a="x;  y"'),
        (b"a=1; session = " + TOKEN, b"a=1"),
        (b"session2=x; session=" + TOKEN + b";  SESSION=y", b"session2=x;  SESSION=y"),
    ],
)
def test_a_token_moves_from_its_cookie_to_authorization(sent: bytes, rest: bytes | None) -> None:
    host = (b"Host", b"example.com")
    presented = find(request(host, cookie(sent)), "", EVERYWHERE)
    assert (presented.token, presented.place, presented.query) == (TOKEN, Place.COOKIE, "")
    kept = () if rest is None else (cookie(rest),)
    assert presented.request.headers == (host, *kept, BEARER)


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        ([b"bearer." + TOKEN], []),
        ([b"bearer, " + TOKEN], []),
        ([b"chat, bearer." + TOKEN], [b"chat"]),
        ([b"bearer." + TOKEN + b", chat, v2.chat"], [b"chat, v2.chat"]),
        ([b"chat,bearer," + TOKEN + b" , v2.chat"], [b"chat, v2.chat"]),
        ([b"chat, bearer", TOKEN + b", soap"], [b"chat", b"soap"]),
        ([b"chat", b"bearer." + TOKEN], [b"chat"]),
        ([b"bearers.x, bearer." + TOKEN], [b"bearers.x"]),
    ],
)
def test_a_token_moves_from_the_subprotocols_to_authorization(sent: list[bytes], rest: list[bytes]) -> None:
    presented = find(request(*map(offer, sent)), "", EVERYWHERE)
    assert (presented.token, presented.place) == (TOKEN, Place.SUBPROTOCOL)
    assert presented.request.headers == (*map(offer, rest), BEARER)


@pytest.mark.parametrize(
    ("sent", "rest"),
    [
        ("?access_token={}", ""),
        ("?a=1&access_token={}&b=2", "?a=1&b=2"),
        ("?access_token={}&a=%41&&b", "?a=%41&&b"),
        ("?a=?&access%5Ftoken={}", "?a=?"),
        ("?access_token2=x&access_token={}", "?access_token2=x"),
    ],
)
def test_a_token_moves_from_the_query_to_authorization(sent: str, rest: str) -> None:
    presented = find(request(), sent.format(TOKEN.decode()), EVERYWHERE)
    assert (presented.token, presented.place, presented.query) == (TOKEN, Place.QUERY, rest)
    assert presented.request.headers == (BEARER,)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ((BEARER, cookie(b"session=" + TOKEN)), ""),
        (((b"authorization", b"Basic eDp5"), cookie(b"session=" + TOKEN)), ""),
        ((BEARER, offer(b"bearer." + TOKEN)), ""),
        ((BEARER,), f"?access_token={TOKEN.decode()}"),
        ((cookie(b"session=" + TOKEN),), f"?access_token={TOKEN.decode()}"),
        ((cookie(b"session=" + TOKEN + b"; session=" + TOKEN),), ""),
        ((cookie(b"session=a"), cookie(b"session=b")), ""),
        ((offer(b"bearer." + TOKEN + b", bearer, " + TOKEN),), ""),
        ((), "?access_token=a&access_token=a"),
        ((), "?access_token=a&%61ccess_token=a"),
        ((BEARER, cookie(b"session=")), ""),
    ],
)
def test_two_credentials_are_refused(headers: tuple[Header, ...], query: str) -> None:
    refused(CREDENTIALS_MULTIPLE, *headers, query=query)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ((cookie(b"session="),), ""),
        ((cookie(b'session="' + TOKEN + b'"'),), ""),
        ((cookie(b"session=a b"),), ""),
        ((offer(b"bearer."),), ""),
        ((offer(b"chat, bearer"),), ""),
        ((offer(b"bearer, , chat"),), ""),
        ((), "?access_token"),
        ((), "?access_token="),
        ((), "?access_token=a%2Eb"),
        ((), "?access_token=a=b"),
        (((b"Authorization", b"Basic eDp5"),), ""),
    ],
)
def test_a_text_that_is_no_token_is_refused(headers: tuple[Header, ...], query: str) -> None:
    refused(CREDENTIALS_MALFORMED, *headers, query=query)


@pytest.mark.parametrize(
    ("headers", "query"),
    [((), ""), ((cookie(b"Session=x; session"),), "?Access_token=x"), ((offer(b"chat"),), "?q=access_token")],
)
def test_no_credential_is_missing(headers: tuple[Header, ...], query: str) -> None:
    refused(CREDENTIALS_MISSING, *headers, query=query)


def test_places_that_a_route_does_not_name_are_not_looked_at() -> None:
    sent = request(cookie(b"session=" + TOKEN), offer(b"bearer." + TOKEN))
    with pytest.raises(Denial) as caught:
        find(sent, f"?access_token={TOKEN.decode()}", CredentialSources(cookie="other"))
    assert caught.value.reason is CREDENTIALS_MISSING


@pytest.mark.parametrize("value", [b"session=" + TOKEN, b"bearer." + TOKEN, b"bearer, " + TOKEN])
def test_a_token_in_another_field_is_none(value: bytes) -> None:
    refused(CREDENTIALS_MISSING, (b"X-Cookie", value))


def test_a_token_in_the_query_is_for_get_alone() -> None:
    refused(CREDENTIALS_MALFORMED, query=f"?access_token={TOKEN.decode()}", method="POST")


def test_a_token_from_elsewhere_has_the_limit_of_authorization() -> None:
    refused(TOKEN_TOO_LARGE, cookie(b"session=" + b"a" * (MAX_TOKEN_BYTES + 1)))
    longest = b"a" * MAX_TOKEN_BYTES
    assert find(request(cookie(b"session=" + longest)), "", EVERYWHERE).token == longest


# What stays, to the byte -----------------------------------------------------------------------------

_visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="&#")
_pairs = st.lists(
    st.text(_visible, max_size=12).filter(lambda pair: not pair.startswith("access_token")), max_size=4
)


@given(_pairs, _pairs)
def test_the_rest_of_a_query_is_untouched(before: list[str], after: list[str]) -> None:
    quoted = [pair.replace("%", "%25") for pair in [*before, *after]]
    sent = [*quoted[: len(before)], f"access_token={TOKEN.decode()}", *quoted[len(before) :]]
    presented = find(request(), "?" + "&".join(sent), EVERYWHERE)
    assert presented.token == TOKEN
    assert presented.query == ("?" + "&".join(quoted) if quoted else "")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40))
def test_a_query_without_a_token_is_untouched(text: str) -> None:
    query = "?" + quote(text, safe="&=?/+;")
    presented = find(request(BEARER), query, CredentialSources(query="no_such_parameter"))
    assert presented.query == query


_octets = st.binary(max_size=12)
_cookies = st.lists(
    _octets.filter(lambda pair: b";" not in pair and not pair.strip(b" \t").startswith(b"session")),
    max_size=4,
)


@given(_cookies, _cookies)
def test_the_other_cookies_are_untouched(before: list[bytes], after: list[bytes]) -> None:
    sent = b";".join([*before, b"session=" + TOKEN, *after])
    presented = find(request(cookie(sent)), "", EVERYWHERE)
    rest = b";".join([*before, *after]).strip(b" \t")
    assert presented.token == TOKEN
    assert presented.request.headers == ((cookie(rest), BEARER) if rest else (BEARER,))


@pytest.mark.parametrize("field", [cookie, offer])
@pytest.mark.parametrize("value", [b"", b" a"])
def test_another_field_of_that_name_is_untouched(field: Callable[[bytes], Header], value: bytes) -> None:
    token = cookie(b"session=" + TOKEN) if field is cookie else offer(b"bearer." + TOKEN)
    presented = find(request(field(value), token), "", EVERYWHERE)
    assert presented.request.headers == (field(value), BEARER)


_names = st.sampled_from([b"Cookie", b"Sec-WebSocket-Protocol", b"X"])


@given(st.lists(st.tuples(_names, _octets), max_size=4))
def test_fields_without_a_token_are_untouched(fields: list[Header]) -> None:
    sent = request(*fields, BEARER)
    assert find(sent, "", CredentialSources(cookie="no-such", subprotocol="no-such")).request == sent


# Origin ----------------------------------------------------------------------------------------------


def with_cookie(
    *headers: Header, method: str = "GET", scheme: Literal["http", "https"] = "http"
) -> Presented:
    sent = request((b"Host", b"App.example.com"), cookie(b"session=" + TOKEN), *headers, method=method)
    presented = find(replace(sent, scheme=scheme), "", EVERYWHERE)
    assert presented.place is Place.COOKIE
    return presented


ALLOWED = frozenset({"https://other.example.com", "https://app.example.com:8443"})


@pytest.mark.parametrize(
    "origin",
    [
        b"http://app.example.com",
        b"https://app.example.com",
        b"https://app.example.com:443",
        b"https://APP.example.com",
        b"https://other.example.com",
        b"https://app.example.com:8443",
    ],
)
def test_an_own_or_allowed_origin_may_use_the_cookie(origin: bytes) -> None:
    check_origin(with_cookie((b"Origin", origin)), ALLOWED, upgrade=True)
    if origin.startswith(b"https"):
        check_origin(with_cookie((b"Origin", origin), scheme="https"), ALLOWED, upgrade=True)


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [b"null"],
        [b"https://evil.example.com"],
        [b"https://app.example.com.evil.example.com"],
        [b"https://evil.example.com/app.example.com"],
        [b"https://app.example.com:8080"],
        [b"http://other.example.com"],
        [b"app.example.com"],
        [b"ftp://app.example.com"],
        [b"https://app.example.com", b"https://app.example.com"],
        [b""],
    ],
)
@pytest.mark.parametrize(("method", "upgrade"), [("GET", True), ("POST", False), ("DELETE", False)])
def test_another_site_may_not_use_the_cookie(origins: list[bytes], method: str, upgrade: bool) -> None:
    presented = with_cookie(*((b"Origin", origin) for origin in origins), method=method)
    with pytest.raises(Denial) as caught:
        check_origin(presented, ALLOWED, upgrade=upgrade)
    assert caught.value.reason is ORIGIN_NOT_ALLOWED


def test_a_page_without_tls_may_not_use_the_cookie_of_one_with() -> None:
    with pytest.raises(Denial) as caught:
        check_origin(
            with_cookie((b"Origin", b"http://app.example.com"), scheme="https"), frozenset(), upgrade=True
        )
    assert caught.value.reason is ORIGIN_NOT_ALLOWED


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_with_a_cookie_needs_no_origin(method: str) -> None:
    check_origin(with_cookie(method=method), frozenset(), upgrade=False)


def test_a_token_that_a_page_must_know_needs_no_origin() -> None:
    presented = find(request(offer(b"bearer, " + TOKEN)), "", EVERYWHERE)
    check_origin(presented, frozenset(), upgrade=True)


# Subprotocols ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"bearer, t", b"bearer"), (b"chat , bearer,t", b"bearer"), (b"bearer.t", None), (b"chat", None)],
)
def test_a_name_that_was_offered_may_be_answered(sent: bytes, answer: bytes | None) -> None:
    assert subprotocol_answer([offer(sent)], EVERYWHERE) == answer
    assert subprotocol_answer([offer(sent)], CredentialSources(cookie="session")) is None
    assert subprotocol_answer([offer(sent)], None) is None
    assert subprotocol_answer([offer(sent), offer(b"v2.chat")], EVERYWHERE) == answer
