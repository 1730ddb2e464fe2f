"""docs/threat-model.md: each promise names tests, and the tests are there."""

import re
from collections.abc import Iterator

import pytest

from tests.docs.pages import DOCS, REPOSITORY

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each promise with its tests: file and function."""
    text = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    section = text.split("\n## What is promised\n")[1].split("\n## ")[0]
    for item in re.split(r"^- ", section, flags=re.MULTILINE)[1:]:
        yield " ".join(item.split("\n  - ")[0].split()), _TEST.findall(item)


@pytest.mark.parametrize(
    ("promise", "tests"), [*promises()], ids=lambda part: part[:50] if isinstance(part, str) else ""
)
def test_each_promise_has_tests_that_exist(promise: str, tests: list[tuple[str, str]]) -> None:
    assert tests
    for path, function in tests:
        file = REPOSITORY / path
        assert file.exists(), path
        there = re.search(rf"^(?:async )?def {function}\(", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert there, f"{path} has no {function}: name the test that holds this promise now"
