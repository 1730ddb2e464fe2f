"""`gateway init`: what it writes is what `check` and `check --live` accept; what fails is told."""

import asyncio
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.init.document import variables
from gateway.cli.main import app
from gateway.cli.terminal import output
from gateway.demo.issuer import DemoIssuer
from gateway.demo.listening import bind, listening
from tests import tokens
from tests.harness import unused_port


@pytest.fixture(scope="module")
def issuer() -> Iterator[DemoIssuer]:
    """An issuer that answers while a command runs."""
    listener, url = bind("127.0.0.1", 0)
    made, loop, stop = DemoIssuer(url), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with listening(made.application(), listener):
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def invoke(folder: Path, *words: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    command = [*words, "--config", str(folder / "gateway.yaml")]
    return CliRunner().invoke(app, command, input=stdin, env={"TOKEN_SECRET": None, **(env or {})})


def test_the_written_configuration_is_valid(
    issuer: DemoIssuer, empty_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    stores = {"POSTGRES_DSN": empty_dsn, "REDIS_URL": redis_url}
    token = issuer.token("member")
    words = ("init", "--token", "-", "--upstream", issuer.url, "--migrate")

    told = invoke(tmp_path, *words, "--json", stdin=token, env=stores)

    assert told.exit_code == output.OK, told.output
    document = json.loads(told.stdout)
    assert [each["outcome"] for each in document["tried"]] == ["pass"] * 4
    assert len(document["migrated"]) > 10
    config, env_file = tmp_path / "gateway.yaml", tmp_path / "gateway.env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    secrets = variables(env_file.read_text())
    assert secrets | stores == secrets
    text = config.read_text()
    for secret in (token, urlsplit(empty_dsn).password or "?", *secrets.values()):
        assert secret not in text
    assert "dsn: ${POSTGRES_DSN}" in text

    assert invoke(tmp_path, "check", env=secrets).exit_code == output.OK
    live = invoke(tmp_path, "check", "--live", "--json", env=secrets)
    assert live.exit_code == output.OK, live.stdout
    assert {each["outcome"] for each in json.loads(live.stdout)["live"]} == {"pass"}

    again = invoke(tmp_path, *words, stdin=token, env=stores)
    assert (again.exit_code, "exists" in again.stderr) == (output.USAGE, True)
    forced = invoke(tmp_path, *words, "--force", stdin=token, env=stores)
    assert forced.exit_code == output.OK, forced.output
    assert variables(env_file.read_text()) == secrets
    assert "gateway users add --issuer main --subject member --config" in forced.stdout


def test_a_program_gets_an_error_with_what_is_missing_and_no_question(tmp_path: Path) -> None:
    told = invoke(tmp_path, "init", env={"POSTGRES_DSN": ""})
    assert told.exit_code == output.USAGE
    assert "--issuer or --token; --upstream; --postgres, or the variable POSTGRES_DSN" in told.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_trial_is_reported_with_its_fix_and_nothing_is_written(tmp_path: Path) -> None:
    port = unused_port()
    stores = {
        "POSTGRES_DSN": f"postgresql://u:hunter2@127.0.0.1:{port}/g",
        "REDIS_URL": f"redis://127.0.0.1:{port}",
    }
    words = (
        "init",
        "--issuer",
        f"http://127.0.0.1:{port}",
        "--audience",
        "api",
        "--upstream",
        f"http://127.0.0.1:{port}",
    )

    told = invoke(tmp_path, *words, env=stores)

    assert told.exit_code == output.UNREACHABLE
    lines = told.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "fail issuer",
        "warn upstream",
        "fail postgres",
        "fail redis",
    ]
    assert all("→" in line for line in lines)
    assert "nothing was written" in told.stderr
    assert "hunter2" not in told.output
    assert not list(tmp_path.iterdir())

    assert invoke(tmp_path, *words, "--offline", env=stores).exit_code == output.OK
    secrets = variables((tmp_path / "gateway.env").read_text())
    assert invoke(tmp_path, "check", env=secrets).exit_code == output.OK


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--issuer", "https://idp.example.com"), "give --audience"),
        (("--issuer", "https://sso.example.com/realms/shop"), "for Keycloak: "),
        (("--token", "-"), "This is "),
        (
            ("--issuer", "https://idp.example.com/a/.well-known/openid-configuration"),
            "such as https://idp.example.com/a",
        ),
        (("--issuer", "ftp://idp", "--audience", "api"), "issuers[0].issuer: "),
    ],
)
def test_an_issuer_that_cannot_be_configured(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    rest = ("--upstream", "http://127.0.0.1:1", "--postgres", "postgresql://u@127.0.0.1:1/g", "--offline")
    told = invoke(tmp_path, "init", *words, *rest, stdin="sk_live_0123456789abcdefghijkl")
    assert told.exit_code == output.USAGE, told.output
    assert said in told.stderr
    assert "→" in told.stderr


def test_the_secrets_need_a_file_of_their_own(tmp_path: Path) -> None:
    told = invoke(tmp_path, "init", "--env-file", f"{tmp_path}/./gateway.yaml")
    assert (told.exit_code, "name two files" in told.stderr) == (output.USAGE, True)


@pytest.mark.parametrize("forced", [(), ("--force",)])
def test_a_folder_takes_no_configuration(tmp_path: Path, forced: tuple[str, ...]) -> None:
    """Nothing is written beside it, either: the secrets would have been."""
    folder = tmp_path / "gateway.yaml"
    folder.mkdir()
    told = invoke(tmp_path, "init", *forced)
    assert (told.exit_code, "gateway.yaml is a folder" in told.stderr) == (output.USAGE, True)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_password_in_the_command_line_is_warned_of(tmp_path: Path) -> None:
    words = ("--issuer", "https://idp.example.com", "--audience", "api", "--upstream", "http://127.0.0.1:1")
    told = invoke(tmp_path, "init", *words, "--postgres", "postgresql://u:hunter2@127.0.0.1:1/g", "--offline")
    assert told.exit_code == output.OK, told.output
    assert "put it into the variable POSTGRES_DSN" in told.stderr
    assert "hunter2" not in told.output


def test_a_sample_token_with_a_shared_secret(tmp_path: Path) -> None:
    token = tokens.sign(tokens.claims("u"), tokens.secret()).decode()
    rest = ("--upstream", "http://127.0.0.1:1", "--postgres", "postgresql://u@127.0.0.1:1/g", "--offline")
    words = ("init", "--token", "-", *rest)
    refused = invoke(tmp_path, *words, stdin=token)
    assert (refused.exit_code, "TOKEN_SECRET" in refused.stderr) == (output.USAGE, True)
    secret = "a secret of some length, with 'quotes' and $dollars"
    assert invoke(tmp_path, *words, stdin=token, env={"TOKEN_SECRET": secret}).exit_code == output.OK
    secrets = variables((tmp_path / "gateway.env").read_text())
    assert secrets["TOKEN_SECRET"] == secret
    assert invoke(tmp_path, "check", env=secrets).exit_code == output.OK
