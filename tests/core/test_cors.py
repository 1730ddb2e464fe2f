"""Which pages of other origins may use a route: the fields of each answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Cors, Header, Request
from gateway.core.reasons import ORIGIN_NOT_ALLOWED, Denial
from gateway.core.requests.cors import (
    Preflight,
    denial_fields,
    preflight_fields,
    read_preflight,
    response_fields,
)

APP = "https://app.example"
LISTED = Cors(frozenset({APP, "https://other.example:8443"}))
CREDENTIALS = Cors(frozenset({APP}), expose=frozenset({"X-Total"}), credentials=True)
ANY = Cors(frozenset({"*"}))
ORIGIN = (b"Origin", APP.encode())
ASKED = (b"Access-Control-Request-Method", b"PUT")


def options(*headers: Header, method: str = "OPTIONS") -> Request:
    return Request(method, "/x", headers, "192.0.2.1", "https", "id")


def fields(raw: bytes) -> dict[str, str]:
    lines = [line.partition(": ") for line in raw.decode("ascii").removesuffix("\r\n").split("\r\n") if line]
    names = [name for name, _, _ in lines]
    assert len(set(names)) == len(names), names
    assert all(separator for _, separator, _ in lines), lines
    return {name: value for name, _, value in lines}


# Preflights -------------------------------------------------------------------------------------------


def test_a_preflight_is_options_with_origin_and_announced_method() -> None:
    assert read_preflight(options(ORIGIN, ASKED)) == Preflight(APP, "PUT", ())
    names = (b"access-control-request-headers", b"authorization, x-trace ,,b@d")
    assert read_preflight(options(ORIGIN, ASKED, names)) == Preflight(
        APP, "PUT", ("authorization", "x-trace")
    )


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (ORIGIN,),
        (ASKED,),
        (ORIGIN, ORIGIN, ASKED),
        (ORIGIN, ASKED, ASKED),
        (ORIGIN, (b"Access-Control-Request-Method", b"")),
        (ORIGIN, (b"Access-Control-Request-Method", b"PUT, GET")),
        (ORIGIN, (b"Access-Control-Request-Method", b"PUT\r\nX: y")),
    ],
)
def test_no_other_options_is_one(headers: tuple[Header, ...]) -> None:
    assert read_preflight(options(*headers)) is None


def test_no_other_method_is_one() -> None:
    assert read_preflight(options(ORIGIN, ASKED, method="GET")) is None


def test_the_answer_to_a_preflight_lists_the_permissions() -> None:
    asked = Preflight(APP, "PUT", ("x-trace",))
    assert fields(preflight_fields(LISTED, ("PUT", "GET"), asked)) == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Methods": "GET, PUT",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


def test_methods_and_headers_are_those_that_are_listed() -> None:
    cors = Cors(frozenset({APP}), frozenset({"DELETE"}), frozenset({"X-Trace"}), max_age=7.9)
    told = fields(preflight_fields(cors, ("PUT", "GET", "DELETE"), Preflight(APP, "PUT", ("x-evil",))))
    assert told["Access-Control-Allow-Methods"] == "DELETE"
    assert told["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Trace"
    assert told["Access-Control-Max-Age"] == "7"


def test_requested_headers_are_named_because_a_star_leaves_authorization_out() -> None:
    cors = Cors(frozenset({"*"}), frozenset({"*"}), frozenset({"*"}))
    told = fields(preflight_fields(cors, (), Preflight(APP, "PURGE", ("authorization", "x-trace"))))
    assert told["Access-Control-Allow-Origin"] == "*"
    assert told["Access-Control-Allow-Methods"] == "PURGE"
    assert told["Access-Control-Allow-Headers"] == "authorization, x-trace"
    assert "Access-Control-Allow-Credentials" not in told
    told = fields(preflight_fields(cors, (), Preflight(APP, "PURGE", ())))
    assert "Access-Control-Allow-Headers" not in told


def test_credentials_are_allowed_to_listed_origins() -> None:
    told = fields(preflight_fields(CREDENTIALS, (), Preflight(APP, "GET", ())))
    assert told["Access-Control-Allow-Credentials"] == "true"
    assert told["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "*", "", "https://app.example.evil.example", "https://evilapp.example",
        "http://app.example", "https://app.example:443", "https://app.example:8443", "https://APP.example",
        "HTTPS://app.example", "https://app.example/", "https://app.example.", "https://other.example",
        "https://app.example, https://evil.example", "https://app.example https://evil.example",
        "https://app.example\t", "https://a\u0300pp.example",
    ],
)  # fmt: skip
def test_an_origin_that_is_not_listed_is_never_repeated(origin: str) -> None:
    headers = [(b"Origin", origin.encode())]
    # A parser has removed white space around a value (RFC 9110 §5.5).
    if origin.strip(" \t") == origin:
        with pytest.raises(Denial) as caught:
            preflight_fields(LISTED, (), Preflight(origin, "GET", ()))
        assert caught.value.reason is ORIGIN_NOT_ALLOWED
        assert fields(denial_fields(CREDENTIALS, headers)) == {"Vary": "Origin"}
        assert fields(response_fields(CREDENTIALS, headers, ())) == {"Vary": "Origin"}


def test_null_is_allowed_where_it_is_listed() -> None:
    cors = Cors(frozenset({"null"}))
    assert fields(denial_fields(cors, [(b"Origin", b"null")]))["Access-Control-Allow-Origin"] == "null"


def test_two_origins_are_none() -> None:
    assert fields(denial_fields(LISTED, [ORIGIN, ORIGIN])) == {"Vary": "Origin"}


# Answers ----------------------------------------------------------------------------------------------


def test_a_page_can_read_a_denial_and_its_headers() -> None:
    assert fields(denial_fields(CREDENTIALS, [ORIGIN])) == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers":
            "RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id, X-Total",
        "Vary": "Origin",
    }  # fmt: skip


def test_the_upstreams_own_word_is_replaced() -> None:
    answered = [
        (b"Content-Type", b"text/plain"),
        (b"access-control-allow-origin", b"*"),
        (b"Access-Control-Allow-Credentials", b"true"),
        (b"ACCESS-CONTROL-EXPOSE-HEADERS", b"Set-Cookie"),
        (b"Access-Control-Anything", b"x"),
        (b"Content-Length", b"3"),
    ]
    assert fields(response_fields(LISTED, [ORIGIN], answered)) == {
        "Content-Type": "text/plain",
        "Content-Length": "3",
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Expose-Headers": "X-Request-Id",
        "Vary": "Origin",
    }
    assert fields(response_fields(LISTED, [], answered)) == {
        "Content-Type": "text/plain",
        "Content-Length": "3",
        "Vary": "Origin",
    }


@pytest.mark.parametrize(
    ("upstream", "vary"),
    [
        ([], "Origin"),
        ([b"Accept-Encoding"], "Accept-Encoding, Origin"),
        ([b"Accept-Encoding, ,Accept", b"Cookie"], "Accept-Encoding, Accept, Cookie, Origin"),
        ([b"accept, ORIGIN"], "accept, ORIGIN"),
        ([b"*"], "*"),
        ([b""], "Origin"),
    ],
)
def test_vary_is_merged(upstream: list[bytes], vary: str) -> None:
    answered = [(b"Vary", value) for value in upstream]
    for headers in ([], [ORIGIN]):
        assert fields(response_fields(LISTED, headers, answered))["Vary"] == vary


def test_the_same_answer_for_all_origins_does_not_vary() -> None:
    for headers in ([], [ORIGIN], [ORIGIN, ORIGIN]):
        told = fields(response_fields(ANY, headers, [(b"Vary", b"Accept")]))
        assert (told["Access-Control-Allow-Origin"], told["Vary"]) == ("*", "Accept")
        assert "Vary" not in fields(denial_fields(ANY, headers))


@given(origin=st.binary(max_size=40), requested=st.binary(max_size=40), method=st.binary(max_size=8))
def test_no_value_of_a_client_breaks_out_of_its_field(origin: bytes, requested: bytes, method: bytes) -> None:
    asked = read_preflight(
        options(
            (b"Origin", origin),
            (b"Access-Control-Request-Method", method),
            (b"Access-Control-Request-Headers", requested),
        )
    )
    everything = Cors(frozenset({"*"}), frozenset({"*"}), frozenset({"*"}))
    if asked is not None:
        told = fields(preflight_fields(everything, (), asked))
        assert told["Access-Control-Allow-Origin"] == "*"
    assert fields(denial_fields(LISTED, [(b"Origin", origin)])).keys() >= {"Vary"}
