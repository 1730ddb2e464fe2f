"""What `inspect` says of tokens, and what `suggest` makes of it."""

import json

import pytest

from gateway.core.model import JSON
from gateway.core.tokens.claims import CLIENTS
from gateway.providers.inspection import MAX_CHARACTERS, Inspection, harmless, inspect
from gateway.providers.presets import unfold
from gateway.providers.provider import Kind
from gateway.providers.suggestion import suggest
from tests import tokens
from tests.providers.shapes import NOW, SHAPES, TENANT, Shape

KEY = tokens.rsa_key()


def minted(shape: Shape, **changes: JSON) -> str:
    key = KEY if shape.algorithm == "RS256" else tokens.ec_key()
    return tokens.sign({**shape.payload, **changes}, key, None, **shape.header).decode()


def said(payload: dict[str, JSON], **header: JSON) -> Inspection:
    return inspect(tokens.sign(payload, KEY, None, **header).decode(), NOW)


def plain(**changes: JSON) -> dict[str, JSON]:
    return {**tokens.claims(now=NOW - 10), **changes}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_each_provider_is_recognised(shape: Shape) -> None:
    found = inspect(minted(shape), NOW)
    assert found.provider is not None
    assert (found.provider.name, found.kind, found.subject) == (shape.preset, shape.kind, shape.subject)
    assert found.lifetime is not None
    assert found.lifetime.state == "valid"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_suggested_entry_is_a_preset_that_unfolds(shape: Shape) -> None:
    entry = suggest(inspect(minted(shape), NOW)).entry
    assert entry is not None
    assert entry["preset"] == shape.preset
    assert "audiences" in entry
    unfolded = unfold(entry)
    assert unfolded.faults == ()
    if shape.name != "entra-multi-tenant":  # one token shows one tenant
        assert unfolded.settings["issuer"] == shape.payload["iss"]


