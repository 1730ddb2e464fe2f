"""The settings of issuers: what may be written, and the message of each mistake."""

from pathlib import Path

import pytest

from gateway.settings import ConfigurationError, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source
from gateway.settings.sections import model

ENTRA = "https://login.microsoftonline.com"
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
def test_a_mistake_is_reported_at_its_place(tmp_path: Path, line: str, mistake: str) -> None:
    found = told(tmp_path, AUDIENCES, line)
    assert len(found) == 1
    assert found[0].startswith(mistake)


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        (("audiences: ['*']",), "1: issuers[0].audiences[0]: is the name of no API"),
        (("audiences: '*'",), "1: issuers[0].audiences: must be a list"),
        (("audiences: ['api://{tenantid}/x']",), "1: issuers[0].audiences[0]: has {tenantid}, which"),
        (("audiences: ['a ']",), "1: issuers[0].audiences[0]: has spaces around it"),
        ((AUDIENCES, "expect: {azp: '*'}"), "2: issuers[0].expect.azp: has `*`, which is no client"),
        (("audiences: null", "expect: {client_id: [web, '*']}"), "2: issuers[0].expect.client_id: has `*`"),
        ((AUDIENCES, "expect: {tid: '{tenant}'}"), "2: issuers[0].expect.tid: has {tenant}, which nothing"),
        ((AUDIENCES, "expect: {tid: '{tenantid}'}"), "2: issuers[0].expect.tid: has {tenantid}, which"),
    ],
)
def test_values_are_compared_as_they_are(tmp_path: Path, lines: tuple[str, ...], mistake: str) -> None:
    (found,) = told(tmp_path, *lines)
    assert found.startswith(mistake)


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ((), None),
        (("require: [sub]",), "require"),
        (("require: [sub]", "max_lifetime: 1h"), None),
        (("require: [/exp]", "leeway: 5m"), None),
        (("leeway: 6m",), "leeway"),
        (("subject: upn",), "subject"),
        (("subject: /email",), "subject"),
    ],
)
def test_valid_but_lenient_settings_are_warned_of(
    tmp_path: Path, lines: tuple[str, ...], field: str | None
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(BASE + "".join(f"    {line}\n" for line in (AUDIENCES, *lines)), encoding="utf-8")
    told = [problem.field for problem in advice(*load_with_source(file, {}))]
    assert told == ([] if field is None else [f"issuers[0].{field}"])


def test_a_scope_may_be_a_star(tmp_path: Path) -> None:
    assert issuer(tmp_path, AUDIENCES, "expect: {permissions: '*'}").expect == {"permissions": ("*",)}


# Key sources ------------------------------------------------------------------------------------


def test_one_source_or_several(tmp_path: Path) -> None:
    secret = "s" * 48
    (keys,) = issuer(tmp_path, AUDIENCES, "keys: {discovery: true}").keys
    assert keys.discovery
    two = issuer(
        tmp_path,
        AUDIENCES,
        "keys:",
        "  - jwks_uri: https://idp.example.com/jwks",
        f"  - {{secret: {secret}}}",
    )
    assert [each.has_secret for each in two.keys] == [False, True]
    assert two.algorithms[-1] == "HS256"
    assert issuer(tmp_path, AUDIENCES).keys[0].discovery


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        ("[]", "2: issuers[0].keys: must have at least one entry"),
        ("discovery", "2: issuers[0].keys: must be a mapping"),
        ("[discovery]", "2: issuers[0].keys[0]: must be a mapping"),
        ("[{discovery: true, jwks_uri: 'https://a.example/'}]", "2: issuers[0].keys[0]: has 2 key sources"),
        ("[{discovery: true}, {}]", "2: issuers[0].keys[1]: has no key source"),
        ("{secret: short}", "2: issuers[0].keys.secret: must have at least 32 bytes"),
        ("[{discovery: true}, {secret: short}]", "2: issuers[0].keys[1].secret: must have at least 32 bytes"),
        (
            "[{discovery: true, algorithms: [HS256]}]",
            "2: issuers[0].keys[0].algorithms[0]: HS256 needs a shared",
        ),
        (
            "[{jwks_uri: 'https://a.example/', algorithms: [RS256]}]\n    algorithms: [ES256]",
            "2: issuers[0].keys[0]: has keys for none of the issuer's `algorithms`",
        ),
        (
            "[{jwks_uri: 'https://a.example/'}, {secret_file: s}]\n    algorithms: [RS256]",
            "2: issuers[0].keys[1]: has keys for none of the issuer's `algorithms`",
        ),
        (
            "[{secret_file: s, algorithms: [RS256]}]",
            "2: issuers[0].keys[0].algorithms[0]: RS256 needs a public",
        ),
        ("[{discovery: true, jwks_url: x}]", "2: issuers[0].keys[0].jwks_url: is not a setting"),
        (
            "{jwks_uri: 'https://www.googleapis.com/oauth2/v1/certs'}",
            "2: issuers[0].keys.jwks_uri: has certificates, and not a JWK set",
        ),
        (
            "{jwks_uri: 'https://idp.example.com/{realm}/keys'}",
            "2: issuers[0].keys.jwks_uri: has {realm}, which",
        ),
        (
            "{jwks_uri: 'https://idp.example.com/{tenant}/keys'}",
            "2: issuers[0].keys.jwks_uri: has {tenant}, but",
        ),
    ],
)
def test_a_mistake_in_the_key_sources(tmp_path: Path, keys: str, mistake: str) -> None:
    found = told(tmp_path, AUDIENCES, f"keys: {keys}")
    assert any(each.startswith(mistake) for each in found), found


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (
            "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com",
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        ),
        ("https://www.googleapis.com/oauth2/v1/certs", "https://www.googleapis.com/oauth2/v3/certs"),
    ],
)
def test_certificates_are_no_keys(tmp_path: Path, wrong: str, right: str) -> None:
    (hint,) = hints(tmp_path, AUDIENCES, f"keys: {{jwks_uri: '{wrong}'}}")
    assert hint == f"write jwks_uri: {right}"
    assert issuer(tmp_path, AUDIENCES, f"keys: {{jwks_uri: '{right}'}}").keys[0].jwks_uri == right


