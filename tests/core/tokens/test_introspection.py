"""Which issuer is asked about a token, and what its answer means."""

import json
from dataclasses import replace

import pytest

from gateway.core.model import JSON, Credential, Issuer
from gateway.core.reasons import Denial
from gateway.core.text import json_text
from gateway.core.tokens.introspection import NotUnderstood, OpaqueTokens, looks_signed, payload_of
from tests.tokens import base64url, claims, unsigned

MAIN = Issuer("main", "https://idp.example.com/", frozenset({"api"}), frozenset())
GITHUB = Issuer("github", "https://github.com", None, frozenset())
APPS = Issuer("apps", "https://github.com/apps", None, frozenset())
TOKEN = Credential.of(b"opaque-token")
JWT = unsigned({"alg": "ES256", "typ": "JWT"}, claims(now=0), b"x" * 64)


def said(**answer: JSON) -> dict[str, JSON]:
    return payload_of(json_text.read(json.dumps(answer).encode()), MAIN, TOKEN)


def refused(**answer: JSON) -> Denial:
    with pytest.raises(Denial) as caught:
        said(**answer)
    assert caught.value.issuer == "main"
    return caught.value


@pytest.mark.parametrize(
    ("raw", "issuer"),
    [
        (b"opaque", MAIN),
        (b"gho_abc", GITHUB),
        (b"gho_app_abc", APPS),
        (b"gh", MAIN),
        (b"GHO_abc", MAIN),
        (b"a.b", MAIN),
        (b"a.b.c", MAIN),
        (b"a.b.c.d.e", MAIN),
        (JWT, None),
        (JWT[:-3], None),
        (b"eyJhbGciOiJub25lIn0.e30.", None),
        (unsigned({"alg": "none"}, {}), None),
        (JWT + b".x", MAIN),
    ],
)
def test_the_longest_prefix_decides_the_issuer(raw: bytes, issuer: Issuer | None) -> None:
    tokens = OpaqueTokens([(MAIN, ""), (GITHUB, "gho_"), (APPS, "gho_app_")])
    assert tokens.issuer_of(raw) is issuer


def test_a_jwt_goes_by_no_prefix() -> None:
    tokens = OpaqueTokens([(GITHUB, "ey")])
    assert tokens.issuer_of(JWT) is None
    assert tokens.issuer_of(b"eyes") is GITHUB


def test_without_an_issuer_for_any_token_only_prefixes_count() -> None:
    tokens = OpaqueTokens([(GITHUB, "gho_")])
    assert tokens.issuer_of(b"gho_abc") is GITHUB
    assert tokens.issuer_of(b"opaque") is None


def test_a_bad_jwt_is_sent_to_no_other_issuer() -> None:
    for header in (b"{}", b' {"alg":"x"}', b"{not json"):
        assert looks_signed(b".".join((base64url(header), b"x", b"y")))
    assert not looks_signed(b".".join((base64url(b"[]"), b"x", b"y")))


def test_an_active_token_has_the_claims_of_the_answer() -> None:
    assert said(active=True, sub="member", scope="a b", jti="1") == {
        "active": True,
        "sub": "member",
        "scope": "a b",
        "jti": "1",
        "iss": "https://idp.example.com/",
    }


def test_an_issuer_that_is_null_is_not_named() -> None:
    assert said(active=True, sub="member", iss=None)["iss"] == MAIN.issuer


@pytest.mark.parametrize("jti", [{}, {"jti": None}])
def test_a_token_without_jti_can_be_revoked_by_its_hash(jti: dict[str, JSON]) -> None:
    assert said(active=True, sub="member", **jti)["jti"] == TOKEN.digest.hex()


def test_an_inactive_token_is_refused_whatever_else_is_said() -> None:
    assert refused(active=False).reason.code == "token_inactive"
    assert (
        refused(active=False, sub="member", iss="https://other.example.com").reason.code == "token_inactive"
    )


@pytest.mark.parametrize("iss", ["https://other.example.com", "https://idp.example.com", "", 7, ["x"]])
def test_a_token_of_another_issuer_is_refused(iss: JSON) -> None:
    assert refused(active=True, sub="member", iss=iss).reason.code == "issuer_untrusted"


@pytest.mark.parametrize(
    "mark",
    [
        {"token_type": "refresh_token"},
        {"token_type": "mac"},
        {"token_type": ["Bearer"]},
        {"token_use": "refresh_token"},
        {"token_use": "id"},
    ],
)
def test_an_answer_about_no_access_token_is_refused(mark: dict[str, JSON]) -> None:
    denial = refused(active=True, sub="member", **mark)
    assert (denial.reason.code, denial.claim) == ("id_token_not_accepted", next(iter(mark)))


@pytest.mark.parametrize(
    "mark",
    [
        {},
        {"token_type": "Bearer"},
        {"token_type": "bearer"},
        {"token_use": "access_token"},
        {"token_type": None},
    ],
)
def test_access_tokens_pass(mark: dict[str, JSON]) -> None:
    assert said(active=True, sub="member", **mark)["sub"] == "member"


def test_without_an_audience_the_answer_must_tell_the_type() -> None:
    nameless = replace(MAIN, audiences=None)
    active: dict[str, JSON] = {"active": True, "sub": "member", "client_id": "web"}
    with pytest.raises(Denial) as caught:
        payload_of(active, nameless, TOKEN)
    assert (caught.value.reason.code, caught.value.claim) == ("id_token_not_accepted", "token_type")
    for known in ({"token_type": "Bearer"}, {"token_use": "access_token"}):
        assert payload_of({**active, **known}, nameless, TOKEN)["sub"] == "member"
    assert payload_of(active, replace(nameless, id_tokens="allow"), TOKEN)["sub"] == "member"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        '"active"',
        "{}",
        '{"active": "true"}',
        '{"active": 1}',
        '{"active": null}',
        '{"active": false, "active": true}',
        '{"active": true, "sub": "a", "sub": "b"}',
        '{"active": true, "exp": 1e999}',
        '{"active": true, "sub": "\\ud800"}',
    ],
)
def test_an_unusable_answer_says_nothing_about_the_token(text: str) -> None:
    with pytest.raises(NotUnderstood):
        payload_of(json_text.read(text.encode()), MAIN, TOKEN)
