"""The original request is what the front says, and nothing else."""

from ipaddress import ip_network

import pytest

from gateway.core.model import Header
from gateway.core.networks import contains
from gateway.core.reasons import Denial
from gateway.core.requests.fronts import AUTH_REQUEST, EXT_AUTHZ, FORWARD_AUTH, Front, Questions, front_of

STRIPPED = [b"Remote-User", b"X_Team"]
QUESTIONS = Questions([b"X-User-Id", b"X.Team"], contains([ip_network("10.0.0.0/8")]), STRIPPED)
ASKED: dict[Front, list[Header]] = {
    AUTH_REQUEST: [
        (b"X-Original-Method", b"PUT"),
        (b"X-Original-URI", b"/a?b"),
        (b"X-Original-Host", b"a.test"),
    ],
    FORWARD_AUTH: [
        (b"X-Forwarded-Method", b"PUT"),
        (b"X-Forwarded-Uri", b"/a?b"),
        (b"X-Forwarded-Host", b"a.test"),
        (b"X-Forwarded-Proto", b"http"),
    ],
    EXT_AUTHZ: [],
}
every_front = pytest.mark.parametrize("front", ASKED, ids=lambda front: front.name)


def test_each_front_has_its_path() -> None:
    for target, front in (
        ("/auth-request", AUTH_REQUEST),
        ("/auth-request?x", AUTH_REQUEST),
        ("/forward-auth", FORWARD_AUTH),
        ("/ext-authz/", EXT_AUTHZ),
        ("/ext-authz/a/b?c", EXT_AUTHZ),
    ):
        assert front_of(target) is front
    for target in (
        "/",
        "",
        "/auth-request/",
        "/Auth-Request",
        "/forward-auth%3F",
        "/ext-authz",
        "/ext-authz?x",
    ):
        with pytest.raises(Denial) as caught:
            front_of(target)
        assert caught.value.reason.code == "route_not_found"


def test_the_question_describes_the_request() -> None:
    own = [(b"Host", b"gateway"), (b"Accept", b"*/*"), (b"TE", b"trailers"), (b"Connection", b"close")]
    for front, told in ASKED.items():
        method, target = ("PUT", "/ext-authz/a?b") if front.in_path else ("GET", front.path)
        chain = (b"X-Forwarded-For", b"1.1.1.1, 192.0.2.7, 10.0.0.9")
        headers = [*own[:1], *told, *own[1:], chain]
        original = QUESTIONS.read(front, method, target, headers, "10.0.0.1")
        host = b"gateway" if front.in_path else b"a.test"
        assert (original.method, original.target, original.client) == ("PUT", "/a?b", "192.0.2.7")
        # The front's own fields, and those of its connection, are not the client's.
        assert original.headers == ((b"Accept", b"*/*"), (b"Host", host))
        assert original.scheme == ("http" if front is FORWARD_AUTH else "https")
        assert not original.may_upgrade


def refused(front: Front, headers: list[Header]) -> str:
    with pytest.raises(Denial) as caught:
        QUESTIONS.read(front, "GET", front.path, headers, "10.0.0.1")
    assert caught.value.reason.code == "request_malformed"
    return caught.value.detail or ""


@every_front
def test_every_field_comes_once_in_one_spelling(front: Front) -> None:
    told = [(b"Host", b"gateway"), *ASKED[front]]
    for index, (name, value) in enumerate(told):
        assert refused(front, [*told, (name.upper(), value)])
        if name != b"Host" or front.in_path:
            assert refused(front, told[:index] + told[index + 1 :])
    odd = (b"X_Original_URL", b"X.Rewrite.Url", b"X-Forwarded_Uri", b"X_Original-Method", b"remote_user")
    for twin in (b"X_User_Id", b"x.user.id", b"X-User_Id", b"X-Team", b"x_team", b"X_Forwarded_For", *odd):
        assert "another spelling" in refused(front, [*told, (twin, b"x")])
    for option in (b"X-User-Id", b"close, x_user_id", b"X-Forwarded-For"):
        assert "Connection" in refused(front, [*told, (b"Connection", option)])
    # One spelling in any letter case is no twin: the front replaces it.
    single = [(b"x-uSER-id", b"x"), (b"x.team", b"x"), (b"remote-user", b"x"), (b"x-rewrite-url", b"x")]
    original = QUESTIONS.read(front, "GET", front.path, [*told, *single], "")
    assert set(single) <= set(original.headers)


