"""The configuration: valid values, and the message of each mistake."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway import translation
from gateway.core.model import Auth
from gateway.settings import ConfigurationError, Problem, Settings, load
from gateway.settings.advice import advice, covers
from gateway.settings.reading.loading import load_with_source
from gateway.settings.reading.shape import schema
from gateway.settings.reference import markdown
from gateway.settings.sections.model import Match
from gateway.settings.values import parse_duration, parse_size
from tests.settings import mistakes

REPOSITORY = Path(__file__).parent.parent.parent
BASE = """\
server:
  listen: 127.0.0.1:8080
issuers:
  - name: main
    issuer: https://idp.example.com/
    audiences: [orders-api]
    keys: {discovery: true}
postgres:
  dsn: postgresql://gateway@127.0.0.1/gateway
redis:
  url: redis://127.0.0.1:6379/0
upstreams:
  orders:
    urls: ["http://127.0.0.1:9000"]
routes:
  - name: orders
    match:
      path: /orders/**
    upstream: orders
"""
SECRET = "an-hmac-secret-of-the-tests-with-more-than-64-bytes-so-that-it-is-enough"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def problems(file: Path, text: str, env: dict[str, str] | None = None) -> tuple[Problem, ...]:
    file.write_text(text, encoding="utf-8")
    return mistakes.problems(file, env)


def loaded(file: Path, text: str = BASE, env: dict[str, str] | None = None) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load(file, env or {})


def test_the_smallest_configuration_has_the_documented_defaults(file: Path) -> None:
    settings = loaded(file)

    assert (settings.admin.listen.host, settings.admin.listen.port) == ("127.0.0.1", 9901)
    assert settings.server.workers == "auto"
    limits = settings.server.limits
    assert (limits.head_size, limits.field_size, limits.body_size) == (65536, 32768, 1024**3)
    assert (limits.header_timeout, limits.keepalive_timeout) == (10.0, 75.0)
    (issuer,) = settings.issuers
    assert set(issuer.algorithms) == {
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
    }  # fmt: skip
    assert (issuer.leeway, issuer.require, issuer.max_lifetime) == (30.0, ("exp", "sub"), None)
    assert (issuer.claims.tenant.path, issuer.claims.tenant.optional) == ("tenant_id", True)
    assert (issuer.claims.scopes, issuer.claims.roles) == (("scope",), ("roles",))
    assert (issuer.subject, issuer.id_tokens, issuer.token_types) == ("sub", "deny", None)
    assert (issuer.expect, issuer.allow_unbound, issuer.scope_separator) == ({}, False, " ")
    assert (settings.jwks.timeout, settings.jwks.max_stale) == (5.0, 86400.0)
    assert (settings.postgres.schema_name, settings.postgres.statement_timeout) == ("public", 1.0)
    assert (settings.redis.prefix, settings.redis.timeout) == ("gateway:", 0.25)
    assert (settings.cache.user_ttl, settings.cache.negative_ttl, settings.cache.max_users) == (
        300.0,
        5.0,
        50_000,
    )
    assert settings.revocation.on_unavailable == "deny"
    assert settings.errors.detail == "generic"
    assert (settings.log.access, settings.log.subjects) == (False, "hashed")
    assert settings.headers.identity["X-User-Id"] == "user.id"
    assert settings.upstreams["orders"].connect_timeout == 2.0
    assert (settings.routes[0].auth, settings.routes[0].match.methods) == (Auth.REQUIRED, ())


def test_the_example_needs_no_environment_and_shows_the_defaults(file: Path) -> None:
    example = load(REPOSITORY / "config" / "gateway.yaml", {})
    defaults = loaded(file)

    for section in ("admin", "jwks", "cache", "revocation", "errors", "log", "headers"):
        assert getattr(example, section) == getattr(defaults, section)
    assert example.server == defaults.server.model_copy(update={"listen": example.server.listen})
    assert example.postgres.model_copy(update={"dsn": None}) == defaults.postgres.model_copy(
        update={"dsn": None}
    )
    assert example.redis.model_copy(update={"url": None}) == defaults.redis.model_copy(update={"url": None})


def test_the_example_shows_every_setting() -> None:
    text = (REPOSITORY / "config" / "gateway.yaml").read_text(encoding="utf-8")
    names = {
        name
        for definition in schema()["$defs"].values()
        for name, node in definition.get("properties", {}).items()
        if "x-parameter" not in node  # of a preset: docs/providers.md has an example of each
    }

    assert {name for name in names if f"{name}:" not in text} <= {"secret"}


def test_the_reference_is_up_to_date() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert page == markdown() + "\n", "run: gateway schema --markdown > docs/configuration.md"


def test_every_setting_is_described() -> None:
    for name, definition in schema()["$defs"].items():
        assert definition.get("description"), name
        for key, node in definition.get("properties", {}).items():
            assert node.get("description"), f"{name}.{key}"


ELSEWHERE = (
    "18: routes[0].match.path: has a parameter of another router, which would be matched as it stands here"
)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("listen: 127.0.0.1:8080", "listen: 8080", "2: server.listen: must be host:port"),
        ("listen: 127.0.0.1:8080", "listen: 127.0.0.1:70000", "2: server.listen: must be host:port"),
        ("listen: 127.0.0.1:8080", "workers: 0", "2: server.workers: must be a number of processes"),
        ("listen: 127.0.0.1:8080", "workers: true", "2: server.workers: must be a number of processes"),
        (
            "listen: 127.0.0.1:8080",
            "trusted_proxies: [10.0.0.1/8]",
            "2: server.trusted_proxies[0]: must be a net",
        ),
        ("listen: 127.0.0.1:8080", "limits: {field_size: 32000}", "2: server.limits.field_size: must be"),
        ("listen: 127.0.0.1:8080", "tls: {key: a.pem}", "2: server.tls: has no certificate"),
        (
            "listen: 127.0.0.1:8080",
            "listne: 127.0.0.1:1",
            "2: server.listne: is not a setting → did you mean listen?",
        ),
        (
            "listen: 127.0.0.1:8080",
            "zzz: 1",
            "2: server.zzz: is not a setting → known names: listen, workers",
        ),
        ("server:", "server: 5\nadmin:", "1: server: must be a mapping"),
        (
            "server:",
            "admin: {listen: '127.0.0.1:8080'}\nserver:",
            "1: admin.listen: is also the address of server.listen",
        ),
        ("server:", "admin: {token: 'sixteen and more'}\nserver:", "1: admin.token: must have at least 16"),
        (
            "server:",
            "headers: {identity: {X_Forwarded_User: user.id}}\nserver:",
            "1: headers.identity.X_Forwarded_User: belongs to the con",
        ),
        ("keys: {discovery: true}", "keys: {discovery: false}", "7: issuers[0].keys: has no key source"),
        ("server:", "admin: {token: short}\nserver:", "1: admin.token: must have at least 16 characters"),
        ("server:", "sever:", "1: sever: is not a setting → did you mean server?"),
        ("name: main", "name: Main Street", "4: issuers[0].name: must be a name of lower-case"),
        (
            "    audiences: [orders-api]\n",
            "",
            "4: issuers[0].audiences: is required → write audiences: [orders-api]",
        ),
        ("audiences: [orders-api]", "audiences: []", "6: issuers[0].audiences: must have at least one entry"),
        ("audiences: [orders-api]", "audiences: orders-api", "6: issuers[0].audiences: must be a list"),
        ("audiences: [orders-api]", "audiences: [7]", "6: issuers[0].audiences[0]: must be text"),
        ("audiences: [orders-api]", "audiences: ['']", "6: issuers[0].audiences[0]: must not be empty"),
        ("keys: {discovery: true}", "keys: discovery", "7: issuers[0].keys: must be a mapping"),
        ("keys: {discovery: true}", "keys: {}", "7: issuers[0].keys: has no key source"),
        (
            "keys: {discovery: true}",
            "keys: {discovery: true, pem_file: a.pem}",
            "7: issuers[0].keys: has 2 key sources: discovery, pem_file",
        ),
        (
            "keys: {discovery: true}",
            "keys: {jwks_uri: 'ftp://x/y'}",
            "7: issuers[0].keys.jwks_uri: must be an http",
        ),
        (
            "keys: {discovery: true}",
            "keys: {jwks_uri: 'https://u:p@x/y'}",
            "7: issuers[0].keys.jwks_uri: must be an http",
        ),
        (
            "keys: {discovery: true}",
            "algorithms: [HS256]",
            "7: issuers[0].algorithms[0]: HS256 needs a shared secret",
        ),
        (
            "keys: {discovery: true}",
            "algorithms: [none]",
            "7: issuers[0].algorithms[0]: must be one of 'RS256'",
        ),
        (
            "keys: {discovery: true}",
            "algorithms: []",
            "7: issuers[0].algorithms: must have at least one entry",
        ),
        (
            "keys: {discovery: true}",
            "keys: {secret: short}",
            "7: issuers[0].keys.secret: must have at least 32 bytes",
        ),
        (
            "keys: {discovery: true}",
            f"keys: {{secret: {SECRET[:47]}}}\n    algorithms: [HS384]",
            "7: issuers[0].keys.secret: must have at least 48 bytes",
        ),
        (
            "keys: {discovery: true}",
            f"keys: {{secret: {SECRET}}}\n    algorithms: [HS512, RS256]",
            "8: issuers[0].algorithms[1]: RS256 needs a public key",
        ),
        (
            "keys: {discovery: true}",
            f"keys: {{secret: '-----BEGIN PUBLIC KEY-----{SECRET}'}}",
            "7: issuers[0].keys.secret: is a PEM key",
        ),
        (
            "keys: {discovery: true}",
            "leeway: 30",
            "7: issuers[0].leeway: must be a duration with its unit → write",
        ),
        (
            "keys: {discovery: true}",
            "max_lifetime: 0s",
            "7: issuers[0].max_lifetime: must be longer than zero",
        ),
        (
            "keys: {discovery: true}",
            "claims: {roles: a..b}",
            "7: issuers[0].claims.roles: must be a dotted path",
        ),
        ("https://idp.example.com/", "my-idp", "5: issuers[0].issuer: must be a URL for discovery"),
        ("https://idp.example.com/", "https://[idp", "5: issuers[0].issuer: must be a URL for discovery"),
        ("https://idp.example.com/", "https://", "5: issuers[0].issuer: must be a URL for discovery"),
        ("https://idp.example.com/", "https://i:x", "5: issuers[0].issuer: must be a URL for discovery"),
        ("dsn: postgresql:", "dsn: mysql:", "9: postgres.dsn: must be a URL that starts with postgresql://"),
        ("  dsn: postgresql://gateway@127.0.0.1/gateway", "  pool_max: 5", "8: postgres.dsn: is required"),
        ("redis:\n", "  schema: a-b\nredis:\n", "10: postgres.schema: must be the name of a Postgres schema"),
        ("redis:\n  url", "redis:\n  timeout: 1s\n  urls", "10: redis.url: is required"),
        ("url: redis:", "url: http:", "11: redis.url: must be a URL that starts with redis://"),
        ("server:", "log: {level: loud}\nserver:", "1: log.level: must be one of 'debug', 'info'"),
        ("server:", "log: {access: maybe}\nserver:", "1: log.access: must be true or false"),
        ("server:", "cache: {max_users: many}\nserver:", "1: cache.max_users: must be a whole number"),
        ("server:", "cache: {max_users: 0}\nserver:", "1: cache.max_users: must be greater than 0"),
        (
            "server:",
            "headers: {identity: {Host: user.id}}\nserver:",
            "1: headers.identity.Host: belongs to the con",
        ),
        (
            "server:",
            "headers: {identity: {Te: user.id}}\nserver:",
            "1: headers.identity.Te: belongs to the con",
        ),
        (
            "server:",
            "headers: {identity: {Content_Length: user.id}}\nserver:",
            "1: headers.identity.Content_Length: belongs to the con",
        ),
        (
            "server:",
            "headers: {identity: {'X A': user.id}}\nserver:",
            "1: headers.identity.X A: must be a header name",
        ),
        (
            "server:",
            "headers: {identity: {X-A: user.name}}\nserver:",
            "1: headers.identity.X-A: must be the source",
        ),
        (
            "server:",
            "headers: {identity: {X-A: user.attributes}}\nserver:",
            "1: headers.identity.X-A: must be the source",
        ),
        (
            "server:",
            "headers: {identity: {X-A: claims.}}\nserver:",
            "1: headers.identity.X-A: must be the source",
        ),
        (
            "server:",
            "headers: {identity: {X-A: token}}\nserver:",
            "1: headers.identity.X-A: must be the source",
        ),
        (
            "server:",
            "headers: {identity: {X-A: user.id, x_a: user.id}}\nserver:",
            "1: headers.identity.x_a: is the same header as X-A",
        ),
        (
            "http://127.0.0.1:9000",
            "127.0.0.1:9000",
            "14: upstreams.orders.urls[0]: must be an http or https URL",
        ),
        (
            "http://127.0.0.1:9000",
            "http://a/b?c",
            "14: upstreams.orders.urls[0]: must be an http or https URL",
        ),
        ("http://127.0.0.1:9000", "http://a?b", "14: upstreams.orders.urls[0]: must be an http or https URL"),
        (
            "http://127.0.0.1:9000",
            "http://u:p@a",
            "14: upstreams.orders.urls[0]: must be an http or https URL",
        ),
        (
            "http://127.0.0.1:9000",
            "http://a:99999",
            "14: upstreams.orders.urls[0]: must be an http or https URL",
        ),
        ('["http://127.0.0.1:9000"]', "[]", "14: upstreams.orders.urls: must have at least one entry"),
        (
            "upstream: orders",
            "upstream: order",
            "19: routes[0].upstream: there is no upstream 'order' → did you mean",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    auth: maybe",
            "20: routes[0].auth: must be one of 'required'",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    auth: none\n    require: {roles: [admin]}",
            "21: routes[0].require: needs a user, but auth is none",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    auth: none\n    allow_inactive: true",
            "21: routes[0].allow_inactive: needs a token, but auth is none",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    auth: none\n    missing_user: forward",
            "21: routes[0].missing_user: needs a token, but auth is none",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    missing_user: forward\n    require: {roles: [admin]}",
            "20: routes[0].missing_user: forwards requests without a user, but require.roles needs one",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    missing_user: forward\n    require: {tenant: acme}",
            "20: routes[0].missing_user: forwards requests without a user, but require.tenant needs one",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    missing_user: create",
            "20: routes[0].missing_user: must be one of 'deny'",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    missing_user: provision",
            "20: routes[0].missing_user: creates users, but no issuer has provisioning → give",
        ),
        (
            "routes:",
            "users: {source: {preset: django}}\nroutes:\n  - {name: a, match: {path: /a}, upstream: orders,"
            " missing_user: provision}",
            "17: routes[0].missing_user: creates users, but users.source is read-only → let the system",
        ),
        (
            "    keys: {discovery: true}",
            "    keys: {discovery: true}\n    provisioning: {when: {hd: []}}",
            "8: issuers[0].provisioning.when.hd: must have at least one entry",
        ),
        (
            "    keys: {discovery: true}",
            "    keys: {discovery: true}\n    provisioning: {when: {hd: [null]}}",
            "8: issuers[0].provisioning.when.hd: must be a value or a list of values",
        ),
        ("/orders/**", "orders/**", "18: routes[0].match.path: must start with a slash → write /orders/**"),
        ("/orders/**", "/**/orders", "18: routes[0].match.path: `**` is allowed only at the end"),
        ("/orders/**", "/orders*", "18: routes[0].match.path: `*` must be a whole segment"),
        (
            "/orders/**",
            "/a/../b",
            "18: routes[0].match.path: no request can match this: the path holds a dot segment",
        ),
        ("/orders/**", "/a//b", "18: routes[0].match.path: no request can match this"),
        ("/orders/**", "/a;b", "18: routes[0].match.path: no request can match this"),
        ("/orders/**", "/a#b", "18: routes[0].match.path: no request can match this"),
        ("/orders/**", "/a\\b", "18: routes[0].match.path: no request can match this"),
        ("/orders/**", "/a%2fb", "18: routes[0].match.path: no request can match this"),
        ("/orders/**", "/a?b", "18: routes[0].match.path: must be a path without a query"),
        (
            "path: /orders/**",
            "path: /a\n      methods: [get]",
            "19: routes[0].match.methods[0]: must be an HTTP",
        ),
        ("/orders/**", "^/orders/.*$", "18: routes[0].match.path: is a regular expression"),
        ("/orders/**", "'/orders/[0-9]+/b'", "18: routes[0].match.path: has a parameter of another router"),
        (
            "/orders/**",
            "/orders/.+",
            "18: routes[0].match.path: has a parameter of another router, which would be matched as it stands"
            " here → write /orders/*:",
        ),
        (
            "path: /orders/**",
            "path: /a\n      hosts: [a..b]",
            "19: routes[0].match.hosts[0]: must be a host name",
        ),
        ("listen: 127.0.0.1:8080", "listen: '*:8080'", "2: server.listen: has no host `*` → write [::]:8080"),
        (
            "issuers:",
            "headers: {strip: ['X-*']}\nissuers:",
            "3: headers.strip[0]: has a wildcard, and names are compared as they stand",
        ),
        (
            "issuers:",
            "headers: {identity: {X-Original-URI: user.id}}\nissuers:",
            "3: headers.identity.X-Original-URI: belongs to the connection or to the gateway",
        ),
        (
            "path: /orders/**",
            "path: /a\n      methods: ['*']",
            "19: routes[0].match.methods[0]: must be an HTTP method, and `*` is none → leave `methods` out",
        ),
        (
            "path: /orders/**",
            "path: /a\n      methods: [CONNECT]",
            "19: routes[0].match.methods[0]: is never forwarded",
        ),
        (
            "path: /orders/**",
            "path: /a\n      hosts: ['a:80']",
            "19: routes[0].match.hosts[0]: must be a host name",
        ),
        (
            "path: /orders/**",
            "path: /a\n      hosts: ['a.*.b']",
            "19: routes[0].match.hosts[0]: `*` must be the first label of a name, and stands for one or more",
        ),
        (
            "path: /orders/**",
            "path: /a\n      hosts: ['*']",
            "19: routes[0].match.hosts[0]: `*` must be the first label of a name",
        ),
        (
            "path: /orders/**",
            "path: /a\n      hosts: ['*.0.0.1']",
            "19: routes[0].match.hosts[0]: `*` must be the first label of a name",
        ),
        (
            "/orders/**",
            "/orders/:id/items",
            f"{ELSEWHERE} → write /orders/*/items: `*` is one segment, a final `**` the rest",
        ),
        ("/orders/**", "/orders/{id}", ELSEWHERE),
        (
            "path: /orders/**",
            "path: '/files/{rest:path}'",
            f"{ELSEWHERE} → write /files/**: `*` is one segment",
        ),
        (
            "path: /orders/**",
            "path: '/files/{rest...}'",
            f"{ELSEWHERE} → write /files/**: `*` is one segment",
        ),
        ("path: /orders/**", "path: '/files/*rest'", f"{ELSEWHERE} → write /files/**: `*` is one segment"),
        ("path: /orders/**", "path: '/u/<int:id>/x'", f"{ELSEWHERE} → write /u/*/x: `*` is one segment"),
        (
            "upstream: orders",
            "upstream: orders\n    auth: none\n    credentials: {cookie: session}",
            "21: routes[0].credentials: are not checked where auth is none",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    credentials: {query: 'a&b'}",
            "20: routes[0].credentials.query: must be a name of letters",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    allowed_origins: ['https://a.example.com']",
            "20: routes[0].allowed_origins: are only for cookies, and credentials.cookie is not set",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    credentials: {cookie: a}\n    allowed_origins: ['https://a/']",
            "21: routes[0].allowed_origins[0]: must be an origin",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    upgrade: [h2c]",
            "20: routes[0].upgrade[0]: would carry requests that the gateway cannot check",
        ),
        (
            "upstream: orders",
            "upstream: orders\n    upgrade: ['a b']",
            "20: routes[0].upgrade[0]: must be a protocol",
        ),
        ("  - name: orders\n", "  - name: a.b\n", "16: routes[0].name: must be a name"),
        ("  orders:\n", "  Orders:\n", "13: upstreams.Orders: must be a name"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_field(file: Path, old: str, new: str, expected: str) -> None:
    assert old in BASE
    told = [str(problem) for problem in problems(file, BASE.replace(old, new, 1))]

    assert any(text.startswith(f"{file}:{expected}") for text in told), told


def test_every_mistake_is_reported_at_once_in_the_order_of_lines(file: Path) -> None:
    text = (
        BASE.replace("127.0.0.1:8080", "x")
        .replace("[orders-api]", "[]")
        .replace("upstream: orders", "upstream: o")
    )
    text = text.replace("/orders/**", "orders").replace("redis:\n", "redis:\n  timeout: 5\n") + "extra: 1\n"

    found = problems(file, text)

    assert [(problem.field, problem.line) for problem in found] == [
        ("server.listen", 2),
        ("issuers[0].audiences", 6),
        ("redis.timeout", 11),
        ("routes[0].match.path", 19),
        ("routes[0].upstream", 20),
        ("extra", 21),
    ]


def test_entries_that_are_wrong_are_not_called_absent(file: Path) -> None:
    assert [p.field for p in problems(file, BASE.replace("name: main", "name: M"))] == ["issuers[0].name"]


def test_names_and_issuers_are_unique(file: Path) -> None:
    second = "  - {name: main, issuer: https://idp.example.com/, audiences: [a]}\n"
    text = BASE.replace("postgres:\n", f"{second}postgres:\n", 1)
    text += "  - {name: orders, match: {path: /x}, upstream: orders}\n"

    assert [(p.field, p.line) for p in problems(file, text)] == [
        ("issuers[1].name", 8),
        ("issuers[1].issuer", 8),
        ("routes[1].name", 21),
    ]


@pytest.mark.parametrize("section", ["issuers", "upstreams", "routes", "postgres", "redis"])
def test_a_missing_section_is_reported_with_its_meaning(file: Path, section: str) -> None:
    kept = [part for part in BASE.split("\n") if part]
    start = kept.index(f"{section}:")
    end = next((i for i in range(start + 1, len(kept)) if not kept[i].startswith(" ")), len(kept))
    text = "\n".join(kept[:start] + kept[end:])

    found = [problem for problem in problems(file, text) if problem.field == section]

    assert [problem.message for problem in found] == ["is required"]
    assert found[0].line == 1
    assert found[0].hint is not None
    assert found[0].hint.startswith(f"write {section}: ")


def test_an_empty_file_lacks_everything(file: Path) -> None:
    assert {p.field for p in problems(file, "")} == {"issuers", "upstreams", "routes", "postgres", "redis"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1\nb: 2\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("- a\n", 1, "must be a mapping of sections"),
        ("!!set {a, b}\n", 1, "must be a mapping of sections"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: 1\nb: \x07\n", 2, "not YAML"),
        ("a: 1\n? [x]\n: 2\n", 2, "not YAML"),
        ("a: !!python/object:os.system {}\n", 1, "not YAML"),
        ("a: 2024-99-99\n", None, "not YAML"),
        ("[" * 1000, None, "not YAML"),
    ],
)
def test_text_that_is_not_yaml_is_reported_with_its_line(
    file: Path, text: str, line: int | None, message: str
) -> None:
    (problem,) = problems(file, text)

    assert problem.line == line
    assert message in problem.message


def test_a_key_given_twice_is_reported(file: Path) -> None:
    found = problems(
        file, BASE.replace("  listen: 127.0.0.1:8080", "  listen: 127.0.0.1:8080\n  listen: a:1")
    )

    assert [(p.field, p.line, p.message) for p in found] == [("server.listen", 3, "is given twice")]
    assert found[0].hint == "remove this one or the one on line 2"


def test_keys_are_text(file: Path) -> None:
    found = problems(file, f"{BASE}8: x\n")

    assert [(p.field, p.line, p.message) for p in found] == [("8", 20, "is not text, but keys must be")]


def test_anchors_and_merges_work(file: Path) -> None:
    text = BASE.replace(
        "  orders:\n    urls",
        "  other: &base {urls: ['http://o'], connect_timeout: 9s}\n  orders:\n    <<: *base\n    urls",
    )

    settings = loaded(file, text)

    assert settings.upstreams["orders"].connect_timeout == 9.0
    assert settings.upstreams["orders"].urls == ("http://127.0.0.1:9000",)


def test_an_alias_to_itself_is_refused(file: Path) -> None:
    found = problems(file, BASE.replace("[orders-api]", "&me [*me]"))

    assert [(p.field, p.line) for p in found] == [("issuers[0].audiences[0]", 6)]


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigurationError) as caught:
            load(path, {})
        assert [(p.file, p.line) for p in caught.value.problems] == [(str(path), None)]
        assert caught.value.problems[0].hint


