"""The settings of signed identity."""

from pathlib import Path

import pytest

from gateway.settings import ConfigurationError, Settings, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source

BASE = """\
admin: {listen: 127.0.0.1:9901}
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
routes: [{name: orders, match: {path: /api/**}, upstream: orders}]
"""


def loaded(folder: Path, assertion: str, env: dict[str, str] | None = None) -> Settings:
    file = folder / "gateway.yaml"
    file.write_text(f"{BASE}assertion: {assertion}\n")
    return load(file, env or {})


def test_signed_identity_is_off_by_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, "null").assertion is None
    rules = loaded(tmp_path, "{}").assertion
    assert rules is not None
    assert (rules.header, rules.ttl, rules.algorithm) == ("X-Gateway-Assertion", 300.0, "ES256")
    assert (rules.issuer, rules.key_file, rules.publish_ahead) == ("gateway", None, 300.0)


def test_the_environment_can_set_it(tmp_path: Path) -> None:
    rules = loaded(tmp_path, "null", {"GATEWAY_ASSERTION__ALGORITHM": "EdDSA"}).assertion
    assert rules is not None
    assert rules.algorithm == "EdDSA"


@pytest.mark.parametrize(
    ("assertion", "message"),
    [
        ("{ttl: 5s}", "assertion.ttl: must be from 10s to 1h"),
        ("{ttl: 2h}", "assertion.ttl: must be from 10s to 1h"),
        ("{algorithm: RS256}", "assertion.algorithm: must be one of"),
        ("{algorithm: none}", "assertion.algorithm: must be one of"),
        ("{header: Authorization}", "assertion.header: belongs to the connection or to the gateway"),
        ("{header: X_User.Id}", "assertion.header: is the same header as X-User-Id for many servers"),
        ("{header: X-User-Status}", "assertion.header: is the same header as X-User-Status"),
        ("{issuer: ''}", "assertion.issuer: must not be empty"),
        ("{publish_ahead: 0s}", "assertion.publish_ahead: must be longer than zero"),
        ("{keyfile: a}", "assertion.keyfile: is not a setting → did you mean key_file?"),
    ],
)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, assertion: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, assertion)
    (problem,) = caught.value.problems
    assert (problem.line, str(problem).partition(": ")[2][: len(message)]) == (7, message)


def test_a_key_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{BASE}assertion: {{key_file: {keys}}}\n")
    assert advice(*load_with_source(file, {})) == ()
    keys.touch(0o600)
    assert advice(*load_with_source(file, {})) == ()
    keys.chmod(0o644)
    (warning,) = advice(*load_with_source(file, {}))
    assert (warning.field, warning.hint) == ("assertion.key_file", f"chmod o-r {keys}")
