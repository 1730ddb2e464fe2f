"""Mistakes in the settings of opaque tokens."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from gateway.settings import ConfigurationError, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source

ENDPOINT = {"endpoint": "https://idp.example.com/introspect", "client_id": "gateway"}
GOOD = {**ENDPOINT, "client_secret": "s3cret"}


def written(folder: Path, *issuers: Mapping[str, object]) -> Path:
    entries = [
        {"name": f"i{index}", "issuer": f"https://{index}.example.com", "audiences": ["api"], **issuer}
        for index, issuer in enumerate(issuers)
    ]
    file = folder / "gateway.yaml"
    rest = {
        "postgres": {"dsn": "postgresql://gateway@127.0.0.1/gateway"},
        "redis": {"url": "redis://127.0.0.1:6379/0"},
        "upstreams": {"orders": {"urls": ["http://127.0.0.1:9000"]}},
        "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "orders"}],
    }
    file.write_text(yaml.safe_dump({"issuers": entries, **rest}))
    return file


def problems(folder: Path, *issuers: Mapping[str, object]) -> list[str]:
    try:
        load(written(folder, *issuers), {})
    except ConfigurationError as error:
        return [f"{problem.field}: {problem.message}" for problem in error.problems]
    return []


def test_a_secret_or_a_key_suffices(tmp_path: Path) -> None:
    key = {"private_key_file": "k", "key_id": "1"}
    for proof in ({"client_secret": "s"}, {"client_secret_file": "s"}, key):
        assert problems(tmp_path, {"introspection": {**ENDPOINT, **proof}}) == []


def test_several_issuers_need_prefixes(tmp_path: Path) -> None:
    one, two = {"introspection": {**GOOD, "prefix": "a_"}}, {"introspection": GOOD}
    assert problems(tmp_path, one, two) == []
    assert problems(tmp_path, two, two) == [
        "issuers[1].introspection: has no prefix, and neither has that of issuers[0]"
    ]
    assert problems(tmp_path, two, one, one) == [
        "issuers[2].introspection.prefix: 'a_' is also the prefix of issuers[1]"
    ]


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        (
            {"introspection": ENDPOINT},
            "issuers[0].introspection: has no secret and no key",
        ),
        (
            {"introspection": {**GOOD, "private_key_file": "k"}},
            "issuers[0].introspection: has client_secret and private_key_file",
        ),
        ({"introspection": {**GOOD, "key_id": "1"}}, "issuers[0].introspection.key_id: names no key"),
        (
            {"introspection": GOOD, "keys": {"discovery": True}},
            "issuers[0].keys: is for tokens that are JWTs, and this issuer has `introspection`",
        ),
        (
            {"introspection": GOOD, "algorithms": ["RS256"]},
            "issuers[0].algorithms: is for tokens that are JWTs, and this issuer has `introspection`",
        ),
        (
            {"introspection": {**GOOD, "prefix": "eyJ"}},
            "issuers[0].introspection.prefix: is how every JWT begins",
        ),
        (
            {"introspection": {**GOOD, "prefix": "ey"}},
            "issuers[0].introspection.prefix: is how every JWT begins",
        ),
        (
            {"introspection": {**GOOD, "client_secret": ""}},
            "issuers[0].introspection.client_secret: is empty",
        ),
        (
            {"introspection": {**GOOD, "prefix": "a b"}},
            "issuers[0].introspection.prefix: must be the beginning of a bearer token (RFC 6750 §2.1)",
        ),
        ({"introspection": {**GOOD, "endpoint": None}}, "issuers[0].introspection.endpoint: must be text"),
        (
            {"introspection": {**GOOD, "cache_ttl": 30}},
            "issuers[0].introspection.cache_ttl: must be a duration with its unit",
        ),
    ],
)
def test_mistakes_are_reported_at_their_place(
    tmp_path: Path, issuer: dict[str, object], expected: str
) -> None:
    assert problems(tmp_path, issuer) == [expected]


def test_valid_but_dangerous_settings_are_warned_of(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o604)
    rules = {
        "endpoint": "http://idp.example.com/introspect",
        "client_id": "gateway",
        "client_secret_file": str(secret),
        "cache_ttl": "1h",
    }
    told = advice(*load_with_source(written(tmp_path, {"introspection": rules}), {}))
    assert [(problem.field, problem.message.partition(":")[0]) for problem in told] == [
        ("issuers[0].introspection.endpoint", "is asked over plain http"),
        ("issuers[0].introspection.cache_ttl", "is long"),
        ("issuers[0].introspection.client_secret_file", "can be read by all users of this machine"),
    ]
    good = {**GOOD, "endpoint": "http://127.0.0.1:9000/introspect"}
    absent = {**ENDPOINT, "private_key_file": str(tmp_path / "none")}
    file = written(tmp_path, {"introspection": good}, {"introspection": {**absent, "prefix": "a"}})
    file.chmod(0o640)  # it has a secret
    (missing,) = advice(*load_with_source(file, {}))
    assert missing.field == "issuers[1].introspection.private_key_file"
