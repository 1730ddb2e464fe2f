"""`gateway check` and `gateway schema` for operators."""

import json
import platform
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli.config import settings_or_exit
from gateway.cli.main import app
from gateway.cli.terminal import output

REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLE = REPOSITORY / "config" / "gateway.yaml"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    return CliRunner()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    file = tmp_path / "broken.yaml"
    text = EXAMPLE.read_text(encoding="utf-8").replace("upstream: orders", "upstream: '[bold]ordres'")
    file.write_text(text.replace("  level: info", "  level: infos"), encoding="utf-8")
    return file


def line_of(file: Path, text: str) -> int:
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_the_example_is_valid(runner: CliRunner) -> None:
    result = runner.invoke(app, ["check", "--config", str(EXAMPLE)])

    assert (result.exit_code, result.stderr) == (output.OK, "")
    assert "is valid." in result.stdout
    assert "https://idp.example.com/" in result.stdout
    assert "/orders/**" in result.stdout


def test_every_mistake_is_printed_with_its_place(runner: CliRunner, broken: Path) -> None:
    result = runner.invoke(app, ["check", "--config", str(broken)])

    assert result.exit_code == output.USAGE
    level, upstream = result.stderr.splitlines()
    assert level.startswith(f"{broken}:{line_of(broken, 'level: infos')}: log.level: must be one of")
    assert upstream.startswith(f"{broken}:{line_of(broken, 'ordres')}: routes[0].upstream:")


def test_mistakes_as_json(runner: CliRunner, broken: Path) -> None:
    result = runner.invoke(app, ["check", "--config", str(broken), "--json"])

    assert result.exit_code == output.USAGE
    answer = json.loads(result.stdout)
    assert answer["valid"] is False
    assert [problem["field"] for problem in answer["problems"]] == ["log.level", "routes[0].upstream"]
    assert set(answer["problems"][0]) == {"message", "field", "file", "line", "hint", "column"}


def test_warnings_do_not_fail_the_check(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        EXAMPLE.read_text(encoding="utf-8").replace("auth: required", "auth: none"), encoding="utf-8"
    )

    human = runner.invoke(app, ["check", "--config", str(file)])
    program = runner.invoke(app, ["check", "--config", str(file), "--json"])
    strict = runner.invoke(app, ["check", "--config", str(file), "--strict"])
    assert (strict.exit_code, strict.stdout) == (output.DENIED, human.stdout)
    assert runner.invoke(app, ["check", "--config", str(EXAMPLE), "--strict"]).exit_code == output.OK

    assert (human.exit_code, program.exit_code) == (output.OK, output.OK)
    assert human.stderr.startswith(f"warning: {file}:{line_of(file, 'auth: none')}: routes[0].auth: is none")
    answer = json.loads(program.stdout)
    assert (answer["valid"], len(answer["warnings"])) == (True, 1)


def test_a_file_that_is_not_there(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["check", "--config", str(tmp_path / "absent.yaml")])

    assert result.exit_code == output.USAGE
    assert "there is no such file" in result.stderr
    assert "--config FILE" in result.stderr


def test_the_file_is_the_option_s_then_the_environment_s_then_the_default(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "config/gateway.yaml: there is no such file" in runner.invoke(app, ["check"]).stderr
    named = {"GATEWAY_CONFIG": "named.yaml"}
    assert "named.yaml: there is no such file" in runner.invoke(app, ["check"], env=named).stderr
    assert "given.yaml: there is" in runner.invoke(app, ["check", "--config", "given.yaml"], env=named).stderr


def test_the_schema_is_a_json_schema(runner: CliRunner) -> None:
    result = runner.invoke(app, ["schema"])

    assert result.exit_code == output.OK
    schema = json.loads(result.stdout)
    assert schema["required"] == ["issuers", "postgres", "redis", "upstreams", "routes"]
    assert schema["additionalProperties"] is False
    leeway = schema["$defs"]["Issuer"]["properties"]["leeway"]
    assert (leeway["type"], leeway["default"]) == ("string", "30s")
    assert "schema" in schema["$defs"]["Postgres"]["properties"]


def test_the_version(runner: CliRunner) -> None:
    result = runner.invoke(app, ["--version"])

    told = f"gateway {__version__} (Python {platform.python_version()})\n"
    assert (result.exit_code, result.stdout) == (output.OK, told)


def test_an_unknown_command_is_a_usage_error(runner: CliRunner) -> None:
    assert runner.invoke(app, ["chekc"]).exit_code == output.USAGE


@pytest.mark.parametrize("command", ["check", "others"])
def test_events_do_not_get_into_the_output_of_a_command(
    runner: CliRunner, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Without a configuration, structlog writes to standard output: a warning would spoil --json."""
    structlog.reset_defaults()
    if command == "check":
        runner.invoke(app, ["check", "--config", str(EXAMPLE)])
    else:
        settings_or_exit(EXAMPLE)
    log = structlog.get_logger()
    log.warning("a warning")
    log.error("an error")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "a warning" not in printed.err
    assert "an error" in printed.err
