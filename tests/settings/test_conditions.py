"""Expressions in a configuration: each mistake is told at file, line and column."""

import json
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.settings import load
from tests.conditions.test_analysis import MISTAKES
from tests.settings import mistakes

HEAD: Final = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]%s}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
%s
routes:
"""
ROUTE: Final = "  - {name: r%d, match: {path: /r%d/**}, upstream: orders, require: {condition: %s}}\n"
SOURCE: Final = """\
users: {source: {table: t, id: id, email: mail, attributes: [plan, '"Level"'], identities: [{subject: id}]}}
"""


def told(folder: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return [each.removeprefix(":") for each in mistakes.told(file, env)]


def one(condition: str, rest: str = "", head: str = "", issuer: str = "") -> str:
    return HEAD % (issuer, head) + (
        f"  - name: r\n    match: {{path: /r}}\n    upstream: orders\n{rest}    require:\n"
        f"      condition: {condition}\n"
    )


def test_check_finds_every_seeded_mistake(tmp_path: Path) -> None:
    """All in one file, each with its line and column."""
    file = tmp_path / "gateway.yaml"
    routes = [ROUTE % (number, number, json.dumps(text)) for number, (text, _, _) in enumerate(MISTAKES)]
    file.write_text(HEAD % ("", "") + "".join(routes))
    result = CliRunner().invoke(app, ["check", "--config", str(file), "--json"])
    assert result.exit_code == 2
    found = json.loads(result.stdout)["problems"]
    first = HEAD.count("\n") + 1
    for number, (text, at, message) in enumerate(MISTAKES):
        own = [each for each in found if each["line"] == first + number]
        assert own, text
        assert message in own[0]["message"]
        # In quotes, `"` and `\` are two characters.
        before = routes[number].index("condition: ") + len('condition: "') + len(json.dumps(text[:at])) - 2
        assert own[0]["column"] == before + 1, (text, own)


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("user.id == 1", "11:26"),
        ("'user.id == 1'", "11:27"),
        ('"user.id == 1"', "11:27"),
        ("'claims.x == ''a'' && user.id == 1'", "11:48"),
        ('"claims.x == \\"a\\" && user.id == 1"', "11:48"),
        ("|-\n        claims.x == 1 &&\n        user.id == 1", "13:17"),
        (">-\n        claims.x == 1 &&\n        user.id == 1", "13:17"),
        ("claims.x == 1 &&\n        user.id == 1", "12:17"),
        ("&a user.id == 1", "11:29"),
        ("!!str 'user.id == 1'", "11:33"),
        ('"claims.x == 1 && \\\n        user.id == 1"', "12:17"),
        ('"claims.x\\t==\\u0020\\x31 && user.id == 1"', "11:53"),
        ('"claims.x == \\"\\u00e9\\U0001F600漢\\" && user.id == 1"', "11:64"),
    ],
    ids=[
        "plain",
        "single",
        "double",
        "escaped quote",
        "escape",
        "literal",
        "folded",
        "two lines",
        "anchor",
        "tag",
        "continued",
        "escaped space",
        "unicode",
    ],
)
def test_the_column_is_that_of_the_file(tmp_path: Path, written: str, place: str) -> None:
    (message,) = told(tmp_path, one(written))
    assert message.startswith(f"{place}: routes[0].require.condition: a text is never equal")


def test_a_text_with_variables_has_a_line_alone(tmp_path: Path) -> None:
    (message,) = told(tmp_path, one("'${WHO}.id == 1'"), {"WHO": "user"})
    assert message.startswith("11: routes[0].require.condition: ")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (one("user.roles"), "11:18", "is a list, and must be true or false"),
        (one("1 == 1"), "11:18", "reads nothing"),
        (one("'has(claims.a) ? claims.a : 1'"), "11:46", "is a whole number, and must be true or false"),
        (one("'has(claims.a) ? \"x\" : true'"), "11:35", "is a text, and must be true or false"),
        (one("claims.a == 1", "    auth: none\n"), "12:25", "reads `claims`, but auth is none"),
        (one("user.id == 'a'", "    missing_user: forward\n"), "12:23", "also admits tokens without one"),
        (one('request.headers["x-user-id"] == "a"'), "11:33", "which clients may forge"),
        (one('request.headers["x_auth.subject"] == "a"'), "11:33", "which clients may forge"),
        (
            one(
                "claims.a == 1",
                head="limits: [{name: l, per: user, rate: 1/1s, when: 'request.headers.x_user_id == \"a\"'}]",
            ),
            "5:66",
            "which clients may forge",
        ),
        (one("user.tenant == 'a'", head=SOURCE), "12:23", "users.source does not say where it is"),
        (one("user.attributes.plan == user.attributes.paln", head=SOURCE), "12:58", "does not have it"),
        (one("claims.a == 1", issuer=", provisioning: {when: 'user.id == \"a\"'}"), "1:101", "reads `user`"),
        (one("claims.a == 1", issuer=", provisioning: {when: 'claims.a = 1'}"), "1:105", "has no meaning"),
        (
            one("claims.a == 1", head="headers: {identity: {X-A: 'request.path + \"a\"'}}"),
            "5:36",
            "reads `request`: a header is the same",
        ),
        (
            one("claims.a == 1", head="headers: {identity: {X-A: 'user.attributes[\"a\"] +'}}"),
            "5:50",
            "the expression ends",
        ),
    ],
)
def test_a_place_has_rules_of_its_own(tmp_path: Path, text: str, place: str, message: str) -> None:
    (found,) = told(tmp_path, text)
    assert message in found
    assert found.startswith(f"{place}: ")


@pytest.mark.parametrize(
    "text",
    [
        one('\'request.method == "GET" && client.ip == "10.0.0.1"\'', "    auth: none\n"),
        one("'!has(user.id) || user.email == \"a\"'", "    missing_user: forward\n"),
        one("user.email == user.attributes.Level", head=SOURCE),
        one("claims.a == 1", issuer=", provisioning: {when: 'claims.email_verified && claims.hd == \"x\"'}"),
        one("claims.a == 1", head="headers: {identity: {X-A: '\"admin\" in user.roles ? 1 : 0'}}"),
        one("claims.a == 1", head="headers: {identity: {X-A: 'claims.https://example.com/roles'}}"),
    ],
)
def test_a_valid_condition_is_accepted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    load(file, {})
