"""The CORS settings of a route: what may be written, and what is told of a mistake."""

from pathlib import Path

import pytest

from gateway.settings import load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source
from tests.settings import mistakes

BASE = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
routes:
  - name: orders
    match: {path: /api/**}
    upstream: orders
"""


def written(folder: Path, cors: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(f"{BASE}    cors: {cors}\n")
    return file


def told(folder: Path, cors: str) -> list[str]:
    return mistakes.told(written(folder, cors))


@pytest.mark.parametrize(
    ("origin", "read"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("'http://[::1]:3000'", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
        ("'null'", "null"),
        ("'*'", "*"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(tmp_path: Path, origin: str, read: str) -> None:
    cors = load(written(tmp_path, f"{{origins: [{origin}]}}"), {}).routes[0].cors
    assert cors is not None
    assert cors.origins == (read,)
    assert (cors.credentials, cors.max_age) == (False, 600.0)


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("https://app.example.com/", "write https://app.example.com"),
        ("'https://app.example.com/x?y'", "write https://app.example.com"),
        ("app.example.com", "write each origin by itself"),
        ("https://*.example.com", "write each origin by itself"),
        ("https://ä.example.com", "write each origin by itself"),
        ('""', "write each origin by itself"),
    ],
)
def test_an_origin_that_no_browser_sends_is_a_mistake(tmp_path: Path, origin: str, hint: str) -> None:
    (message,) = told(tmp_path, f"{{origins: [{origin}]}}")
    assert message.startswith(":9: routes[0].cors.origins[0]: must be an origin")
    assert hint in message


@pytest.mark.parametrize("key", ["origins", "methods", "headers", "expose"])
def test_a_wildcard_does_not_go_with_credentials(tmp_path: Path, key: str) -> None:
    lists = {"origins": "[https://a.example]", key: "['*']"}
    text = ", ".join(f"{name}: {value}" for name, value in lists.items())
    (message,) = told(tmp_path, f"{{{text}, credentials: true}}")
    assert message == (
        f":9: routes[0].cors.{key}: is a wildcard, which does not go with credentials"
        " → list them, or remove credentials"
    )
    load(written(tmp_path, f"{{{text}, credentials: false}}"), {})


@pytest.mark.parametrize(
    ("cors", "message"),
    [
        ("{}", ":9: routes[0].cors.origins: is required"),
        ("{origins: []}", ":9: routes[0].cors.origins: must have at least one entry"),
        ("{origins: ['*'], methods: [get]}", ":9: routes[0].cors.methods[0]: must be an HTTP method"),
        ("{origins: ['*'], headers: ['a b']}", ":9: routes[0].cors.headers[0]: must be a header name"),
        (
            "{origins: ['*'], origin: x}",
            ":9: routes[0].cors.origin: is not a setting → did you mean origins?",
        ),
        ("{origins: ['*'], max_age: 600}", ":9: routes[0].cors.max_age: must be a duration"),
        (
            "{origins: ['https://a.example:65536']}",
            ":9: routes[0].cors.origins[0]: has a port that does not exist",
        ),
        ("{origins: ['*'], expose: [X-*]}", ":9: routes[0].cors.expose[0]: has a wildcard"),
    ],
)
def test_other_mistakes(tmp_path: Path, cors: str, message: str) -> None:
    (found,) = told(tmp_path, cors)
    assert found.startswith(message)


def warnings(folder: Path, cors: str) -> list[str]:
    file = written(folder, cors)
    return [problem.message for problem in advice(*load_with_source(file, {}))]


def test_null_with_credentials_is_warned_of(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, "{origins: [null], credentials: true}")
    assert warning.startswith("lists null together with credentials")
    assert warnings(tmp_path, "{origins: [null]}") == []


def test_methods_that_no_route_takes_are_warned_of(tmp_path: Path) -> None:
    def told(methods: str, matched: str) -> list[str]:
        file = written(tmp_path, f"{{origins: [https://a.example], methods: [{methods}]}}")
        file.write_text(file.read_text().replace("/api/**}", f"/api/**{matched}}}"))
        return [problem.message for problem in advice(*load_with_source(file, {}))]

    (warning,) = told("GET, PUT", ", methods: [GET]")
    assert warning == "lists PUT, which no route with this path takes: pages would get 405"
    assert told("GET, PUT", "") == told("'*'", ", methods: [GET]") == []


def test_cookies_of_pages_that_may_not_use_them_are_warned_of(tmp_path: Path) -> None:
    cookie = "{origins: [https://a.example], credentials: true}\n    credentials: {cookie: session}"
    (warning,) = warnings(tmp_path, cookie)
    assert warning.startswith("lists https://a.example, which is not in allowed_origins")
    assert warnings(tmp_path, f"{cookie}\n    allowed_origins: [https://a.example]") == []
