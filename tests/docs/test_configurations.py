"""Configurations on the pages: a whole one passes as it stands, and of a part each name exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import Settings, load
from tests.docs.pages import DOCS, PAGES, blocks, name

_VARIABLE = re.compile(r"\bGATEWAY_[A-Z]+__[A-Z_]+[A-Z]\b")
_WHOLE = {"issuers", "postgres", "redis", "upstreams", "routes"}
BLOCKS = [
    pytest.param(text, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "yaml"), start=1)
]


def sections(text: str) -> dict[str, Any] | None:
    """Return the settings of a block, None if it is not about settings at the top level."""
    loaded = yaml.safe_load(text)
    return loaded if isinstance(loaded, dict) and set(loaded) <= set(Settings.model_fields) else None


WHOLE = [block for block in BLOCKS if set(sections(str(block.values[0])) or ()) >= _WHOLE]


@pytest.mark.parametrize("text", WHOLE)
def test_a_whole_configuration_is_valid(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(variable, "postgresql://gateway@127.0.0.1/gateway")
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    load(file)


def test_there_are_whole_configurations() -> None:
    pages = {str(block.id).partition(".md")[0] for block in WHOLE}
    assert {"docs/tutorials/keycloak", "docs/tutorials/supabase", "docs/tutorials/nginx"} <= pages


PARTS = [block for block in BLOCKS if block not in WHOLE and sections(str(block.values[0]))]


@pytest.mark.parametrize("text", PARTS)
def test_a_part_of_a_configuration_fits_into_a_whole_one(text: str) -> None:
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
    Settings.model_validate(whole)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_variable_is_that_of_a_setting(page: Path) -> None:
    there = set(_VARIABLE.findall((DOCS / "configuration.md").read_text(encoding="utf-8")))
    there |= {f"{variable}_FILE" for variable in there}
    named = set(_VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert {variable for variable in named - there if "_SECTION__" not in variable} == set()
