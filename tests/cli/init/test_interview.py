"""The questions of `gateway init`: each answer is tried at once, and asked for again if it fails."""

from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer

from gateway.cli.check.result import CheckResult
from gateway.cli.init import interview
from gateway.cli.init.document import POSTGRES, REDIS, WouldOverwrite, environment, variables
from gateway.cli.init.interview import Given, Interview
from gateway.cli.init.trial import TRIALS, Trial
from gateway.settings import Settings
from tests import tokens

GOOD = "https://idp.example.com"


class Person:
    """Answers what it is asked, in order."""

    def __init__(self, *answers: str | bool) -> None:
        self.answers = deque(answers)
        self.asked: list[str] = []

    def text(self, question: str, default: str | None = None) -> str:
        return self._answer(question) or default or ""

    def secret(self, question: str) -> str:
        return self._answer(question)

    def _answer(self, question: str) -> str:
        self.asked.append(question)
        answer = self.answers.popleft()
        assert isinstance(answer, str), question
        return answer

    def yes(self, question: str, *, default: bool) -> bool:  # noqa: ARG002 -- a Person says what it says
        self.asked.append(question)
        answer = self.answers.popleft()
        assert isinstance(answer, bool), question
        return answer


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is tried, one after the other; whatever has `down` in its name does not answer."""
    tried: list[str] = []

    def trial(name: str) -> Trial:
        def run(settings: Settings) -> CheckResult:
            values = {
                "issuer": settings.issuers[0].issuer,
                "upstream": settings.upstreams["app"].urls[0],
                "postgres": settings.postgres.dsn.get_secret_value(),
                "redis": settings.redis.url.get_secret_value(),
            }
            tried.append(values[name])
            return CheckResult(name, "fail" if "down" in values[name] else "pass", values[name])

        return run

    monkeypatch.setattr(interview, "TRIALS", {name: trial(name) for name in TRIALS})
    return tried


def test_each_answer_is_tried_and_asked_for_again(trials: list[str]) -> None:
    person = Person(
        "https://down.example.com", "api", False,
        GOOD, "api",
        "no URL", "http://app:9000",
        "postgresql://me@down/db", "", False, "postgresql://me@db.example.com/db", "p@ss/word",
        "", "",
    )  # fmt: skip
    held = Interview(Given(), Path("gateway.env"), {"ADMIN_TOKEN": "0123456789abcdef"}, person)
    held.hold()

    assert not person.answers
    assert held.found.entry["issuer"] == GOOD
    assert trials == [
        "https://down.example.com",
        GOOD,
        "http://app:9000",
        "postgresql://me@down/db",
        "postgresql://me:p%40ss%2Fword@db.example.com/db",
        "redis://127.0.0.1:6379/0",
    ]
    assert urlsplit(held.secrets[POSTGRES]).hostname == "db.example.com"
    assert held.secrets[REDIS] == "redis://127.0.0.1:6379/0"
    assert held.settings.postgres.dsn.get_secret_value() == held.secrets[POSTGRES]
    assert [result.outcome for result in held.results] == ["pass"] * 4


def test_options_are_not_asked_for_unless_they_do_not_work(trials: list[str]) -> None:
    person = Person(True)
    given = Given(GOOD, None, ("api",), (), "main", "http://app", "postgresql://u:p@down/db", "redis://r")
    held = Interview(given, Path("gateway.env"), {"ADMIN_TOKEN": "0123456789abcdef"}, person)
    held.hold()
    assert person.asked == ["Use it all the same?"]
    assert [result.outcome for result in held.results] == ["pass", "pass", "fail", "pass"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "# The secrets of the gateway. Let only the gateway's own user read this file.\nA=1\n"),
        ("# mine\nB='2 3'\n", "# mine\nB='2 3'\nA=1\n"),
        ("export A='1'\n", "A=1\n"),
    ],
)
def test_other_variables_stay(before: str, after: str) -> None:
    assert environment(before, {"A": "1"}, force=False) == after


def test_a_variable_is_not_overwritten_unless_it_is_asked_for() -> None:
    with pytest.raises(WouldOverwrite, match="sets A to another value"):
        environment("A=2\n", {"A": "1"}, force=False)
    assert environment("A=2\n", {"A": "1"}, force=True) == "A=1\n"


def test_a_dsn_needs_no_quotation() -> None:
    """docker run --env-file would take the marks for a part of it."""
    secrets = {"A": "postgresql://u:p%40w@h:5432/d?sslmode=verify-full"}
    assert environment("A=x\n", secrets, force=True) == f"A={secrets['A']}\n"


def test_values_survive_quotation() -> None:
    secrets = {"A": "postgresql://u:p'w$x@h/d?a=b&c=d", "B": 'a "b" \\c'}
    assert variables(environment("", secrets, force=False)) == secrets


def test_an_answer_that_is_no_url_is_asked_for_again(trials: list[str]) -> None:
    person = Person(
        "https://[idp", "api", "eyJ.x.y", GOOD, "api",
        "http://[app", "http://app",
        "postgresql://[db", "postgresql://u:p@db/x",
        "redis://[r", "redis://u:p@r",
    )  # fmt: skip
    Interview(Given(), Path("gateway.env"), {"ADMIN_TOKEN": "0123456789abcdef"}, person).hold()
    assert not person.answers
    assert trials == [GOOD, "http://app", "postgresql://u:p@db/x", "redis://u:p@r"]


@pytest.mark.parametrize(
    ("given", "token", "told"),
    [
        (Given(listen="8080"), "0123456789abcdef", "--listen: "),
        (Given(admin_listen="0.0.0.0:8080"), "0123456789abcdef", "--admin-listen: "),
        (Given(name="the main one"), "0123456789abcdef", "--name: "),
        (Given(), "short", "ADMIN_TOKEN in the file for the secrets: "),
    ],
)
def test_an_option_that_no_answer_corrects_ends_it(
    capsys: pytest.CaptureFixture[str], given: Given, token: str, told: str
) -> None:
    with pytest.raises(typer.Exit):
        Interview(given, Path("gateway.env"), {"ADMIN_TOKEN": token}, Person()).hold()
    assert told in capsys.readouterr().err


def test_a_secret_that_is_not_given_leads_back_to_the_issuer(trials: list[str]) -> None:
    token = tokens.sign(tokens.claims("u"), tokens.secret()).decode()
    person = Person("", token, "", GOOD, "api", "http://app")
    given = Given(postgres="postgresql://u:p@db/x", redis="redis://r")
    Interview(given, Path("gateway.env"), {"ADMIN_TOKEN": "0123456789abcdef"}, person).hold()
    assert not person.answers
    assert trials[0] == GOOD