def hints(folder: Path, *lines: str) -> list[str | None]:
    with pytest.raises(ConfigurationError) as caught:
        load_with(folder, *lines)
    return [each.hint for each in caught.value.problems]


# Patterns ---------------------------------------------------------------------------------------


def with_issuer(
    folder: Path, iss: str, *lines: str
) -> tuple[model.Settings | None, list[tuple[str, str | None]]]:
    """Return the settings, or each mistake at the line of the issuer and the fix for it."""
    file = folder / "gateway.yaml"
    base = BASE.replace("https://idp.example.com/", f"'{iss}'")
    file.write_text(base + "".join(f"    {line}\n" for line in (AUDIENCES, *lines)), encoding="utf-8")
    try:
        return load(file, {}), []
    except ConfigurationError as error:
        return None, [(f"{each.line}: {each.field}: {each.message}", each.hint) for each in error.problems]


@pytest.mark.parametrize("tenants", ["any", "[8a1c]", "['1', b.c-d]"])
def test_a_pattern_has_tenants(tmp_path: Path, tenants: str) -> None:
    settings, mistakes = with_issuer(tmp_path, f"{ENTRA}/{{tenant}}/v2.0", f"tenants: {tenants}")
    assert mistakes == []
    assert settings is not None
    keys = f"keys: {{jwks_uri: '{ENTRA}/{{tenant}}/keys'}}"
    expect = "expect: {tid: '{tenant}'}"
    assert with_issuer(tmp_path, f"{ENTRA}/{{tenant}}/v2.0", f"tenants: {tenants}", keys, expect)[1] == []


