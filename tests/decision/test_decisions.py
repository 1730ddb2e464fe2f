"""The decision listener over real sockets: what each kind of front asks, and what it gets."""

import asyncio
import uuid
from typing import Final

import pytest

from tests.decision.asking import ASKS, NAMES, Ask, ask, auth_request, ext_authz, forward_auth, front, told
from tests.harness import KEYLESS_ISSUER, House, token
from tests.sockets import RawClient, Response, fields_of, request_bytes
from tests.tokens import ISSUER

session = pytest.mark.asyncio(loop_scope="session")
pytestmark = session

every_front = pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS.keys())
others = pytest.mark.parametrize("asks", [forward_auth, ext_authz])
REASON: Final = b"X-Gateway-Reason-Status"


@every_front
async def test_a_success_carries_every_identity_field_and_nothing_else(door: House, asks: Ask) -> None:
    response = await ask(door, asks(token=token()))
    fields = told(response)
    assert response.status == 200
    assert fields[b"X-User-Roles"] == b"reader,writer"
    assert (fields[b"X-Auth-Issuer"], fields[b"X-Auth-Subject"]) == (ISSUER.encode(), b"member")
    assert uuid.UUID(fields[b"X-User-Id"].decode()).version == 4
    for empty in (b"X-User-Tenant", b"X-Auth-Scopes", b"X-User-Status", b"X-User-Missing", b"X-Auth-Stale"):
        assert fields[empty] == b""
    assert {name for name, _ in response.fields} == {b"Content-Length", b"X-Request-Id", *NAMES}


@every_front
async def test_a_success_without_a_user_has_every_field_empty(door: House, asks: Ask) -> None:
    response = await ask(door, asks("GET", "/optional/x", b"X-User-Id: forged"))
    assert response.status == 200
    assert set(told(response).values()) == {b""}


async def test_the_fields_of_optional_features_are_in_the_answer(door: House) -> None:
    inactive = told(await ask(door, auth_request(uri="/leave/x", token=token("suspended"))))
    missing = told(await ask(door, auth_request(uri="/welcome/x", token=token("ghost"))))
    assert inactive[b"X-User-Status"] == b"suspended"
    assert (missing[b"X-User-Missing"], missing[b"X-User-Id"]) == (b"true", b"")


async def test_the_answer_to_a_repeated_question_is_of_the_token_in_it(door: House) -> None:
    """The second and later ones are recognised by their bytes."""
    one, other, refused = token("member"), token("admin"), token("suspended")
    async with front(door) as client:
        for _ in range(3):
            for each, status, subject in ((one, 200, b"member"), (other, 200, b"admin"), (refused, 401, b"")):
                await client.send(auth_request(token=each))
                response = await client.response()
                assert response is not None
                assert response.status == status
                if status == 200:
                    assert told(response)[b"X-Auth-Subject"] == subject


async def test_a_suspension_is_honoured_by_the_next_decision(door: House) -> None:
    good = token("globex")
    assert (await ask(door, auth_request(token=good))).status == 200
    await door.sql("UPDATE users SET status = 'suspended' WHERE tenant = 'globex'")
    try:
        async with asyncio.timeout(5):
            while (await ask(door, forward_auth(token=good))).status == 200:
                pass
    finally:
        await door.sql("UPDATE users SET status = 'active' WHERE tenant = 'globex'")


# Denials ---------------------------------------------------------------------------------------------


@every_front
async def test_a_request_without_a_token_is_challenged(door: House, asks: Ask) -> None:
    response = await ask(door, asks())
    assert (response.status, response.code) == (401, "credentials_missing")
    assert response.field(b"WWW-Authenticate") == b'Bearer realm="gateway"'
    assert response.field(REASON) == b"401"
    assert response.problem["request_id"] == (response.field(b"X-Request-Id") or b"").decode()


