"""The settings of upstreams, and of routes that change the path."""

from pathlib import Path

import pytest

from gateway.settings import ConfigurationError, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source

BASE = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams:
  orders:
    urls: [%(urls)s]
    %(upstream)s
routes:
  - name: orders
    match: {path: /api/v1/**}
    upstream: orders
    %(route)s
"""


def write(folder: Path, *, urls: str = "http://a", upstream: str = "", route: str = "") -> Path:
    file = folder / "gateway.yaml"
    file.write_text(BASE % {"urls": urls, "upstream": upstream, "route": route})
    return file


def test_the_defaults_are_safe(tmp_path: Path) -> None:
    upstream = load(write(tmp_path), {}).upstreams["orders"]
    assert upstream.tls.verify
    assert (upstream.host, upstream.health_check) == ("preserve", None)
    assert (upstream.max_connections, upstream.max_pending, upstream.retry_budget) == (1024, 1024, 0.2)
    assert (upstream.idle_timeout, upstream.keep_alive, upstream.max_age, upstream.dns_ttl) == (
        300,
        4,
        600,
        30,
    )


@pytest.mark.parametrize("url", ["unix:/run/orders.sock", "https://orders:9000", "http://[::1]:80"])
def test_urls_of_every_kind(tmp_path: Path, url: str) -> None:
    assert load(write(tmp_path, urls=f"'{url}'"), {}).upstreams["orders"].urls == (url,)


@pytest.mark.parametrize(
    ("urls", "base"),
    [
        ("http://a", ""),
        ("http://a/", ""),
        ("http://a/base", "/base"),
        ("http://a/base/, 'http://[::1]:80/%62ase'", "/base"),
        ("unix:/run/orders.sock", ""),
    ],
)
def test_all_urls_have_one_base_path_in_one_spelling(tmp_path: Path, urls: str, base: str) -> None:
    upstream = load(write(tmp_path, urls=urls), {}).upstreams["orders"]
    assert upstream.base_path == base
    assert all(url.endswith(base) for url in upstream.urls)


@pytest.mark.parametrize(
    "host", ["preserve", "upstream", "orders.internal", "orders.internal:8443", "'[::1]:80'"]
)
def test_hosts_of_every_kind(tmp_path: Path, host: str) -> None:
    upstream = load(write(tmp_path, upstream=f"host: {host}"), {}).upstreams["orders"]
    assert upstream.host == host.strip("'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"urls": "http://a/b/../c"},
            "upstreams.orders.urls[0]: has a base path that is refused in requests",
        ),
        ({"urls": "http://a/b, http://b"}, "upstreams.orders.urls: have different base paths: /, /b"),
        ({"urls": "'unix:orders.sock'"}, "upstreams.orders.urls[0]: must be an http or https URL"),
        ({"upstream": "host: 'a b'"}, "upstreams.orders.host: must be preserve, upstream"),
        ({"upstream": 'host: "a\\r\\nX-Evil: 1"'}, "upstreams.orders.host: must be preserve, upstream"),
        ({"upstream": "retry_budget: 1.5"}, "upstreams.orders.retry_budget: "),
        ({"upstream": "max_connections: 0"}, "upstreams.orders.max_connections: "),
        ({"upstream": "idle_timeout: 0s"}, "upstreams.orders.idle_timeout: must be longer"),
        ({"upstream": "health_check: {path: healthz}"}, "upstreams.orders.health_check.path: must be a path"),
        ({"upstream": "health_check: {path: '/a b'}"}, "upstreams.orders.health_check.path: must be a path"),
        (
            {"upstream": "health_check: {}"},
            "upstreams.orders.health_check.path: is required → write path: /healthz",
        ),
        ({"upstream": "tls: {key: k.pem}"}, "upstreams.orders.tls.key: has no certificate"),
        ({"upstream": "tls: {server_name: 'a:1'}"}, "upstreams.orders.tls.server_name: must be a host name"),
        ({"route": "require: {scopes: ['a b']}"}, "routes[0].require.scopes[0]: must be one scope"),
        ({"route": "require: {scopes: ['']}"}, "routes[0].require.scopes[0]: must be one scope"),
        ({"route": "strip_prefix: /api/v1/"}, "routes[0].strip_prefix: must be whole segments"),
        ({"route": "strip_prefix: /api/*"}, "routes[0].strip_prefix: must be whole segments"),
        ({"route": "strip_prefix: api"}, "routes[0].strip_prefix: must be whole segments"),
        ({"route": "strip_prefix: /api/.."}, "routes[0].strip_prefix: no request can match"),
        (
            {"route": "strip_prefix: /api/v"},
            "routes[0].strip_prefix: /api/v is not the beginning of /api/v1/**",
        ),
        ({"route": "strip_prefix: /v1"}, "routes[0].strip_prefix: /v1 is not the beginning of /api/v1/**"),
    ],
)
def test_mistakes_are_reported(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, **change), {})
    assert any(message in str(problem) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("prefix", ["/api", "/api/v1", "null"])
def test_a_prefix_is_where_the_path_begins(tmp_path: Path, prefix: str) -> None:
    route = load(write(tmp_path, route=f"strip_prefix: {prefix}"), {}).routes[0]
    assert route.strip_prefix == (None if prefix == "null" else prefix)


def warnings(file: Path) -> dict[str, str]:
    settings, source = load_with_source(file, {})
    return {warning.field: str(warning) for warning in advice(settings, source)}


def test_unverified_upstreams_are_warned_of(tmp_path: Path) -> None:
    assert warnings(write(tmp_path)) == {}
    found = warnings(write(tmp_path, upstream="tls: {verify: false}"))
    assert "can read and change every request" in found["upstreams.orders.tls.verify"]


def test_files_that_are_not_there_are_warned_of(tmp_path: Path) -> None:
    file = write(tmp_path, upstream=f"tls: {{ca: {tmp_path}/ca.pem, certificate: {tmp_path}/gateway.yaml}}")
    assert set(warnings(file)) == {"upstreams.orders.tls.ca"}


def test_the_files_of_the_listener_are_looked_at(tmp_path: Path) -> None:
    file = write(tmp_path)
    base = file.read_text()

    def tls(certificate: str, key: str) -> dict[str, str]:
        file.write_text(
            f"server: {{tls: {{certificate: {tmp_path}/{certificate}, key: {tmp_path}/{key}}}}}\n{base}"
        )
        return warnings(file)

    absent = tls("gateway.yaml", "none.pem")
    assert set(absent) == {"server.tls.key"}
    assert f"names {tmp_path}/none.pem, which is not a file" in absent["server.tls.key"]
    no_pem = tls("gateway.yaml", "gateway.yaml")
    assert "server.tls: cannot be used" in no_pem["server.tls"]
    assert ":1: " in no_pem["server.tls"]