KINDS = [
    ({"token_use": "refresh"}, {}, Kind.REFRESH),
    ({"typ": "Refresh"}, {}, Kind.REFRESH),
    ({"typ": "Offline"}, {}, Kind.REFRESH),
    ({"type": "refresh"}, {}, Kind.REFRESH),
    ({"events": None}, {}, Kind.UNKNOWN),
    ({"client_id": None}, {}, Kind.UNKNOWN),
    ({"typ": "id"}, {}, Kind.ID),
    ({"token_type": "id_token"}, {}, Kind.ID),
    ({"token_type": "access"}, {}, Kind.ACCESS),
    ({"typ": "ID"}, {}, Kind.ID),
    ({"nonce": "n"}, {}, Kind.ID),
    ({"at_hash": "h"}, {}, Kind.ID),
    ({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, {}, Kind.LOGOUT),
    ({"events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}}, {}, Kind.EVENT),
    ({}, {"typ": "at+jwt"}, Kind.ACCESS),
    ({}, {"typ": "application/at+jwt"}, Kind.ACCESS),
    ({}, {"typ": "logout+jwt"}, Kind.LOGOUT),
    ({"scope": "a"}, {}, Kind.ACCESS),
    ({"client_id": "web"}, {}, Kind.ACCESS),
    ({"role": "anon", "sub": None}, {}, Kind.API_KEY),
    ({}, {}, Kind.UNKNOWN),
]


@pytest.mark.parametrize(("changes", "header", "kind"), KINDS)
def test_the_kind_of_any_providers_token(
    changes: dict[str, JSON], header: dict[str, JSON], kind: Kind
) -> None:
    assert said(plain(**changes), **header).kind is kind


UNUSUAL = [
    ({"exp": 1_800_000_300_000}, "`exp` is in milliseconds"),
    ({"exp": "1800000300"}, "`exp` is text"),
    ({"iat": "2027-01-15"}, "`iat` is text"),
    ({"exp": None}, "never expires"),
    ({"exp": True}, "`exp` is no number"),
    ({"iat": NOW + 600}, "ahead of this machine's clock"),
    ({"exp": NOW + 40 * 86_400}, "lives for 40 days"),
    ({"sub": 7}, "subject_malformed"),
    ({"sub": None}, "names no user"),
    ({"sub": "ann@example.com"}, "e-mail address"),
    ({"aud": None}, "has no `aud`"),
    ({"iss": None}, "has no `iss`"),
    ({"cnf": {"jkt": "x"}}, "bound to a key"),
    ({"tenant": "${TENANT}"}, "filled nothing in"),
]


@pytest.mark.parametrize(("changes", "note"), UNUSUAL)
def test_unusual_features_of_a_token_are_reported(changes: dict[str, JSON], note: str) -> None:
    assert any(note in each for each in said(plain(**changes)).notes)


def test_a_date_in_milliseconds_or_text_is_understood() -> None:
    for exp in (int(NOW + 300) * 1000, str(int(NOW + 300))):
        lifetime = said(plain(exp=exp)).lifetime
        assert lifetime is not None
        assert (lifetime.expires_at, lifetime.state) == (NOW + 300, "valid")


@pytest.mark.parametrize(
    ("offset", "state"),
    [({"exp": NOW - 1}, "expired"), ({"nbf": NOW + 60}, "not_yet_valid"), ({"exp": None}, "unknown")],
)
def test_the_state_of_the_lifetime(offset: dict[str, JSON], state: str) -> None:
    lifetime = said(plain(**offset)).lifetime
    assert lifetime is not None
    assert lifetime.state == state


def test_an_unsigned_token_is_named() -> None:
    text = tokens.unsigned({"alg": "none"}, plain()).decode()
    assert any("no signature" in note for note in inspect(text, NOW).notes)
    assert any("no signature" in note for note in inspect(text.rstrip("."), NOW).notes)


@pytest.mark.parametrize(
    ("text", "kind", "provider"),
    [
        ("gho_16C7e42F292c6912E7710c838347Ae178B4a", Kind.ACCESS, "github-actions"),
        ("ya29.a0AfH6SMBx1234567890", Kind.ACCESS, "google"),
        ("1//0gabcdefghijklmno", Kind.REFRESH, "google"),
        ("sb_secret_abcdefghijklmnopqrstu", Kind.API_KEY, "supabase"),
        ("sk_live_abcdefghijklmnopqrstuv", Kind.API_KEY, "clerk"),
        ("v1.MjQ5abcdefghijklmnopqrstuvwx", Kind.REFRESH, "auth0"),
        ("SlAV32hkKGabcdefghijklmnopqrst", Kind.OPAQUE, None),
    ],
)
def test_tokens_that_are_no_jwt(text: str, kind: Kind, provider: str | None) -> None:
    found = inspect(text, NOW)
    assert found.kind is kind
    assert (None if found.provider is None else found.provider.name) == provider
    assert len(found.beginning) <= len(text) / 4
    assert suggest(found).entry is None


def test_an_encrypted_token_is_recognised_by_its_header() -> None:
    header = {"alg": "dir", "enc": "A256GCM", "iss": "https://shop.eu.auth0.com/"}
    text = f"{tokens.base64url(json.dumps(header).encode()).decode()}..iv.ciphertext.tag"
    found = inspect(text, NOW)
    assert found.kind is Kind.ENCRYPTED
    assert any("audience" in note for note in found.notes)
    assert suggest(found).entry is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "eyJhbGciOiJSUzI1NiJ9.bm90IGpzb24.x",
        "eyJ" + "A" * MAX_CHARACTERS,
        "\ud800.\udfff.x",
        "ä.ö.ü",
        "[" * 5000 + ".x.y",
    ],
)
def test_any_text_is_answered(text: str) -> None:
    assert inspect(text, NOW).kind is Kind.OPAQUE


def test_an_api_key_and_a_refresh_token_make_no_configuration() -> None:
    key: dict[str, JSON] = {
        "iss": "supabase",
        "ref": "abcdefghijklmnopqrst",
        "role": "service_role",
        "iat": NOW,
        "exp": NOW + 60,
    }
    assert suggest(said(key)).entry is None
    assert suggest(said(plain(typ="Refresh"))).entry is None


def test_an_unknown_provider_gets_an_entry_of_its_own() -> None:
    entry = suggest(said(plain(azp="web", scp=["a"]))).entry
    assert entry == {
        "name": "main",
        "issuer": tokens.ISSUER,
        "audiences": [tokens.AUDIENCE],
        "expect": {"azp": "web"},
        "algorithms": ["RS256"],
        "keys": {"discovery": True},
        "claims": {"scopes": "scp"},
    }


def test_a_token_that_names_neither_api_nor_client_makes_no_configuration() -> None:
    suggestion = suggest(said(plain(aud=None)))
    assert suggestion.entry is None
    assert any("neither" in caution for caution in suggestion.cautions)


def test_secrets_among_the_claims_are_hidden() -> None:
    within = tokens.sign(plain(), KEY).decode()
    claims: JSON = {
        "provider_token": "ya29.a0AfH6SMBx1234567890",
        "deep": [{"apiKey": "0123456789abcdef", "note": f"see {within}"}],
        "token_use": "access",
        "long": "x" * 1000,
    }
    text = json.dumps(harmless(claims))
    assert "a0AfH6" not in text
    assert "0123456789abcdef" not in text
    assert within not in text
    assert '"token_use": "access"' in text
    assert len(text) < 500


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_signature_is_in_no_answer(shape: Shape) -> None:
    text = minted(shape)
    found = inspect(text, NOW)
    assert text.rpartition(".")[2] not in repr((found, suggest(found)))


ODD: list[JSON] = [
    None,
    True,
    7,
    -1,
    1e300,
    "",
    "x" * 300,
    [],
    [["a"]],
    [7, None],
    {},
    {"a": {"b": 1}},
    "\ud800",
    "https://",
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_no_value_is_too_odd_to_be_answered(shape: Shape) -> None:
    names = {
        *shape.payload,
        *CLIENTS,
        "iss",
        "aud",
        "typ",
        "token_use",
        "events",
        "role",
        "scope",
        "hd",
    }
    for odd in ODD:
        for part, members in (("header", ("alg", "typ", "kid", "cty", "iss")), ("payload", names)):
            for name in members:
                header = {"alg": "RS256", **shape.header, **({name: odd} if part == "header" else {})}
                payload = {**shape.payload, **({name: odd} if part == "payload" else {})}
                found = inspect(tokens.unsigned(header, payload, b"x").decode(), NOW)
                json.dumps([suggest(found).entry, harmless(payload), *found.notes])


@pytest.mark.parametrize(
    ("name", "iss"),
    [
        ("entra-v2", f"https://login.microsoftonline.us/{TENANT}/v2.0"),
        ("entra-v2", f"https://login.partner.microsoftonline.cn/{TENANT}/v2.0"),
        ("entra-v1", f"https://sts.chinacloudapi.cn/{TENANT}/"),
        ("cognito-access", "https://cognito-idp.cn-north-1.amazonaws.com.cn/cn-north-1_AbCdEf123"),
    ],
)
def test_the_entry_of_another_cloud_has_its_issuer(name: str, iss: str) -> None:
    (shape,) = (shape for shape in SHAPES if shape.name == name)
    entry = suggest(said({**shape.payload, "iss": iss})).entry
    assert entry is not None
    assert entry["preset"] == shape.preset
    assert unfold(entry).settings["issuer"] == iss


def test_an_issuer_that_is_no_url_has_no_discovery() -> None:
    entry = suggest(said({**plain(), "iss": "https://[idp"})).entry
    assert entry is not None
    assert entry["keys"] == {"jwks_file": "jwks.json"}