def test_a_file_that_is_not_utf8_is_reported(file: Path) -> None:
    file.write_bytes(b"a: 1\nb: \xff\n")

    with pytest.raises(ConfigurationError) as caught:
        load(file, {})

    assert [(p.message, p.line) for p in caught.value.problems] == [("is not UTF-8 text", 2)]


def test_the_environment_overrides_the_file(file: Path) -> None:
    settings = loaded(
        file,
        env={
            "GATEWAY_SERVER__LISTEN": "[::1]:0",
            "GATEWAY_SERVER__WORKERS": "3",
            "GATEWAY_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "GATEWAY_SERVER__TLS__CERTIFICATE": "null",
            "GATEWAY_ADMIN__TOKEN": "a-token-for-the-tests",
            "GATEWAY_POSTGRES__DSN": "postgres://other/db",
            "GATEWAY_POSTGRES__SCHEMA": "gw",
            "GATEWAY_CACHE": '{"user_ttl": "1m"}',
            "GATEWAY_CACHE__MAX_USERS": "7",
            "GATEWAY_LOG__ACCESS": "true",
            "GATEWAY_UPSTREAMS__ORDERS__URLS": '["http://a", "http://b:1/"]',
            "GATEWAY_UPSTREAMS__ORDERS__CONNECT_TIMEOUT": "500ms",
        },
    )

    assert (settings.server.listen.host, settings.server.listen.port) == ("::1", 0)
    assert settings.server.workers == 3
    assert settings.server.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert settings.server.tls.certificate is None
    assert settings.admin.token is not None
    assert settings.admin.token.get_secret_value() == "a-token-for-the-tests"
    assert settings.postgres.dsn.get_secret_value() == "postgres://other/db"
    assert settings.postgres.schema_name == "gw"
    assert (settings.cache.user_ttl, settings.cache.max_users, settings.cache.negative_ttl) == (60.0, 7, 5.0)
    assert settings.log.access is True
    assert settings.upstreams["orders"].urls == ("http://a", "http://b:1")
    assert settings.upstreams["orders"].connect_timeout == 0.5


