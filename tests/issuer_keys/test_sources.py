import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway.core.model import JSON
from gateway.core.tokens.key_material import key_from_secret
from gateway.issuer_keys.fetch import Document, Fetcher, FetchError
from gateway.issuer_keys.sources import (
    Discovery,
    JwksFile,
    JwksUri,
    KeySource,
    PemFile,
    Secret,
    SecretFile,
    freshness,
    metadata_urls,
)
from tests.issuer_keys.issuer import OAUTH, OIDC, Answer, IssuerServer, public_jwk, serving


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    async with serving() as issuer:
        yield issuer


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with Fetcher() as fetcher:
        yield fetcher


async def kids(source: KeySource, fetcher: Fetcher) -> list[str | None]:
    return [key.kid for key in (await source.load(fetcher)).keys.keys]


@pytest.mark.parametrize(
    ("issuer", "oidc", "oauth"),
    [
        ("https://a.example", f"https://a.example{OIDC}", f"https://a.example{OAUTH}"),
        ("https://a.example/", f"https://a.example{OIDC}", f"https://a.example{OAUTH}"),
        ("https://a.example/t/1", f"https://a.example/t/1{OIDC}", f"https://a.example{OAUTH}/t/1"),
        ("https://a.example:8443/t/", f"https://a.example:8443/t{OIDC}", f"https://a.example:8443{OAUTH}/t"),
    ],
)
def test_urls_of_the_metadata(issuer: str, oidc: str, oauth: str) -> None:
    assert metadata_urls(issuer) == (oidc, oauth)


