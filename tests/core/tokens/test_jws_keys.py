"""The keys that may verify a token, and those that must not."""

import datetime
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, x25519
from cryptography.x509.oid import NameOID

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tokens.jws import EC_ALGORITHMS, HMAC_ALGORITHMS, RSA_ALGORITHMS, KeySet, parse
from gateway.core.tokens.key_material import (
    MAX_ENTRIES,
    MAX_KEYS,
    MAX_SAME_KID,
    KeyRejected,
    key_from_jwk,
    key_from_pem,
    key_from_secret,
    keyset_from_jwks,
)
from tests.tokens import (
    SigningKey,
    base64url,
    claims,
    ec_key,
    ed25519_key,
    rsa_key,
    secret,
    sign,
)

P25519 = 2**255 - 19
# The points P with 8·P = 0 have these y: 1, -1, 0 and two of order 8. Each y below 19 has a second spelling.
ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
SMALL_ORDER = [
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, P25519 - 1, P25519, P25519 + 1, ORDER_8, P25519 - ORDER_8)
    for sign in (0, 1)
]


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (rsa_key(), RSA_ALGORITHMS),
        (ec_key(), {"ES256"}),
        (ec_key("384", "P-384"), {"ES384"}),
        (ec_key("521", "P-521"), {"ES512"}),
        (ed25519_key(), {"EdDSA", "Ed25519"}),
    ],
    ids=["RSA", "P-256", "P-384", "P-521", "Ed25519"],
)
def test_a_key_verifies_only_algorithms_of_its_type(key: SigningKey, algorithms: set[str]) -> None:
    from_jwk, from_pem = key_from_jwk(key.jwk()), key_from_pem(key.pem())

    assert (from_jwk.kid, from_pem.kid) == (key.kid, None)
    assert from_jwk.algorithms == from_pem.algorithms == algorithms
    for algorithm in algorithms:
        token = sign({"sub": "member"}, key, algorithm)
        other = parse(sign({"sub": "admin"}, key, algorithm))
        for verifier in (from_jwk, from_pem):
            assert verifier.verify(parse(token))
            assert not verifier.verify(parse(sign({"sub": "member"}, secret(), algorithm, kid=key.kid)))
            assert not verifier.verify(parse(token.rpartition(b".")[0] + b"." + base64url(other.signature)))


def test_the_alg_of_a_jwk_narrows_its_algorithms() -> None:
    assert key_from_jwk(rsa_key().jwk(alg="PS384")).algorithms == {"PS384"}


def test_a_secret_serves_the_hashes_it_is_long_enough_for() -> None:
    assert key_from_secret(secret(size=32)).algorithms == {"HS256"}
    assert key_from_secret(secret(size=48)).algorithms == {"HS256", "HS384"}
    assert key_from_secret(secret(size=64)).algorithms == HMAC_ALGORITHMS
    for algorithm in HMAC_ALGORITHMS:
        token = parse(sign(claims(), secret(), algorithm))
        assert key_from_secret(secret()).verify(token)
        assert not key_from_secret(secret("another")).verify(token)


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_short_secret_is_refused(size: int) -> None:
    with pytest.raises(KeyRejected, match=f"at least 32 bytes, this one has {size}"):
        key_from_secret(secret(size=size))


@pytest.mark.parametrize(
    "public",
    [
        rsa_key().pem(),
        b"\n  " + ec_key().pem(),
        json.dumps(rsa_key().jwk()).encode(),
        json.dumps({"keys": [ec_key().jwk()]}, indent=2).encode(),
        rsa_key()
        .private.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        ec_key()
        .private.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        b"---- BEGIN SSH2 PUBLIC KEY ----\n" + b"A" * 64,
        rsa_key().private_pem(),
    ],
    ids=["PEM", "indented PEM", "JWK", "JWK Set", "SSH RSA", "SSH ECDSA", "SSH2", "private PEM"],
)
def test_a_public_key_is_never_a_secret(public: bytes) -> None:
    with pytest.raises(KeyRejected, match="asymmetric key"):
        key_from_secret(public)


