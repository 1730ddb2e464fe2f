"""Every setting is read where the gateway is put together."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from pydantic import Field

from gateway.settings import Settings
from gateway.settings.sections import model
from tests.test_translation import settings_of

ROOT: Final = Path(__file__).parent.parent.parent / "gateway"
SERVING: Final = ("app.py", "builders/*.py", "translation.py", "cli/run.py")
"""The files that hand the settings to a gateway that serves. Commands and checks read them too."""
TRANSLATED: Final = ("issuers.", "limits.", "routes.", "upstreams.", "server.limits.", "users.source.")
"""What is copied field by field: see tests/test_translation.py and tests/settings/test_limits.py."""


def chains(sources: Iterable[str]) -> set[tuple[str, ...]]:
    """Return every attribute access, such as `settings.redis.tls.strict`, as its names."""
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            found.add((*([node.id] if isinstance(node, ast.Name) else []), *names))
    return found


def unread(settings: type[Settings]) -> list[str]:
    """Return the settings that are not read by their whole name: `redis.tls.strict`, not `strict` alone."""
    read = chains(file.read_text(encoding="utf-8") for name in SERVING for file in ROOT.glob(name))
    names = (name for name in settings_of(settings) if not name.startswith(TRANSLATED))
    return sorted(
        name
        for name in names
        if not any(chain[-name.count(".") - 1 :] == (*name.split("."),) for chain in read)
    )


def test_every_setting_is_read() -> None:
    assert unread(Settings) == []


class _Tls(model.ClientTls):
    certificate: str = ""


class _Jwks(model.Jwks):
    tls: _Tls = Field(default_factory=_Tls)


class _Cache(model.Cache):
    timeout: float = 1.0


class _Newer(model.Settings):
    jwks: _Jwks = Field(default_factory=_Jwks)
    cache: _Cache = Field(default_factory=_Cache)
    profiling: str = ""


def test_a_setting_that_is_not_read_is_found_whatever_others_are_called() -> None:
    assert unread(_Newer) == ["cache.timeout", "jwks.tls.certificate", "profiling"]


@pytest.mark.parametrize("name", TRANSLATED)
def test_each_exception_names_an_existing_setting(name: str) -> None:
    assert any(setting.startswith(name) for setting in settings_of(Settings))
