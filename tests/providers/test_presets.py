"""`preset:` and its parameters → settings, or what is wrong with them."""

from collections.abc import Mapping

import pytest

from gateway.cli.check.presets import page
from gateway.providers.catalogue import PROVIDERS
from gateway.providers.presets import unfold
from gateway.providers.provider import Example, Fault, Provider
from tests.docs.pages import REPOSITORY
from tests.providers.shapes import TENANT

POOL = {"preset": "cognito", "pool": "eu-west-1_AbCdEf123"}
EXAMPLES = [
    pytest.param(provider, example, id=f"{provider.name}: {example.title}")
    for provider in PROVIDERS.values()
    for example in provider.examples
]
NO_CLIENT = "must be a client's ID, without spaces and wildcards"
NAMES_A_CLIENT = {"azp", "client_id", "appid", "cid"}


def faults(entry: Mapping[str, object]) -> list[str]:
    return [f"{'.'.join(map(str, fault.where))}: {fault.message}" for fault in unfold(entry).faults]


def test_all_eleven_are_there() -> None:
    assert list(PROVIDERS) == [
        "keycloak",
        "auth0",
        "okta",
        "entra",
        "cognito",
        "supabase",
        "firebase",
        "google",
        "clerk",
        "github-actions",
        "kubernetes",
    ]


def test_the_page_in_docs_is_the_generated_one() -> None:
    text = (REPOSITORY / "docs" / "providers.md").read_text(encoding="utf-8")
    assert text == page(), "run: gateway check --explain-preset all --markdown > docs/providers.md"


@pytest.mark.parametrize(("provider", "example"), EXAMPLES)
def test_every_example_unfolds_and_is_strict(provider: Provider, example: Example) -> None:
    unfolded = unfold({"name": "main", "preset": provider.name, **example.parameters})
    assert unfolded.faults == ()
    settings = unfolded.settings
    assert "preset" not in settings
    assert not set(settings) & (provider.words - {"issuer", "audiences", "tenants"})
    expect = settings.get("expect", {})
    assert {"exp", "iat", "sub"} <= {*settings["require"], *expect}  # type: ignore[misc]
    assert not {"HS256", "none"} & set(settings.get("algorithms", ())) or "secret_file" in example.parameters  # type: ignore[call-overload]
    assert settings["audiences"] is not None or NAMES_A_CLIENT & set(expect)  # type: ignore[call-overload]


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_the_parameters_examples_fit(provider: Provider) -> None:
    assert [each.name for each in provider.parameters if not each.fits(each.example)] == []


def test_google_asks_for_the_client_with_audiences_too() -> None:
    settings = unfold({"preset": "google", "audiences": ["1-a.apps.googleusercontent.com"]}).settings
    assert settings["expect"] == {"azp": "1-a.apps.googleusercontent.com"}


def test_pools_in_china_have_their_own_domain() -> None:
    settings = unfold({"preset": "cognito", "pool": "cn-north-1_AbCdEf123", "client_id": "web"}).settings
    assert settings["issuer"] == "https://cognito-idp.cn-north-1.amazonaws.com.cn/cn-north-1_AbCdEf123"


def test_the_stand_in_of_tenants_is_a_pattern() -> None:
    entry = {"name": "main", "preset": "entra", "tenants": ["*"], "audiences": ["a"]}
    assert unfold(entry).settings["issuer"] == "https://main.invalid/{tenant}"


def test_without_preset_nothing_changes() -> None:
    entry = {"name": "main", "issuer": "https://idp.example.com"}
    assert unfold(entry).settings is entry
    assert unfold({**entry, "preset": None}).settings == entry


def test_written_settings_override_the_preset() -> None:
    settings = unfold(
        {
            **POOL,
            "name": "mine",
            "client_id": "web",
            "max_lifetime": "1h",
            "require": ["exp"],
            "expect": {"scope": "a"},
            "claims": {"roles": "groups"},
        }
    ).settings
    assert next(iter(settings)) == "name"
    assert settings["max_lifetime"] == "1h"
    assert settings["require"] == ["exp"]
    assert settings["expect"] == {"token_use": "access", "client_id": "web", "scope": "a"}
    assert settings["claims"] == {"scopes": "scope", "roles": "groups"}


def test_null_takes_an_entry_away() -> None:
    entry = {**POOL, "client_id": "web", "expect": {"token_use": None}}
    assert unfold(entry).settings["expect"] == {"client_id": "web"}


def test_the_issuer_may_be_written_instead() -> None:
    entry = {"preset": "keycloak", "issuer": "https://sso.example.com/auth/realms/shop", "client_id": "web"}
    unfolded = unfold(entry)
    assert unfolded.faults == ()
    assert unfolded.settings["issuer"] == entry["issuer"]