def test_a_list_from_the_environment_takes_the_place_of_the_file_s(file: Path) -> None:
    route = {"name": "all", "match": {"path": "/**"}, "upstream": "orders"}

    settings = loaded(file, env={"GATEWAY_ROUTES": json.dumps([route])})

    assert [route.name for route in settings.routes] == ["all"]


def test_variables_that_are_no_settings_are_left_alone(file: Path) -> None:
    others = {
        "GATEWAY_CONFIG": "x",
        "GATEWAY_TEST_POSTGRES_DSN": "x",
        "GATEWAY_TEST_X__Y": "x",
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "PATH": "/bin",
    }

    assert loaded(file, env=others) == loaded(file)


@pytest.mark.parametrize(
    ("variable", "value", "field", "told"),
    [
        ("GATEWAY_SERVER__LISTEN", "8080", "server.listen", "must be host:port"),
        ("GATEWAY_SERVER__LISTNE", "a:1", "server.listne", "did you mean GATEWAY_SERVER__LISTEN?"),
        ("GATEWAY_SEVER__LISTEN", "a:1", "sever.listen", "did you mean GATEWAY_SERVER__LISTEN?"),
        ("GATEWAY_POSTGRES__POOL_MIN", "11", "postgres.pool_min", "is more than pool_max (10)"),
        ("GATEWAY_SERVER__TRUSTED_PROXIES", "10.0.0.0/8", "server.trusted_proxies", "is not JSON"),
        ("GATEWAY_ROUTES__0__AUTH", "none", "routes.0.auth", "give the whole list as JSON: GATEWAY_ROUTES"),
        ("GATEWAY_ROUTES", '[{"name": "a"}]', "routes[0].match", "is required"),
        ("GATEWAY_REDIS", '{"port": 1}', "redis.port", "is not a setting"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    file: Path, variable: str, value: str, field: str, told: str
) -> None:
    found = {problem.field: problem for problem in problems(file, BASE, {variable: value})}

    assert (found[field].file, found[field].line) == (variable, None)
    assert told in str(found[field])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_POSTGRES__DSN", "mysql://user:hunter2@host/db"),
        ("GATEWAY_REDIS__URL", "hunter2"),
        ("GATEWAY_ADMIN__TOKEN", "hunter2"),
        ("GATEWAY_POSTGRES", '{"dsn": "hunter2"}'),
        ("GATEWAY_POSTGRES", '{"dsn": hunter2'),
        ("GATEWAY_ISSUERS", '[{"keys": {"secret": "hunter2", "pem_file": "hunter2"}, "name": "A"}]'),
    ],
)
def test_secrets_are_in_no_error(file: Path, variable: str, value: str) -> None:
    file.write_text(BASE, encoding="utf-8")

    with pytest.raises(ConfigurationError) as caught:
        load(file, {variable: value})

    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error}{error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_secrets_are_in_no_repr(file: Path) -> None:
    text = BASE.replace("gateway@", "gateway:hunter2@").replace(
        "keys: {discovery: true}", f"keys: {{secret: {SECRET}}}"
    )

    settings = loaded(file, text)

    assert "hunter2" not in repr(settings)
    assert SECRET not in repr(settings)


def test_a_secret_issuer_verifies_hs256_unless_told_otherwise(file: Path) -> None:
    for source in (f"secret: {SECRET}", "secret_file: /run/secrets/issuer"):
        settings = loaded(file, BASE.replace("discovery: true", source))
        assert settings.issuers[0].algorithms == ("HS256",)


def test_settings_can_be_made_from_a_mapping_and_are_checked_as_a_whole() -> None:
    values = {
        "issuers": [{"name": "demo", "issuer": "http://127.0.0.1:1", "audiences": ["demo"]}],
        "postgres": {"dsn": "postgresql://h/d"},
        "redis": {"url": "redis://h"},
        "upstreams": {"echo": {"urls": ["http://127.0.0.1:1"]}},
        "routes": [{"name": "echo", "match": {"path": "/**"}, "upstream": "ecko"}],
    }

    with pytest.raises(ValueError, match="there is no upstream 'ecko'"):
        Settings.model_validate(values)


def test_both_listeners_may_ask_for_any_free_port(file: Path) -> None:
    settings = loaded(
        file, BASE.replace("127.0.0.1:8080", "127.0.0.1:0") + "admin: {listen: '127.0.0.1:0'}\n"
    )

    assert settings.admin.listen == settings.server.listen


def test_settings_do_not_change(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        loaded(file).log.access = True


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("0s", 0.0), ("1.5s", 1.5), ("30s", 30.0), ("5m", 300.0), ("24h", 86400.0)],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["30", 30, 30.0, "30 s", "-1s", "1h30m", "1d", "s", "", None, True, "١s"])
def test_a_text_that_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "octets"), [("0B", 0), ("64KiB", 65536), ("1MiB", 1048576), ("1GiB", 1073741824)]
)
def test_sizes_are_bytes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("value", ["64", 64, "64KB", "64kib", "1.5MiB", "-1B", None])
def test_a_text_that_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(value)


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        ("/**", "/a/b", True),
        ("/**", "/", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b/**", True),
        ("/a/**", "/a/*", True),
        ("/a/**", "/ab", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/*", True),
        ("/a/*", "/a/", False),
        ("/a/*", "/a/**", False),
        ("/a/*", "/a/b/c", False),
        ("/a/b", "/a/*", False),
        ("/*/b", "/a/b", True),
        ("/*/b/**", "/a/b/c", True),
        ("/a/b/**", "/a/**", False),
        ("/a", "/a/**", False),
    ],
)
def test_a_path_covers_another(earlier: str, later: str, covered: bool) -> None:
    assert covers(Match(path=earlier), Match(path=later)) is covered


