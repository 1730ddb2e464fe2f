"""Failures of commands: the message, its stream, and the exit code."""

import pytest
import typer

from gateway.cli.terminal import output


def test_a_failure_says_what_to_do_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        output.fail("no user has the id [bold]7", "see `gateway users list`")

    captured = capsys.readouterr()
    assert caught.value.exit_code == output.DENIED
    assert captured.err == "error: no user has the id [bold]7 → see `gateway users list`\n"
    assert captured.out == ""


def test_an_unreachable_dependency_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        output.unreachable("Postgres", "127.0.0.1:5432", "connection refused", "start it")

    assert caught.value.exit_code == output.UNREACHABLE
    assert capsys.readouterr().err == (
        "error: Postgres at 127.0.0.1:5432 cannot be reached: connection refused → start it\n"
    )


def test_long_messages_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.warn("word " * 100)

    assert capsys.readouterr().err.count("\n") == 1


def test_json_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json({"name": "Zoë", "roles": []})

    assert capsys.readouterr().out == '{"name": "Zoë", "roles": []}\n'
