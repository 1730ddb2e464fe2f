"""Issuers that are almost configured, and keys that are not there: what differs is named and marked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tokens
from tests.explain.scenarios.scenario import Scenario, play
from tests.explain.scenarios.stage import Stage
from tests.harness import SECOND_ISSUER

# ruff: noqa: E501 -- a table reads better with one entry a line

session = pytest.mark.asyncio(loop_scope="session")
TENANT, OTHER = "8a1c0000-0000-0000-0000-000000000001", "8a1c0000-0000-0000-0000-000000000002"


def near(
    name: str,
    iss: str,
    configured: str,
    *says: str,
    config: bool = False,
    cause: str = "issuer_almost_configured",
) -> Scenario:
    return Scenario(
        name, "issuer_untrusted", cause, claims={"iss": iss}, held=({"subject": "{}", "iss": iss},),
        changes={"issuers[0].issuer": configured}, says=says, command=False, config=config,
    )  # fmt: skip


SCENARIOS = [
    near("slash", "https://i.example/", "https://i.example", "a slash at its end", config=True),
    near("no slash", "https://i.example", "https://i.example/", "a slash at its end", config=True),
    near("case of the host", "https://I.example", "https://i.example", config=True),
    near("port", "https://i.example:443/a", "https://i.example/a", config=True),
    near("http in the configuration", "https://i.example", "http://i.example", config=True),
    near("http in the token", "http://i.example", "https://i.example", "Let the issuer write `https`"),
    near("case of the path", "https://i.example/Realms/x", "https://i.example/realms/x", config=True),
    near("white space", " https://i.example", "https://i.example", "without the white space"),
    near("without a scheme", "i.example", "https://i.example", "the scheme `https://`", "a complete URL"),
    near("the discovery document", "https://i.example/.well-known/openid-configuration", "https://i.example", "the discovery document", "the member `issuer`"),
    near("staging", "https://staging.i.example", "https://i.example", "another environment"),
    near("test realm", "https://i.example/realms/test", "https://i.example/realms/prod", "another environment", "[test]"),
    near("another realm", "https://i.example/realms/crm", "https://i.example/realms/shop", "another realm", "/realms/[crm]"),
    near("legacy path", "https://i.example/auth/realms/shop", "https://i.example/realms/shop", "/auth"),
    near("no legacy path", "https://i.example/realms/shop", "https://i.example/auth/realms/shop", "/auth"),
    near("tenant of Entra", f"https://login.microsoftonline.com/{OTHER}/v2.0", f"https://login.microsoftonline.com/{TENANT}/v2.0", "another tenant", "000[2]"),
    near("version of Entra", f"https://sts.windows.net/{TENANT}/", f"https://login.microsoftonline.com/{TENANT}/v2.0", "the same tenant"),
    near("region of Cognito", "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_A", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_B", "region or user pool"),
    near("pool of Cognito", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_A", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_B", "pool"),
    near("tenant of Auth0", "https://acme.eu.auth0.com/", "https://acme-two.eu.auth0.com/", "another tenant, region"),
    near("region of Auth0", "https://acme.us.auth0.com/", "https://acme.eu.auth0.com/", "[us]"),
    near("project of Supabase", "https://abc.supabase.co/auth/v1", "https://xyz.supabase.co/auth/v1", "another tenant"),
    near("authorization server of Okta", "https://a.okta.com", "https://a.okta.com/oauth2/default", "another authorization server"),
    near("another server of Okta", "https://a.okta.com/oauth2/aus1", "https://a.okta.com/oauth2/default", "authorization server"),
    near("internal address", "http://keycloak:8080/realms/shop", "https://sso.example.com/realms/shop", "its public URL", "internal address"),
    near("this machine", "http://127.0.0.1:8080/realms/shop", "https://sso.example.com/realms/shop", "its public URL"),
    near("another port", "https://i.example:8443/a", "https://i.example/a", "another server on the same host"),
    near("Google", "https://accounts.google.com", "https://i.example", "anyone with a Google account", cause="issuer_unknown"),
    near("GitHub", "https://token.actions.githubusercontent.com", "https://i.example", "every repository of the world", cause="issuer_unknown"),
    replace(near("an assertion of ours", "https://gateway.example.com", "https://i.example", "Do not trust it as an issuer", cause="issuer_unknown"), claims={"iss": "https://gateway.example.com", "original_iss": "https://i.example", "original_sub": "x"}),
    near("a stranger", "https://evil.example.org", "https://i.example", "no configured issuer is similar", cause="issuer_unknown"),
    near("a stranger who tries", "https://i.example.evil.org", "https://i.example", "no configured issuer is similar", cause="issuer_unknown"),
    near("a stranger of the same suffix", "https://idp.evil.co.uk", "https://idp.acme.co.uk", "no configured issuer is similar", cause="issuer_unknown"),
]  # fmt: skip


@session
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
async def test_an_issuer(stage: Stage, scenario: Scenario) -> None:
    await play(stage, scenario)


def key(
    name: str,
    reason: str,
    cause: str,
    made_by: str,
    *says: str,
    kid: str | None = "",
    iss: str = tokens.ISSUER,
) -> Scenario:
    def sign(claims: dict[str, object]) -> bytes:
        of = tokens.rsa_key(made_by)
        return tokens.sign(claims, of) if kid == "" else tokens.sign(claims, of, kid=kid)  # type: ignore[arg-type]

    return Scenario(name, reason, cause, claims={"iss": iss}, held=({"subject": "{}", "iss": iss},), says=says, command=False, sign=sign)  # type: ignore[arg-type]  # fmt: skip


@session
@pytest.mark.parametrize(
    "scenario",
    [
        key("not published", "key_unknown", "key_unknown", "nobody", 'no key "nobody"'),
        key("of another issuer", "key_unknown", "key_unknown", "second", "issuers second, strict and joining have a key", "which issuer made the token"),
        key("of another issuer, the other way", "key_unknown", "key_unknown", "main", "issuer main has a key", iss=SECOND_ISSUER),
        key("forged", "signature_invalid", "signature_invalid", "stranger", "did not make", kid="main"),
        key("swapped", "signature_invalid", "signature_invalid", "second", "key \"second\" of issuer second did", kid="main"),
    ],
    ids=lambda each: each.name,
)  # fmt: skip
async def test_a_key(stage: Stage, scenario: Scenario) -> None:
    await play(stage, scenario)


def _keys(folder: Path, *jwks: dict[str, object]) -> str:
    path = folder / "several.json"
    path.write_text(json.dumps({"keys": jwks}))
    return str(path)


@session
async def test_no_kid_and_several_keys(stage: Stage, tmp_path: Path) -> None:
    path = _keys(tmp_path, tokens.rsa_key("main").jwk(), tokens.rsa_key("second").jwk())  # type: ignore[arg-type]
    scenario = Scenario(
        "no kid", "key_unknown", "key_unknown", held=({"subject": "{}"},), changes={"issuers[0].keys": {"jwks_file": path}},
        says=("names no key", "Let the issuer name its key"), command=False,
        sign=lambda claims: tokens.sign(claims, tokens.rsa_key("main"), kid=None),
    )  # fmt: skip
    await play(stage, scenario)


@session
async def test_a_key_that_cannot_be_used(stage: Stage, tmp_path: Path) -> None:
    path = _keys(tmp_path, tokens.rsa_key("second").jwk(), tokens.rsa_key("main").jwk(use="enc"))  # type: ignore[arg-type]
    scenario = Scenario(
        "unusable", "key_unknown", "key_unknown", held=({"subject": "{}"},), changes={"issuers[0].keys": {"jwks_file": path}},
        says=("publishes one that cannot",), command=False,
    )  # fmt: skip
    await play(stage, scenario)


@session
async def test_a_key_that_has_left(stage: Stage) -> None:
    scenario = Scenario(
        "rotated", "key_unknown", "key_rotated_out", claims={"iat": 1_700_000_000}, held=({"subject": "{}"},),
        says=("rotated out",), command=False, sign=lambda claims: tokens.sign(claims, tokens.rsa_key("old")),
    )  # fmt: skip
    await play(stage, scenario)
