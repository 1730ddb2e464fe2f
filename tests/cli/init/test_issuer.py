"""From a sample token, or from a URL, to an entry of `issuers`."""

import pytest

from gateway.cli.init.issuer import NoIssuer, from_url
from gateway.providers.provider import IssuerSettings


@pytest.mark.parametrize(
    ("issuer", "audiences", "clients", "entry"),
    [
        (
            "https://idp.example.com",
            ["api"],
            [],
            {"issuer": "https://idp.example.com", "audiences": ["api"], "keys": {"discovery": True}},
        ),
        (
            "https://sso.example.com/realms/shop",
            [],
            ["web"],
            {"preset": "keycloak", "url": "https://sso.example.com", "realm": "shop", "client_ids": ["web"]},
        ),
        (
            "https://sso.example.com/realms/shop",
            ["api"],
            [],
            {"preset": "keycloak", "url": "https://sso.example.com", "realm": "shop", "audiences": ["api"]},
        ),
        ("https://securetoken.google.com/my-shop", [], [], {"preset": "firebase", "project": "my-shop"}),
    ],
)
def test_a_provider_is_recognised_by_its_url(
    issuer: str, audiences: list[str], clients: list[str], entry: IssuerSettings
) -> None:
    assert from_url(issuer, audiences, clients).entry == {"name": "main", **entry}


def test_missing_parameters_of_a_provider_are_named() -> None:
    with pytest.raises(NoIssuer, match="for Keycloak") as caught:
        from_url("https://sso.example.com/realms/shop", [], [])
    assert caught.value.hint.startswith("give --audience, or --client-id, or a sample token")
