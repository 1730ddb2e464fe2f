"""Claims that an issuer's configuration names: who a token is for, what it is, and where its values are."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.core.model import JSON, ClaimPaths, Claims, Issuer, Scalar, TenantPath
from gateway.core.reasons import Denial
from gateway.core.tokens.claims import MAX_DATE, meant_date, verify
from tests.tokens import AUDIENCE, ISSUER, claims, without

NOW = 1_700_000_000.0
MAIN = Issuer("main", ISSUER, frozenset({AUDIENCE}), frozenset({"RS256"}))


def accepted(issuer: Issuer = MAIN, more: Mapping[str, JSON] | None = None, **changes: JSON) -> Claims:
    return verify({**claims(now=NOW), **changes, **(more or {})}, issuer, NOW)


def refused(issuer: Issuer = MAIN, more: Mapping[str, JSON] | None = None, **changes: JSON) -> Denial:
    with pytest.raises(Denial) as caught:
        accepted(issuer, more, **changes)
    assert caught.value.issuer == "main"
    return caught.value


def expecting(**expect: tuple[Scalar, ...]) -> Issuer:
    return replace(MAIN, expect=expect)


# expect -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "value"),
    [
        (("web",), "web"),
        (("web", "mobile"), "mobile"),
        (("web",), ["other", "web"]),
        ((True,), True),
        ((7,), 7),
        ((7,), 7.0),
        ((1,), [True, 1]),
    ],
)
def test_an_expected_value(values: tuple[Scalar, ...], value: JSON) -> None:
    accepted(expecting(azp=values), azp=value)


@pytest.mark.parametrize(
    ("values", "value"),
    [
        (("web",), "Web"), (("web",), "web "), (("web",), ["other"]), (("web",), []), (("web",), None),
        (("web",), {"web": "web"}), (("web",), [["web"]]), ((True,), 1), ((1,), True), ((True,), "true"),
        ((0,), False), (("7",), 7), ((7,), "7"),
    ],
)  # fmt: skip
def test_another_value(values: tuple[Scalar, ...], value: JSON) -> None:
    denial = refused(expecting(azp=values), azp=value)

    assert (denial.reason.code, denial.claim) == ("claim_not_accepted", "azp")
    assert "`azp`" in str(denial.detail)


def test_all_expectations_must_hold() -> None:
    both = expecting(azp=("web",), token_use=("access",))

    accepted(both, azp="web", token_use="access")
    assert refused(both, azp="web").claim == "token_use"
    assert refused(both, token_use="access").claim == "azp"


def test_an_expectation_takes_a_path() -> None:
    nested = replace(MAIN, expect={"/kubernetes.io/namespace": ("prod",)})

    accepted(nested, {"kubernetes.io": {"namespace": "prod"}})
    assert refused(nested, {"kubernetes.io": {"namespace": "dev"}}).claim == "/kubernetes.io/namespace"


def test_without_audiences_the_client_is_compared() -> None:
    clerk = replace(MAIN, audiences=None, expect={"azp": ("https://app.example.com",)})

    assert accepted(clerk, azp="https://app.example.com", aud="any").audiences == ("any",)
    token = without(claims(now=NOW, azp="https://app.example.com"), "aud")
    assert verify(token, clerk, NOW).audiences == ()
    assert refused(clerk, azp="https://evil.example.com").reason.code == "claim_not_accepted"
    assert refused(clerk, azp="https://app.example.com", aud=7).reason.code == "claim_malformed"


# ID tokens and their like -----------------------------------------------------------------------

ID_TOKENS: tuple[dict[str, JSON], ...] = (
    {"nonce": "n"}, {"at_hash": "h"}, {"c_hash": "h"}, {"s_hash": "h"}, {"typ": "ID"}, {"typ": "id"},
    {"token_use": "id"}, {"typ": "Serialized-ID"}, {"token_use": "id_token"}, {"token_type": "id_token"},
)  # fmt: skip
OTHERS: tuple[dict[str, JSON], ...] = (
    {"typ": "Refresh"}, {"typ": "Offline"}, {"typ": "Logout"}, {"token_use": "refresh"}, {"events": {}},
    {"typ": "Refresh", "nonce": "n"}, {"events": {}, "token_use": "id"},
    {"typ": "Refresh", "token_use": "id"}, {"token_use": "Refresh_Token"}, {"token_type": "refresh"},
    {"type": "refresh"}, {"token_use": "refresh", "typ": "ID"},
)  # fmt: skip


@pytest.mark.parametrize("mark", [*ID_TOKENS, *OTHERS])
def test_a_token_that_is_no_access_token_is_refused(mark: dict[str, JSON]) -> None:
    denial = refused(MAIN, mark)

    assert (denial.reason.code, denial.claim) == ("id_token_not_accepted", next(iter(mark)))


@pytest.mark.parametrize("mark", ID_TOKENS)
def test_id_tokens_may_be_allowed(mark: dict[str, JSON]) -> None:
    accepted(replace(MAIN, id_tokens="allow"), mark)


@pytest.mark.parametrize("mark", OTHERS)
def test_refresh_and_logout_tokens_never_are(mark: dict[str, JSON]) -> None:
    assert refused(replace(MAIN, id_tokens="allow"), mark).reason.code == "id_token_not_accepted"


@pytest.mark.parametrize("mark", [{"typ": "Bearer"}, {"token_use": "access"}, {"nonce": None}, {"typ": 7}])
def test_access_tokens_of_these_providers_pass(mark: dict[str, JSON]) -> None:
    accepted(MAIN, mark)


@pytest.mark.parametrize("cnf", [{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, {}, "odd"])
def test_a_token_that_is_bound_to_a_key_is_no_bearer_token(cnf: JSON) -> None:
    denial = refused(cnf=cnf)

    assert (denial.reason.code, denial.claim) == ("claim_not_accepted", "cnf")
    accepted(replace(MAIN, allow_unbound=True), cnf=cnf)


@pytest.mark.parametrize("mark", ["token_type", "typ"])
def test_a_type_may_say_that_a_token_is_bound(mark: str) -> None:
    bound: dict[str, JSON] = {mark: "DPoP"}

    assert refused(MAIN, bound).claim == mark
    accepted(replace(MAIN, allow_unbound=True), bound)
    accepted(MAIN, {mark: "Bearer"})


# Where the values are ---------------------------------------------------------------------------


def test_the_subject_is_where_the_issuer_keeps_it() -> None:
    entra = replace(MAIN, subject="oid")

    assert accepted(entra, oid="8a1c").subject == "8a1c"
    missing = refused(entra)
    assert (missing.reason.code, missing.detail) == ("subject_missing", "the token has no `oid`")
    assert refused(entra, oid=7).detail == "`oid` is not a string"
    assert accepted(replace(MAIN, subject="/user.name/id"), {"user.name": {"id": "u"}}).subject == "u"


def test_a_required_claim_may_be_a_path() -> None:
    nested = replace(MAIN, require=frozenset({"/kubernetes.io/namespace", "act.sub"}))
    full: dict[str, JSON] = {"kubernetes.io": {"namespace": "prod"}, "act": {"sub": "a"}}

    accepted(nested, full)
    assert refused(nested, {**full, "act": {}}).claim == "act.sub"
    assert refused(nested, {**full, "kubernetes.io": "prod"}).claim == "/kubernetes.io/namespace"


def test_a_configured_tenant_must_be_there() -> None:
    strict = replace(MAIN, claims=ClaimPaths(tenant=TenantPath("tid", optional=False)))

    assert accepted(strict, tid="acme").tenant == "acme"
    denial = refused(strict, tenant_id="acme")
    assert (denial.reason.code, denial.claim) == ("claim_missing", "tid")
    assert refused(strict, tid=None).reason.code == "claim_missing"
    optional = replace(MAIN, claims=ClaimPaths(tenant=TenantPath("tid")))
    assert accepted(optional).tenant is None
    of_pattern = replace(MAIN, tenant="acme", claims=ClaimPaths(tenant=None))
    read = accepted(of_pattern, tenant_id="umbrella")
    assert (read.tenant, read.realm) == ("acme", "main/acme")
    assert accepted(replace(of_pattern, tenant=None), tenant_id="umbrella").tenant is None


def test_several_paths_are_joined() -> None:
    entra = replace(MAIN, claims=ClaimPaths(scopes=("scp", "roles"), roles=("roles", "wids", "groups")))
    read = accepted(entra, scp="orders:read orders:write", roles=["orders:read", "admin"], wids=["62e9"])

    assert read.scopes == ("orders:read", "orders:write", "admin")
    assert read.roles == ("orders:read", "admin", "62e9")
    assert accepted(entra).scopes == ()
    assert accepted(entra, roles=["admin"]).scopes == accepted(entra, roles=["admin"]).roles == ("admin",)
    assert refused(entra, scp="a", roles=[7]).reason.code == "claim_malformed"


@pytest.mark.parametrize(
    ("separator", "scope", "words"),
    [
        (",", "a,b", ("a", "b")), (",", "a, b,", ("a", "b")), (",", "a b", ("a b",)), (" ", "a,b", ("a,b",)),
        ("|", "a|b", ("a", "b")), (",", ["a,b"], ("a,b",)),
    ],
)  # fmt: skip
def test_scopes_are_split_at_the_separator(separator: str, scope: JSON, words: tuple[str, ...]) -> None:
    assert accepted(replace(MAIN, scope_separator=separator), scope=scope).scopes == words


# Dates that are not in seconds -------------------------------------------------------------------

MILLISECONDS = "`exp` is in milliseconds, and must be in seconds"
TEXT = "`exp` is text, and must be a number of seconds"


@pytest.mark.parametrize(
    ("value", "detail", "meant"),
    [
        (
            1_700_000_300_000,
            "`exp` is in milliseconds, and must be in seconds",
            1_700_000_300.0,
        ),
        (
            1_700_000_300_500.0,
            "`exp` is in milliseconds, and must be in seconds",
            1_700_000_300.5,
        ),
        ("1700000300", TEXT, 1_700_000_300.0),
        ("1700000300000", TEXT, 1_700_000_300.0),
        ("0", TEXT, 0.0),
        (str(MAX_DATE), TEXT, MAX_DATE),
        (MAX_DATE * 1000, MILLISECONDS, MAX_DATE),
        (MAX_DATE * 1000 + 1, "`exp` is not a date between 1970 and 9999", None),
        ("tomorrow", TEXT, None),
        ("nan", TEXT, None),
        (-1, "`exp` is not a date between 1970 and 9999", None),
        (1_700_000_300_000_000, "`exp` is not a date between 1970 and 9999", None),
        (10**400, "`exp` is not a date between 1970 and 9999", None),
        (True, "`exp` is not a number", None),
        ([1_700_000_300], "`exp` is not a number", None),
    ],
)
def test_a_date_that_is_not_in_seconds_is_named(value: JSON, detail: str, meant: float | None) -> None:
    denial = refused(exp=value)
    assert (denial.reason.code, denial.detail, denial.claim) == ("claim_malformed", detail, "exp")
    assert meant_date(value) == meant