def rejected(jwk: JSON) -> str:
    with pytest.raises(KeyRejected) as caught:
        key_from_jwk(jwk)
    return str(caught.value)


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        (None, "must be a JSON object"),
        ([], "must be a JSON object"),
        ({}, "its `kty`"),
        ({"kty": ["RSA"]}, "its `kty`"),
        ({"kty": "oct", "k": "c2VjcmV0"}, "no secret"),
        ({"kty": "OKP", "crv": "X25519", "x": "YQ"}, "its `kty`"),
        ({"kty": "OKP", "crv": "Ed448", "x": "YQ"}, "its `kty`"),
        (rsa_key().jwk(use="enc"), "its `use`"),
        (rsa_key().jwk(use=["sig"]), "its `use`"),
        (rsa_key().jwk(key_ops=["encrypt", "sign"]), "its `key_ops`"),
        (rsa_key().jwk(key_ops="verify"), "its `key_ops`"),
        (rsa_key().jwk(kid=7), "its `kid`"),
        (rsa_key().jwk(alg="ES256"), "no supported signature algorithm"),
        (rsa_key().jwk(alg="HS256"), "no supported signature algorithm"),
        (rsa_key().jwk(alg="none"), "no supported signature algorithm"),
        (rsa_key().jwk(alg="RSA-OAEP"), "no supported signature algorithm"),
        (rsa_key().jwk(alg=["RS256"]), "its `alg`|no supported signature algorithm"),
        (ec_key().jwk(alg="ES512"), "no supported signature algorithm"),
        (rsa_key().jwk(d="AQAB"), "private key"),
        (rsa_key("short", 1024).jwk(), "2048 to 8192 bits, this one 1024"),
        (rsa_key().jwk(n=base64url(b"\xff" * 1025).decode()), "2048 to 8192 bits, this one 8200"),
        (rsa_key().jwk(e="AQ"), "not those of a key"),
        (rsa_key().jwk(e="AQAA"), "not those of a key"),
        (rsa_key().jwk(e=None), "its `e`"),
        (rsa_key().jwk(n=7), "its `n`"),
        (rsa_key().jwk(n=""), "its `n`"),
        (rsa_key().jwk(n="not base64url!"), "its `n`"),
        (rsa_key().jwk(n=base64url(b"\xff" * 256).decode() + "=="), "its `n`"),
        (rsa_key().jwk(n="\ud800"), "not Unicode"),
        (ec_key().jwk(crv="P-384"), "not those of a key"),
        (ec_key().jwk(x="AQ"), "not those of a key"),
        (ec_key().jwk(x="AA", y="AA"), "not those of a key"),
        (ec_key("k1", "secp256k1").jwk(), "its `crv`"),
        *((ed25519_key().jwk(x=base64url(point).decode()), "without a private key") for point in SMALL_ORDER),
        (ec_key().jwk(crv=None), "its `crv`"),
        (ed25519_key().jwk(x="AQ"), "not those of a key"),
    ],
)  # fmt: skip
def test_a_key_that_must_not_be_used_is_rejected_with_its_reason(jwk: JSON, why: str) -> None:
    assert re.search(why, rejected(jwk))


def test_urls_in_a_jwk_are_ignored() -> None:
    key = key_from_jwk(rsa_key().jwk(x5u="http://127.0.0.1:9/", x5c=["not a certificate"], x5t="x", use=None))

    assert key.algorithms == RSA_ALGORITHMS