@pytest.mark.parametrize(
    ("scheme", "told"), [(b"ws", "http"), (b"wss", "https"), (b"http", "http"), (b"https", "https")]
)
def test_the_scheme_of_a_websocket_is_that_of_its_handshake(scheme: bytes, told: str) -> None:
    headers = [*ASKED[FORWARD_AUTH][:3], (b"X-Forwarded-Proto", scheme)]
    assert QUESTIONS.read(FORWARD_AUTH, "GET", "/forward-auth", headers, "").scheme == told


@pytest.mark.parametrize("method", [b"", b"GET POST", b"G\xc3\xa9T", b"GET,", b"X" * 65])
def test_a_word_that_is_no_method_is_refused(method: bytes) -> None:
    assert refused(AUTH_REQUEST, [(b"X-Original-Method", method), *ASKED[AUTH_REQUEST][1:]])


def test_the_handshake_of_a_websocket_is_recognised_by_its_key() -> None:
    key = (b"Sec-WebSocket-Key", b"x")
    for method, upgrade in ((b"GET", True), (b"POST", False)):
        headers = [(b"X-Original-Method", method), *ASKED[AUTH_REQUEST][1:], key]
        original = QUESTIONS.read(AUTH_REQUEST, "GET", "/auth-request", headers, "")
        assert original.may_upgrade is upgrade
        assert ((b"Upgrade", b"websocket") in original.headers) is upgrade


def test_the_memory_of_names_is_bounded() -> None:
    questions = Questions([], contains([]))
    for number in range(5000):
        headers = [*ASKED[AUTH_REQUEST], (b"X-%d" % number, b""), (b"X-" + b"y" * 100, b"")]
        questions.read(AUTH_REQUEST, "GET", "/auth-request", headers, "")
    assert len(questions._fates[AUTH_REQUEST]) <= 1024


def test_forbidden_headers_are_named_in_every_spelling() -> None:
    headers = [(b"remote-user", b"admin"), (b"remote_user", b"admin"), (b"accept", b"*/*")]
    _, removed = QUESTIONS.described("GET", "/", "a.test", "http", headers, "10.0.0.1")
    assert set(removed) == {b"remote-user", b"remote_user"}


def test_the_request_is_the_one_that_envoy_describes_and_second_spellings_are_named() -> None:
    headers = [
        (b":path", b"/forged"), (b"host", b"forged"), (b"accept", b"*/*"), (b"x_user_id", b"admin"),
        (b"x-team", b"admin"), (b"x-user-id", b"admin"), (b"x-forwarded-for", b"192.0.2.7"),
        (b"x_original_url", b"/forged"), (b"x.team", b"admin"),
    ]  # fmt: skip
    original, twins = QUESTIONS.described("PUT", "/a?b", "a.test", "http", headers, "10.0.0.1")
    assert (original.method, original.target, original.client, original.scheme) == (
        "PUT", "/a?b", "192.0.2.7", "http"
    )  # fmt: skip
    assert original.headers == (
        (b"host", b"a.test"), (b"accept", b"*/*"), (b"x-user-id", b"admin"), (b"x.team", b"admin")
    )  # fmt: skip
    assert set(twins) == {b"x_user_id", b"x-team", b"x_original_url"}
    assert QUESTIONS.described("GET", "/", "a.test", "?", headers, "203.0.113.5")[0].client == "203.0.113.5"
    assert QUESTIONS.described("GET", "/", "a.test", "?", (), "10.0.0.1")[0].scheme == "https"
