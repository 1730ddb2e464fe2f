"""Links lead to files and headings that exist. The index and the navigation of the site have every page."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.docs.pages import DOCS, PAGES, REPOSITORY, name, prose

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pages_that_the_program_and_its_files_name_exist() -> None:
    """Messages, help, comments and examples name pages as `docs/NAME.md`, some with a heading."""
    broken = set()
    for folder in ("gateway", "config", "deploy", "bench"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix not in {
                ".py",
                ".sql",
                ".js",
                ".yaml",
                ".yml",
                ".sh",
                ".conf",
                ".lua",
                ".tpl",
                ".cfg",
            }:
                continue
            text = file.read_text(encoding="utf-8")
            for path, anchor in re.findall(r"\b(docs/[a-z/-]+\.md)(?:#([a-z0-9-]+))?", text):
                target = REPOSITORY / path
                if not target.exists() or (anchor and anchor not in anchors(target)):
                    broken.add((name(file), f"{path}#{anchor}"))
    assert broken == set()


def test_every_page_is_in_the_index() -> None:
    listed = set(_LINK.findall(prose(DOCS / "README.md")))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if DOCS in page.parents}
    assert pages - listed == {"README.md"}


def hooks() -> ModuleType:
    """Return docs/site/hooks.py, which mkdocs runs. It is read here without mkdocs."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_navigation(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    for each in node.values() if isinstance(node, dict) else node:  # type: ignore[attr-defined]
        yield from in_navigation(each)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    class Loader(yaml.SafeLoader):
        """Reads what mkdocs.yml says of Python objects as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site: Any = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506 -- a SafeLoader
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if DOCS in page.parents}
    assert sorted(in_navigation(site["nav"])) == sorted(pages | hooks().generated())


@pytest.mark.parametrize(
    ("source", "link", "place", "expected"),
    [
        ("docs/cors.md", "tokens.md#keys", "cors.md", "tokens.md#keys"),
        ("docs/cors.md", "../SECURITY.md#supported-versions", "cors.md", "security.md#supported-versions"),
        ("docs/cors.md", "../deploy/a.yml", "cors.md", "files/deploy/a.yml.md"),
        ("docs/tutorials/nginx.md", "../cors.md", "tutorials/nginx.md", "../cors.md"),
        ("docs/tutorials/nginx.md", "../../deploy/a.yml", "tutorials/nginx.md", "../files/deploy/a.yml.md"),
        ("SECURITY.md", "docs/cors.md#x", "security.md", "cors.md#x"),
        ("SECURITY.md", "CHANGELOG.md", "security.md", "changelog.md"),
        ("SECURITY.md", "https://example.com/docs/a", "security.md", "https://example.com/docs/a"),
    ],
)
def test_links_that_leave_the_folder_lead_to_pages_of_the_site(
    source: str, link: str, place: str, expected: str
) -> None:
    assert hooks().rewritten(f"[x]({link})\n```\n[x]({link})\n```\n", source, place) == (
        f"[x]({expected})\n```\n[x]({link})\n```\n"
    )
