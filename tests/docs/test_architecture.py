"""docs/architecture.md: the files that it names exist."""

import re

from tests.docs.pages import DOCS, REPOSITORY

_CODE = re.compile(r"`([\w.-]+(?:/[\w.-]*)+)`")
_ROOMS = (REPOSITORY / "gateway", REPOSITORY)


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    paths = {path for path in _CODE.findall(text) if path.endswith((".py", ".sql", ".md", ".yaml", "/"))}
    assert len(paths) > 100
    assert sorted(path for path in paths if not any((room / path).exists() for room in _ROOMS)) == []