def certificate(key: SigningKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    then = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.private.public_key(), 1, then, then.replace(year=2021))
    made = builder.sign(rsa_key("ca").private, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def test_a_certificate_is_its_key() -> None:
    assert key_from_pem(certificate(ec_key())) == key_from_pem(ec_key().pem())


PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "no PEM"),
        (b"\xff\x00", "no PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no PEM"),
        (rsa_key().private_pem(), "private key"),
        (rsa_key("short", 1024).pem(), "2048 to 8192 bits, this one 1024"),
        (certificate(rsa_key("short", 1024)), "2048 to 8192 bits, this one 1024"),
        (ec_key("k1", "secp256k1").pem(), "no supported"),
        (
            x25519.X25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, PUBLIC),
            "only RSA, EC and Ed25519",
        ),
        (
            dsa.DSAPublicNumbers(
                y=2, parameter_numbers=dsa.DSAParameterNumbers(p=2**1023 + 1155, q=2**159 + 1, g=2)
            )
            .public_key()
            .public_bytes(serialization.Encoding.PEM, PUBLIC),
            "only RSA, EC and Ed25519",
        ),
    ],
    ids=[
        "empty", "no text", "no key", "no certificate", "private", "short RSA", "short RSA in a certificate",
        "wrong curve", "X25519", "DSA",
    ],
)  # fmt: skip
def test_a_pem_that_must_not_be_used_is_rejected_with_its_reason(pem: bytes, why: str) -> None:
    with pytest.raises(KeyRejected, match=why):
        key_from_pem(pem)


def test_equal_keys_are_the_same_key_and_a_change_makes_another() -> None:
    key = key_from_jwk(rsa_key().jwk())
    assert key == key_from_jwk(rsa_key().jwk(use=None, x5t="x"))
    assert hash(key) == hash(key_from_jwk(rsa_key().jwk()))
    others = [
        rsa_key().jwk(kid="x"),
        rsa_key().jwk(kid=None),
        rsa_key().jwk(alg="RS256"),
        rsa_key("b").jwk(kid="rsa"),
    ]
    thumbprints = {key.thumbprint, *(key_from_jwk(jwk).thumbprint for jwk in others)}

    assert len(thumbprints) == 5
    assert base64url(secret()).decode() not in repr(key_from_secret(secret()))


# Key sets ---------------------------------------------------------------------------------------


def test_the_usable_keys_of_a_set_are_used_and_the_others_explained() -> None:
    read = keyset_from_jwks({"keys": [rsa_key().jwk(), {"kty": "oct"}, ec_key().jwk(), None]})

    assert [key.kid for key in read.keys.keys] == ["rsa", "ec"]
    assert [sentence.partition(":")[0] for sentence in read.skipped] == ["keys[1]", "keys[3]"]
    assert read.left_out == 0
    assert keyset_from_jwks({"keys": []}).keys.keys == ()


def test_the_first_keys_of_too_many_are_kept() -> None:
    jwk = ed25519_key().jwk()
    read = keyset_from_jwks({"keys": [{**jwk, "kid": f"{n}"} for n in range(MAX_KEYS + 50)]})
    assert [key.kid for key in read.keys.keys] == [f"{n}" for n in range(MAX_KEYS)]
    assert (read.skipped, read.left_out) == ((), 50)
    assert read.left_out_kids == {f"{n}" for n in range(MAX_KEYS, MAX_KEYS + 50)}


def test_entries_that_are_no_keys_do_not_take_the_place_of_keys_and_are_not_all_looked_at() -> None:
    jwk = ed25519_key().jwk()
    read = keyset_from_jwks({"keys": [*[None] * 500, jwk, *[None] * 99_500, {**jwk, "kid": "late"}]})
    assert [key.kid for key in read.keys.keys] == [jwk["kid"]]
    assert len(read.skipped) == MAX_ENTRIES - 1
    assert read.left_out == 100_002 - MAX_ENTRIES


def test_the_same_key_twice_is_one_key() -> None:
    jwk = {name: value for name, value in ec_key().jwk().items() if name != "kid"}
    keys = keyset_from_jwks({"keys": [jwk, jwk]}).keys
    assert len(keys.candidates(None, "ES256")) == 1


