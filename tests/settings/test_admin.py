"""The settings of the sign-in to the console: what is right, and the message of each mistake."""

from pathlib import Path

import pytest

from gateway.settings.issuers.values import ASYMMETRIC_ALGORITHMS
from tests.settings.test_settings import BASE, loaded, problems

OIDC = {
    "issuer": "https://idp.example.com/",
    "client_id": "gateway-console",
    "client_secret": "0123456789abcdef",
    "redirect_uri": "https://gateway.example.com/console/callback",
    "roles": "{claim: groups, operator: [ops]}",
}


def configuration(**changes: str) -> str:
    lines = [f"    {name}: {value}" for name, value in {**OIDC, **changes}.items() if value]
    return "\n".join(["admin:", "  oidc:", *lines, BASE])


def test_a_sign_in_has_the_documented_defaults(tmp_path: Path) -> None:
    oidc = loaded(tmp_path / "gateway.yaml", configuration()).admin.oidc
    assert oidc is not None
    assert (oidc.scopes, oidc.session_lifetime) == (("openid", "profile"), 3600)
    assert oidc.algorithms == ASYMMETRIC_ALGORITHMS
    assert (oidc.roles.claim, oidc.roles.viewer, oidc.roles.operator) == ("groups", (), ("ops",))
    assert "0123456789abcdef" not in repr(oidc)


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "http://127.0.0.1:9901/console/callback",
        "http://localhost:9901/console/callback",
        "https://example.com/behind/console/callback",
    ],
)
def test_urls_of_a_console(tmp_path: Path, redirect_uri: str) -> None:
    loaded(tmp_path / "gateway.yaml", configuration(redirect_uri=redirect_uri))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"redirect_uri": "http://gateway.example.com/console/callback"}, "must be https"),
        ({"redirect_uri": "https://gateway.example.com/callback"}, "/console/callback"),
        ({"redirect_uri": "https://gateway.example.com/console/callback?x=1"}, "/console/callback"),
        ({"client_secret": "short"}, "at least 16 characters"),
        ({"client_secret": ""}, "client_secret"),
        ({"issuer": "idp.example.com"}, "URL"),
        ({"scopes": "[profile]"}, "openid"),
        ({"algorithms": "[HS256]"}, "algorithms"),
        ({"session_lifetime": "1m"}, "from 5m to 24h"),
        ({"session_lifetime": "48h"}, "from 5m to 24h"),
        ({"roles": "{claim: groups}"}, "neither viewer nor operator"),
    ],
    ids=str,
)
def test_each_mistake_is_reported(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    (found,) = problems(tmp_path / "gateway.yaml", configuration(**changes))
    assert message in str(found)
    assert "short" not in str(found)
