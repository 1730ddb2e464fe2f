"""Every setting of an issuer, a route, an upstream or a client's limits arrives where it is used.

The settings of all other sections are passed on by hand: tests/settings/test_used.py sees that each is read.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from gateway import translation
from gateway.core.model import Issuer
from gateway.issuer_keys import fetch
from gateway.settings import Settings
from gateway.settings.sections import model
from gateway.settings.sections.section import Section
from tests.harness import configuration

ISSUER: Final = {"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"]}
ROUTE: Final = {"name": "orders", "match": {"path": "/api/**"}, "upstream": "orders"}
UPSTREAM: Final = {"urls": ["http://127.0.0.1:9000"]}
_CHECK: Final = {"path": "/healthz"}
_COOKIE: Final = {"cookie": "session"}
_CORS: Final = {"origins": ["https://app.example.com"]}

CHANGES: Final[dict[type[Section], dict[str, dict[str, Any]]]] = {
    model.Issuer: {
        "name": {"name": "other"},
        "issuer": {"issuer": "https://other.example.com/"},
        "tenants": {"issuer": "https://idp.example.com/{tenant}", "tenants": ["acme"]},
        "audiences": {"audiences": ["other"]},
        "algorithms": {"algorithms": ["RS256"]},
        "leeway": {"leeway": "7s"},
        "require": {"require": ["jti"]},
        "max_lifetime": {"max_lifetime": "1h"},
        "token_types": {"token_types": ["at+jwt"]},
        "id_tokens": {"id_tokens": "allow"},
        "allow_unbound": {"allow_unbound": True},
        "expect": {"expect": {"azp": "web"}},
        "subject": {"subject": "oid"},
        "scope_separator": {"scope_separator": ","},
        "claims.tenant": {"claims": {"tenant": "tid"}},
        "claims.tenant.path": {"claims": {"tenant": {"path": "tid", "optional": True}}},
        "claims.tenant.optional": {"claims": {"tenant": {"path": "tenant_id", "optional": False}}},
        "claims.scopes": {"claims": {"scopes": "scp"}},
        "claims.roles": {"claims": {"roles": ["groups", "roles"]}},
        "provisioning": {"provisioning": {}},
        "provisioning.email": {"provisioning": {"email": "email"}},
        "provisioning.display_name": {"provisioning": {"display_name": "name"}},
        "provisioning.tenant": {"provisioning": {"tenant": "tid"}},
        "provisioning.roles": {"provisioning": {"roles": ["member"]}},
        "provisioning.when": {"provisioning": {"when": {"email_verified": True}}},
    },
    model.Keys: {
        "discovery": {"discovery": True},
        "jwks_uri": {"jwks_uri": "https://idp.example.com/keys"},
        "jwks_file": {"jwks_file": "keys.json"},
        "pem_file": {"pem_file": "key.pem"},
        "secret": {"secret": "s" * 32},
        "secret_file": {"secret_file": "secret"},
        "algorithms": {"secret_file": "another", "algorithms": ["HS512"]},
    },
    model.Introspection: {
        "endpoint": {"endpoint": "https://other.example.com/introspect"},
        "client_id": {"client_id": "other"},
        "client_secret": {"client_secret": "s3cret"},
        "client_secret_file": {"client_secret_file": "secret"},
        "private_key_file": {"private_key_file": "key.pem"},
        "key_id": {"private_key_file": "key.pem", "key_id": "1"},
        "prefix": {"prefix": "op_"},
        "cache_ttl": {"cache_ttl": "7s"},
    },
    model.Route: {
        "name": {"name": "other"},
        "match.path": {"match": {"path": "/other/**"}},
        "match.methods": {"match": {"path": "/api/**", "methods": ["GET"]}},
        "match.hosts": {"match": {"path": "/api/**", "hosts": ["a.example"]}},
        "upstream": {"upstream": "other"},
        "match.allow": {"match": {"path": "/api/**", "allow": ["semicolon"]}},
        "forward_authorization": {"forward_authorization": True},
        "strip_prefix": {"strip_prefix": "/api"},
        "auth": {"auth": "optional"},
        "require.scopes": {"require": {"scopes": ["orders:read"]}},
        "require.roles": {"require": {"roles": ["admin"]}},
        "require.token_roles": {"require": {"token_roles": ["admin"]}},
        "require.condition": {"require": {"condition": 'claims.plan == "pro"'}},
        "require.condition_mode": {"require": {"condition_mode": "shadow"}},
        "mode": {"mode": "shadow"},
        "require.tenant": {"require": {"tenant": "acme"}},
        "allow_inactive": {"allow_inactive": True},
        "missing_user": {"missing_user": "forward"},
        "credentials.cookie": {"credentials": _COOKIE},
        "credentials.query": {"credentials": {"query": "access_token"}},
        "credentials.subprotocol": {"credentials": {"subprotocol": "bearer"}},
        "allowed_origins": {"credentials": _COOKIE, "allowed_origins": ["https://app.example.com"]},
        "upgrade": {"upgrade": []},
        "tunnel_timeout": {"tunnel_timeout": "7s"},
        "close_on_revocation": {"close_on_revocation": False},
        "cors.origins": {"cors": {"origins": ["https://other.example.com"]}},
        "cors.methods": {"cors": {**_CORS, "methods": ["GET"]}},
        "cors.headers": {"cors": {**_CORS, "headers": ["X-Trace"]}},
        "cors.expose": {"cors": {**_CORS, "expose": ["X-Trace"]}},
        "cors.credentials": {"cors": {**_CORS, "credentials": True}},
        "cors.max_age": {"cors": {**_CORS, "max_age": "7s"}},
        "max_body": {"max_body": "7KiB"},
    },
    model.Upstream: {
        "urls": {"urls": ["http://127.0.0.1:9001"]},
        "connect_timeout": {"connect_timeout": "7s"},
        "response_timeout": {"response_timeout": "7s"},
        "idle_timeout": {"idle_timeout": "7s"},
        "keep_alive": {"keep_alive": "7s"},
        "max_age": {"max_age": "7s"},
        "max_connections": {"max_connections": 7},
        "max_pending": {"max_pending": 7},
        "retry_budget": {"retry_budget": 0.7},
        "ejection.failures": {"ejection": {"failures": 7}},
        "ejection.base_time": {"ejection": {"base_time": "7s"}},
        "ejection.max_time": {"ejection": {"max_time": "7s"}},
        "health_check": {"health_check": _CHECK},
        "health_check.path": {"health_check": {"path": "/other"}},
        "health_check.interval": {"health_check": {**_CHECK, "interval": "7s"}},
        "health_check.timeout": {"health_check": {**_CHECK, "timeout": "7s"}},
        "health_check.healthy_after": {"health_check": {**_CHECK, "healthy_after": 7}},
        "health_check.unhealthy_after": {"health_check": {**_CHECK, "unhealthy_after": 7}},
        "dns_ttl": {"dns_ttl": "7s"},
        "buffer_requests": {"buffer_requests": "7KiB"},
        "host": {"host": "upstream"},
        "tls.verify": {"tls": {"verify": False}},
        "tls.ca": {"tls": {"ca": "ca.pem"}},
        "tls.certificate": {"tls": {"certificate": "own.pem"}},
        "tls.key": {"tls": {"key": "own.key"}},
        "tls.server_name": {"tls": {"server_name": "a.example"}},
        "tls.strict": {"tls": {"strict": True}},
    },
    model.Limits: {
        "head_size": {"head_size": "7KiB"},
        "header_count": {"header_count": 7},
        "field_size": {"field_size": "7KiB"},
        "target_length": {"target_length": "7KiB"},
        "header_timeout": {"header_timeout": "7s"},
        "keepalive_timeout": {"keepalive_timeout": "7s"},
        "keepalive_requests": {"keepalive_requests": 7},
        "body_size": {"body_size": "7KiB"},
        "body_min_rate": {"body_min_rate": "7B"},
        "response_min_rate": {"response_min_rate": "7B"},
        "rate_grace": {"rate_grace": "7s"},
        "connections_per_client": {"connections_per_client": 7},
        "max_connections": {"max_connections": 7},
    },
}
"""For each setting, what to write so that something must come out differently."""


def arrived(kind: type[Section], written: dict[str, Any]) -> tuple[object, ...]:
    """Return all that becomes of what is written."""
    if kind is model.Issuer:
        return (translation.issuer(model.Issuer.model_validate({**ISSUER, **written})),)
    if kind is model.Keys:
        # Exactly one source is given.
        keys = written or {"secret_file": "another"}
        return (translation.key_source(model.Issuer.model_validate({**ISSUER, "keys": keys})),)
    if kind is model.Introspection:
        proof = (
            {}
            if written.keys() & {"client_secret", "private_key_file"}
            else {"client_secret_file": "another"}
        )
        whole = {"endpoint": "https://idp.example.com/introspect", "client_id": "gateway", **proof, **written}
        return (
            *translation.opaque_issuers([model.Issuer.model_validate({**ISSUER, "introspection": whole})]),
        )
    if kind is model.Upstream:
        upstream = model.Upstream.model_validate({**UPSTREAM, **written})
        return (translation.upstream("orders", upstream),)
    limits = model.Limits.model_validate(written if kind is model.Limits else {})
    route = model.Route.model_validate({**ROUTE, **(written if kind is model.Route else {})})
    return translation.limits(limits), translation.route(route, limits.body_size)


def settings_of(kind: type[Section], before: str = "") -> set[str]:
    """Return the dotted names of all settings of a section, and of the sections within it."""
    found: set[str] = set()
    for name, setting in kind.model_fields.items():
        within = next(
            (each for each in (setting.annotation, *getattr(setting.annotation, "__args__", ()))
             if isinstance(each, type) and issubclass(each, Section)), None
        )  # fmt: skip
        found |= {before + name} if within is None else settings_of(within, f"{before}{name}.")
    return found


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_every_setting_is_tried(kind: type[Section]) -> None:
    elsewhere = ("keys.", "introspection.", "mode") if kind is model.Issuer else ()
    there = {name for name in settings_of(kind) if not name.startswith(elsewhere)}
    tried = CHANGES[kind].keys()
    assert there <= tried, f"write down a change of {there - tried}"


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, changes in CHANGES.items() for name in changes]
)
def test_a_setting_arrives(kind: type[Section], name: str) -> None:
    beside: dict[str, dict[str, Any]] = {
        "allowed_origins": {"credentials": _COOKIE},
        "health_check": {"health_check": _CHECK},
        "cors": {"cors": _CORS},
        "provisioning": {"provisioning": {}},
        "key_id": {"private_key_file": "key.pem"},
    }
    without = beside.get(name.partition(".")[0], {}) if name not in {"health_check", "provisioning"} else {}
    assert arrived(kind, CHANGES[kind][name]) != arrived(kind, without)


def test_a_setting_that_would_be_ignored_is_an_error() -> None:
    class Newer(model.Issuer):
        actor: str = "act"

    with pytest.raises(TypeError, match="the setting `actor` of Newer has no place in Issuer"):
        translation.issuer(Newer.model_validate(ISSUER))


def test_a_key_setting_that_would_be_ignored_is_an_error() -> None:
    class Keys(model.Keys):
        token: str | None = None

    class Newer(model.Issuer):
        keys: tuple[Keys, ...] = (Keys(jwks_uri="https://idp.example.com/keys", token="secret"),)

    with pytest.raises(TypeError, match="the setting `token` of Keys makes no key source"):
        translation.key_source(Newer.model_validate(ISSUER))


async def test_keys_are_fetched_according_to_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    strict: list[bool] = []

    def trust(is_strict: bool) -> ssl.SSLContext:
        strict.append(is_strict)
        return ssl.create_default_context()

    monkeypatch.setattr(fetch, "_system_trust", trust)
    jwks = model.Jwks.model_validate({"timeout": "7s", "tls": {"strict": True}})
    async with translation.fetcher(jwks) as fetcher:
        assert (fetcher.timeout, strict) == (7.0, [True])


def test_a_setting_within_a_section_that_would_be_ignored_is_an_error() -> None:
    class Claims(model.Claims):
        groups: str = "groups"

    class Newer(model.Issuer):
        claims: Claims = Claims()

    with pytest.raises(TypeError, match="the setting `groups` of Claims has no place in ClaimPaths"):
        translation.issuer(Newer.model_validate(ISSUER))


def test_a_field_without_a_setting_is_an_error() -> None:
    @dataclass(frozen=True)
    class More(Issuer):
        actors: frozenset[str] = field(kw_only=True)

    with pytest.raises(TypeError, match="actors"):
        translation.derived(
            model.Issuer.model_validate(ISSUER), More, elsewhere={"keys", "introspection", "mode"}
        )


def test_a_route_has_the_base_path_of_its_upstream(tmp_path: Path) -> None:
    written = configuration(tmp_path, "http://127.0.0.1:9000/base/", "postgresql://g@h/g", "redis://h", "p:")
    found = {route.name: route.base_path for route in translation.routes(Settings.model_validate(written))}
    assert (found["private"], found["gone"]) == ("/base", "")


def test_workers_are_as_many_as_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert translation.workers(model.Server(workers="auto")) == 3
    assert translation.workers(model.Server(workers=2)) == 2