def test_clients_may_be_written_as_expect() -> None:
    assert faults({**POOL, "expect": {"client_id": "web"}}) == []
    assert faults({**POOL, "expect": {"scope": "web"}}) == [": the preset cognito needs client_ids"]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"preset": "cognto"}, Fault(("preset",), "there is no preset 'cognto'", "did you mean cognito?")),
        (
            {"preset": 7},
            Fault(("preset",), "there is no preset 7", f"write one of {', '.join(PROVIDERS)}"),
        ),
        (
            {**POOL},
            Fault((), "the preset cognito needs client_ids", "write client_ids: [web]"),
        ),
        (
            {"preset": "cognito", "client_id": "web"},
            Fault((), "the preset cognito needs pool", "write pool: eu-west-1_AbCdEf123"),
        ),
        (
            {**POOL, "pool": "AbCdEf123", "client_id": "web"},
            Fault(("pool",), "must be the ID of a user pool", "write pool: eu-west-1_AbCdEf123"),
        ),
        (
            {**POOL, "client_ids": ["web", 7]},
            Fault(("client_ids", 1), NO_CLIENT, "write client_ids: [web]"),
        ),
        (
            {**POOL, "client_ids": []},
            Fault(("client_ids",), "must have at least one entry", "write client_ids: [web]"),
        ),
        (
            {**POOL, "client_id": ["web"]},
            Fault(("client_id", 0), NO_CLIENT, "write client_id: web"),
        ),
        (
            {**POOL, "client_ids": ["web"], "client_id": "web"},
            Fault(("client_id",), "is also given as client_ids", "write client_ids alone"),
        ),
        (
            {**POOL, "client_id": "web", "realm": "shop"},
            Fault(
                ("realm",),
                "is not a parameter of the preset cognito",
                "it takes pool, region, client_ids, token",
            ),
        ),
        (
            {"preset": "github-actions", "audiences": ["a"]},
            Fault(
                (),
                "the preset github-actions needs repositories or owner_ids",
                'write repositories: [octo-org/octo-repo], or owner_ids: ["65"]',
            ),
        ),
        (
            {"preset": "auth0", "domain": "https://shop.eu.auth0.com/", "audiences": ["a"]},
            Fault(("domain",), "must be a host name, in lower case", "write domain: shop.eu.auth0.com"),
        ),
        (
            {**POOL, "client_id": "web", "region": "us-east-1"},
            Fault(
                ("region",), "is not the region of the pool eu-west-1_AbCdEf123", "write region: eu-west-1"
            ),
        ),
        (
            {"preset": "entra", "tenant": TENANT, "tenants": [TENANT], "audiences": ["a"]},
            Fault(("tenant",), "is also given as tenants", "write tenants alone"),
        ),
        (
            {"preset": "entra", "tenants": [TENANT, TENANT.upper()], "audiences": ["a"]},
            Fault(("tenants", 1), "must be a tenant's ID, in lower case", f"write tenants: [{TENANT}]"),
        ),
        (
            {"preset": "entra", "issuer": f"https://sts.windows.net/{TENANT}/", "audiences": ["a"]},
            Fault(("issuer",), "is that of tokens of version v1", "write version: v1"),
        ),
        (
            {"preset": "auth0", "issuer": "https://shop.eu.auth0.com", "audiences": ["a"]},
            Fault(
                ("issuer",),
                "must end with a slash, as the `iss` of its tokens",
                "write issuer: https://shop.eu.auth0.com/",
            ),
        ),
        (
            {"preset": "keycloak", "issuer": "https://sso.example.com/realms/shop/", "client_id": "web"},
            Fault(
                ("issuer",),
                "must not end with a slash, as the `iss` of its tokens",
                "write issuer: https://sso.example.com/realms/shop",
            ),
        ),
        (
            {"preset": "AzureAD", "audiences": ["a"]},
            Fault(("preset",), "there is no preset 'AzureAD'", "did you mean entra?"),
        ),
    ],
)
def test_mistakes_have_a_place_and_a_remedy(entry: dict[str, object], fault: Fault) -> None:
    unfolded = unfold(entry)
    assert unfolded.faults == (fault,)
    # Other mistakes of the entry are found as if this one were mended.
    assert "preset" not in unfolded.settings


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("keycloak", "url", "https://sso.example.com/realms/shop"),
        ("keycloak", "client_id", "*"),
        ("auth0", "domain", "Shop.eu.auth0.com"),
        ("auth0", "client_id", "{client}"),
        ("okta", "domain", "shop-admin.okta.com"),
        ("supabase", "url", "https://api.example.com/auth/v1"),
        ("clerk", "authorized_parties", "https://*.example.com"),
        ("clerk", "authorized_parties", "https://App.example.com"),
        ("github-actions", "repositories", "octo-org/*"),
        ("github-actions", "refs", "main"),
        ("github-actions", "refs", "refs/heads/*"),
        ("github-actions", "environments", "*"),
    ],
)
def test_a_value_that_no_token_could_have_is_a_mistake(preset: str, name: str, value: str) -> None:
    parameters = {"preset": preset, **PROVIDERS[preset].examples[0].parameters}
    many = isinstance(parameters.get(name), list) or name in ("refs", "environments", "repositories")
    ((where, *_),) = [each.where for each in unfold({**parameters, name: [value] if many else value}).faults]
    assert where == name


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("github-actions", "environments", ["Production (EU)"]),
        ("github-actions", "repositories", ["octo_acme/my.repo-1"]),
        ("github-actions", "refs", ["refs/tags/v1"]),
        ("clerk", "authorized_parties", ["http://localhost:3000", "chrome-extension://abcdefgh"]),
        ("keycloak", "url", "http://localhost:8080/auth"),
        ("okta", "domain", "login.example.com"),
    ],
)
def test_a_value_as_in_tokens_is_no_mistake(preset: str, name: str, value: object) -> None:
    parameters = {"preset": preset, **PROVIDERS[preset].examples[0].parameters, name: value}
    assert unfold(parameters).faults == ()


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_no_value_is_too_odd_to_be_answered(provider: Provider) -> None:
    names = {*provider.words, "issuer", "audiences", "tenants", "expect", "claims", "require", "name"}
    values: list[object] = [None, True, 7, "", [], [7], [None], {}, {"a": {}}, {"azp": None}, "x y", "\ud800"]
    for odd in values:
        for name in names:
            entry = {"name": "main", "preset": provider.name, **provider.examples[0].parameters, name: odd}
            assert "preset" not in unfold(entry).settings
            assert "preset" not in unfold({"preset": odd, name: odd}).settings
