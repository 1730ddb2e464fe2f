"""Commands on the pages: each `gateway …` is a command that exists, with options that it has."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from gateway.cli.reference.commands import Command, page, root
from tests.docs.pages import DOCS, PAGES, REPOSITORY, blocks, name, prose

ROOT = root()
_SPAN = re.compile(r"`(?:\.venv/bin/)?gateway ([^`]+)`")
_IN_BLOCK = re.compile(r"(?:^\$|[|;(]|&&|[A-Z]=\S*) +(?:\.venv/bin/)?gateway ([a-z-].*)")
_END = re.compile(r"\s(?:\||\|\||&&|&|;|>|<|2>&1|#)(?:\s|$)|;\s|\)")


def mentioned(page: Path) -> Iterator[str]:
    """Yield what follows `gateway` in each command on a page."""
    yield from _SPAN.findall(prose(page))
    for language in ("console", "sh", "bash"):
        for block in blocks(page, language):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.startswith("$ "):
                    yield from _IN_BLOCK.findall(re.sub(r" #.*", "", line))
                elif line.startswith("    gateway "):
                    # What a command prints for people to paste.
                    yield line.removeprefix("    gateway ")


def fault(text: str) -> str | None:
    """Return what is wrong with a command, None if it could be called."""
    words = shlex.split(_END.split(text + " ")[0])
    words = [word for word in words if word not in {"…", "..."}]
    command: Command = ROOT
    context = typer.Context(ROOT, info_name="gateway")
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        inner = command.commands.get(words[0])
        if not isinstance(inner, TyperCommand | TyperGroup):
            return f"there is no command {words[0]!r}"
        words.pop(0)
        command = inner
        context = typer.Context(command, info_name=inner.name, parent=context)
    options = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options |= set(context.help_option_names) | {"--help"}
    for word in words:
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options:
            return f"there is no option {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_command_exists_with_its_options(page: Path) -> None:
    faults = [f"gateway {text}: {why}" for text in mentioned(page) if (why := fault(text)) is not None]
    assert faults == []


def test_each_command_that_the_program_and_its_files_name_exists() -> None:
    faults = []
    for folder in ("gateway", "config", "deploy"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.suffix not in {".py", ".js", ".yaml", ".yml", ".sh", ".service", ".tpl", ".txt"}:
                continue
            # A text may go on in the next line of the source.
            text = re.sub(r'"\n *f?"', "", file.read_text(encoding="utf-8"))
            for command in _SPAN.findall(text):
                if command.startswith(("{", "COMMAND")):
                    continue
                if (why := fault(re.sub(r"\{[^}]*\}", "x", command))) is not None:
                    faults.append(f"{name(file)}: gateway {command}: {why}")
    assert faults == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("users add --issuer main --subject=ann", None),
        ("users | grep x --count", None),
        ("users ad --issuer main", "there is no command 'ad'"),
        ("explain - --confg x", "there is no option --confg"),
        ("demo --markdown", "there is no option --markdown"),
    ],
)
def test_a_mistake_is_found(text: str, expected: str | None) -> None:
    assert fault(text) == expected


def test_the_page_in_docs_is_the_generated_one() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert text == page(ROOT), "run: gateway commands > docs/commands.md"
