"""Threats: tokens, over a real socket: each forgery is refused with its reason, and not forwarded."""

import base64
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from gateway.core.model import JSON
from tests import tokens
from tests.harness import SECOND_ISSUER, House, open_house, token, write_jwks

KEY = tokens.rsa_key("main")
session = pytest.mark.asyncio(loop_scope="session")


def claims(**changes: JSON) -> dict[str, JSON]:
    return {**tokens.claims(), **changes}


def jws(header: bytes, payload: bytes | None = None) -> bytes:
    """A token with any header, signed by the issuer's key."""
    return tokens.sign_raw(header, payload or json.dumps(claims()).encode(), KEY, "RS256")


def signed_json(text: str) -> bytes:
    """A token with any payload, signed by the issuer's key."""
    return jws(json.dumps({"alg": "RS256", "kid": "main"}).encode(), text.encode())


def payload(text: str) -> bytes:
    """The same, where `%s` stands for the members of good claims."""
    return signed_json(text.replace("%s", json.dumps(claims())[1:-1]))


def padded(raw: bytes) -> bytes:
    head, body, mac = raw.split(b".")
    return b".".join((head, body, mac + b"=" * (-len(mac) % 4 or 4)))


def foreign(raw: bytes) -> bytes:
    """Standard base64's alphabet in place of base64url's."""
    head, body, mac = raw.split(b".")
    return b".".join((head, body, base64.b64encode(base64.urlsafe_b64decode(mac + b"=="))))