async def test_discovery(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.publish(public_jwk("a"), public_jwk("b"))
    assert await kids(Discovery(issuer.url), fetcher) == ["a", "b"]
    assert issuer.requests == {OIDC: 1, "/jwks": 1}


async def test_discovery_falls_back_to_oauth_metadata(fetcher: Fetcher, issuer: IssuerServer) -> None:
    tenant = f"{issuer.url}/tenant"
    issuer.publish(public_jwk("a"))
    issuer.describe(f"{OAUTH}/tenant", issuer=tenant)
    assert await kids(Discovery(tenant), fetcher) == ["a"]
    assert issuer.requests == {f"/tenant{OIDC}": 1, f"{OAUTH}/tenant": 1, "/jwks": 1}


async def test_discovery_falls_back_for_a_404_only(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.answers[OIDC] = Answer(b"", 503)
    issuer.describe(OAUTH)
    with pytest.raises(FetchError, match=f"{OIDC}: answered 503"):
        await Discovery(issuer.url).load(fetcher)
    assert issuer.requests[OAUTH] == 0


async def test_no_metadata_anywhere_names_both_places(fetcher: Fetcher, issuer: IssuerServer) -> None:
    del issuer.answers[OIDC]
    with pytest.raises(FetchError, match=f"{OIDC} nor at .*{OAUTH}: both answered 404"):
        await Discovery(issuer.url).load(fetcher)


async def test_metadata_of_another_issuer_is_refused(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.publish(public_jwk("a"))
    hostile: list[JSON] = [
        f"{issuer.url}/",
        issuer.url.upper(),
        "https://evil.example",
        None,
        [issuer.url],
        1,
    ]
    for named in hostile:
        issuer.describe(issuer=named)
        with pytest.raises(FetchError, match=r"its `issuer` is .* they must be equal"):
            await Discovery(issuer.url).load(fetcher)
    assert issuer.requests["/jwks"] == 0


@pytest.mark.parametrize("metadata", [b"[]", b"null", b'"x"'])
async def test_metadata_that_is_no_object_is_refused(
    fetcher: Fetcher, issuer: IssuerServer, metadata: bytes
) -> None:
    issuer.answers[OIDC] = Answer(metadata)
    with pytest.raises(FetchError, match="not a JSON object"):
        await Discovery(issuer.url).load(fetcher)


@pytest.mark.parametrize("jwks_uri", [None, 5, "file:///etc/passwd", "/jwks", "http://169.254.169.254/jwks"])
async def test_metadata_with_a_bad_jwks_uri_is_refused(
    fetcher: Fetcher, issuer: IssuerServer, jwks_uri: JSON
) -> None:
    issuer.describe(jwks_uri=jwks_uri)
    with pytest.raises(FetchError, match=r"names no `jwks_uri`|only http and https|link-local"):
        await Discovery(issuer.url).load(fetcher)


async def test_unusable_keys_are_skipped_and_named(fetcher: Fetcher, issuer: IssuerServer) -> None:
    issuer.publish({"kty": "oct", "k": "c2VjcmV0"}, public_jwk("a"))
    loaded = await JwksUri(f"{issuer.url}/jwks").load(fetcher)
    assert [key.kid for key in loaded.keys.keys] == ["a"]
    assert [sentence.partition(":")[0] for sentence in loaded.skipped] == ["keys[0]"]


async def test_a_set_without_a_usable_key_is_refused(fetcher: Fetcher, issuer: IssuerServer) -> None:
    source = JwksUri(f"{issuer.url}/jwks")
    with pytest.raises(FetchError, match=r"/jwks: its list `keys` is empty"):
        await source.load(fetcher)
    issuer.publish({"kty": "oct", "k": "c2VjcmV0"}, 5)
    with pytest.raises(FetchError, match=r"/jwks: none of its keys can be used: keys\[0\]: .*; keys\[1\]: "):
        await source.load(fetcher)
    issuer.answers["/jwks"] = Answer(b'{"keys": [' + b"null," * 40_000 + b"null]}")
    with pytest.raises(FetchError, match="none of its keys can be used") as caught:
        await source.load(fetcher)
    assert len(str(caught.value)) < 500


async def test_too_many_keys_are_not_all_kept(fetcher: Fetcher, issuer: IssuerServer) -> None:
    jwks: list[JSON] = [{"kty": "OKP", "crv": "Ed25519", "x": f"{n:043d}"} for n in range(6000)]
    issuer.publish(*jwks)
    issuer.answers["/jwks"].body = issuer.answers["/jwks"].body.replace(b" ", b"")
    loaded = await JwksUri(f"{issuer.url}/jwks").load(fetcher)
    assert len(loaded.keys.keys) == 100
    assert loaded.left_out + len(loaded.skipped) == 5900


@pytest.mark.parametrize(
    "odd", ["1e999", "9" * 5000, "NaN", r'"\ud800"', '"\udcff"', '{"a":1,"a":1}', "[" * 1000 + "]" * 1000]
)
async def test_an_odd_value_in_the_metadata_or_beside_the_keys_does_no_harm(
    fetcher: Fetcher, issuer: IssuerServer, odd: str
) -> None:
    issuer.describe(**{"x-odd": "ODD"})
    issuer.publish(public_jwk("a"))
    for answer, begin in ((issuer.answers[OIDC], b'"ODD"'), (issuer.answers["/jwks"], b'"keys":')):
        value = odd.encode("utf-8", "surrogateescape")
        answer.body = answer.body.replace(
            begin, value if begin == b'"ODD"' else b'"x-odd":' + value + b',"keys":'
        )
        assert value in answer.body
    assert await kids(Discovery(issuer.url), fetcher) == ["a"]


@pytest.mark.parametrize("name", ["issuer", "jwks_uri"])
async def test_metadata_that_says_a_thing_twice_is_refused(
    fetcher: Fetcher, issuer: IssuerServer, name: str
) -> None:
    body = issuer.answers[OIDC].body
    issuer.answers[OIDC] = Answer(b'{"' + name.encode() + b'": "https://evil.example",' + body[1:])
    with pytest.raises(FetchError, match=f"names `{name}` more than once"):
        await Discovery(issuer.url).load(fetcher)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"keys": {}}', b'{"keys": null}'])
async def test_a_document_that_is_no_jwks_is_refused(
    fetcher: Fetcher, issuer: IssuerServer, body: bytes
) -> None:
    issuer.answers["/jwks"] = Answer(body)
    with pytest.raises(FetchError, match=r"/jwks: "):
        await JwksUri(f"{issuer.url}/jwks").load(fetcher)


@pytest.mark.parametrize("member", ["kty", "crv", "alg", "kid", "use", "key_ops", "x", "y"])
async def test_a_hostile_key_raises_nothing_unexpected(
    fetcher: Fetcher, issuer: IssuerServer, member: str
) -> None:
    jwk = public_jwk("a")
    assert isinstance(jwk, dict)
    body = orjson.dumps({"keys": [{**jwk, member: "DEEP"}]})
    issuer.answers["/jwks"] = Answer(body.replace(b'"DEEP"', b"[" * 1000 + b"]" * 1000))
    with pytest.raises(FetchError, match="64 levels"):
        await JwksUri(f"{issuer.url}/jwks").load(fetcher)


@pytest.mark.parametrize(
    ("max_age", "seconds"),
    [(None, 300.0), (0.0, 60.0), (60.0, 60.0), (900.0, 900.0), (3600.0, 3600.0), (float("inf"), 3600.0)],
)
def test_freshness_is_kept_within_reason(max_age: float | None, seconds: float) -> None:
    assert freshness(Document("https://a.example/jwks", {}, max_age)) == seconds


async def test_a_jwks_file(fetcher: Fetcher, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(orjson.dumps({"keys": [public_jwk("a")]}))
    assert await kids(JwksFile(file), fetcher) == ["a"]
    file.write_bytes(b"{")
    with pytest.raises(FetchError, match=r"jwks\.json: not usable JSON"):
        await JwksFile(file).load(fetcher)
    file.write_bytes(b" " * (512 * 1024 + 1))
    with pytest.raises(FetchError, match="larger than 512 KiB"):
        await JwksFile(file).load(fetcher)


async def test_a_pem_file(fetcher: Fetcher, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    file.write_bytes(pem)
    (loaded,) = (await PemFile(file).load(fetcher)).keys.keys
    assert loaded.algorithms == {"EdDSA", "Ed25519"}
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(FetchError, match=r"key\.pem: .*private"):
        await PemFile(file).load(fetcher)


@pytest.mark.parametrize("source", [JwksFile, PemFile, SecretFile])
@pytest.mark.parametrize("content", [b"", b"\n", b'{"keys": []}'])
async def test_a_file_that_was_emptied(
    fetcher: Fetcher,
    tmp_path: Path,
    source: type[JwksFile] | type[PemFile] | type[SecretFile],
    content: bytes,
) -> None:
    file = tmp_path / "emptied"
    file.write_bytes(content)
    with pytest.raises(FetchError, match="emptied: "):
        await source(file).load(fetcher)


@pytest.mark.parametrize("source", [JwksFile, PemFile, SecretFile])
async def test_a_file_that_is_not_there(
    fetcher: Fetcher, tmp_path: Path, source: type[JwksFile] | type[PemFile] | type[SecretFile]
) -> None:
    with pytest.raises(FetchError, match="absent: No such file or directory"):
        await source(tmp_path / "absent").load(fetcher)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
async def test_a_secret_file_without_its_line_end(fetcher: Fetcher, tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "secret"
    secret = secrets.token_bytes(40) + b"\n."
    file.write_bytes(secret + end)
    (key,) = (await SecretFile(file).load(fetcher)).keys.keys
    assert key == key_from_secret(secret)


async def test_a_secret_that_is_too_short_is_refused_and_not_shown(fetcher: Fetcher, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"hunter2\n")
    for source in (Secret(b"hunter2"), SecretFile(file)):
        with pytest.raises(FetchError, match="secret: ") as caught:
            await source.load(fetcher)
        assert "hunter2" not in f"{caught.value!r} {source!r}"