def test_methods_and_hosts_have_to_be_covered_too() -> None:
    anything, get = Match(path="/**"), Match(path="/**", methods=("GET",))
    host = Match(path="/**", hosts=("a.example.com",))

    assert covers(anything, get)
    assert not covers(get, anything)
    assert covers(Match(path="/**", methods=("GET", "PUT")), get)
    assert not covers(Match(path="/**", methods=("PUT",)), get)
    assert covers(anything, host)
    assert not covers(host, anything)
    below = Match(path="/**", hosts=("*.example.com",))
    assert covers(below, host)
    assert covers(below, Match(path="/**", hosts=("*.a.example.com", "b.example.com")))
    assert covers(below, below)
    assert not covers(below, Match(path="/**", hosts=("example.com",)))
    assert not covers(host, below)


def advised(file: Path, text: str) -> dict[str, str]:
    file.write_text(text, encoding="utf-8")
    return {warning.field: str(warning) for warning in advice(*load_with_source(file, {}))}


def test_a_good_configuration_gets_no_advice(file: Path) -> None:
    assert advised(file, BASE) == {}


def test_a_route_that_is_never_reached_is_reported(file: Path) -> None:
    text = f"{BASE}  - {{name: one, match: {{path: /orders/1}}, upstream: orders}}\n"

    assert advised(file, text)["routes[1]"].startswith(
        f"{file}:20: routes[1]: (one) is never reached: orders takes"
    )


