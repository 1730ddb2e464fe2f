"""An issuer with several key sources: each is on its own, and its keys are for its own algorithms."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import translation
from gateway.core.model import JSON
from gateway.core.tokens.jws import HMAC_ALGORITHMS, parse
from gateway.issuer_keys.fetch import Fetcher, FetchError
from gateway.issuer_keys.keyring import KeyRing
from gateway.issuer_keys.sources import JwksUri, KeySource, PemFile, Restricted, Secret, Several
from gateway.settings.sections import model
from tests import tokens
from tests.fakes import RecordingKeyObserver
from tests.issuer_keys.issuer import Answer, IssuerServer, serving

SECRET = tokens.secret()
EC = tokens.ec_key()


def supabase(server: IssuerServer) -> KeySource:
    """An issuer that moves from HS256 to ES256."""
    return Several(
        (
            Restricted(JwksUri(f"{server.url}/jwks"), frozenset({"ES256"})),
            Restricted(Secret(SECRET), frozenset({"HS256"})),
        )
    )


@asynccontextmanager
async def ringed(source: KeySource) -> AsyncIterator[KeyRing]:
    async with Fetcher() as fetcher:
        ring = KeyRing({"main": source}, fetcher=fetcher, observer=RecordingKeyObserver(), pause=_at_once)
        try:
            yield ring
        finally:
            await ring.close()


async def _at_once(_: float) -> None: ...


async def test_both_sources_verify(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server, ringed(supabase(server)) as ring:
        server.publish(EC.jwk())
        await ring.start()
        keys = ring.current("main")
        assert keys is not None
        for token in (tokens.sign({"sub": "a"}, EC), tokens.sign({"sub": "a"}, SECRET, "HS256")):
            parsed = parse(token)
            (key,) = keys.candidates(parsed.kid, parsed.algorithm)
            assert key.verify(parsed)
        assert {key.kid: key.algorithms for key in keys.keys} == {"ec": {"ES256"}, None: {"HS256"}}
        assert ring.current("main") is keys
        status = ring.status()["main"]
        assert (status.ready, status.keys, status.last_error) == (True, 2, None)


async def test_a_source_that_fails_does_not_hold_up_the_other() -> None:
    async with serving() as server, ringed(supabase(server)) as ring:
        server.answers["/jwks"] = Answer(b"", 503)
        await ring.start()
        keys = ring.current("main")
        assert keys is not None
        assert [key.algorithms for key in keys.keys] == [{"HS256"}]
        assert "answered 503" in str(ring.status()["main"].last_error)
        # Its key may exist; that of the other does not.
        assert not await ring.refresh("main", "ec", "ES256")
        assert await ring.refresh("main", "other", "HS256")
        loaded = await ring.look("main")
        assert len(loaded.keys.keys) == 1
        assert "answered 503" in loaded.unheard[0]

        server.publish(EC.jwk())
        async with asyncio.timeout(5):
            while not await ring.refresh("main", "ec", "ES256"):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.05)
        keys = ring.current("main")
        assert keys is not None
        assert len(keys.keys) == 2


async def test_changes_of_one_source_are_reported_with_all_keys() -> None:
    told: list[list[str]] = []
    async with serving() as server, Fetcher() as fetcher:
        ring = KeyRing(
            {"main": supabase(server)},
            fetcher=fetcher,
            observer=RecordingKeyObserver(),
            on_change=lambda _, keys: told.append(sorted(str(key.kid) for key in keys.keys)),
        )
        server.publish(EC.jwk())
        await ring.start()
        server.publish(tokens.ec_key("next").jwk())
        await ring.reload("main")
        await ring.close()
    assert told[-1] == ["None", "next"]
    assert ["None", "ec"] in told


@pytest.mark.parametrize("kid", ["ec", None])
async def test_a_public_key_is_never_a_secret(kid: str | None) -> None:
    """CVE-2024-33663: with several sources, too, no token chooses what kind of key its issuer's key is."""
    async with serving() as server, ringed(supabase(server)) as ring:
        server.publish(EC.jwk())
        await ring.start()
        keys = ring.current("main")
        assert keys is not None
        for secret in (EC.pem(), json.dumps(EC.jwk()).encode()):
            forged = parse(tokens.sign({"sub": "a"}, secret, "HS256", kid=kid))
            candidates = keys.candidates(forged.kid, forged.algorithm)
            assert not any(key.verify(forged) for key in candidates if forged.algorithm in key.algorithms)
            assert not {"ec"} & {key.kid for key in candidates if key.algorithms & HMAC_ALGORITHMS}