def test_keys_that_share_a_name_are_bounded() -> None:
    jwks: list[JSON] = [ec_key(f"{n}").jwk(kid="same") for n in range(MAX_SAME_KID + 2)]
    read = keyset_from_jwks({"keys": jwks})
    assert len(read.keys.candidates("same", "ES256")) == MAX_SAME_KID
    assert len(read.skipped) == 2
    assert "the same `kid`" in read.skipped[0]


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ('"x-n": 1e999', "a number"),
        ('"x-n": -1e999', "a number"),
        ('"x-n": ' + "9" * 5000, "a number"),
        ('"x-n": NaN', "a NaN"),
        ('"x-n": ' + "[" * 1000 + "]" * 1000, "64 levels"),
        ('"x-n": -Infinity', "a number"),
        ('"x-n": [[{"a": 1e999}]]', "a number"),
        (r'"x-t": "\ud800"', "not Unicode"),
        (r'"\udfff": 1', "not Unicode"),
        ('"x-n": "\udcff"', "not Unicode"),
        ('"kid": "a", "kid": "b"', "occurs twice"),
        ('"x-n": {"a": 1, "a": 1}', "occurs twice"),
    ],
)
def test_one_odd_value_costs_its_own_key_alone(odd: str, why: str) -> None:
    good, other = json.dumps(rsa_key().jwk()), json.dumps(ec_key().jwk())
    bad = other.removesuffix("}") + ", " + odd + "}"
    text = f'{{"keys": [{good}, {bad}, {other}]}}'.encode("utf-8", "surrogateescape")
    read = keyset_from_jwks(json_text.read(text))
    assert [key.kid for key in read.keys.keys] == ["rsa", "ec"]
    (sentence,) = read.skipped
    assert sentence.startswith("keys[1]: ")
    assert why in sentence
    sentence.encode()


def test_odd_values_beside_the_list_of_keys_do_no_harm() -> None:
    good = json.dumps(rsa_key().jwk())
    text = f'{{"x": 1e999, "y": NaN, "z": "\\ud800", "y": {"9" * 5000}, "keys": [{good}]}}'.encode()
    assert len(keyset_from_jwks(json_text.read(text)).keys.keys) == 1


def test_two_lists_of_keys_are_none() -> None:
    with pytest.raises(KeyRejected, match="more than one list"):
        keyset_from_jwks(json_text.read(b'{"keys": [], "keys": []}'))


@pytest.mark.parametrize("document", [None, [], {}, {"keys": None}, {"keys": {}}, "keys", rsa_key().jwk()])
def test_a_document_that_is_no_key_set_is_rejected(document: JSON) -> None:
    with pytest.raises(KeyRejected, match="no JWK Set"):
        keyset_from_jwks(document)


def test_a_key_is_selected_by_kid_or_by_being_the_only_one() -> None:
    one, two, curve = (key_from_jwk(k.jwk()) for k in (rsa_key("1"), rsa_key("2"), ec_key()))
    nameless = key_from_pem(rsa_key("3").pem())
    several, single = KeySet([one, two, curve]), KeySet([one, curve])

    assert several.candidates("2", "RS256") == (two,)
    assert several.candidates("3", "RS256") == ()
    assert several.candidates("", "RS256") == ()
    # Without kid: the only one that fits, and none where two would.
    assert single.candidates(None, "PS256") == (one,)
    assert several.candidates(None, "ES256") == (curve,)
    assert several.candidates(None, "RS256") == ()
    assert several.candidates(None, "EdDSA") == ()
    # A key without a name answers to any, one with a name to its own alone.
    assert KeySet([nameless]).candidates("any", "RS256") == (nameless,)
    assert KeySet([nameless, one]).candidates("1", "RS256") == (one,)
    assert KeySet([nameless, one]).candidates(None, "RS256") == ()
    assert KeySet([]).candidates(None, "RS256") == ()


