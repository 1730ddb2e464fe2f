"""The settings for people: everything is there, and no secret is."""

import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Final, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from gateway.settings import Settings, load
from gateway.settings.redaction import redacted, without_secrets
from tests.settings.test_settings import BASE, loaded

REPOSITORY = Path(__file__).parent.parent.parent
PASSWORD: Final = "sEcr3t-of-the-tests"

EVERY_SECRET: Final = f"""\
admin:
  token: {PASSWORD}-0123456789
  oidc:
    issuer: https://idp.example.com/
    client_id: console
    client_secret: {PASSWORD}
    redirect_uri: https://gateway.example.com/console/callback
    roles: {{operator: [ops]}}
jwks: {{proxy: "http://me:{PASSWORD}@proxy:3128"}}
issuers:
  - name: main
    issuer: https://idp.example.com/
    audiences: [orders-api]
    keys: {{secret: {PASSWORD}-0123456789-0123456789-0123456789}}
  - name: opaque
    issuer: https://opaque.example.com/
    audiences: [orders-api]
    introspection:
      {{endpoint: "https://opaque.example.com/i", client_id: gateway, client_secret: {PASSWORD}}}
postgres:
  dsn: "postgresql://me:{PASSWORD}@h1:1,h2:2/gateway?sslmode=require"
  replica_dsn: "postgresql://replica/gateway?user=me&password={PASSWORD}"
redis:
  url: "rediss://:{PASSWORD}@redis:6379/0?ssl_password={PASSWORD}"
"""


def test_a_secret_that_reads_like_a_url_is_hidden(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    kept = BASE[BASE.index("upstreams:") :]
    text = EVERY_SECRET.replace(f"client_secret: {PASSWORD}", f"client_secret: x://{PASSWORD}")
    file.write_text(text + kept, encoding="utf-8")
    assert PASSWORD not in json.dumps([each.value for each in redacted(load(file, {}))])


def configuration(file: Path) -> str:
    kept = BASE[BASE.index("upstreams:") :]
    file.write_text(EVERY_SECRET + kept, encoding="utf-8")
    return json.dumps([[each.name, each.value, each.given] for each in redacted(load(file, {}))])


def test_no_secret_is_shown(tmp_path: Path) -> None:
    shown = configuration(tmp_path / "gateway.yaml")
    assert PASSWORD not in shown
    assert '["admin.token", "***", true]' in shown
    assert "postgresql://me:***@h1:1,h2:2/gateway?sslmode=require" in shown
    assert '["admin.oidc.client_secret", "***", true]' in shown
    assert "rediss://:***@redis:6379/0?ssl_password=***" in shown


def test_every_setting_of_the_example_is_shown_as_it_is_written() -> None:
    found = {each.name: each for each in redacted(load(REPOSITORY / "config/gateway.yaml", {}))}
    assert found["server.limits.body_size"].value == "1GiB"
    assert found["server.limits.body_min_rate"].value == "240B"
    assert found["jwks.max_stale"].value == "24h"
    assert found["postgres.statement_timeout"].value == "1s"
    assert found["server.shutdown_delay"].value == "0s"
    assert found["issuers[main].algorithms"].value == ["RS256", "ES256"]
    assert found["issuers[main].keys[0].discovery"].given
    assert not found["issuers[main].keys[0].jwks_uri"].given
    assert "postgres.schema" in found


def test_defaults_are_distinguished_from_written_values(tmp_path: Path) -> None:
    found = {each.name: each for each in redacted(loaded(tmp_path / "gateway.yaml"))}
    assert found["server.listen"].given
    assert not found["server.workers"].given
    assert not found["cache.local_ttl"].given
    assert found["routes[orders].match.path"].value == "/orders/**"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "***"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("redis://h?password=p&db=1", "redis://h?password=***&db=1"),
        ("redis+sentinel://u:p@a:1,b:2/main", "redis+sentinel://u:***@a:1,b:2/main"),
        ("unix:///run/redis.sock?password=p", "unix:///run/redis.sock?password=***"),
        ("http://[::1", "***"),
        ("postgresql://me:1/p@host/db", "***"),
        ("redis://:1#p@host/0", "***"),
        ("redis://:1?p@host/0", "***"),
    ],
)
def test_of_a_url_the_password_alone_is_hidden(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_settings_named_like_secrets_have_a_secret_type() -> None:
    """A new setting with such a name must be a `SecretStr`."""

    def plain(section: type[BaseModel], seen: set[type[BaseModel]]) -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            kinds = types(field.annotation)
            if name.endswith(("secret", "password", "dsn")) and SecretStr not in kinds:
                found.append(f"{section.__name__}.{name}")
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
                    found += plain(kind, seen | {kind})
        return found

    assert plain(Settings, {Settings}) == []


def types(annotation: object) -> list[object]:
    """Return all types that an annotation is made of."""
    if get_origin(annotation) is Annotated:
        return types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        return [each for part in get_args(annotation) for each in types(part)]
    return [annotation]