async def test_one_secret_follows_another() -> None:
    old, new = tokens.secret("old"), tokens.secret("new")
    async with ringed(
        Several(tuple(Restricted(Secret(each), HMAC_ALGORITHMS) for each in (old, new)))
    ) as ring:
        await ring.start()
        keys = ring.current("main")
        assert keys is not None
        for secret in (old, new):
            parsed = parse(tokens.sign({"sub": "a"}, secret, "HS256"))
            assert any(key.verify(parsed) for key in keys.candidates(parsed.kid, parsed.algorithm))


async def test_a_nameless_key_does_not_hide_that_others_were_rotated(tmp_path: Path) -> None:
    pem, following = tmp_path / "old.pem", tokens.rsa_key("next")
    pem.write_bytes(tokens.rsa_key().pem())
    async with serving() as server:
        source = Several(
            tuple(
                Restricted(each, frozenset({"RS256"}))
                for each in (PemFile(pem), JwksUri(f"{server.url}/jwks"))
            )
        )
        async with ringed(source) as ring:
            server.publish(tokens.rsa_key("other").jwk())
            await ring.start()
            server.publish(following.jwk())
            assert await ring.refresh("main", following.kid, "RS256")
            keys = ring.current("main")
            assert keys is not None
            assert keys.has(following.kid, "RS256")


async def test_keys_are_for_the_algorithms_of_their_source_only() -> None:
    async with serving() as server, Fetcher() as fetcher:
        server.publish(tokens.rsa_key().jwk(), EC.jwk())
        source = Restricted(JwksUri(f"{server.url}/jwks"), frozenset({"PS256", "RS512"}))
        (key,) = (await source.load(fetcher)).keys.keys
        assert (key.kid, sorted(key.algorithms)) == ("rsa", ["PS256", "RS512"])
        with pytest.raises(FetchError, match="none of its keys is for EdDSA"):
            await Restricted(JwksUri(f"{server.url}/jwks"), frozenset({"EdDSA"})).load(fetcher)


def algorithms(keys: JSON, **changes: JSON) -> list[list[str]]:
    """Return the algorithms of each configured source, and then those of the issuer."""
    settings = model.Issuer.model_validate(
        {"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"], "keys": keys, **changes}
    )
    source = translation.key_source(settings)
    assert isinstance(source, Several)
    return [sorted(each.algorithms) for each in source.sources] + [sorted(settings.algorithms)]


def test_each_source_has_its_own_algorithms() -> None:
    url = "https://idp.example.com/jwks"
    secret: dict[str, JSON] = {"secret_file": "/run/secrets/old"}
    public, hashed, all_of = algorithms([{"jwks_uri": url}, secret])
    assert ("Ed25519" in public, "HS256" in public, hashed) == (True, False, ["HS256"])
    assert all_of == sorted([*public, "HS256"])
    two: list[JSON] = [{"jwks_uri": url, "algorithms": ["ES256"]}, {**secret, "algorithms": ["HS512"]}]
    assert algorithms(two) == [["ES256"], ["HS512"], ["ES256", "HS512"]]
    assert algorithms([{"jwks_uri": url}, secret], algorithms=["RS256", "HS384"]) == [
        ["RS256"], ["HS384"], ["HS384", "RS256"],
    ]  # fmt: skip


async def test_a_file_of_one_source_may_be_absent(tmp_path: Path) -> None:
    settings = model.Issuer.model_validate(
        {
            "name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"],
            "keys": [{"secret": SECRET.hex()}, {"jwks_file": str(tmp_path / "absent.json")}],
        }
    )  # fmt: skip
    async with ringed(translation.key_source(settings)) as ring:
        await ring.start()
        keys = ring.current("main")
        assert keys is not None
        assert len(keys.keys) == 1
