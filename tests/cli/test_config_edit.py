"""One value of the configuration file is changed, and nothing else; or nothing is, and the reason told."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from gateway.cli.explain.config_edit import NotEditable, changed, edited, patch, write
from gateway.core.model import JSON

FILE = """\
# Who may sign in.
issuers:
  - name: main            # the label
    issuer: https://idp.example.com   # without the slash
    audiences: [api]
    require:
      - exp               # always
      - sub
      # the last of them
    claims: {scopes: scope}  # where

  # The other one.
  - {name: second, issuer: "https://second.example.com/"}
postgres:
  dsn: postgresql:///x
  replica_dsn:
routes: []
"""

EDITS: list[tuple[str, tuple[str | int, ...], JSON, str, str]] = [
    ("a scalar", ("issuers", 0, "issuer"), "https://idp.example.com/",
     "issuer: https://idp.example.com   #", "issuer: https://idp.example.com/   #"),
    ("in a flow mapping", ("issuers", 1, "issuer"), "https://b.example.com",
     '"https://second.example.com/"}', "https://b.example.com}"),
    ("a scalar becomes a list", ("issuers", 0, "claims", "scopes"), ["scope", "scp"],
     "{scopes: scope}", "{scopes: [scope, scp]}"),
    ("a key of a flow mapping", ("issuers", 0, "claims", "roles"), ["roles", "realm_access.roles"],
     "{scopes: scope}", "{scopes: scope, roles: [roles, realm_access.roles]}"),
    ("a key of a block mapping", ("issuers", 0, "scope_separator"), ",",
     "{scopes: scope}  # where", '{scopes: scope}  # where\n    scope_separator: ","'),
    ("a section", ("issuers", 1, "claims", "scopes"), ["scp"],
     '"https://second.example.com/"}', '"https://second.example.com/", claims: {scopes: [scp]}}'),
    ("an entry of a block list", ("issuers", 0, "require"), ["exp", "/x.example/id"],
     "- sub\n", "- /x.example/id\n"),
    ("a longer block list", ("issuers", 0, "require"), ["exp", "sub", "jti"],
     "- sub\n", "- sub\n      - jti\n"),
    ("an empty value", ("postgres", "replica_dsn"), None, "replica_dsn:\n", "replica_dsn: null\n"),
    ("the end of the file", ("redis", "prefix"), "g:", "routes: []\n", 'routes: []\nredis: {prefix: "g:"}\n'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "value", "old", "new"), [each[1:] for each in EDITS], ids=[e[0] for e in EDITS]
)
def test_one_value_is_changed(way: tuple[str | int, ...], value: JSON, old: str, new: str) -> None:
    assert FILE.count(old) == 1
    assert changed(FILE, way, value) == FILE.replace(old, new)


REFUSALS = [
    ("an alias", "a: &x {b: 1}\nc: *x\n", ("a", "b"), 2, "aliases"),
    ("a merge", "a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n", ("c", "b"), 2, "aliases"),
    ("two documents", "a: 1\n---\na: 2\n", ("a",), 2, "not one YAML document"),
    ("nothing", "# nothing\n", ("a",), 2, "empty"),
    ("a variable", "a: {b: '${B}'}\n", ("a", "b"), "x", "environment"),
    ("a text of several lines", "a: |\n  x\n  y\n", ("a",), "x", "several lines"),
    ("a comment in a flow", "a: [x, # why\n  y]\n", ("a",), ["x", "y", "z"], "comments would be lost"),
    ("a shorter list", "a:\n  - x # why\n  - y\n", ("a",), ["x"], "would lose an entry"),
    ("no such entry", "a:\n  - x\n", ("a", 3, "b"), 1, "no such entry"),
    ("something else", "a: 1\n", ("a", "b"), 1, "in the place of the section"),
    ("a mapping of several lines", "a:\n  b: 1 # why\n", ("a",), {"b": 2}, "comments would be lost"),
]


@pytest.mark.parametrize(
    ("text", "way", "value", "why"), [each[1:] for each in REFUSALS], ids=[each[0] for each in REFUSALS]
)
def test_an_unsafe_edit_is_refused(text: str, way: tuple[str | int, ...], value: JSON, why: str) -> None:
    with pytest.raises(NotEditable, match=why):
        changed(text, way, value)


def test_json_stays_json() -> None:
    text = json.dumps({"issuers": [{"issuer": "https://a", "claims": {}}]}, indent=2)
    once = changed(text, ("issuers", 0, "issuer"), "https://a/")
    twice = changed(once, ("issuers", 0, "claims", "scopes"), ["scp"])
    assert json.loads(twice) == {"issuers": [{"issuer": "https://a/", "claims": {"scopes": ["scp"]}}]}


def with_a_route(folder: Path) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(FILE.replace("routes: []", "routes:\n  - {name: a, match: {path: /a}}"))
    return file


@pytest.mark.parametrize(
    "line",
    [
        'issuers[0].audiences: ["api", "other"]',
        'routes[0].match.methods: ["GET", "POST"]',
        'issuers[0].leeway: "300s"',
    ],
)
def test_an_edit_that_lets_more_tokens_in_is_only_shown(tmp_path: Path, line: str) -> None:
    file = with_a_route(tmp_path)
    with pytest.raises(NotEditable, match="the edit lets more requests in, which is a decision") as refused:
        edited(file, line)
    assert refused.value.text is not None
    assert patch(file, refused.value.text).count("\n+") >= 1


def test_an_entry_that_there_is_not_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotEditable, match="it has no such entry in the list") as refused:
        edited(with_a_route(tmp_path), 'routes[1]: {"name": "new"}')
    assert refused.value.text is None


def test_a_value_of_the_environment_is_not_edited_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    monkeypatch.setenv("GATEWAY_POSTGRES__SCHEMA", "x")
    with pytest.raises(NotEditable, match="GATEWAY_POSTGRES__SCHEMA"):
        edited(file, 'postgres.schema: "y"')


def test_a_patch_has_the_lines_that_change(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    text = edited(file, 'issuers[0].issuer: "https://idp.example.com/"')
    lines = patch(file, text).splitlines()
    assert [line for line in lines if line[0] in "+-" and line[1] not in "+-"] == [
        "-    issuer: https://idp.example.com   # without the slash",
        "+    issuer: https://idp.example.com/   # without the slash",
    ]


def test_a_text_with_which_the_gateway_would_not_start_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    file.chmod(0o640)
    with pytest.raises(Exception, match="2"):
        write(file, "routes: 7\n")
    assert file.read_text() == FILE
    assert [each.name for each in tmp_path.iterdir()] == ["gateway.yaml"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert yaml.safe_load(file.read_text())["routes"] == []
