"""The pages: links lead to headings that exist, paths lead to files that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([\w.-]+(?:/[\w.-]*)+)`")
_ROOMS = (REPOSITORY / "gateway", REPOSITORY)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = REPOSITORY / "docs" / "README.md"
    listed = set(_LINK.findall(index.read_text(encoding="utf-8")))
    assert {page.name for page in PAGES if page.parent == index.parent} - listed == {index.name}


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = {path for path in _CODE.findall(text) if path.endswith((".py", ".sql", ".md", ".yaml", "/"))}
    assert len(paths) > 100
    assert sorted(path for path in paths if not any((room / path).exists() for room in _ROOMS)) == []
