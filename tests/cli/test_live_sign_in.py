"""`gateway check --live` of the provider at which people sign in to the console."""

from typing import Final

import pytest
from aiohttp.test_utils import TestServer

from gateway.cli.check import sign_in
from gateway.core.model import JSON
from gateway.settings import Settings
from tests.admin.sign_in.provider import FakeProvider

REST: Final[dict[str, JSON]] = {
    "issuers": [{"name": "main", "issuer": "https://idp.example.com/", "audiences": ["api"]}],
    "postgres": {"dsn": "postgresql://a@127.0.0.1:1/a"},
    "redis": {"url": "redis://127.0.0.1:1"},
    "upstreams": {"a": {"urls": ["http://127.0.0.1:9"]}},
    "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "a"}],
}


def oidc(issuer: str) -> dict[str, JSON]:
    return {
        "issuer": issuer,
        "client_id": "gateway-console",
        "client_secret": "a secret that is long enough",
        "redirect_uri": "https://gateway.example.com/console/callback",
        "roles": {"claim": "groups", "operator": ["ops"]},
    }


@pytest.mark.parametrize(
    ("metadata", "outcome", "found"),
    [
        ({"code_challenge_methods_supported": ["plain", "S256"]}, "pass", "endpoints and keys are there"),
        ({}, "warn", "PKCE"),
        ({"issuer": "https://other.example.com"}, "fail", "they must be equal"),
        ({"jwks_uri": "http://127.0.0.1:1/"}, "fail", "keys cannot be loaded"),
    ],
)
async def test_the_metadata_of_the_provider_is_judged(
    metadata: dict[str, JSON], outcome: str, found: str
) -> None:
    provider = FakeProvider(metadata=metadata)
    async with TestServer(provider.application()) as server:
        provider.issuer = str(server.make_url("")).rstrip("/")
        settings = Settings.model_validate({**REST, "admin": {"oidc": oidc(provider.issuer)}})
        (check,) = sign_in.checks(settings)
        result = await check.run()
    assert (result.outcome, found in result.found) == (outcome, True), result
    assert "long enough" not in str(result)


async def test_a_provider_that_is_not_there() -> None:
    settings = Settings.model_validate({**REST, "admin": {"oidc": oidc("http://127.0.0.1:1")}})
    (check,) = sign_in.checks(settings)
    result = await check.run()
    assert (result.outcome, result.unreachable) == ("fail", True)


def test_there_is_no_check_without_the_setting() -> None:
    assert [*sign_in.checks(Settings.model_validate(REST))] == []
