"""Asking issuers about opaque tokens: how often, how long an answer counts, and what a failure means."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import Denial
from gateway.core.tokens.introspection import INTROSPECTED, Introspected
from gateway.core.tokens.jws import parse
from gateway.core.tokens.key_material import key_from_jwk
from gateway.issuer_keys import introspection
from gateway.issuer_keys.client_authentication import ClientAuthentication, ClientSecret, PrivateKeyJwt
from gateway.issuer_keys.fetch import Fetcher, FetchError
from gateway.issuer_keys.introspection import Endpoint, Introspector
from tests.issuer_keys.opaque import OpaqueIssuer, serving
from tests.tokens import SigningKey, claims, ec_key, ed25519_key, rsa_key, sign

NOW = 1_800_000_000.0
MAIN = Issuer("main", "https://idp.example.com/", frozenset({"api"}), frozenset())
OPAQUE = "opaque"
MEMBER: dict[str, JSON] = {"sub": "member", "aud": "api", "exp": NOW + 300}


class House:
    """An introspector, its clocks, and the issuer that it asks."""

    def __init__(self, issuer: OpaqueIssuer, fetcher: Fetcher, cache_ttl: float = 30.0) -> None:
        self.issuer = issuer
        self.now = NOW
        self.monotonic = 0.0
        self.seen: list[tuple[str, str]] = []
        endpoint = Endpoint(issuer.endpoint, ClientSecret("gateway", "s3cret"), cache_ttl)
        self.introspector = Introspector(
            [(MAIN, "", endpoint)],
            fetcher=fetcher,
            observer=self,
            clock=lambda: self.now,
            monotonic=lambda: self.monotonic,
        )

    def introspected(self, issuer: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((issuer, result))

    async def ask(self, token: str = OPAQUE) -> Introspected:
        return await self.introspector.introspect(MAIN, Credential.of(token.encode()))

    async def refused(self, token: str = OPAQUE) -> str:
        with pytest.raises(Denial) as caught:
            await self.ask(token)
        assert caught.value.issuer == "main"
        return caught.value.reason.code


@pytest.fixture
async def issuer() -> AsyncIterator[OpaqueIssuer]:
    async with serving() as issuer:
        issuer.tokens["opaque"] = MEMBER
        yield issuer


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher(timeout=2) as fetcher:
        yield fetcher


@pytest.fixture
async def house(issuer: OpaqueIssuer, fetcher: Fetcher) -> AsyncIterator[House]:
    house = House(issuer, fetcher)
    yield house
    await house.introspector.close()


async def test_the_issuer_is_asked_as_the_standard_says(house: House) -> None:
    said = await house.ask()
    assert said.payload["sub"] == "member"
    assert house.issuer.forms == [{"token": "opaque", "token_type_hint": "access_token"}]
    assert house.issuer.authorizations == [f"Basic {base64.b64encode(b'gateway:s3cret').decode()}"]
    assert house.seen == [("main", "active")]


async def test_an_answer_counts_until_its_time_is_over(house: House) -> None:
    assert (await house.ask()).until == NOW + 30
    house.now += 29
    await house.ask()
    assert house.issuer.asked["opaque"] == 1
    house.now += 1
    await house.ask()
    assert house.issuer.asked["opaque"] == 2


async def test_no_answer_counts_beyond_the_tokens_expiry(house: House) -> None:
    house.issuer.tokens["opaque"] = {**MEMBER, "exp": NOW + 10}
    assert (await house.ask()).until == NOW + 10


async def test_the_time_counts_from_the_question(house: House) -> None:
    house.issuer.open.clear()
    asking = asyncio.create_task(house.ask())
    await house.issuer.arrived.wait()
    house.now += 20
    house.issuer.open.set()
    assert (await asking).until == NOW + 30


async def test_without_a_cache_each_request_asks(issuer: OpaqueIssuer, fetcher: Fetcher) -> None:
    house = House(issuer, fetcher, cache_ttl=0.0)
    await house.ask()
    await house.ask()
    assert issuer.asked["opaque"] == 2


async def test_a_thousand_first_requests_are_one_call(house: House) -> None:
    house.issuer.open.clear()
    asking = [asyncio.create_task(house.ask()) for _ in range(1000)]
    await house.issuer.arrived.wait()
    house.issuer.open.set()
    said = await asyncio.gather(*asking)
    assert {each.payload["sub"] for each in said} == {"member"}
    assert house.issuer.asked == {"opaque": 1}


async def test_a_caller_that_leaves_ends_no_call(house: House) -> None:
    house.issuer.open.clear()
    first, second = (asyncio.create_task(house.ask()) for _ in range(2))
    await house.issuer.arrived.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    house.issuer.open.set()
    assert (await second).payload["sub"] == "member"
    assert house.issuer.asked["opaque"] == 1


async def test_an_inactive_token_is_refused_and_remembered_for_seconds(house: House) -> None:
    assert await house.refused("other") == "token_inactive"
    assert await house.refused("other") == "token_inactive"
    assert house.issuer.asked["other"] == 1
    assert house.seen == [("main", "inactive")]
    house.now += introspection.REFUSED_SECONDS
    house.issuer.tokens["other"] = MEMBER
    assert (await house.ask("other")).payload["sub"] == "member"


async def test_the_number_of_remembered_answers_is_bounded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "MAX_REFUSED", 2)
    small = House(house.issuer, house.introspector._issuers["main"]._fetcher)
    for name in ("a", "b", "c", "a"):
        assert await small.refused(name) == "token_inactive"
    assert house.issuer.asked == {"a": 2, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, None),
        (401, b'{"error": "invalid_client"}'),
        (400, None),
        (404, None),
        (302, None),
        (200, b"not json"),
        (200, b"{}"),
        (200, b'{"active": "yes"}'),
        (200, b'{"active": true, "active": false}'),
        (200, b"[" * 100_000),
    ],
)
async def test_an_endpoint_that_fails_says_nothing_about_the_token(
    house: House, status: int, body: bytes | None
) -> None:
    house.issuer.status, house.issuer.body = status, body
    with pytest.raises(Denial, match=r"introspection_unavailable: .* gave no answer that can be used"):
        await house.ask()
    assert house.seen == [("main", "failure")]
    assert house.introspector.last_error("main") is not None

    # It answers, so it is asked about other tokens: clients choose what it is asked about.
    house.issuer.status, house.issuer.body = 200, None
    assert await house.refused("another") == "token_inactive"
    assert (await house.ask()).payload["sub"] == "member"
    assert house.introspector.last_error("main") is None


async def test_after_silence_no_request_waits_for_a_while(fetcher: Fetcher) -> None:
    async with serving() as issuer:
        pass
    house = House(issuer, fetcher)
    with pytest.raises(Denial, match=r"introspection_unavailable: .* did not answer"):
        await house.ask()
    assert await house.refused() == "introspection_unavailable"
    assert await house.refused("another") == "introspection_unavailable"
    assert house.seen == [("main", "failure")]
    house.monotonic += introspection.REST
    assert await house.refused() == "introspection_unavailable"
    assert house.seen == [("main", "failure")] * 2


async def test_failures_are_logged_once_in_a_while(house: House) -> None:
    house.issuer.status = 500
    with structlog.testing.capture_logs() as logs:
        for number in range(3):
            assert await house.refused(f"bad-{number}") == "introspection_unavailable"
        assert [event["event"] for event in logs] == ["introspection_failed"]
        house.monotonic += introspection.QUIET
        assert await house.refused("bad-4") == "introspection_unavailable"
    assert len(logs) == 2


async def test_a_jwt_that_is_no_access_token_is_not_even_asked_about(house: House) -> None:
    now = int(NOW)
    id_token = sign(claims(now=now, nonce="n"), rsa_key()).decode()
    assert await house.refused(id_token) == "id_token_not_accepted"
    refresh = sign(claims(now=now, typ="Refresh"), rsa_key()).decode()
    assert await house.refused(refresh) == "id_token_not_accepted"
    assert house.issuer.asked == {}
    access = sign(claims(now=now), rsa_key()).decode()
    assert await house.refused(access) == "token_inactive"


async def test_remembered_answers_count_while_the_endpoint_is_down(house: House) -> None:
    await house.ask()
    house.issuer.status = 503
    assert await house.refused("another") == "introspection_unavailable"
    assert (await house.ask()).payload["sub"] == "member"


async def test_too_many_tokens_at_once_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "MAX_WAITING", 3)
    house.issuer.open.clear()
    asking = [asyncio.create_task(house.refused(f"t{number}")) for number in range(3)]
    await house.issuer.arrived.wait()
    assert await house.refused("one more") == "introspection_unavailable"
    house.issuer.open.set()
    assert set(await asyncio.gather(*asking)) == {"token_inactive"}


async def test_calls_at_a_time_are_bounded(house: House) -> None:
    house.issuer.open.clear()
    asking = [
        asyncio.create_task(house.refused(f"t{number}")) for number in range(introspection.MAX_CALLS + 8)
    ]
    async with asyncio.timeout(10):
        while len(house.issuer.asked) < introspection.MAX_CALLS:
            house.issuer.arrived.clear()
            await house.issuer.arrived.wait()
    assert len(house.issuer.asked) == introspection.MAX_CALLS
    house.issuer.open.set()
    assert set(await asyncio.gather(*asking)) == {"token_inactive"}


async def test_connections_are_kept_for_the_next_call(issuer: OpaqueIssuer) -> None:
    async with Fetcher(timeout=2, keep_alive=introspection.KEEP_ALIVE) as fetcher:
        house = House(issuer, fetcher)
        for number in range(3):
            assert await house.refused(f"t{number}") == "token_inactive"
        assert len(issuer.peers) == 1


async def test_a_call_whose_connection_was_closed_is_made_once_more(house: House) -> None:
    house.issuer.drops = 1
    assert (await house.ask()).payload["sub"] == "member"
    assert house.issuer.asked["opaque"] == 2
    house.issuer.drops = 2
    assert await house.refused("another") == "introspection_unavailable"
    assert house.issuer.asked["another"] == 2


# The endpoint as the source of a key set ------------------------------------------------------------


async def test_an_endpoint_that_answers_has_a_key_that_verifies_nothing(
    issuer: OpaqueIssuer, fetcher: Fetcher
) -> None:
    loaded = await Endpoint(issuer.endpoint, ClientSecret("gateway", "s3cret"), 30.0).load(fetcher)
    assert loaded.keys.keys == (INTROSPECTED,)
    assert loaded.keys.candidates(None, "RS256") == ()
    assert loaded.keys.candidates("x", "HS256") == ()


async def test_an_endpoint_that_does_not_is_a_failed_fetch(issuer: OpaqueIssuer, fetcher: Fetcher) -> None:
    issuer.body = b"{}"
    with pytest.raises(FetchError, match="active"):
        await Endpoint(issuer.endpoint, ClientSecret("gateway", "s3cret"), 30.0).load(fetcher)


# The client's proof ---------------------------------------------------------------------------------


async def test_a_secret_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for secret in ("first", "second"):
        file.write_text(f"{secret}\n")
        proof = await ClientSecret("gateway", file).proof()
        assert (
            base64.b64decode(proof.headers["Authorization"].removeprefix("Basic ")).decode()
            == f"gateway:{secret}"
        )


async def test_an_empty_secret_is_none(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(FetchError, match="the client's secret is empty"):
        await ClientSecret("gateway", tmp_path / "secret").proof()


async def test_id_and_secret_are_form_encoded_first() -> None:
    proof = await ClientSecret("a:b c", "p%ä&=").proof()
    pair = base64.b64decode(proof.headers["Authorization"].removeprefix("Basic "))
    assert pair == b"a%3Ab+c:p%25%C3%A4%26%3D"


@pytest.mark.parametrize("key", [rsa_key(), ec_key(), ed25519_key()], ids=lambda key: key.algorithm)
async def test_an_assertion_is_signed_with_the_clients_key(key: SigningKey, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(key.private_pem())
    client = PrivateKeyJwt("gateway", file, key.kid, "https://idp.example.com/", lambda: NOW)
    first, second = (await client.proof()).form, (await client.proof()).form

    assert first["client_id"] == "gateway"
    assert first["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    token = parse(first["client_assertion"].encode())
    assert token.kid == key.kid
    assert key_from_jwk(key.jwk()).verify(token)
    assert {**token.payload, "jti": ""} == {
        "iss": "gateway",
        "sub": "gateway",
        "aud": "https://idp.example.com/",
        "jti": "",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
    }
    assert first["client_assertion"] != second["client_assertion"]


@pytest.mark.parametrize(
    "pem",
    [
        b"not a key",
        rsa_key().pem(),
        SigningKey("p384", "ES384", ec.generate_private_key(ec.SECP384R1())).private_pem(),
        None,
    ],
)
async def test_a_key_that_cannot_be_used_is_a_failure(pem: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    if pem is not None:
        file.write_bytes(pem)
    client: ClientAuthentication = PrivateKeyJwt(
        "gateway", file, None, "https://idp.example.com/", lambda: NOW
    )
    with pytest.raises(FetchError, match=r"key\.pem"):
        await client.proof()


async def test_no_secret_is_shown(tmp_path: Path) -> None:
    client = ClientSecret("gateway", "s3cret")
    shown = repr((client, await client.proof(), Endpoint("https://idp.example.com", client, 1.0)))
    assert "s3cret" not in shown
    assert "Basic" not in shown


async def test_no_token_and_no_secret_is_logged(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    house.issuer.status, house.issuer.body = 401, json.dumps({"error": "opaque s3cret"}).encode()
    assert await house.refused() == "introspection_unavailable"
    logged = "".join(capfd.readouterr())
    assert "opaque" not in logged
    assert "s3cret" not in logged