@pytest.mark.parametrize(
    ("iss", "lines", "mistake", "fix"),
    [
        (
            f"{ENTRA}/{{tenantid}}/v2.0", (),
            "8: issuers[0].issuer: has {tenantid}, which stands for nothing",
            f"write issuer: {ENTRA}/{{tenant}}/v2.0, and tenants: [the tenants' names], or any",
        ),
        (
            f"{ENTRA}/*/v2.0", (), "8: issuers[0].issuer: has *, which stands for nothing",
            f"write issuer: {ENTRA}/{{tenant}}/v2.0, and tenants: [the tenants' names], or any",
        ),
        (
            f"{ENTRA}/<tenant>/v2.0", (), "8: issuers[0].issuer: has <tenant>, which stands for nothing",
            f"write issuer: {ENTRA}/{{tenant}}/v2.0, and tenants: [the tenants' names], or any",
        ),
        (
            "https://idp.example.com/ ", (), "8: issuers[0].issuer: has spaces around it", "remove them",
        ),
        (
            "https://idp.example.com/a/.well-known/openid-configuration", (),
            "8: issuers[0].issuer: is the URL of metadata", "write issuer: https://idp.example.com/a",
        ),
        (
            f"{ENTRA}/$${{TENANT}}/v2.0", (), "8: issuers[0].issuer: has ${TENANT}, which nothing replaces",
            "write the `iss` as it is in the tokens",
        ),
        (
            f"{ENTRA}/common/v2.0", (), "8: issuers[0].issuer: is the `iss` of no token",
            f"write issuer: {ENTRA}/{{tenant}}/v2.0, and tenants: [the tenants' ids], or any",
        ),
        (
            "https://sts.windows.net/common/", (), "8: issuers[0].issuer: is the `iss` of no token",
            "write issuer: https://sts.windows.net/{tenant}/, and tenants: [the tenants' ids], or any",
        ),
        (
            "https://*.example.com/", (), "8: issuers[0].issuer: has *, which stands for nothing",
            "write issuer: https://{tenant}.example.com/, and tenants: [the tenants' names], or any",
        ),
        (
            "https://idp.example.com/*.json", (), "8: issuers[0].issuer: has *, which stands for nothing",
            "write the `iss` as it is in the tokens",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", (), "8: issuers[0].issuer: has {tenant}, but there are no tenants",
            "write tenants: [their names], or tenants: any",
        ),
        (
            f"{ENTRA}/{{tenant}}/{{tenant}}", ("tenants: any",),
            "8: issuers[0].issuer: must have {tenant} once, and no other placeholder",
            "write https://idp.example.com/{tenant} or https://{tenant}.example.com",
        ),
        (
            "https://{tenant}/", ("tenants: any",),
            "8: issuers[0].issuer: must have at least two labels after {tenant} in its host",
            "write https://idp.example.com/{tenant} or https://{tenant}.example.com",
        ),
        (
            f"{ENTRA}/8a1c/v2.0", ("tenants: [8a1c]",), "10: issuers[0].tenants: needs {tenant} in `issuer`",
            "remove it, or write the pattern",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: []",),
            "10: issuers[0].tenants: must be a list of tenants, or any",
            "write [8a1c, 77b2], each in quotes if it has only digits",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: [7]",),
            "10: issuers[0].tenants: must be a list of tenants, or any",
            "write [8a1c, 77b2], each in quotes if it has only digits",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: [a, b/c]",),
            "10: issuers[0].tenants[1]: cannot stand for {tenant}",
            "write one segment of a path or one label of a host, as in the tokens' `iss`",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: any", f"keys: {{jwks_uri: '{ENTRA}/common/keys'}}"),
            "11: issuers[0].keys.jwks_uri: would verify the tokens of all tenants with the same keys",
            "write {tenant} in the place of the tenant, or give discovery",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: any", "keys: {jwks_file: keys.json}"),
            "11: issuers[0].keys.jwks_file: would verify the tokens of all tenants with the same keys",
            "give discovery, or a jwks_uri with {tenant}",
        ),
        (
            f"{ENTRA}/{{tenant}}/v2.0", ("tenants: any", f"keys: [{{secret: {'s' * 32}}}]"),
            "11: issuers[0].keys[0].secret: would verify the tokens of all tenants with the same keys",
            "give discovery, or a jwks_uri with {tenant}",
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_a_pattern(
    tmp_path: Path, iss: str, lines: tuple[str, ...], mistake: str, fix: str
) -> None:
    settings, mistakes = with_issuer(tmp_path, iss, *lines)
    assert settings is None
    assert [each.startswith(mistake) for each, _ in mistakes] == [True], mistakes
    assert mistakes[0][1] == fix


def test_users_elsewhere_are_of_one_tenant_each(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    text = BASE.replace("https://idp.example.com/", "https://idp.example.com/{tenant}")
    text += f"    {AUDIENCES}\n    tenants: any\nusers:\n  source: {{preset: django}}\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"users\.source\.identities: has no tenant, and main"):
        load(file, {})
