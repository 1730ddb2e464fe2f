"""docs/existing-users.md: each configuration on the page can be used as it stands."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.settings import Settings
from gateway.translation import user_source
from tests.systems.sources import BLOCKS

_PAGE: Final = Path(__file__).parent.parent / "docs" / "existing-users.md"


def blocks() -> list[dict[str, Any]]:
    text = _PAGE.read_text(encoding="utf-8")
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


_FIRST, *_SOURCES = blocks()


def settings(block: Mapping[str, Any]) -> Settings:
    """Return what the first block and another one are together."""
    keys = {"keys": {"discovery": True}}
    merged = {**_FIRST, **block}
    merged["issuers"] = [{**keys, **issuer} for issuer in merged["issuers"]]
    return Settings.model_validate(merged)


@pytest.mark.parametrize("block", _SOURCES, ids=lambda block: str(block["users"]["source"])[:60])
def test_it_is_valid_with_the_first_part(block: dict[str, Any]) -> None:
    assert user_source(settings(block)) is not None


def test_the_systems_are_those_that_the_tests_drive() -> None:
    """What the page gives for a system is what the tests of whole gateways use for it."""
    page = [user_source(settings(block)) for block in _SOURCES]
    for name, block in BLOCKS.items():
        plain = {key: value for key, value in block.items() if key != "changes"}
        if name == "keycloak":
            plain["realm"] = "shop"
        assert user_source(settings({"users": {"source": plain}})) in page, name
