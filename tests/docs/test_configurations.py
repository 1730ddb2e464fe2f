"""Samples of YAML on the pages: each is accepted, as `gateway check` would, where it belongs.

A whole configuration passes as it stands. A part passes in a configuration that has the rest, and a
fragment of a section within its section. Samples of other programs are named here; those of the Helm chart
are rendered in tests/deploy.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway import translation
from gateway.cli.policy.cases import read
from gateway.replay.decider import Decider, RequestClock
from gateway.settings import Settings, load
from tests.docs.pages import DOCS, PAGES, REPOSITORY, blocks, name, prose

_VARIABLE = re.compile(r"\bGATEWAY_[A-Z]+__[A-Z_]+[A-Z]\b")
_WHOLE = {"issuers", "postgres", "redis", "upstreams", "routes"}
OTHER_PROGRAMS: Final = {
    **{f"docs/kubernetes.md-{number}": "tests/deploy/test_chart.py" for number in range(1, 9)},
    "docs/kubernetes.md-9": "a NetworkPolicy for services",
    "docs/operations.md-1": "Grafana",
}
"""Samples that are no configuration of the gateway: what they are, or where they are tested."""
FRAGMENTS: Final[dict[str, str]] = {
    "docs/tokens.md-2": "issuers:\n  - name: main\n",
    "docs/tokens.md-3": "issuers:\n",
}
"""Samples that begin within a section, with the lines that come before them."""
CASES: Final = {"docs/policy.md-2": "docs/policy.md-1"}
"""Cases for `gateway policy test`, with the sample of the configuration that decides them."""
BLOCKS: Final = {
    f"{name(page)}-{number}": text
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"), start=1)
}


def sections(text: str) -> dict[str, Any] | None:
    """Return the settings of a block, None if it is not about settings at the top level."""
    loaded = yaml.safe_load(text)
    return loaded if isinstance(loaded, dict) and set(loaded) <= set(Settings.model_fields) else None


WHOLE: Final = [key for key, text in BLOCKS.items() if set(sections(text) or ()) >= _WHOLE]
PARTS: Final = [key for key, text in BLOCKS.items() if key not in WHOLE and sections(text)]


def checked(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load a configuration as `gateway check` does; each variable that it names has a value."""
    for variable in re.findall(r"(?<!\$)\$\{(\w+)\}", text):
        monkeypatch.setenv(variable, "postgresql://gateway@127.0.0.1/gateway")
    file = folder / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def completed(text: str) -> str:
    """Return a configuration that has a part as it stands, and what the part leaves out."""
    part = sections(text) or {}
    whole: dict[str, Any] = {
        "issuers": [{"name": "main"}],
        "postgres": {"dsn": "postgresql://gateway@127.0.0.1/gateway"},
        "redis": {"url": "redis://127.0.0.1:6379"},
        "upstreams": {"orders": {"urls": ["http://127.0.0.1:9000"]}},
        "routes": [{"name": "orders", "match": {"path": "/orders/**"}, "upstream": "orders"}],
    } | part
    for issuer in whole["issuers"]:
        # What a page is not about, it leaves out.
        defaults = {
            "issuer": "https://idp.example.com/",
            "audiences": ["orders-api"],
            "keys": {"discovery": True},
        }
        if "preset" not in issuer:
            issuer.update({key: value for key, value in defaults.items() if key not in issuer})
        if "introspection" in issuer:
            del issuer["keys"]
    for route in whole["routes"]:
        if route.get("upstream") is not None:
            whole["upstreams"].setdefault(route["upstream"], {"urls": ["http://127.0.0.1:9000"]})
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def test_each_sample_is_of_a_known_kind() -> None:
    kinds = [*WHOLE, *PARTS, *FRAGMENTS, *CASES, *OTHER_PROGRAMS]
    assert sorted(kinds) == sorted(BLOCKS)


def test_there_are_whole_configurations() -> None:
    pages = {key.partition(".md")[0] for key in WHOLE}
    assert {"docs/tutorials/keycloak", "docs/tutorials/supabase", "docs/tutorials/nginx"} <= pages


