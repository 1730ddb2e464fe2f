"""Patterns of issuers: what they match, and the names that follow from it."""

from dataclasses import replace

import pytest

from gateway.core.model import Issuer
from gateway.core.tokens.issuer_patterns import IssuerNames, IssuerPattern, IssuerTable, mistake_in

PATH = "https://login.example.com/{tenant}/v2.0"
HOST = "https://{tenant}.idp.example.com/"
ENTRA = Issuer("entra", PATH, frozenset({"api"}), frozenset({"RS256"}), tenants=frozenset({"8a1c", "77b2"}))
ANY = Issuer("any", HOST, frozenset({"api"}), frozenset({"RS256"}), tenants="any")
MAIN = Issuer("main", "https://login.example.com/own/v2.0", frozenset({"api"}), frozenset({"RS256"}))


@pytest.mark.parametrize(
    ("iss", "tenant"),
    [
        ("https://login.example.com/8a1c/v2.0", "8a1c"),
        ("https://login.example.com/8A1C/v2.0", "8A1C"),
        ("https://login.example.com/a.b-c_d~e/v2.0", "a.b-c_d~e"),
        ("https://login.example.com//v2.0", None),
        ("https://login.example.com/a/b/v2.0", None),
        ("https://login.example.com/../v2.0", None),
        ("https://login.example.com/./v2.0", None),
        ("https://login.example.com/a%2Fb/v2.0", None),
        ("https://login.example.com/a?x=/v2.0", None),
        ("https://login.example.com/a#/v2.0", None),
        ("https://login.example.com/a:b/v2.0", None),
        ("https://login.example.com/a@b/v2.0", None),
        ("https://login.example.com/a\\b/v2.0", None),
        ("https://login.example.com/a\n/v2.0", None),
        ("https://login.example.com/8a1c/v2.0\n", None),
        ("https://login.example.com/8a1c/v2.0/", None),
        ("https://login.example.com/8a1c/v2X0", None),
        ("https://login.example.com.evil.com/8a1c/v2.0", None),
        ("https://evil.com/https://login.example.com/8a1c/v2.0", None),
        ("http://login.example.com/8a1c/v2.0", None),
        ("https://login.example.com/{tenant}/v2.0", None),
        ("https://login.example.com/" + "a" * 129 + "/v2.0", None),
    ],
)
def test_a_segment_of_the_path(iss: str, tenant: str | None) -> None:
    assert IssuerPattern(PATH).tenant_of(iss) == tenant


@pytest.mark.parametrize(
    ("iss", "tenant"),
    [
        ("https://acme.idp.example.com/", "acme"),
        ("https://a-1.idp.example.com/", "a-1"),
        ("https://ACME.idp.example.com/", None),
        ("https://.idp.example.com/", None),
        ("https://a.b.idp.example.com/", None),
        ("https://-a.idp.example.com/", None),
        ("https://a-.idp.example.com/", None),
        ("https://evil.com/.idp.example.com/", None),
        ("https://evil.com#.idp.example.com/", None),
        ("https://evil.com:80.idp.example.com/", None),
        ("https://user@a.idp.example.com/", None),
        ("https://acmeXidp.example.com/", None),
        ("https://" + "a" * 64 + ".idp.example.com/", None),
    ],
)
def test_a_label_of_the_host(iss: str, tenant: str | None) -> None:
    assert IssuerPattern(HOST).tenant_of(iss) == tenant


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        (PATH, True), (HOST, True), ("https://idp.example.com/{tenant}", True),
        ("http://{tenant}.localhost:8080/", True), ("https://auth.{tenant}.example.com", True),
        ("https://idp.example.com/x{tenant}", False), ("https://idp.example.com/{tenant}x/", False),
        ("https://idp.example.com/{tenant}/{tenant}", False),
        ("https://idp.example.com/{tenant}/{other}", False),
        ("https://idp.example.com/{tenant}/*", False), ("https://idp.example.com/{tenant}?a=b", False),
        ("https://idp.example.com/?t={tenant}", False), ("https://idp.example.com/#{tenant}", False),
        ("https://idp.example.com:{tenant}/", False), ("https://{tenant}@idp.example.com/", False),
        ("https://{tenant}/", False), ("https://{tenant}.com/", False), ("https://idp.{tenant}/", False),
        ("https://{tenant}.co.uk/", False), ("https://{tenant}.idp.co.uk/", True),
        ("https://{tenant}.co.example/", True),
        ("https://x{tenant}.example.com/", False), ("{tenant}", False), ("urn:{tenant}", False),
        ("{tenant}://idp.example.com/", False), ("https://[{tenant}]/", False),
    ],
)  # fmt: skip
def test_valid_patterns_of_issuers(pattern: str, fits: bool) -> None:
    assert (mistake_in(pattern) is None) == fits


def test_the_issuer_of_a_tenant_has_its_iss_and_a_realm_of_its_own() -> None:
    table = IssuerTable([ENTRA, ANY, MAIN])
    found = table.find("https://login.example.com/8a1c/v2.0")
    assert found is not None
    assert (found.name, found.realm, found.tenant) == ("entra", "entra/8a1c", "8a1c")
    assert found.issuer == "https://login.example.com/8a1c/v2.0"
    assert table.find("https://login.example.com/8a1c/v2.0") is found
    assert table.find("https://login.example.com/other/v2.0") is None
    assert table.find("https://login.example.com/own/v2.0") is MAIN
    acme = table.find("https://acme.idp.example.com/")
    assert acme is not None
    assert acme.realm == "any/acme"
    assert table.find(PATH) is None


def test_expected_values_may_have_the_tenant_of_the_iss() -> None:
    expect = {"tid": ("{tenant}",), "azp": ("web", "{tenant}-web", 7, True)}
    table = IssuerTable([replace(ENTRA, expect=expect), replace(MAIN, expect=expect)])
    found = table.find("https://login.example.com/8a1c/v2.0")
    assert found is not None
    assert found.expect == {"tid": ("8a1c",), "azp": ("web", "8a1c-web", 7, True)}
    alone = table.find(MAIN.issuer)
    assert alone is not None
    assert alone.expect == expect


def test_names_of_issuers_and_tenants() -> None:
    names = IssuerNames({"entra": PATH, "any": HOST, "main": MAIN.issuer})
    assert names["entra/8a1c"] == "https://login.example.com/8a1c/v2.0"
    assert names["entra"] == PATH
    assert "entra/a/b" not in names
    assert "entra/.." not in names
    assert "main/8a1c" not in names
    assert "other/8a1c" not in names
    assert list(names) == ["entra", "any", "main"]
    assert names.name_of("https://login.example.com/8a1c/v2.0") == "entra/8a1c"
    assert names.names_of(MAIN.issuer) == ["main", "entra/own"]
    assert names.name_of(PATH) == "entra"
    assert names.name_of("https://elsewhere.example.com/") is None
    assert names.by_iss["https://acme.idp.example.com/"] == "any/acme"
    assert "https://elsewhere.example.com/" not in names.by_iss
    for text in ("entra/8a1c", "https://login.example.com/8a1c/v2.0"):
        assert names.find(text) == ("entra/8a1c", "https://login.example.com/8a1c/v2.0")
    assert names.find("nobody") is None