CASES: Final = {
    "role": ("GET", "/both-admin/x", 403, "role_missing"),
    "unmatched": ("GET", "/nowhere", 404, "route_not_found"),
    "method": ("DELETE", "/read/x", 405, "method_not_allowed"),
    "path": ("GET", "/private/%2e%2e/x", 400, "request_malformed"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@others
async def test_a_denial_has_the_status_of_its_reason(
    door: House, asks: Ask, case: tuple[str, str, int, str]
) -> None:
    method, uri, status, code = case
    response = await ask(door, asks(method, uri, token=token()))
    assert (response.status, response.code) == (status, code)
    assert response.field(REASON) == b"%d" % status


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_nginx_gets_401_or_403_and_the_true_status(
    door: House, case: tuple[str, str, int, str]
) -> None:
    method, uri, status, code = case
    response = await ask(door, auth_request(method, uri, token=token()))
    assert (response.status, response.code) == (403, code)
    assert (response.field(REASON), response.problem["status"]) == (b"%d" % status, status)


async def test_an_outage_is_no_denial_of_the_client(door: House) -> None:
    unverifiable = token(iss=KEYLESS_ISSUER)
    nginx = await ask(door, auth_request(token=unverifiable))
    traefik = await ask(door, forward_auth(token=unverifiable))
    assert (nginx.status, nginx.field(REASON), nginx.field(b"Retry-After")) == (403, b"503", b"5")
    assert (traefik.status, traefik.field(REASON), traefik.field(b"Retry-After")) == (503, b"503", b"5")


async def test_a_denial_of_head_has_no_content(door: House) -> None:
    async with front(door) as client:
        for question, to_head in (
            (ext_authz("HEAD", "/read/x"), True),
            (auth_request("HEAD", "/read/x"), False),
        ):
            await client.send(question)
            response = await client.response(to_head=to_head)
            assert response is not None
            assert response.status == 401
            assert bool(response.body) is not to_head


async def test_denials_are_counted_logged_and_kept(door: House) -> None:
    before = await door.metric("gateway_denials_total", route="admin", issuer="main", reason="role_missing")
    asked = await door.metric("gateway_decisions_total", front="forward_auth", status="403")
    chain = b"X-Forwarded-For: 198.51.100.7, 203.0.113.9, 10.1.2.3"
    response = await ask(door, forward_auth("POST", "/both-admin/x?q=1", chain, token=token()))
    assert response.status == 403
    count = await door.metric("gateway_denials_total", route="admin", issuer="main", reason="role_missing")
    assert count == before + 1
    assert await door.metric("gateway_decisions_total", front="forward_auth", status="403") == asked + 1
    (event,) = door.events("denied")
    # The client is the last one that no trusted proxy has.
    assert (event["method"], event["client"], event["route"]) == ("POST", "203.0.113.9", "admin")


# Questions -------------------------------------------------------------------------------------------


@every_front
async def test_a_peer_that_is_not_trusted_gets_403(door: House, asks: Ask) -> None:
    for question in (asks(token=token()), asks("GET", "/optional/x")):
        response = await ask(door, question, address="127.0.0.9")
        assert (response.status, response.code) == (403, "front_not_trusted")
        assert not any(response.values(name) for name in NAMES)


async def test_a_remembered_question_is_still_not_for_other_peers(door: House) -> None:
    question = auth_request(token=token())
    for _ in range(3):
        assert (await ask(door, question)).status == 200
    assert (await ask(door, question, address="127.0.0.9")).status == 403


REQUIRED: Final = {
    auth_request: (b"X-Original-Method", b"X-Original-URI", b"X-Original-Host"),
    forward_auth: (b"X-Forwarded-Method", b"X-Forwarded-Uri", b"X-Forwarded-Host", b"X-Forwarded-Proto"),
}
FIELDS: Final = [(asks, name) for asks, names in REQUIRED.items() for name in names]


def without(question: bytes, name: bytes) -> bytes:
    head = question.split(b"\r\n")
    return b"\r\n".join(line for line in head if not line.startswith(name + b":"))


def true_status(response: Response) -> int:
    return int(response.field(REASON) or b"0")


@pytest.mark.parametrize(
    ("fields", "status"),
    [((b"X-Control: a\x01b",), 400), (tuple(b"X-%d: x" % number for number in range(101)), 431)],
    ids=["no HTTP", "too large"],
)
async def test_a_question_that_cannot_be_read_is_denied_as_its_front_understands_it(
    door: House, fields: tuple[bytes, ...], status: int
) -> None:
    """A front may pass on what its client sent. nginx would take a 400 for a gateway that is down."""
    for asks in ASKS.values():
        response = await ask(door, asks("GET", "/optional/x", *fields))
        assert response.status == (403 if asks is auth_request else status)
        assert response.field(REASON) == b"%d" % status


@pytest.mark.parametrize(("asks", "name"), FIELDS)
async def test_a_missing_field_is_an_error(door: House, asks: Ask, name: bytes) -> None:
    """Nothing of the question itself stands in for it."""
    question = without(asks("GET", "/optional/x"), name)
    for added in (b"", b"%b:\r\n" % name):
        response = await ask(door, question.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n"))
        assert (true_status(response), response.code) == (400, "request_malformed")
        assert response.status == (403 if asks is auth_request else 400)


@pytest.mark.parametrize(("asks", "name"), FIELDS)
async def test_a_second_field_in_any_spelling_is_an_error(door: House, asks: Ask, name: bytes) -> None:
    value = next(
        value for found, value in fields_of(asks("GET", "/optional/x")) if found.lower() == name.lower()
    )
    for twin in (name, name.upper(), name.lower(), name.replace(b"-", b"_"), name.replace(b"-", b".")):
        for content in (value, b"/public/x"):
            response = await ask(door, asks("GET", "/optional/x", b"%b: %b" % (twin, content)))
            assert (true_status(response), response.code) == (400, "request_malformed"), twin


@pytest.mark.parametrize("name", NAMES)
@every_front
async def test_an_identity_field_in_another_spelling_is_refused(door: House, asks: Ask, name: bytes) -> None:
    """A front replaces only the one spelling, and would forward the others to services that fold them."""
    for twin in (name.replace(b"-", b"_"), name.replace(b"-", b"."), name.replace(b"-", b"_", 1)):
        response = await ask(door, asks("GET", "/optional/x", twin + b": admin"))
        assert (true_status(response), response.code) == (400, "request_malformed")
    assert (await ask(door, asks("GET", "/optional/x", name.upper() + b": admin"))).status == 200


async def test_connection_cannot_name_an_identity_field(door: House) -> None:
    for option in (b"X-User-Id", b"close, x_user_id"):
        response = await ask(door, forward_auth("GET", "/optional/x", b"Connection: " + option))
        assert (response.status, response.code) == (400, "request_malformed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"X-Forwarded-Method", b"GET, DELETE"),
        (b"X-Forwarded-Method", b"G T"),
        (b"X-Forwarded-Uri", b"/optional/x, /private/x"),
        (b"X-Forwarded-Uri", b"%2Foptional%2Fx"),
        (b"X-Forwarded-Uri", b"optional/x"),
        (b"X-Forwarded-Uri", b"http://elsewhere.test/optional/x"),
        (b"X-Forwarded-Uri", b"/optional/../private/x"),
        (b"X-Forwarded-Host", b"api.test, other.test"),
        (b"X-Forwarded-Host", b"api.test/x"),
        (b"X-Forwarded-Proto", b"https, http"),
        (b"X-Forwarded-Proto", b"ftp"),
    ],
)
async def test_a_value_that_is_no_single_value_is_an_error(door: House, name: bytes, value: bytes) -> None:
    question = without(forward_auth("GET", "/optional/x"), name)
    response = await ask(door, question.replace(b"\r\n\r\n", b"\r\n%b: %b\r\n\r\n" % (name, value)))
    assert (response.status, response.code) == (400, "request_malformed")


async def test_fields_of_other_fronts_mean_nothing(door: House) -> None:
    forged = (
        b"X-Forwarded-Uri: /optional/x",
        b"X-Forwarded-Method: GET",
        b"X-Forwarded-Host: app.example.com",
    )
    assert (await ask(door, auth_request("GET", "/private/x", *forged))).status == 401
    forged = (
        b"X-Original-URI: /optional/x",
        b"X-Original-Host: app.example.com",
        b"X-Original-URL: /optional/x",
    )
    assert (await ask(door, forward_auth("GET", "/private/x", *forged))).status == 401
    assert (await ask(door, ext_authz("GET", "/private/x", *forged))).status == 401


async def test_routes_match_the_original_host(door: House) -> None:
    for asks in ASKS.values():
        assert (await ask(door, asks("GET", "/anything", host="app.example.com:8443"))).status == 200
        assert (await ask(door, asks("GET", "/private/x", host="api.test"))).status == 401


@pytest.mark.parametrize("target", ["/", "/auth-requests", "/auth-request/x", "/forward-auth/", "/ext-authz"])
async def test_other_paths_are_not_found(door: House, target: str) -> None:
    response = await ask(door, request_bytes("GET", target, token=token()))
    assert (response.status, response.code) == (404, "route_not_found")


async def test_a_query_of_the_front_is_ignored(door: House) -> None:
    question = auth_request(token=token()).replace(b"/auth-request ", b"/auth-request?x=1 ")
    assert (await ask(door, question)).status == 200


async def test_the_page_that_opens_a_websocket_with_a_cookie_is_checked(door: House) -> None:
    """Fronts drop Connection and Upgrade, and keep the fields of the handshake."""
    cookie = b"Cookie: session=" + token()
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    evil, own = b"Origin: https://evil.test", b"Origin: https://api.test"
    assert (await ask(door, auth_request("GET", "/browser/x", cookie, evil))).status == 200
    refused = await ask(door, auth_request("GET", "/browser/x", cookie, key, evil))
    assert (refused.status, refused.code) == (403, "origin_not_allowed")
    assert (await ask(door, auth_request("GET", "/browser/x", cookie, key, own))).status == 200
    # A front that does not tell the scheme is taken to speak https.
    plain = b"Origin: http://api.test"
    assert (await ask(door, auth_request("POST", "/browser/x", cookie, plain))).status == 403
    told_http = await ask(door, auth_request("POST", "/browser/x", cookie, plain, b"X-Original-Proto: http"))
    assert told_http.status == 200


# Connections -----------------------------------------------------------------------------------------


async def test_the_request_id_of_a_front_is_kept(door: House) -> None:
    response = await ask(door, auth_request("GET", "/optional/x", b"X-Request-Id: from-the-front"))
    assert response.field(b"X-Request-Id") == b"from-the-front"


async def test_http_1_0_is_answered(door: House) -> None:
    """nginx speaks it to upstreams by default."""
    for connection, kept in ((b"close", False), (b"keep-alive", True)):
        question = auth_request("GET", "/private/x", b"Connection: " + connection, token=token())
        async with front(door) as client:
            await client.send(question.replace(b"HTTP/1.1", b"HTTP/1.0"))
            response = await client.response()
            assert response is not None
            assert (response.status, response.field(b"Connection")) == (200, connection)
            if not kept:
                assert await client.closed()


async def closes_after(client: RawClient) -> tuple[int, bytes | None]:
    response = await client.response()
    assert response is not None
    return response.status, response.field(b"Connection")


async def test_no_body_is_waited_for(door: House) -> None:
    async with front(door) as client:
        await client.send(auth_request("POST", "/private/x", b"Content-Length: 100000", token=token()))
        assert await closes_after(client) == (200, b"close")
    async with front(door) as client:
        await client.send(ext_authz("POST", "/private/x", b"Transfer-Encoding: chunked", token=token()))
        assert await closes_after(client) == (200, b"close")
    async with front(door) as client:
        question = ext_authz("POST", "/private/x", b"Content-Length: 2", token=token()) + b"ab"
        await client.send(question + question)
        for _ in range(2):
            response = await client.response()
            assert response is not None
            assert (response.status, response.field(b"Connection")) == (200, None)


async def test_pipelined_questions_are_answered_in_order(door: House) -> None:
    async with front(door) as client:
        await client.send(auth_request(token=token()) + forward_auth() + ext_authz(uri="/optional/x"))
        found = [await client.response() for _ in range(3)]
        assert [response and response.status for response in found] == [200, 401, 200]


# Routes without an upstream --------------------------------------------------------------------------


async def test_the_proxy_does_not_serve_routes_for_decisions(door: House) -> None:
    for target in ("/private/x", "/read/x", "/both-admin/x"):
        response = await door.request(target, token=token("admin"))
        assert (response.status, response.code) == (404, "route_not_found")
    # A route that is left out does not lay open what a later route serves.
    assert (await door.request("/both-admin/x")).status == 404
    assert (await door.request("/read/x", method="DELETE")).status == 404
    assert (await door.request("/both/x", token=token())).status == 200


async def test_a_decision_for_one_listener_serves_the_other(door: House) -> None:
    good = token("member")
    for _ in range(2):
        assert (await door.request("/both/x", token=good)).status == 200
        assert told(await ask(door, forward_auth(uri="/both/x", token=good)))[b"X-Auth-Subject"] == b"member"