def test_a_route_for_the_health_path_is_reported(file: Path) -> None:
    text = BASE.replace("path: /orders/**", "path: /healthz").replace(
        "server:", "server:\n  health_path: /healthz", 1
    )
    (message,) = advised(file, text).values()
    assert "routes[0].match.path: (orders) is never reached: server.health_path takes this path" in message


def test_a_route_for_the_keys_of_assertions_is_reported(file: Path) -> None:
    text = "assertion: {}\n" + BASE.replace("path: /orders/**", "path: /.well-known/jwks.json")
    (message,) = advised(file, text).values()
    assert "routes[0].match.path: (orders) is never reached: assertion takes this path" in message


def test_a_proxy_header_on_a_unix_socket_is_reported(file: Path) -> None:
    text = BASE.replace(
        "listen: 127.0.0.1:8080",
        "listen: unix:/run/g\n  proxy_protocol: true\n  trusted_proxies: [10.0.0.0/8]",
    )
    assert "is not read on a Unix socket" in advised(file, text)["server.proxy_protocol"]


def test_open_routes_and_idle_upstreams_are_reported(file: Path) -> None:
    text = BASE.replace("upstreams:\n", "upstreams:\n  idle: {urls: ['http://i']}\n")

    found = advised(file, f"{text}    auth: none\n")

    assert set(found) == {"upstreams.idle", "routes[0].auth"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("jwks_uri: http://idp.example.com/jwks", True),
        ("jwks_uri: http://127.0.0.1:8/jwks", False),
        ("jwks_uri: http://localhost:8/jwks", False),
        ("jwks_uri: https://idp.example.com/jwks", False),
    ],
)
def test_keys_over_plain_http_are_reported(file: Path, keys: str, told: bool) -> None:
    assert ("issuers[0].keys" in advised(file, BASE.replace("discovery: true", keys))) is told