@pytest.mark.parametrize("key", WHOLE)
def test_a_whole_configuration_is_valid(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked(BLOCKS[key], tmp_path, monkeypatch)


@pytest.mark.parametrize("key", PARTS)
def test_a_part_of_a_configuration_fits_into_a_whole_one(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(completed(BLOCKS[key]), tmp_path, monkeypatch)


@pytest.mark.parametrize("key", FRAGMENTS)
def test_a_fragment_of_a_section_fits_into_it(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(completed(FRAGMENTS[key] + BLOCKS[key]), tmp_path, monkeypatch)


@pytest.mark.parametrize("key", CASES)
def test_cases_of_a_policy_expect_what_the_configuration_decides(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = checked(completed(BLOCKS[CASES[key]]), tmp_path, monkeypatch)
    (tmp_path / "cases.yaml").write_text(BLOCKS[key], encoding="utf-8")
    moment = RequestClock()
    decider = Decider(translation.routes(settings, moment), map(translation.issuer, settings.issuers), moment)
    for expected in read(tmp_path / "cases.yaml", settings):
        outcome = decider.decide(expected.case)
        route = None if outcome.route is None else outcome.route.name
        assert expected.is_met_by(outcome.verdict, route), (expected.name, outcome.verdict, route)


_SETTING: Final = re.compile(r"`([a-z_]+(?:\[\w*\])?(?:\.[a-z_<>]+(?:\[\w*\])?)+)(?:: [^`]*)?`")
_NO_SETTING: Final = {
    "users.status", "users.deleted_at",  # columns
    "users.list", "redis.claim",  # actions in the audit log
    "server.address", "server.port",  # attributes of spans
    "decision.enabled", "decision.grpc",  # values of the Helm chart
    "limits.limiter",  # a module
}  # fmt: skip


def _settings() -> Iterator[str]:
    """Yield each path of docs/configuration.md, which is generated, and those of the sections above it."""
    section = ""
    for line in (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `(.+)`", line):
            section = heading[1]
            yield from (section.rsplit(".", count)[0] for count in range(section.count(".") + 1))
        elif line.startswith("## "):
            section = ""
        elif row := re.match(r"\| `(\w+)` \|", line):
            yield f"{section}.{row[1]}" if section else row[1]


def _pattern(path: str) -> re.Pattern[str]:
    """Match a path as the pages write it: with or without an index, with any name for `<name>`."""
    parts = re.sub(r"\[\]", "", path).split(".")
    return re.compile(
        r"\.".join(
            r"[\w<>]+" if part.startswith("<") else rf"{re.escape(part)}(?:\[\w*\])?" for part in parts
        )
    )


@pytest.fixture(scope="module")
def known_settings() -> list[re.Pattern[str]]:
    return [_pattern(path) for path in _settings()]


def _unknown(text: str, known_settings: list[re.Pattern[str]]) -> list[str]:
    """Return the paths in a text that begin like one of a setting, and are none."""
    named = {path for path in _SETTING.findall(text) if re.split(r"\W", path)[0] in Settings.model_fields}
    unknown = {path for path in named if not any(known.fullmatch(path) for known in known_settings)}
    return sorted(unknown - _NO_SETTING)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_named_setting_exists(page: Path, known_settings: list[re.Pattern[str]]) -> None:
    assert _unknown(prose(page), known_settings) == []


def test_each_setting_that_messages_name_exists(known_settings: list[re.Pattern[str]]) -> None:
    """Also in comments of the program."""
    found = {
        name(file): unknown
        for file in (REPOSITORY / "gateway").rglob("*.py")
        # A text may go on in the next line of the source.
        if (unknown := _unknown(re.sub(r'"\n *f?"', "", file.read_text(encoding="utf-8")), known_settings))
    }
    assert found == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_variable_is_that_of_a_setting(page: Path) -> None:
    there = set(_VARIABLE.findall((DOCS / "configuration.md").read_text(encoding="utf-8")))
    there |= {f"{variable}_FILE" for variable in there}
    named = set(_VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert {variable for variable in named - there if "_SECTION__" not in variable} == set()
