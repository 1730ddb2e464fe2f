"""docs/architecture.md: the files that it names exist, and every room is described."""

import re

from tests.docs.pages import DOCS, REPOSITORY

_CODE = re.compile(r"`([\w.-]+(?:/[\w.-]*)+)`")
_ROOMS = (REPOSITORY / "gateway", REPOSITORY)


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    paths = {path for path in _CODE.findall(text) if path.endswith((".py", ".sql", ".md", ".yaml", "/"))}
    assert len(paths) > 100
    assert sorted(path for path in paths if not any((room / path).exists() for room in _ROOMS)) == []


def test_every_room_is_described() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([\w.]+/?)` \|", text, re.MULTILINE))
    rooms = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (REPOSITORY / "gateway").iterdir()
        if not path.name.startswith("__") and path.name != "py.typed"
    }
    assert described == rooms


def test_the_names_in_brackets_after_a_file_are_in_it() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    absent = []
    for path, brackets in re.findall(r"`([\w/.-]+\.(?:py|tpl|js|html|sql))` \(([^()]*)\)", text):
        named = [path, *re.findall(r"`([\w/]+\.py)`", brackets)]
        sources = [
            (room / name).read_text(encoding="utf-8")
            for name in named
            for room in _ROOMS
            if (room / name).is_file()
        ]
        absent += [
            (path, name)
            for name in re.findall(r"`([A-Za-z_]\w*)`", brackets)
            if not any(re.search(rf"\b{name}\b", source) for source in sources)
        ]
    assert absent == []