def test_each_of_several_sources_has_its_own_names() -> None:
    old, new = key_from_secret(secret("old")), key_from_secret(secret("new"))
    rsa, pem = key_from_jwk(rsa_key("1").jwk(kid="one")), key_from_pem(rsa_key("2").pem())
    published = KeySet([rsa, key_from_jwk(ec_key().jwk())])
    secrets = KeySet.joined([KeySet([old]), KeySet([new])])
    both = KeySet.joined([published, KeySet([old]), KeySet([pem])])

    # One secret after the other, whatever the token calls it.
    assert secrets.candidates(None, "HS256") == secrets.candidates("x", "HS256") == (old, new)
    # The one that a token names comes first; a secret may have a name that is a key's elsewhere.
    assert both.candidates("one", "RS256") == (rsa,)
    assert both.candidates("one", "HS256") == (old,)
    assert both.candidates("one", "ES256") == (rsa,)
    assert both.candidates(None, "RS256") == (rsa, pem)
    assert both.candidates("two", "RS256") == (pem,)
    assert both.candidates("two", "ES256") == ()
    # Two of one source are still as good as none.
    two = KeySet([rsa, key_from_jwk(rsa_key("3").jwk(kid="three"))])
    assert KeySet.joined([two, KeySet([pem])]).candidates(None, "RS256") == (pem,)
    assert [both.has(*each) for each in (("one", "RS256"), ("one", "HS256"), ("two", "RS256"))] == [
        True, False, False,
    ]  # fmt: skip
    assert not both.has(None, "RS256")


ENTRA = "https://login.microsoftonline.com/8a1c/v2.0"


@pytest.mark.parametrize(
    ("named", "issuer", "used"),
    [
        (None, ENTRA, True),
        (7, ENTRA, True),
        (ENTRA, ENTRA, True),
        (ENTRA, None, True),
        ("https://login.microsoftonline.com/{tenantid}/v2.0", ENTRA, True),
        ("https://login.microsoftonline.com/9188040d/v2.0", ENTRA, False),
        (ENTRA + "/", ENTRA, False),
    ],
)
def test_a_key_that_names_its_issuer_is_no_others(named: JSON, issuer: str | None, used: bool) -> None:
    """Storm-0558: a key of private accounts signed tokens of organisations."""
    read = keyset_from_jwks({"keys": [rsa_key().jwk(issuer=named), ec_key().jwk()]}, issuer)
    assert [key.kid for key in read.keys.keys] == (["rsa", "ec"] if used else ["ec"])
    assert all("it is for the tokens of another issuer" in why for why in read.skipped)


def test_an_ec_key_is_bound_to_its_curve() -> None:
    assert {alg for key in (ec_key(), ec_key("384", "P-384"), ec_key("521", "P-521"))
            for alg in key_from_jwk(key.jwk()).algorithms} == EC_ALGORITHMS  # fmt: skip


def test_of_two_keys_with_one_kid_the_one_that_fits_is_taken() -> None:
    rsa, ec = key_from_jwk(rsa_key("one").jwk(kid="same")), key_from_jwk(ec_key("two").jwk(kid="same"))
    keys = KeySet([rsa, ec])
    assert keys.candidates("same", "ES256") == (ec,)
    assert keys.candidates("same", "RS256") == (rsa,)


def test_two_keys_with_one_kid_and_type_are_both_candidates() -> None:
    """RFC 7517 §4.5 asks for distinct names; where they are not, the signature tells."""
    one, two, curve = (key_from_jwk(k.jwk(kid="same")) for k in (rsa_key("1"), rsa_key("2"), ec_key()))
    keys = KeySet([one, curve, two])
    assert keys.candidates("same", "RS256") == (one, two)
    assert keys.candidates("same", "ES256") == (curve,)
    # None fits: the caller says so, and looks for no other.
    assert keys.candidates("same", "EdDSA") == (one, curve, two)
