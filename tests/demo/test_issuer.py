import base64
import time
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import ClientSession
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from yarl import URL

from gateway.core.model import JSON
from gateway.demo.issuer import DemoIssuer
from gateway.demo.listening import bind, listening


@pytest.fixture
async def issuer() -> AsyncIterator[str]:
    listener, url = bind("127.0.0.1", 0)
    async with listening(DemoIssuer(url).application(), listener):
        yield url


@pytest.fixture
async def client(issuer: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(issuer) as session:
        yield session


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _claims(token: str) -> dict[str, JSON]:
    claims: dict[str, JSON] = orjson.loads(_decode(token.split(".")[1]))
    return claims


async def _token(client: ClientSession, path: str) -> str:
    async with client.get(path) as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return await response.text()


async def _public_key(client: ClientSession) -> tuple[str, rsa.RSAPublicKey]:
    async with client.get("/.well-known/openid-configuration") as response:
        jwks_uri = (await response.json())["jwks_uri"]
    async with client.get(jwks_uri) as response:
        assert response.headers["Cache-Control"] == "public, max-age=300"
        (key,) = (await response.json())["keys"]
    exponent, modulus = (int.from_bytes(_decode(key[name])) for name in "en")
    return key["kid"], rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _verify(token: str, key: rsa.RSAPublicKey) -> None:
    signed, _, signature = token.rpartition(".")
    key.verify(_decode(signature), signed.encode(), padding.PKCS1v15(), SHA256())


async def test_metadata_names_the_issuer(issuer: str, client: ClientSession) -> None:
    async with client.get("/.well-known/openid-configuration") as response:
        document = await response.json()
    assert document["issuer"] == issuer
    assert document["jwks_uri"] == f"{issuer}/jwks.json"


async def test_token_is_signed_by_the_key_in_the_set(issuer: str, client: ClientSession) -> None:
    kid, key = await _public_key(client)
    token = await _token(client, "/token/member")
    _verify(token, key)
    assert orjson.loads(_decode(token.split(".")[0])) == {"alg": "RS256", "typ": "at+jwt", "kid": kid}
    claims = _claims(token)
    assert claims.keys() == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (issuer, "member", "demo")
    assert isinstance(claims["iat"], int)
    assert abs(time.time() - claims["iat"]) < 5
    assert claims["exp"] == claims["iat"] + 3600


async def test_every_token_has_its_own_id(client: ClientSession) -> None:
    first, second = [_claims(await _token(client, "/token/member")) for _ in range(2)]
    assert first["jti"] != second["jti"]


async def test_stranger_signs_under_the_same_kid(client: ClientSession) -> None:
    kid, key = await _public_key(client)
    token = await _token(client, "/token/member?signed_by=stranger")
    assert orjson.loads(_decode(token.split(".")[0]))["kid"] == kid
    with pytest.raises(InvalidSignature):
        _verify(token, key)


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("auth0%7C42", "auth0|42"),
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%C3%A9", "é"),
        ("urn:x:1", "urn:x:1"),
        ("100%25", "100%"),
    ],
)
async def test_name_becomes_the_subject_as_it_is(
    issuer: str, client: ClientSession, path: str, subject: str
) -> None:
    async with client.get(URL(f"{issuer}/token/{path}", encoded=True)) as response:
        assert _claims(await response.text())["sub"] == subject


async def test_claims_that_are_asked_for(client: ClientSession) -> None:
    claims = _claims(await _token(client, "/token/member?scope=a+b&aud=other&tenant=t&expires_in=60"))
    assert (claims["scope"], claims["aud"], claims["tenant_id"]) == ("a b", "other", "t")
    assert isinstance(claims["iat"], int)
    assert claims["exp"] == claims["iat"] + 60


async def test_negative_lifetime_gives_a_token_that_has_expired(client: ClientSession) -> None:
    claims = _claims(await _token(client, "/token/member?expires_in=-60"))
    assert isinstance(claims["exp"], int)
    assert isinstance(claims["iat"], int)
    assert -65 < claims["exp"] - time.time() < -55
    assert claims["iat"] < claims["exp"]


@pytest.mark.parametrize(
    "query", ["expires_in=soon", "expires_in=", "expires_in=1e9", "expires_in=99999999999", "signed_by=me"]
)
async def test_question_that_makes_no_sense_is_refused(client: ClientSession, query: str) -> None:
    async with client.get(f"/token/member?{query}") as response:
        assert response.status == 400
        assert "must be" in await response.text()
