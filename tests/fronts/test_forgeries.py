"""Requests that claim to be another user's, or to be for another resource. None passes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

from tests.fronts.scene import Scene, identity_of
from tests.harness import token
from tests.sockets import request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

Compose = Callable[..., bytes]


def open_to_all(*fields: bytes) -> bytes:
    return request_bytes("GET", "/open/x", *fields)


def of_member(*fields: bytes) -> bytes:
    return request_bytes("GET", "/private/x", *fields, token=token())


def without_token(*fields: bytes, target: str = "/private/x", method: str = "GET") -> bytes:
    return request_bytes(method, target, *fields)


@dataclass(frozen=True, slots=True)
class Forgery:
    """A request, and what may pass of it."""

    compose: Callable[[], bytes]
    passes: frozenset[bytes] = frozenset()
    """The subjects as which it may reach the service. Empty text: as no user."""


ANONYMOUS, MEMBER, NOBODY = frozenset({b""}), frozenset({b"member"}), frozenset[bytes]()

FORGERIES: Final[dict[str, Forgery]] = {
    "the user's id": Forgery(lambda: open_to_all(b"X-User-Id: admin"), ANONYMOUS),
    "in lower case, twice": Forgery(
        lambda: open_to_all(b"x-user-id: admin", b"X-USER-ID: root", b"x-auth-subject: admin"), ANONYMOUS
    ),
    "with underscores": Forgery(
        lambda: open_to_all(b"X_User_Id: admin", b"X-User_Id: admin", b"x_auth_subject: admin"), ANONYMOUS
    ),
    "with dots": Forgery(lambda: open_to_all(b"X.User.Id: admin", b"X-User.Id: admin"), ANONYMOUS),
    "beside a token": Forgery(
        lambda: of_member(
            b"X-User-Id: admin", b"X-User-Roles: admin", b"X-User-Status: active", b"X-Auth-Subject: admin",
            b"X-User-Missing: true", b"X-Auth-Stale: true", b"X-User-Tenant: acme", b"X-Auth-Scopes: all",
        ), MEMBER,
    ),
    "underscores beside a token": Forgery(
        lambda: of_member(b"X_User_Id: admin", b"X_User_Roles: admin", b"X_Auth_Subject: admin"), MEMBER
    ),
    "named by Connection": Forgery(
        lambda: of_member(b"Connection: X-User-Id, X-Auth-Subject, X_User_Id"), MEMBER
    ),
    "another URI": Forgery(
        lambda: without_token(
            b"X-Forwarded-Uri: /open/x", b"X-Original-URI: /open/x", b"X-Original-URL: http://gateway.test/open/x",
            b"X-Rewrite-URL: /open/x",
        )
    ),
    "another method": Forgery(
        lambda: without_token(
            b"X-Forwarded-Method: GET", b"X-Original-Method: GET", b"X-HTTP-Method-Override: GET",
            target="/read/x", method="DELETE",
        )
    ),
    "another host": Forgery(
        lambda: without_token(
            b"X-Forwarded-Host: open.example.com", b"X-Original-Host: open.example.com",
            b"Forwarded: host=open.example.com",
        )
    ),
    "two hosts in one field": Forgery(
        lambda: without_token(b"Host: gateway.test,open.example.com")
    ),
    "two hosts": Forgery(
        lambda: request_bytes("GET", "/private/x", b"Host: gateway.test", b"Host: open.example.com")
    ),
    "another host in the target": Forgery(
        lambda: request_bytes("GET", "http://open.example.com/private/x", b"Host: gateway.test")
    ),
    "fields of the front, twice": Forgery(
        lambda: without_token(
            b"X-Forwarded-Uri: /private/x", b"X-Forwarded-Uri: /open/x", b"X-Original-URI: /private/x",
            b"X-Original-URI: /open/x", b"X_Forwarded_Uri: /open/x", b"X_Original_URI: /open/x",
        )
    ),
    "two tokens": Forgery(
        lambda: request_bytes(
            "GET", "/admin/x", *(b"Authorization: Bearer " + token(name) for name in ("member", "admin"))
        )
    ),
    "dot segments": Forgery(lambda: without_token(target="/open/../private/x")),
    "encoded dot segments": Forgery(lambda: without_token(target="/open/%2e%2e/private/x")),
    "an encoded slash": Forgery(lambda: without_token(target="/open/..%2fprivate/x")),
    "encoded twice": Forgery(lambda: without_token(target="/open/%252e%252e/private/x")),
    "an encoded letter": Forgery(lambda: without_token(target="/%70rivate/x")),
    "an empty segment": Forgery(lambda: without_token(target="//private/x")),
    "a parameter": Forgery(lambda: without_token(target="/open;/../private/x")),
}  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9"], ids=["inside", "outside"])
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
async def test_no_forgery_passes(scene: Scene, forgery: Forgery, address: str) -> None:
    response = await scene.send(forgery.compose(), address)
    if not scene.received:
        assert response.status in {400, 401, 403, 404, 405}, response.head
        return
    (received,) = scene.received
    found = identity_of(received)
    if received.values(b"host") == [b"open.example.com"]:
        # The request that was decided is the one that was forwarded: all may use that host.
        forgery = Forgery(forgery.compose, ANONYMOUS)
    assert len(found[b"x-auth-subject"]) <= 1, received.head
    assert b"".join(found[b"x-auth-subject"]) in forgery.passes, received.head
    if found[b"x-auth-subject"] == [b"member"]:
        (member,) = await scene.house.sql("SELECT user_id FROM identities WHERE subject = 'member'")
        assert found.pop(b"x-user-id") == [str(member["user_id"]).encode()], received.head
        assert found.pop(b"x-user-roles") == [b"reader,writer"]
        assert len(found.pop(b"x-auth-issuer")) == 1
        found.pop(b"x-auth-subject")
    assert set(map(tuple, found.values())) == {()}, received.head


UPGRADES: Final = {
    "h2c": (b"Upgrade: h2c",),
    "capitals": (b"Upgrade: H2C",),
    "tls": (b"Upgrade: TLS/1.2",),
    "list": (b"Upgrade: websocket, h2c",),
    "first": (b"Upgrade: h2c", b"Upgrade: websocket"),
    "last": (b"Upgrade: websocket", b"Upgrade: h2c"),
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES.keys())
async def test_no_tunnel_opens_but_that_of_a_websocket(scene: Scene, upgrade: tuple[bytes, ...]) -> None:
    """Of a tunnel of h2c, the gateway would see the first request alone."""
    connection = b"Connection: Upgrade, HTTP2-Settings"
    await scene.send(of_member(connection, *upgrade, b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"))
    for received in scene.received:
        assert {value.lower() for value in received.values(b"upgrade")} <= {b"websocket"}, received.head


async def test_a_head_that_is_too_large_ends_no_front(scene: Scene) -> None:
    for number in (97, 99, 120):
        response = await scene.send(open_to_all(*(b"X-%d: x" % each for each in range(number))))
        assert response.status in {400, 431, 500}
        assert b"does not answer" not in response.body
    assert (await scene.send(open_to_all())).status == 200


FORGED: Final = (
    b"X-Forwarded-Uri: /forged", b"X-Forwarded-Method: FORGED", b"X-Forwarded-Prefix: /forged",
    b"X-Original-URI: /forged", b"X-Original-URL: /forged", b"X-Original-Method: FORGED",
    b"X-Original-Host: forged", b"X-Original-Proto: forged", b"X-Original-For: forged",
    b"X-Original-Forwarded-For: forged", b"X-Rewrite-URL: /forged", b"X-Forwarded-Host: forged",
    b"Forwarded: host=forged", b"Proxy: forged", b"Remote-User: forged", b"X-Remote-User: forged",
    b"X-HTTP-Method-Override: FORGED",
)  # fmt: skip


@pytest.mark.parametrize("octet", [b"-", b"_", b"."], ids=["as-it-is", "underscores", "dots"])
async def test_the_service_gets_no_field_that_chooses_another_resource(scene: Scene, octet: bytes) -> None:
    forged = (
        name.replace(b"-", octet) + colon + value
        for name, colon, value in (field.partition(b":") for field in FORGED)
        if octet == b"-" or b"-" in name
    )
    response = await scene.send(open_to_all(*forged))
    assert response.status in {200, 400}
    for received in scene.received:
        assert b"forged" not in received.head.lower()