def test_key_files_are_looked_at(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    text = BASE.replace("discovery: true", f"secret_file: {secret}")
    assert "which is not a file" in advised(file, text)["issuers[0].keys.secret_file"]

    secret.write_text(SECRET, encoding="utf-8")
    secret.chmod(0o644)
    assert "can be read by all users of this machine" in advised(file, text)["issuers[0].keys.secret_file"]

    secret.chmod(0o600)
    assert advised(file, text) == {}


def test_addresses_that_no_owner_has_confirmed_are_reported(file: Path) -> None:
    text = BASE.replace(
        "keys: {discovery: true}", "keys: {discovery: true}\n    provisioning: {email: email}"
    )
    route = "  - {name: join, match: {path: /join}, upstream: orders, missing_user: provision}\n"

    assert "issuers[0].provisioning" in advised(file, text)
    assert "has not confirmed" in advised(file, text + route)["issuers[0].provisioning.email"]
    confirmed = text.replace("email: email", "email: email, when: {email_verified: true}")
    assert advised(file, confirmed + route) == {}


@pytest.mark.parametrize(
    ("headers", "route", "mistake"),
    [
        ("x_user_status: claims.state", "allow_inactive: true", "must be user.status"),
        ("X-User-Status: user.status", "allow_inactive: true", None),
        ("X-User-Status: claims.state", "auth: required", None),
        ("X_User_Missing: claims.state", "auth: required", "belongs to the connection or to the gateway"),
    ],
)
def test_headers_about_users_have_one_meaning(
    file: Path, headers: str, route: str, mistake: str | None
) -> None:
    text = f"headers: {{identity: {{{headers}}}}}\n{BASE}    {route}\n"

    if mistake is None:
        loaded(file, text)
    else:
        (problem,) = problems(file, text)
        assert mistake in str(problem)


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ('claims.plan == "pro"', True),
        ('!has(claims.sub) || claims.plan == "pro"', False),
        ('client.ip == "10.0.0.1"', False),
    ],
)
def test_a_condition_that_refuses_wanted_users_is_reported(file: Path, condition: str, *, told: bool) -> None:
    route = f"    upstream: orders\n    auth: optional\n    require: {{condition: '{condition}'}}\n"
    found = advised(file, BASE.replace("    upstream: orders\n", route))
    assert ("routes[0].require.condition" in found) is told


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("listen: 127.0.0.1:8080", "mode: shadow", "server.mode"),
        ("keys: {discovery: true}", "mode: shadow", "issuers[0].mode"),
        ("    upstream: orders\n", "    upstream: orders\n    mode: shadow\n", "routes[0].mode"),
        (
            "    upstream: orders\n",
            "    upstream: orders\n    require: {condition: claims.a == 1, condition_mode: shadow}\n",
            "routes[0].require.condition_mode",
        ),
    ],
)
def test_settings_in_shadow_are_warned_of(file: Path, old: str, new: str, where: str) -> None:
    told = advised(file, BASE.replace(old, new))
    assert "is shadow: " in told[where]
    assert any(word in told[where] for word in (" NO ", " NOT ", " ALL "))
    assert translation.shadow(load(file, {})) is not None


def test_nothing_is_in_shadow_by_default(file: Path) -> None:
    file.write_text(BASE)
    assert translation.shadow(load(file, {})) is None
