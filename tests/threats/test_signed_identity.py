"""Threats: signed identity: assertions that clients bring along, and what they could be taken for."""

import base64
import json

import pytest

from tests import tokens
from tests.harness import House, token
from tests.sockets import request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEADER = b"X-Gateway-Assertion"
PATHS = ["/private/x", "/public/x", "/optional/x", "/leave/x", "/welcome/x", "/browser/x", "/any-protocol/x"]


async def test_a_forged_assertion_in_every_spelling(signing: House) -> None:
    """An upstream that folds names takes the client's field for the gateway's, on any route."""
    forged = tokens.sign({"sub": "root"}, tokens.ec_key("attacker"))
    names = [
        HEADER, b"x-gateway-assertion", b"X_Gateway_Assertion", b"X.Gateway.Assertion",
        b"X-Gateway_Assertion", b"X-GATEWAY-ASSERTION",
    ]  # fmt: skip
    for path in PATHS:
        for connection in ((), (b"Connection: keep-alive, X-Gateway-Assertion",)):
            fields = [name + b": " + forged for name in names]
            received = await signing.forwarded(path, *fields, *connection, token=token())
            assert forged not in received.head
            signed = path not in {"/public/x", "/any-protocol/x"}
            assert len(received.values(HEADER)) == signed, path


async def test_a_forged_assertion_in_a_trailer(signing: House) -> None:
    request = request_bytes("POST", "/private/x", b"Transfer-Encoding: chunked", token=token())
    await signing.exchange(request + b"2\r\nok\r\n0\r\nX-Gateway-Assertion: forged\r\n\r\n")
    (wire,) = signing.upstream.wires
    assert b"forged" not in bytes(wire.raw)


async def test_an_assertion_used_as_a_token(signing: House) -> None:
    """What a service was given opens the gateway, with another audience and a fresh user."""
    received = await signing.forwarded("/private/x", token=token())
    (assertion,) = received.values(HEADER)
    response = await signing.request("/private/x", token=assertion)
    assert (response.status, response.code) == (401, "issuer_untrusted")


async def test_a_private_key_that_is_published(signing: House) -> None:
    response = await signing.request("/.well-known/jwks.json")
    for key in json.loads(response.content)["keys"]:
        assert key.keys() <= {"kty", "crv", "x", "y", "kid", "use", "alg"}
    for row in await signing.sql("SELECT private_key FROM gateway_assertion_keys"):
        body = "".join(str(row["private_key"]).splitlines()[1:-1])
        assert base64.b64decode(body) not in response.body
        assert body not in signing.log.getvalue()


async def test_another_path_that_serves_the_keys(signing: House) -> None:
    """A second spelling, or another method, has no route, and gets no answer of the gateway."""
    for target in ("/.well-known/jwks.json/", "/.well-known//jwks.json", "/.well-known/jwks%2Ejson"):
        response = await signing.request(target)
        assert response.status in {400, 404}
    assert signing.upstream.requests == []
