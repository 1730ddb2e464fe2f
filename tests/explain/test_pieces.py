"""The small parts: formatting of values, similar issuers, the use of an index."""

import shlex
import subprocess

import pytest

from gateway.core.model import Identity, Issuer, StoreUnavailable, Tier
from gateway.explain.answer import Cause
from gateway.explain.evidence.issuers import nearest
from gateway.explain.wording import Commands, ago, moment, shown, span, sql_literal, with_config, yaml_line
from gateway.stores.postgres.database import Postgres
from gateway.stores.postgres.directory import diagnostics
from gateway.stores.postgres.directory.diagnostics import Diagnostics, failure_kind
from tests.explain.world import World


def issuer(iss: str) -> Issuer:
    return Issuer("main", iss, frozenset({"api"}), frozenset({"RS256"}))


class TestNearest:
    @pytest.mark.parametrize(
        ("iss", "same"),
        [
            ("https://idp.example.com/realms/prod/", True),
            (" https://idp.example.com/realms/prod", True),
            ("http://idp.example.com/realms/prod", True),
            ("HTTPS://IDP.example.com:443/realms/prod", True),
            ("https://idp.example.com/Realms/prod", True),
            ("https://idp.example.com/realms/staging", False),
            ("https://dev.idp.example.com/realms/prod", False),
            ("https://idp-qa.example.com/realms/test", False),
            ("https://idp.example.com/realms/prod-users", False),
            ("https://idp.example.com/auth/realms/prod", False),
        ],
    )
    def test_close(self, iss: str, *, same: bool) -> None:
        near = nearest(
            iss, [issuer("https://other.example.org"), issuer("https://idp.example.com/realms/prod")]
        )
        assert near is not None
        assert (near.place, near.same) == (1, same)

    @pytest.mark.parametrize(
        "iss",
        [
            "https://idp.example.com.evil.org/realms/prod",
            "https://idp.example.com/realms.prod",
            "https://idp.example.co.uk/realms/prod",
            "https://evil.org/#https://idp.example.com/realms/prod",
            "https://[::1/realms/prod",
            "x",
        ],
    )
    def test_not_close(self, iss: str) -> None:
        assert nearest(iss, [issuer("https://idp.example.com/realms/prod")]) is None

    def test_the_same_issuer_comes_before_another_environments(self) -> None:
        near = nearest("https://a.example", [issuer("https://a.dev.example"), issuer("https://a.example/")])
        assert near is not None
        assert near.place == 1


class TestWording:
    def test_nothing_shown_is_obeyed(self) -> None:
        assert shown('\x1b[2J"\u202e\u2028') == r'"\u001b[2J\"\u202e\u2028"'
        assert len(shown("x" * 10_000)) < 200

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.4, "0 s"), (119, "119 s"), (-300, "5 min"), (7200, "2 h"), (200_000, "2 days")],
    )
    def test_span(self, seconds: float, text: str) -> None:
        assert span(seconds) == text

    def test_moments(self) -> None:
        assert (moment(0), moment(float("inf"))) == ("1970-01-01T00:00:00Z", "inf")
        assert (ago(10, 40), ago(40, 10)) == ("30 s ago", "in 30 s")

    def test_lines_and_literals(self) -> None:
        assert yaml_line("a.b", ['x"y', "ä"]) == r'a.b: ["x\"y", "ä"]'
        assert yaml_line("a.b", "x\u2028") is None
        assert (sql_literal("O'Hara"), sql_literal("a\\'")) == ("'O''Hara'", " E'a\\\\'''")

    def test_a_shell_passes_words_on_unchanged(self) -> None:
        words = ["$(id)", "'\"; `id`", "-x", "*"]
        command = Commands("my file.yaml", "public").gateway("revocations", "lift", "jti", operands=words)
        assert command is not None
        said = subprocess.run(  # noqa: S602 -- a shell is what is tested
            command.replace("gateway", "printf '%s\\n'", 1),
            shell=True,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert said.splitlines() == ["revocations", "lift", "jti", "--config", "my file.yaml", "--", *words]
        assert Commands(None, "public").gateway("users", "show", "a\x1bb") is None

    @pytest.mark.parametrize(
        ("command", "expected"),
        [
            ("gateway users activate 7", "gateway users activate 7 --config 'a b.yaml'"),
            ("gateway revocations lift jti -- -x", "gateway revocations lift jti --config 'a b.yaml' -- -x"),
            ("gateway check --config other.yaml", "gateway check --config other.yaml"),
            ('redis-cli -u "${GATEWAY_REDIS__URL:?}" DEL a', 'redis-cli -u "${GATEWAY_REDIS__URL:?}" DEL a'),
        ],
    )
    def test_a_command_of_a_gateway_gets_the_configuration(self, command: str, expected: str) -> None:
        assert with_config(command, "a b.yaml") == expected
        assert with_config(command, "a\x1bb.yaml") == command

    def test_a_command_needs_the_dsn_from_elsewhere(self) -> None:
        command = Commands(None, "public").update("users", "tenant = NULL", id="7")
        assert command is not None
        assert shlex.split(command)[-1] == """UPDATE "public".users SET tenant = NULL WHERE id = '7'"""
        failed = subprocess.run(command, shell=True, capture_output=True, env={}, check=False)  # noqa: S602 -- a shell is what is tested
        assert failed.returncode != 0
        assert b"GATEWAY_POSTGRES__DSN" in failed.stderr


def test_every_cause_is_described(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "explain.md").read_text()
    assert [cause for cause in Cause if f"| `{cause.value}` |" not in text] == []


def test_trouble_is_looked_for_behind_the_error() -> None:
    assert failure_kind(StoreUnavailable(Tier.POSTGRES, "down")) == "unreachable"


async def test_spellings_are_found_by_an_index(world: World) -> None:
    await world.add()
    await world.sql(
        "INSERT INTO identities SELECT 'i', 'auth0|' || n, users.id FROM users, generate_series(1, 20000) n"
    )
    await world.sql("ANALYZE identities")
    postgres = Postgres(world.dsn)
    try:
        found = await Diagnostics(postgres).similar_identities(Identity("i", "777"))
        assert [each.identity.subject for each in found] == ["auth0|777"]
        async with postgres.connection() as connection:
            plan = await connection.fetch(f"EXPLAIN {diagnostics._SIMILAR}", ["777"], "777", "i")
    finally:
        await postgres.close()
    assert "identities_spelling" in str(plan)