def low_bits(raw: bytes) -> bytes:
    """Another spelling of the same signature: 256 bytes leave four bits of the last character unused."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return raw[:-1] + bytes([alphabet[alphabet.index(raw[-1]) ^ 1]])


def other_curve() -> bytes:
    return tokens.sign(claims(), tokens.ec_key("other", "P-384"), "ES256", kid="main-ec")


ES = "ES256"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def ecdsa(r: int, s: int) -> Callable[[], bytes]:
    def forge() -> bytes:
        good = tokens.sign(claims(), tokens.ec_key("main-ec"))
        return tokens.resigned(good, r.to_bytes(32, "big") + s.to_bytes(32, "big"))

    return forge


def none(spelling: str) -> Callable[[], bytes]:
    return lambda: tokens.unsigned({"alg": spelling, "typ": "JWT"}, claims())


FORGERIES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"alg-{name}": (none(name), "algorithm_not_allowed") for name in ("none", "None", "NONE", "nOnE")},
    "alg-none-with-signature": (
        lambda: tokens.unsigned({"alg": "none"}, claims(), b"x" * 256),
        "algorithm_not_allowed",
    ),
    "alg-empty": (none(""), "algorithm_not_allowed"),
    "alg-null": (lambda: jws(b'{"alg":null,"kid":"main"}'), "token_malformed"),
    "alg-list": (lambda: jws(b'{"alg":["RS256"],"kid":"main"}'), "token_malformed"),
    "alg-missing": (lambda: jws(b'{"kid":"main"}'), "token_malformed"),
    "public-pem-as-secret": (
        lambda: tokens.sign(claims(), KEY.pem(), "HS256", kid="main"),
        "algorithm_not_allowed",
    ),
    "public-jwk-as-secret": (
        lambda: tokens.sign(claims(), json.dumps(KEY.jwk()).encode(), "HS256", kid="main"),
        "algorithm_not_allowed",
    ),
    "empty-secret": (lambda: tokens.sign(claims(), b"", "HS256", kid="main"), "algorithm_not_allowed"),
    "ec-key-with-rs256": (
        lambda: tokens.sign(claims(), KEY, "RS256", kid="main-ec"),
        "algorithm_not_allowed",
    ),
    "rsa-key-with-es256": (
        lambda: tokens.sign(claims(), tokens.ec_key("main-ec"), ES, kid="main"),
        "algorithm_not_allowed",
    ),
    "crit-unknown": (
        lambda: jws(b'{"alg":"RS256","kid":"main","crit":["x"],"x":1}'),
        "critical_header_unsupported",
    ),
    "crit-b64": (
        lambda: jws(b'{"alg":"RS256","kid":"main","crit":["b64"],"b64":false}'),
        "critical_header_unsupported",
    ),
    "crit-empty": (lambda: jws(b'{"alg":"RS256","kid":"main","crit":[]}'), "critical_header_unsupported"),
    "crit-null": (lambda: jws(b'{"alg":"RS256","kid":"main","crit":null}'), "critical_header_unsupported"),
    "jwk-in-the-header": (
        lambda: tokens.sign(claims(), tokens.rsa_key("mine"), jwk=tokens.rsa_key("mine").jwk()),
        "key_unknown",
    ),
    "jwk-in-the-header-under-a-known-kid": (
        lambda: tokens.sign(claims(), tokens.rsa_key("mine"), kid="main", jwk=tokens.rsa_key("mine").jwk()),
        "signature_invalid",
    ),
    "x5c-in-the-header": (
        lambda: tokens.sign(claims(), tokens.rsa_key("mine"), kid="main", x5c=["MIIB"]),
        "signature_invalid",
    ),
    "kid-with-a-path": (
        lambda: tokens.sign(claims(), KEY, kid="../../../../dev/null"),
        "key_unknown",
    ),
    "kid-with-sql": (lambda: tokens.sign(claims(), KEY, kid="x' OR '1'='1"), "key_unknown"),
    "kid-with-a-command": (lambda: tokens.sign(claims(), KEY, kid="|/bin/id"), "key_unknown"),
    "kid-number": (lambda: jws(b'{"alg":"RS256","kid":1}'), "token_malformed"),
    "ecdsa-zeros": (ecdsa(0, 0), "signature_invalid"),
    "ecdsa-r-zero": (ecdsa(0, 1), "signature_invalid"),
    "ecdsa-s-zero": (ecdsa(1, 0), "signature_invalid"),
    "ecdsa-order": (ecdsa(P256_ORDER, P256_ORDER), "signature_invalid"),
    "ecdsa-too-large": (ecdsa(2**256 - 1, 2**256 - 1), "signature_invalid"),
    "ecdsa-wrong-curve": (other_curve, "signature_invalid"),
    "ecdsa-der": (
        lambda: tokens.resigned(
            tokens.sign(claims(), tokens.ec_key("main-ec")), b"\x30\x06\x02\x01\x01\x02\x01\x01"
        ),
        "signature_invalid",
    ),
    "signature-empty": (lambda: tokens.resigned(token(), b""), "signature_invalid"),
    "signature-of-another-token": (
        lambda: token("admin").rpartition(b".")[0] + b"." + token("member").rpartition(b".")[2],
        "signature_invalid",
    ),
    "segments-1": (lambda: token().split(b".")[1], "token_malformed"),
    "segments-2": (lambda: token().rpartition(b".")[0], "token_malformed"),
    "segments-4": (lambda: token() + b".", "token_malformed"),
    "jwe": (
        lambda: b".".join([tokens.base64url(b'{"alg":"dir","enc":"A128GCM"}'), b"", b"aa", b"aa", b"aa"]),
        "token_malformed",
    ),
    "padding": (lambda: padded(token()), "token_malformed"),
    "foreign-alphabet": (lambda: foreign(tokens.resigned(token(), b"\xfb\xff" * 128)), "token_malformed"),
    "low-bits": (lambda: low_bits(token()), "token_malformed"),
    "json-serialisation": (
        lambda: b'{"payload":"","protected":"","signature":""}',
        "credentials_malformed",
    ),
    "line-break": (lambda: token().replace(b".", b".\t", 1), "credentials_malformed"),
    "nothing": (lambda: b"", "credentials_malformed"),
    "two-tokens": (lambda: token() + b" " + token(), "credentials_malformed"),
    "two-tokens-in-a-list": (lambda: token() + b", Bearer " + token(), "credentials_malformed"),
    "typ-of-another-kind": (
        lambda: jws(b'{"alg":"RS256","kid":"main","typ":"logout+jwt"}'),
        "token_type_invalid",
    ),
    "duplicate-keys": (lambda: payload('{%s,"sub":"admin"}'), "token_malformed"),
    "duplicate-alg": (lambda: jws(b'{"alg":"none","alg":"RS256","kid":"main"}'), "token_malformed"),
    "nan": (lambda: payload('{%s,"x":NaN}'), "token_malformed"),
    "infinity": (lambda: payload('{%s,"x":-Infinity}'), "token_malformed"),
    "no-json": (lambda: payload("{"), "token_malformed"),
    "no-object": (lambda: payload("[1]"), "token_malformed"),
    "not-utf-8": (lambda: jws(b'{"alg":"RS256","kid":"main"}', b'{"sub":"\xff"}'), "token_malformed"),
    "nested-deeply": (lambda: payload('{%s,"x":' + "[" * 5000 + "]" * 5000 + "}"), "token_malformed"),
    "nested-65-levels": (lambda: payload('{%s,"x":' + "[" * 64 + "]" * 64 + "}"), "token_malformed"),
    "nested-in-the-header": (
        lambda: jws(b'{"alg":"RS256","kid":"main","x":' + b"[" * 1000 + b"]" * 1000 + b"}"),
        "token_malformed",
    ),
    "compressed": (
        lambda: jws(b'{"alg":"RS256","kid":"main","zip":"DEF"}', zlib.compress(b"a" * 1_000_000)),
        "token_malformed",
    ),
    "exp-missing": (lambda: tokens.sign(tokens.without(claims(), "exp"), KEY), "claim_missing"),
    "exp-null": (lambda: tokens.sign(claims(exp=None), KEY), "claim_missing"),
    "exp-string": (lambda: tokens.sign(claims(exp="9999999999"), KEY), "claim_malformed"),
    "exp-boolean": (lambda: tokens.sign(claims(exp=True), KEY), "claim_malformed"),
    "exp-list": (lambda: tokens.sign(claims(exp=[9999999999]), KEY), "claim_malformed"),
    "exp-negative": (lambda: tokens.sign(claims(exp=-1), KEY), "claim_malformed"),
    "exp-far-future": (lambda: tokens.sign(claims(exp=10**18), KEY), "claim_malformed"),
    "exp-infinite": (
        lambda: signed_json(json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999')),
        "claim_malformed",
    ),
    "exp-passed": (lambda: tokens.sign(claims(exp=int(time.time()) - 60), KEY), "token_expired"),
    "aud-missing": (lambda: tokens.sign(tokens.without(claims(), "aud"), KEY), "audience_mismatch"),
    "aud-other": (lambda: tokens.sign(claims(aud="other"), KEY), "audience_mismatch"),
    "aud-others": (lambda: tokens.sign(claims(aud=["other", "orders-api/"]), KEY), "audience_mismatch"),
    "aud-object": (lambda: tokens.sign(claims(aud={"orders-api": True}), KEY), "claim_malformed"),
    "iss-without-slash": (
        lambda: tokens.sign(claims(iss=tokens.ISSUER.rstrip("/")), KEY),
        "issuer_untrusted",
    ),
    "iss-in-capitals": (lambda: tokens.sign(claims(iss=tokens.ISSUER.upper()), KEY), "issuer_untrusted"),
    "iss-list": (lambda: tokens.sign(claims(iss=[tokens.ISSUER]), KEY), "issuer_missing"),
    "another-issuers-key": (
        lambda: tokens.sign(claims(iss=SECOND_ISSUER), KEY),
        "key_unknown",
    ),
    "another-issuers-key-under-its-kid": (
        lambda: tokens.sign(claims(iss=SECOND_ISSUER), KEY, kid="second"),
        "signature_invalid",
    ),
    "our-users-name-at-another-issuer": (
        lambda: tokens.sign(claims(iss=SECOND_ISSUER), tokens.rsa_key("second")),
        "user_not_found",
    ),
    "sub-number": (lambda: tokens.sign(claims(sub=1), KEY), "subject_malformed"),
    "sub-empty": (lambda: tokens.sign(claims(sub=""), KEY), "subject_malformed"),
    "sub-with-nul": (lambda: tokens.sign(claims(sub="member\0"), KEY), "subject_malformed"),
    "sub-with-a-surrogate": (
        lambda: signed_json(json.dumps(claims(sub="member\ud800"))),
        "subject_malformed",
    ),
    "sub-in-another-case": (lambda: token("MEMBER"), "user_not_found"),
    "sub-with-sql": (lambda: token("member' OR '1'='1"), "user_not_found"),
    "sub-with-a-redis-command": (lambda: token("x revoked:loaded * GET"), "user_not_found"),
    "sub-as-a-redis-key": (lambda: token("a:b:member"), "user_not_found"),
}


@session
@pytest.mark.parametrize(("forge", "reason"), FORGERIES.values(), ids=FORGERIES)
async def test_a_forged_token_is_refused_with_its_reason(
    house: House, forge: Callable[[], bytes], reason: str
) -> None:
    for _ in range(2):  # the second time from what is remembered, if anything is
        response = await house.request("/private/x", token=forge())
        assert (response.status, response.code) == (401, reason)
    assert house.upstream.wires == []
    assert [event["reason"] for event in house.events("denied")] == [reason, reason]


@session
@pytest.mark.parametrize("size", [20_000, 31_000])
async def test_a_large_token_is_refused_unread(house: House, size: int) -> None:
    response = await house.request("/private/x", token=b"a" * size)
    assert (response.status, response.code) == (401, "token_too_large")


@session
async def test_a_token_of_10_mb_is_refused_before_it_has_arrived(house: House) -> None:
    async with house.connect() as client:
        client.writer.write(b"GET /private/x HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer ")
        try:
            for _ in range(160):
                client.writer.write(b"a" * 65_536)
                await client.writer.drain()
        except ConnectionError:
            return
        response = await client.response()
        assert response is not None
        assert (response.status, response.code) == (431, "request_too_large")


@session
@pytest.mark.parametrize(
    "fields",
    [
        (b"Authorization: Bearer %b", b"Authorization: Bearer %b"),
        (b"Authorization: Bearer %b", b"authorization: Basic eDp5"),
        (b"Authorization: Basic eDp5", b"Authorization: Bearer %b"),
        (b"Authorization:", b"Authorization: Bearer %b"),
    ],
)
async def test_two_credentials_are_one_too_many(house: House, fields: tuple[bytes, ...]) -> None:
    raw = token()
    response = await house.request("/private/x", *(field.replace(b"%b", raw) for field in fields))
    assert (response.status, response.code) == (400, "credentials_multiple")
    assert house.upstream.wires == []


@session
@pytest.mark.parametrize("aud", ["orders-api", ["orders-api"], ["other", "orders-api"]])
async def test_an_audience_is_a_string_or_a_list(house: House, aud: JSON) -> None:
    await house.forwarded("/private/x", token=token(aud=aud))


@session
async def test_exp_may_be_a_fraction(house: House) -> None:
    await house.forwarded("/private/x", token=token(exp=time.time() + 60.5))


@session
async def test_every_algorithm_that_is_configured_verifies(house: House) -> None:
    for key, algorithm in (
        (KEY, "RS256"), (KEY, "RS384"), (KEY, "RS512"), (KEY, "PS256"), (KEY, "PS384"), (KEY, "PS512"),
        (tokens.ec_key("main-ec"), "ES256"), (tokens.ed25519_key("main-ed"), "EdDSA"),
        (tokens.ed25519_key("main-ed"), "Ed25519"),
    ):  # fmt: skip
        await house.forwarded("/private/x", token=tokens.sign(claims(), key, algorithm))


@session
async def test_a_remembered_token_is_no_key_for_another(house: House) -> None:
    """The cache is keyed by all of the token: one octet more or less is another token."""
    good = token()
    await house.forwarded("/private/x", token=good)
    for changed in (good[:-2], good + b"A", good.replace(b".", b".e", 1)):
        response = await house.request("/private/x", token=changed)
        assert response.status == 401
    await house.forwarded("/private/x", token=good)


UNUSABLE_KEYS: dict[str, tuple[tokens.SigningKey, dict[str, JSON]]] = {
    "short-rsa": (tokens.rsa_key("short", 1024), {}),
    "use-enc": (tokens.rsa_key("main"), {"use": "enc"}),
    "alg-of-another": (tokens.rsa_key("main"), {"alg": "RSA-OAEP"}),
    "unknown-curve": (tokens.ec_key("odd", "secp256k1"), {}),
}


@pytest.mark.parametrize(("key", "changes"), UNUSABLE_KEYS.values(), ids=UNUSABLE_KEYS)
async def test_a_published_key_that_must_not_sign_verifies_nothing(
    tmp_path: Path, dsn: str, redis_url: str, key: tokens.SigningKey, changes: dict[str, JSON]
) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        (tmp_path / "second.json").write_text(
            json.dumps({"keys": [key.jwk(**changes), tokens.rsa_key("second").jwk()]})
        )
        refused = await house.request(
            "/private/x", token=tokens.sign(claims(iss=SECOND_ISSUER), key, key.algorithm)
        )
        assert (refused.status, refused.code) == (401, "key_unknown")


@pytest.mark.parametrize(
    "point", [b"\x01" + bytes(31), b"\xee" + b"\xff" * 30 + b"\xff"], ids=["one", "one-again"]
)
async def test_a_published_key_for_which_all_can_sign_verifies_nothing(
    tmp_path: Path, dsn: str, redis_url: str, point: bytes
) -> None:
    """The equation of Ed25519 is s·B = r + k·A. If A is the neutral point, s = 0 and r = A always meet it."""
    async with open_house(tmp_path, dsn, redis_url) as house:
        key = tokens.ed25519_key("weak")
        weak = key.jwk(x=tokens.base64url(point).decode())
        (tmp_path / "second.json").write_text(json.dumps({"keys": [weak, tokens.rsa_key("second").jwk()]}))
        forged = tokens.resigned(tokens.sign(claims(iss=SECOND_ISSUER), key), b"\x01" + bytes(31) + bytes(32))
        refused = await house.request("/private/x", token=forged)
        assert (refused.status, refused.code) == (401, "key_unknown")


async def test_a_withdrawn_key_is_trusted_no_longer(tmp_path: Path, dsn: str, redis_url: str) -> None:
    async with open_house(tmp_path, dsn, redis_url) as house:
        good = token()
        await house.forwarded("/private/x", token=good)
        write_jwks(tmp_path / "main.json", tokens.rsa_key("next"))
        # The new key, unknown so far, makes the gateway look again.
        await house.forwarded("/private/x", token=tokens.sign(claims(), tokens.rsa_key("next")))
        refused = await house.request("/private/x", token=good)
        assert (refused.status, refused.code) == (401, "key_unknown")


@pytest.fixture
async def attacker() -> AsyncIterator[tuple[str, list[str]]]:
    """A web server that serves the attacker's keys, and knows who asked for them."""
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"keys": [tokens.rsa_key("mine").jwk()]})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


@pytest.mark.parametrize("name", ["jku", "x5u", "iss"])
async def test_no_address_out_of_a_token_is_ever_asked(
    tmp_path: Path, dsn: str, redis_url: str, attacker: tuple[str, list[str]], name: str
) -> None:
    url, asked = attacker
    async with open_house(tmp_path, dsn, redis_url) as house:
        for kid in ("mine", "main"):
            forged = (
                tokens.sign(claims(iss=url), tokens.rsa_key("mine"), kid=kid)
                if name == "iss"
                else tokens.sign(claims(), tokens.rsa_key("mine"), kid=kid, **{name: f"{url}/jwks"})
            )
            response = await house.request("/private/x", token=forged)
            assert response.status == 401
        assert house.upstream.wires == []
    assert asked == []
