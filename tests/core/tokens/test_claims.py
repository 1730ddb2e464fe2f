"""The claims of a verified token (RFC 7519 §4.1)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import JSON, ClaimPaths, Claims, Issuer, TenantPath
from gateway.core.reasons import Denial
from gateway.core.tokens.claims import issuer_of, verify
from tests.tokens import AUDIENCE, ISSUER, claims, without

NOW = 1_700_000_000.0
MAIN = Issuer("main", ISSUER, frozenset({AUDIENCE, "other-api"}), frozenset({"RS256"}), leeway=30.0)
LAX = replace(MAIN, require=frozenset())


def payload(**changes: JSON) -> dict[str, JSON]:
    return {**claims(now=NOW), **changes}


def refused(token: dict[str, JSON], issuer: Issuer = MAIN, now: float = NOW) -> str:
    with pytest.raises(Denial) as caught:
        verify(token, issuer, now)
    assert caught.value.issuer == "main"
    return caught.value.reason.code


def test_good_claims_become_values() -> None:
    token = payload(jti="j-1", tenant_id="t", scope="orders:read  orders:write", roles=["admin", "owner"])
    read = verify(token, MAIN, NOW)

    assert (read.issuer, read.issuer_name, read.subject) == (ISSUER, "main", "member")
    assert (read.identity.issuer, read.identity.subject) == (ISSUER, "member")
    assert (read.audiences, read.jti, read.tenant) == ((AUDIENCE,), "j-1", "t")
    assert (read.scopes, read.roles) == (("orders:read", "orders:write"), ("admin", "owner"))
    assert (read.issued_at, read.expires_at) == (NOW, NOW + 300)
    assert read.good_until == NOW + 300 + 30
    assert verify(token, replace(MAIN, leeway=7.0), NOW).good_until == NOW + 300 + 7
    assert read.payload == token


def test_missing_claims_are_none_or_empty() -> None:
    read = verify(without(payload(), "iat"), MAIN, NOW)
    assert verify(without(payload(), "exp"), LAX, NOW).good_until is None

    assert (read.jti, read.tenant, read.issued_at, read.scopes, read.roles) == (None, None, None, (), ())


# exp, nbf, iat ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exp", "now", "reason"),
    [
        (NOW, NOW + 29.9, None),
        (NOW, NOW + 30, "token_expired"),  # RFC 7519 §4.1.4: *on or after* which it must not be accepted
        (NOW - 0.5, NOW + 29.6, "token_expired"),
        (NOW + 0.5, NOW + 30.4, None),
        (0, NOW, "token_expired"),
        (253_402_300_799, NOW, None),
    ],
)
def test_exp_counts_with_the_leeway_and_fractions(exp: float, now: float, reason: str | None) -> None:
    token = payload(exp=exp)
    if reason is None:
        assert verify(token, MAIN, now).expires_at == exp
    else:
        assert refused(token, now=now) == reason


@pytest.mark.parametrize(
    ("name", "reason"), [("nbf", "token_not_yet_valid"), ("iat", "token_issued_in_future")]
)
def test_nbf_and_iat_may_be_ahead_by_the_leeway(name: str, reason: str) -> None:
    verify(payload(**{name: NOW + 30}), MAIN, NOW)
    assert refused(payload(**{name: NOW + 30.5})) == reason


def test_an_expired_token_is_called_expired_whatever_else_is_wrong() -> None:
    assert refused(payload(exp=NOW - 99, aud="elsewhere", jti=7, sub="\n")) == "token_expired"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        "1700000300",
        "",
        True,
        False,
        [],
        {},
        -1,
        -0.5,
        253_402_300_800,
        10**15,
        10**400,  # no float holds it
        -(10**400),
        float("1e999"),
        float("-inf"),
        float("nan"),
    ],
)
def test_a_date_of_another_type_or_far_away_is_malformed(name: str, value: JSON) -> None:
    assert refused(payload(**{name: value}), LAX) == "claim_malformed"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (NOW * 1000, "`exp` is in milliseconds, and must be in seconds"),
        (str(NOW), "`exp` is text, and must be a number of seconds"),
        ({}, "`exp` is not a number"),
        (-1, "`exp` is not a date between 1970 and 9999"),
        (1e18, "`exp` is not a date between 1970 and 9999"),
    ],
)
def test_dates_in_milliseconds_or_text_are_named(value: JSON, told: str) -> None:
    with pytest.raises(Denial) as caught:
        verify(payload(exp=value), MAIN, NOW)
    assert (caught.value.detail, caught.value.claim) == (told, "exp")


def test_a_required_date_that_is_null_is_missing() -> None:
    assert refused(payload(exp=None)) == "claim_missing"
    assert refused(without(payload(), "exp")) == "claim_missing"


def test_an_issuer_may_allow_tokens_without_exp() -> None:
    assert verify(without(payload(), "exp"), LAX, NOW).expires_at is None


@pytest.mark.parametrize("required", ["jti", "tenant_id", "auth_time"])
def test_every_required_claim_must_be_there(required: str) -> None:
    strict = replace(MAIN, require=frozenset({"exp", "sub", required}))

    assert refused(payload(), strict) == "claim_missing"
    assert refused(payload(**{required: None}), strict) == "claim_missing"
    verify(payload(**{required: "1"}), strict, NOW)


def test_max_lifetime_needs_both_ends() -> None:
    strict = replace(MAIN, max_lifetime=300.0)

    verify(payload(), strict, NOW)
    assert refused(payload(exp=NOW + 300.5), strict) == "token_lifetime_too_long"
    assert refused(without(payload(), "iat"), strict) == "token_lifetime_too_long"
    assert refused(without(payload(), "exp"), replace(LAX, max_lifetime=300.0)) == "token_lifetime_too_long"


# sub --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("issuer", [MAIN, LAX], ids=["required", "not required"])
@pytest.mark.parametrize("token", [without(payload(), "sub"), payload(sub=None)], ids=["absent", "null"])
def test_a_subject_is_needed_whatever_is_required(issuer: Issuer, token: dict[str, JSON]) -> None:
    assert refused(token, issuer) == "subject_missing"


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_an_api_key_is_recognised(role: str) -> None:
    with pytest.raises(Denial, match="subject_missing: an API key"):
        verify(without(payload(role=role), "sub"), MAIN, NOW)


@pytest.mark.parametrize("role", ["editor", ["anon"], {"anon": 1}, 7, None])
def test_another_role_without_subject_is_no_api_key(role: JSON) -> None:
    with pytest.raises(Denial, match="subject_missing: the token has no `sub`"):
        verify(without(payload(role=role), "sub"), MAIN, NOW)


@pytest.mark.parametrize(
    "sub",
    [
        "",
        7,
        True,
        1.5,
        ["member"],
        {"id": "member"},
        "a" * 256,
        "mem\x00ber",
        "member\r\nX-User-Id: 1",
        "mem\tber",
        "mem\x7fber",
        "mem\x85ber",
        "mem\u2028ber",
        "mem\ud800ber",
    ],
)
def test_a_subject_that_is_no_clean_string_is_malformed(sub: JSON) -> None:
    assert refused(payload(sub=sub)) == "subject_malformed"


@pytest.mark.parametrize("sub", ["a" * 255, "auth0|123", "Zoë 🦊", "' OR 1=1 --", "*:member", " member "])
def test_an_odd_subject_is_kept_as_it_is(sub: str) -> None:
    assert verify(payload(sub=sub), MAIN, NOW).subject == sub


# aud --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aud", "read"),
    [
        (AUDIENCE, (AUDIENCE,)),
        (["x", AUDIENCE], ("x", AUDIENCE)),
        (["other-api"], ("other-api",)),
    ],
)
def test_one_good_audience_is_enough(aud: JSON, read: tuple[str, ...]) -> None:
    assert verify(payload(aud=aud), MAIN, NOW).audiences == read


@pytest.mark.parametrize(
    ("aud", "reason"),
    [
        (None, "audience_mismatch"),
        ("", "audience_mismatch"),
        ([], "audience_mismatch"),
        ("Orders-API", "audience_mismatch"),
        ("orders-api/", "audience_mismatch"),
        (f"{AUDIENCE} other", "audience_mismatch"),
        (["x", "y"], "audience_mismatch"),
        ([AUDIENCE, 7], "claim_malformed"),
        ([AUDIENCE, None], "claim_malformed"),
        ([[AUDIENCE]], "claim_malformed"),
        ({AUDIENCE: True}, "claim_malformed"),
        (7, "claim_malformed"),
        (True, "claim_malformed"),
    ],
)
def test_any_other_audience_is_refused(aud: JSON, reason: str) -> None:
    assert refused(payload(aud=aud)) == reason


def test_a_missing_audience_is_refused() -> None:
    assert refused(without(payload(), "aud")) == "audience_mismatch"


# jti, tenant, scopes, roles ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jti", "tenant_id"])
@pytest.mark.parametrize("value", ["", True, 1.5, ["a"], {}, "a\nb", "a\ud800"])
def test_a_name_that_is_no_clean_string_is_malformed(name: str, value: JSON) -> None:
    assert refused(payload(**{name: value})) == "claim_malformed"


def test_a_tenant_may_be_a_number_but_a_jti_may_not() -> None:
    assert verify(payload(tenant_id=42), MAIN, NOW).tenant == "42"
    assert refused(payload(jti=42)) == "claim_malformed"


@pytest.mark.parametrize("name", ["scope", "roles"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ()),
        ("", ()),
        ("  ", ()),
        ("a b", ("a", "b")),
        (["a b", "c"], ("a b", "c")),
        ([], ()),
        # RFC 6749 §3.3: a space delimits, no other character does.
        ("a\u00a0b", ("a\u00a0b",)),
    ],
)
def test_words_come_as_a_string_or_a_list(name: str, value: JSON, words: tuple[str, ...]) -> None:
    read = verify(payload(**{name: value}), MAIN, NOW)

    assert (read.scopes if name == "scope" else read.roles) == words


@pytest.mark.parametrize("name", ["scope", "roles"])
@pytest.mark.parametrize("value", [7, True, {"admin": 1}, ["a", 7], ["a", None], ["a\nb"], "a\nb", "a\tb"])
def test_words_of_another_type_are_malformed(name: str, value: JSON) -> None:
    assert refused(payload(**{name: value})) == "claim_malformed"


def test_claims_are_found_where_the_issuer_keeps_them() -> None:
    paths = ClaimPaths(TenantPath("org.id"), ("https://a.example/scopes",), ("realm_access.roles",))
    nested = replace(MAIN, claims=paths)
    odd: dict[str, JSON] = {"https://a.example/scopes": ["r"], "realm_access": {"roles": ["admin"]}}
    token = payload(org={"id": "t"}, tenant_id="not this one", **odd)
    read = verify(token, nested, NOW)

    assert (read.tenant, read.scopes, read.roles) == ("t", ("r",), ("admin",))


# iss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iss", [None, "", 7, True, [ISSUER], {}])
def test_an_issuer_that_is_no_string_is_missing(iss: JSON) -> None:
    for token in (payload(iss=iss), without(payload(), "iss")):
        with pytest.raises(Denial) as caught:
            issuer_of(token)
        assert caught.value.reason.code == "issuer_missing"


def test_the_issuer_is_read_as_it_is() -> None:
    assert issuer_of({"iss": "https://IDP.example.com"}) == "https://IDP.example.com"


# anything ---------------------------------------------------------------------------------------

# A fixed alphabet: building Hypothesis' table of all characters takes longer than the tests.
TEXT = st.text("aB/ \n\x00\x7f\xa0é\u2028\ud800🦊", max_size=8)
ANY_JSON: st.SearchStrategy[JSON] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from([10**400, ISSUER, AUDIENCE, "anon", NOW]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "tenant_id", "scope", "roles", "role")


def outcome(token: dict[str, JSON], issuer: Issuer) -> Claims | Denial:
    try:
        return verify(token, issuer, NOW)
    except Denial as denial:
        return denial


@given(
    st.dictionaries(st.sampled_from(NAMES), ANY_JSON),
    st.sets(st.sampled_from(NAMES)),
    st.sampled_from([MAIN, LAX, replace(LAX, max_lifetime=60.0)]),
)
def test_no_shape_of_claims_is_anything_but_accepted_or_denied(
    odd: dict[str, JSON], missing: set[str], issuer: Issuer
) -> None:
    result = outcome(without(payload(**odd), *missing), issuer)

    if isinstance(result, Denial):
        assert result.issuer == "main"
    else:
        assert issuer.audiences is not None
        assert issuer.audiences.intersection(result.audiences)
        assert result.expires_at is None or result.expires_at + issuer.leeway > NOW


def test_a_refusal_never_quotes_a_claim() -> None:
    for token in (
        payload(sub="s3cret\n"),
        payload(jti="s3cret\n"),
        payload(aud="s3cret"),
        payload(exp="s3cret"),
    ):
        with pytest.raises(Denial) as caught:
            verify(token, MAIN, NOW)
        assert "s3cret" not in str(caught.value)
