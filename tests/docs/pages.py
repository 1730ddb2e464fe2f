"""What the tests of the pages read: all Markdown files that people are meant to read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
DOCS: Final = REPOSITORY / "docs"
PAGES: Final = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md")),
        *DOCS.glob("*.md"),
        *DOCS.glob("tutorials/*.md"),
        *(REPOSITORY / "deploy").rglob("README.md"),
    ]
)
_FENCE: Final = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    """Return the path of a page within the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the blocks of code in a language."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[2] == language:
            yield match[3]
