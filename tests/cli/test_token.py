"""`gateway token inspect`, and `gateway check --explain-preset`."""

import json

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli.main import app
from gateway.cli.terminal.yaml import flow
from gateway.core.model import JSON
from gateway.providers.catalogue import PROVIDERS
from tests import tokens
from tests.providers.shapes import SHAPES

COGNITO = next(shape for shape in SHAPES if shape.name == "cognito-access")
TOKEN = tokens.sign(COGNITO.payload, tokens.rsa_key(), None, **COGNITO.header).decode()


def run(*words: str, stdin: str = TOKEN) -> Result:
    result = CliRunner().invoke(app, words, input=stdin)
    assert isinstance(result.exception, SystemExit | None), result.exc_info
    return result


def test_in_plain_words() -> None:
    result = run("token", "inspect", "-")
    assert result.exit_code == 0
    first, second, *rest = result.stdout.splitlines()
    assert first == "Amazon Cognito: an access token"
    assert second == "Nothing below has been verified, and the token was not sent anywhere."
    text = "\n".join(rest)
    assert 'subject     "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"  (sub)' in text
    assert 'client      "4f8k2m0p7q1r9s3t5u6v"  (client_id)' in text
    assert 'scopes      "openid orders/read"' in text
    assert 'roles       ["editors"]' in text
    assert TOKEN.rpartition(".")[2] not in result.output


def test_for_programs() -> None:
    document = json.loads(
        run("token", "inspect", "--json", "-", stdin=f"Authorization: Bearer {TOKEN}").stdout
    )
    assert document["verified"] is False
    assert (document["provider"], document["kind"]) == ("cognito", "access")
    assert document["claims"]["token_use"] == "access"
    assert document["config"]["issuers"][0]["preset"] == "cognito"
    assert TOKEN.rpartition(".")[2] not in json.dumps(document)


def test_an_argument_is_warned_about() -> None:
    result = run("token", "inspect", TOKEN, stdin="")
    assert result.exit_code == 0
    assert "list of processes" in result.stderr


def test_as_configuration() -> None:
    result = run("token", "inspect", "--as-config", "-")
    assert result.exit_code == 0
    assert result.stdout.startswith("# The token was not verified: check each line")
    assert yaml.safe_load(result.stdout) == {
        "issuers": [
            {
                "name": "main",
                "preset": "cognito",
                "region": "eu-west-1",
                "pool": "eu-west-1_AbCdEf123",
                "audiences": None,
                "expect": {"token_use": "access", "client_id": "4f8k2m0p7q1r9s3t5u6v"},
            }
        ]
    }


def test_no_configuration_accepts_an_api_key() -> None:
    result = run("token", "inspect", "--as-config", "-", stdin="sb_secret_abcdefghijklmnopqrstu")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no API should accept it" in result.stderr


def test_claims_cannot_write_yaml_or_obey_the_terminal() -> None:
    evil = "https://idp.example.com/\n    audiences: null # \x1b[31m\u202e{tenant}"
    token = tokens.sign(tokens.claims(iss=evil, aud=["a: b", "- c", "null", "'"]), tokens.rsa_key()).decode()
    shown = run("token", "inspect", "-", stdin=token)
    assert "\x1b" not in shown.stdout
    assert "\u202e" not in shown.stdout
    pasted = run("token", "inspect", "--as-config", "-", stdin=token)
    assert "\x1b" not in pasted.stdout
    (entry,) = yaml.safe_load(pasted.stdout)["issuers"]
    assert entry["issuer"] == evil
    assert entry["audiences"] == ["a: b", "- c", "null", "'"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "1",
        "1e3",
        "yes",
        "a: b",
        "a,b",
        "[x]",
        "{x}",
        "#x",
        "- x",
        "-",
        "x #y",
        "2027-01-15",
        "é",
        "\n",
        '"',
    ],
)
def test_text_in_flow_style_is_read_as_it_was(value: JSON) -> None:
    nested: JSON = {"a": [value, True, None, 7], str(value): value}
    assert yaml.safe_load(f"x: {flow(nested)}") == {"x": nested}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_preset_is_explained(name: str) -> None:
    result = run("check", "--explain-preset", name)
    assert result.exit_code == 0
    assert f"    preset: {name}\n" in result.stdout
    assert "# stands for\n" in result.stdout
    document = json.loads(run("check", "--explain-preset", name, "--json").stdout)
    assert document["preset"] == name
    assert document["examples"][0]["settings"]["issuer"].startswith("https://")


def test_an_unknown_preset_is_a_mistake() -> None:
    result = run("check", "--explain-preset", "keykloak")
    assert result.exit_code == 2
    assert "did you mean keycloak?" in result.stderr
