"""The settings of issuers: what may be written, and the message of each mistake."""

from pathlib import Path

import pytest

from gateway.settings import ConfigurationError, load, model

BASE = """\
postgres: {dsn: postgresql://gateway@127.0.0.1/gateway}
redis: {url: "redis://127.0.0.1:6379/0"}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
routes:
  - {name: orders, match: {path: /orders/**}, upstream: orders}
issuers:
  - name: main
    issuer: https://idp.example.com/
"""
AUDIENCES = "audiences: [orders-api]"


def load_with(folder: Path, *lines: str) -> model.Settings:
    file = folder / "gateway.yaml"
    file.write_text(BASE + "".join(f"    {line}\n" for line in lines), encoding="utf-8")
    return load(file, {})


def issuer(folder: Path, *lines: str) -> model.Issuer:
    (only,) = load_with(folder, *lines).issuers
    return only


def told(folder: Path, *lines: str) -> list[str]:
    """Return each mistake, with its line counted from that of the first extra one."""
    with pytest.raises(ConfigurationError) as caught:
        load_with(folder, *lines)
    first = BASE.count("\n")
    return [f"{(each.line or 0) - first}: {each.field}: {each.message}" for each in caught.value.problems]


@pytest.mark.parametrize("client", ["azp: web", "client_id: [a, b]", "appid: a", "cid: a", "/azp: web"])
def test_without_audiences_a_client_is_expected(tmp_path: Path, client: str) -> None:
    assert issuer(tmp_path, "audiences: null", f"expect: {{{client}}}").audiences is None


@pytest.mark.parametrize("expect", ["{}", "{token_use: access}", "{sub: a}", "{azp: null}", "{x.azp: web}"])
def test_without_audiences_and_client_is_a_mistake(tmp_path: Path, expect: str) -> None:
    mistake = (
        "1: issuers[0].audiences: may be null only together with an `expect` on azp, client_id, appid or cid"
    )
    assert mistake in told(tmp_path, "audiences: null", f"expect: {expect}")


def test_audiences_must_be_written(tmp_path: Path) -> None:
    assert told(tmp_path, "expect: {azp: web}") == ["-1: issuers[0].audiences: is required"]


def test_values_may_stand_for_lists(tmp_path: Path) -> None:
    written = issuer(
        tmp_path, AUDIENCES, "expect: {azp: web, amr: [1, true]}", "claims: {scopes: scp, roles: [a, /b.c/d]}"
    )
    assert written.expect == {"azp": ("web",), "amr": (1, True)}
    assert (written.claims.scopes, written.claims.roles) == (("scp",), ("a", "/b.c/d"))


def test_a_written_tenant_must_be_in_tokens(tmp_path: Path) -> None:
    tenant = issuer(tmp_path, AUDIENCES, "claims: {tenant: tid}").claims.tenant
    assert (tenant.path, tenant.optional) == ("tid", False)
    tenant = issuer(tmp_path, AUDIENCES, "claims: {tenant: {path: tid, optional: true}}").claims.tenant
    assert (tenant.path, tenant.optional) == ("tid", True)
    assert issuer(tmp_path, AUDIENCES, "claims: {scopes: scp}").claims.tenant.optional


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_types_have_one_spelling(tmp_path: Path, typ: str) -> None:
    assert issuer(tmp_path, AUDIENCES, f"token_types: [{typ}]").token_types == ("at+jwt",)


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("expect: {azp: []}", "2: issuers[0].expect.azp: must have at least one entry"),
        ("expect: {azp: {a: b}}", "2: issuers[0].expect.azp: must be a value or a list of values"),
        ("expect: {azp: 2024-01-01}", "2: issuers[0].expect.azp: must be a value or a list of values"),
        ("expect: {azp: [web, null]}", "2: issuers[0].expect.azp: must be a value or a list of values"),
        ("expect: {a..b: web}", "2: issuers[0].expect.a..b: must be a dotted path into the token"),
        ("expect: [azp]", "2: issuers[0].expect: must be a mapping"),
        ("require: [exp, /a//b]", "2: issuers[0].require[1]: must be a JSON Pointer (RFC 6901)"),
        ("require: [/a~2]", "2: issuers[0].require[0]: must be a JSON Pointer (RFC 6901)"),
        ("subject: /", "2: issuers[0].subject: must be a JSON Pointer (RFC 6901)"),
        ("subject: a b", "2: issuers[0].subject: must be a dotted path into the token"),
        ("claims: {scopes: a..b}", "2: issuers[0].claims.scopes: must be a dotted path"),
        ("claims: {roles: [a, b..c]}", "2: issuers[0].claims.roles[1]: must be a dotted path"),
        ("claims: {roles: []}", "2: issuers[0].claims.roles: must have at least one entry"),
        ("claims: {roles: 7}", "2: issuers[0].claims.roles: must be a list"),
        ("claims: {tenant: a..b}", "2: issuers[0].claims.tenant.path: must be a dotted path"),
        ("claims: {tenant: {optional: true}}", "2: issuers[0].claims.tenant.path: is required"),
        ("claims: {tenant: {path: a, x: 1}}", "2: issuers[0].claims.tenant.x: is not a setting"),
        ("token_types: []", "2: issuers[0].token_types: must have at least one entry"),
        ("token_types: ['a b']", "2: issuers[0].token_types[0]: must be a `typ` of a token's header"),
        ("id_tokens: maybe", "2: issuers[0].id_tokens: must be one of 'deny' or 'allow'"),
        ("scope_separator: ''", "2: issuers[0].scope_separator: must not be empty"),
    ],
)
def test_a_mistake_is_told_where_it_is(tmp_path: Path, line: str, mistake: str) -> None:
    found = told(tmp_path, AUDIENCES, line)
    assert len(found) == 1
    assert found[0].startswith(mistake)
