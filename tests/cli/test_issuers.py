"""`gateway issuers show` on what a running gateway answers."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gateway.admin.api import reports
from tests.cli.gateway_command import GatewayCommand, gateway_command

TOKEN = "token-of-the-admin-api"
MAIN = reports.Issuer(
    name="main",
    issuer="https://idp.example.com/",
    audiences=None,
    algorithms=["RS256"],
    ready=True,
    keys=[reports.Key(kid="a\x1b[31m", algorithms=["RS256"], thumbprint="0" * 64)],
    age_seconds=41.2,
    last_error=None,
    skipped=["keys[1]: kid 'old': an RSA key has 2048 to 8192 bits, this one 1024"],
    tenants=["acme"],
    paths=[
        reports.ClaimPath(setting="claims.tenant", path="tid", found=None),
        reports.ClaimPath(setting="claims.scopes", path="scp", found=False),
        reports.ClaimPath(setting="claims.roles", path="roles", found=True),
    ],
)
GONE = MAIN.model_copy(
    update={"name": "gone", "ready": False, "keys": [], "age_seconds": None, "last_error": "answered 503"}
)


class _Api(BaseHTTPRequestHandler):
    answer: object = [MAIN.model_dump(), GONE.model_dump()]

    def do_GET(self) -> None:
        assert self.path == "/v1/issuers"
        authorized = self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.send_response(200 if authorized else 401)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode() if authorized else b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        pass


@pytest.fixture
def api() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def gateway(tmp_path: Path, api: str) -> GatewayCommand:
    command = gateway_command(tmp_path, "postgresql://127.0.0.1:1/x", "redis://127.0.0.1:1/0")
    text = command.config.read_text()
    command.config.write_text(f"{text}\nadmin: {{listen: '{api}', token: {TOKEN}}}\n")
    return command


def test_an_issuer_is_shown_with_its_keys_and_claim_paths(gateway: GatewayCommand) -> None:
    result = gateway("issuers", "show", "main")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "main: https://idp.example.com/",
        "  tenants      acme",
        "  audiences    any",
        "  algorithms   RS256",
        "  keys         loaded 41 s ago",
        "    a\N{REPLACEMENT CHARACTER}[31m (RS256)",
        "    refused: keys[1]: kid 'old': an RSA key has 2048 to 8192 bits, this one 1024",
        "  claims.tenant: tid  no token yet",
        "  claims.scopes: scp  in no token yet: correct the path, or let the issuer add the claim",
        "  claims.roles: roles  found in tokens",
    ]


def test_an_issuer_without_keys_is_a_no(gateway: GatewayCommand) -> None:
    result = gateway("issuers", "show")
    assert result.exit_code == 1
    assert "gone: https://idp.example.com/" in result.stdout
    assert "never loaded" in result.stdout
    assert "last error   answered 503" in result.stdout


def test_for_programs(gateway: GatewayCommand) -> None:
    assert gateway.json("issuers", "show", "main") == MAIN.model_dump()
    result = gateway("issuers", "show", "--json")
    assert [each["name"] for each in json.loads(result.stdout)] == ["main", "gone"]


def test_an_issuer_that_is_not_there(gateway: GatewayCommand) -> None:
    result = gateway("issuers", "show", "other")
    assert result.exit_code == 1
    assert "no issuer `other` is configured → configured issuers: main, gone" in result.stderr


@pytest.mark.parametrize("answer", [{}, [], [{"name": "main"}], "text"])
def test_an_answer_of_another_version(
    gateway: GatewayCommand, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(_Api, "answer", answer)
    assert gateway("issuers", "show").exit_code == 3


def test_the_token_is_needed(gateway: GatewayCommand) -> None:
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace(TOKEN, TOKEN[::-1]))
    result = gateway("issuers", "show")
    assert result.exit_code == 2
    assert "run the gateway with the same admin.token" in result.stderr
    gateway.config.write_text(text.replace(TOKEN, "null"))
    result = gateway("issuers", "show")
    assert result.exit_code == 2
    assert "the admin API is off" in result.stderr


def test_a_gateway_that_does_not_run(gateway: GatewayCommand) -> None:
    text = gateway.config.read_text().partition("\nadmin")[0]
    gateway.config.write_text(f"{text}\nadmin: {{listen: '127.0.0.1:1', token: {TOKEN}}}\n")
    result = gateway("issuers", "show")
    assert result.exit_code == 3
    assert "The admin API at 127.0.0.1:1 cannot be reached" in result.stderr
