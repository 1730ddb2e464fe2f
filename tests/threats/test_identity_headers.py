"""Threats: identity headers: only the gateway sets the user's headers for an upstream."""

import pytest

from gateway.core.headers import fold
from tests import tokens
from tests.harness import House, token
from tests.sockets import Received, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

IDENTITY = (
    b"X-User-Id",
    b"X-User-Roles",
    b"X-User-Tenant",
    b"X-Auth-Issuer",
    b"X-Auth-Subject",
    b"X-Auth-Scopes",
)
ROUTES = ["/private/x", "/optional/x", "/public/x", "/leave/x", "/welcome/x"]
USERS = ("member", "admin")


def as_cgi_sees_it(received: Received) -> dict[bytes, list[bytes]]:
    """Fold the names as WSGI and CGI do, so that a forgery shows in any spelling."""
    fields: dict[bytes, list[bytes]] = {}
    for name, value in received.fields:
        fields.setdefault(fold(name), []).append(value)
    return fields


SPELLINGS = {
    "as-it-is": b"X-User-Roles: forged",
    "lower-case": b"x-user-roles: forged",
    "upper-case": b"X-USER-ROLES: forged",
    "odd-case": b"x-UsEr-rOlEs: forged",
    "underscores": b"X_User_Roles: forged",
    "one-underscore": b"X-User_Roles: forged",
    "dots": b"X.User.Roles: forged",
    "other-punctuation": b"X!User~Roles: forged",
    "repeated": b"X-User-Roles: forged\r\nX-User-Roles: forged",
    "repeated-in-two-spellings": b"X_User_Roles: forged\r\nX-User-Roles: forged",
    "no-space": b"X-User-Roles:forged",
    "tabs": b"X-User-Roles:\tforged\t",
    "nominated": b"Connection: close, X-User-Roles\r\nX-User-Roles: forged",
}


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("field", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_forged_identity_header_never_arrives(house: House, field: bytes, target: str) -> None:
    received = await house.forwarded(target, field, token=token())
    assert b"forged" not in received.head
    expected = [] if target.startswith("/public") else [b"reader,writer"]
    assert as_cgi_sees_it(received).get(b"x-user-roles", []) == expected


@pytest.mark.parametrize(
    "name", [*IDENTITY, b"X-User-Status", b"X-User-Missing", b"X-Auth-Stale", b"X-Request-Id"]
)
@pytest.mark.parametrize("target", ROUTES)
async def test_every_identity_header_is_stripped_on_every_route(
    house: House, name: bytes, target: str
) -> None:
    for spelling in (name, name.replace(b"-", b"_")):
        received = await house.forwarded(target, spelling + b": forged", token=token())
        assert b"forged" not in received.head


async def test_a_request_without_a_user_carries_no_identity(house: House) -> None:
    forged = [name + b": forged" for name in IDENTITY]
    received = await house.forwarded("/optional/x", *forged)
    assert not set(as_cgi_sees_it(received)) & {fold(name) for name in IDENTITY}


@pytest.mark.parametrize("space", [b" ", b"\t", b"  "], ids=["space", "tab", "two-spaces"])
async def test_space_before_the_colon_is_refused(house: House, space: bytes) -> None:
    response = await house.request("/private/x", b"X-User-Id" + space + b": forged", token=token())
    assert (response.status, response.code) == (400, "request_malformed")
    assert house.upstream.wires == []


async def test_an_identity_header_in_a_trailer_never_arrives(house: House) -> None:
    head = request_bytes(
        "POST", "/private/x", b"Transfer-Encoding: chunked", b"Trailer: X-User-Id", token=token("member")
    )
    response = await house.exchange(head + b"1\r\na\r\n0\r\nX-User-Id: forged\r\nX_User_Id: forged\r\n\r\n")
    assert response.status == 200
    (wire,) = house.upstream.wires
    assert b"forged" not in wire.raw


async def test_connection_cannot_remove_what_the_gateway_adds(house: House) -> None:
    names = b", ".join([*IDENTITY, b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Request-Id", b"Host"])
    received = await house.forwarded("/private/x", b"Connection: " + names, token=token())
    for name in (
        b"X-User-Id",
        b"X-Auth-Subject",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Request-Id",
        b"Host",
    ):
        assert len(received.values(name)) == 1, name
    assert received.values(b"Connection") == []


async def test_connection_removes_the_named_and_hop_by_hop_fields(house: House) -> None:
    received = await house.forwarded(
        "/public/x",
        b"Connection: X-Hop, Keep-Alive, TE",
        b"X-Hop: a",
        b"X_Hop: a",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"Proxy-Authorization: Basic eA==",
        b"Proxy-Connection: keep-alive",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        b"X-Kept: b",
    )
    assert {name for name, _ in received.fields} == {
        b"Host", b"X-Kept", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Request-Id"
    }  # fmt: skip


@pytest.mark.parametrize(
    "field", [b"Authorization: Bearer ", b"authorization: bearer ", b"AUTHORIZATION: BEARER  "]
)
async def test_the_token_goes_no_further(house: House, field: bytes) -> None:
    raw = token()
    received = await house.forwarded("/private/x", field + raw)
    assert raw not in received.head
    assert received.values(b"authorization") == []


async def test_the_token_goes_no_further_on_a_public_route(house: House) -> None:
    raw = token()
    for field in (b"Authorization: Bearer ", b"Proxy-Authorization: Bearer "):
        received = await house.forwarded("/public/x", field + raw)
        assert raw not in received.head


HOSTILE = {
    "line-ends": ("ev\u2028il\u0085", None),
    "non-latin": ("Ωμέγα-用户-🙂", b"%CE%A9%CE%BC%CE%AD%CE%B3%CE%B1-%E7%94%A8%E6%88%B7-%F0%9F%99%82"),
    "latin-1": ("müller", b"m%C3%BCller"),
    "percent": ("50%41", b"50%2541"),
    "spaces": (" a b ", b"%20a b%20"),
    "colon-and-comma": ("a: b, c", b"a: b, c"),
}


@pytest.mark.parametrize(("subject", "sent"), HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_subject_cannot_leave_its_field(
    house: House, subject: str, sent: bytes | None
) -> None:
    await house.sql(
        "INSERT INTO identities (issuer, subject, user_id) SELECT $1, $2, user_id FROM identities"
        " WHERE issuer = $1 AND subject = 'member'",
        tokens.ISSUER, subject,
    )  # fmt: skip
    response = await house.request("/private/x", token=token(subject))
    if sent is None:
        assert (response.status, response.code) == (401, "subject_malformed")
        assert house.upstream.wires == []
    else:
        assert response.status == 200
        (received,) = house.upstream.requests
        assert b"\r\nX-Auth-Subject: " + sent + b"\r\n" in received.head


async def test_a_hostile_row_cannot_leave_its_field(house: House) -> None:
    """CR, LF and a comma in a role, and a tenant with a line end, from a writer of the table."""
    await house.sql(
        "WITH u AS (INSERT INTO users (status, tenant, roles) VALUES ('active', $1, $2) RETURNING id)"
        " INSERT INTO identities (issuer, subject, user_id) SELECT $3, 'hostile-row', id FROM u",
        "evil\r\nX-User-Id: forged",
        ["a,admin", "b\r\n\r\nGET /smuggled HTTP/1.1", "ünïcode", ""],
        tokens.ISSUER,
    )
    received = await house.forwarded("/private/x", token=token("hostile-row"))
    assert received.values(b"x-user-tenant") == [b"evil%0D%0AX-User-Id: forged"]
    assert received.values(b"x-user-roles") == [
        b"a%2Cadmin,b%0D%0A%0D%0AGET /smuggled HTTP/1.1,%C3%BCn%C3%AFcode"
    ]
    assert len(received.values(b"x-user-id")) == 1
    (wire,) = house.upstream.wires
    assert wire.raw.count(b"\r\n\r\n") == 1


async def test_a_hostile_scope_cannot_leave_its_field(house: House) -> None:
    received = await house.forwarded("/private/x", token=token(scope=["a,b", "ünïcode"]))
    assert received.values(b"x-auth-scopes") == [b"a%2Cb,%C3%BCn%C3%AFcode"]
    response = await house.request("/private/x", token=token(scope=["a\r\nX-User-Id: forged"]))
    assert (response.status, response.code) == (401, "claim_malformed")


# Heads that come again ----------------------------------------------------------------------------


async def test_a_head_with_anothers_token_is_the_others(house: House) -> None:
    """The head is known by its bytes without the token, and says nothing of whose request it is."""
    forged = tokens.sign(tokens.claims("admin"), tokens.rsa_key("stranger"), kid="main")
    callers = [
        (subject, token(subject, jti=f"{subject}-{number}")) for number in range(3) for subject in USERS
    ]
    users: dict[str, set[bytes]] = {subject: set() for subject in USERS}
    for path in ("/private/first", "/private/again", "/private/again"):
        for subject, raw in callers:
            received = await house.forwarded(path, token=raw)
            assert received.values(b"x-auth-subject") == [subject.encode()]
            users[subject].update(received.values(b"x-user-id"))
        for nobody, code in (
            (forged, "signature_invalid"),
            (b"x", "token_malformed"),
            (b"", "credentials_malformed"),
        ):
            assert (await house.request(path, token=nobody)).code == code
    assert [len(seen) for seen in users.values()] == [1, 1]
    assert users["member"].isdisjoint(users["admin"])


@pytest.mark.parametrize("path", ["/private/again", "/public/again"])
@pytest.mark.parametrize("raw", [b"x\nX-User-Id: root", b"x\n\nGET /private/x HTTP/1.1", b"x\0", b"x\rx"])
async def test_a_bad_token_ends_no_field_of_a_remembered_head(house: House, path: str, raw: bytes) -> None:
    await house.forwarded(path, token=token("member"))
    await house.forwarded(path, token=token("member"))
    before = len(house.upstream.requests)
    assert (await house.request(path, token=raw)).status == 400
    assert len(house.upstream.requests) == before
