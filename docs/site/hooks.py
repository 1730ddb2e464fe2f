"""What `mkdocs build` does beyond mkdocs: pages that are not in docs/, and links that leave it.

Pages link to files of the repository, as `../deploy/prometheus/alerts.yml`, so that the links work in a
clone and on a code host. On the site each such file is a page of its own, with its text.
"""

import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # tests read this file without mkdocs
    from markdown import Extension
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
MERMAID: Final = Path(__file__).parent / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"
PAGES: Final[Mapping[str, str]] = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Pages outside docs/ → where they are on the site."""
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_NAMED: Final = re.compile(r"\[(?:docs/)?(?:[\w-]+/)?[\w-]+\.md\]\(([^)\s#]+\.md)(#[^)\s]*)?\)")
_FENCE: Final = re.compile(r"^(?:```.*?^```|~~~.*?^~~~)", re.MULTILINE | re.DOTALL)
_LANGUAGES: Final = {
    ".yml": "yaml",
    ".yaml": "yaml",
    ".conf": "nginx",
    ".lua": "lua",
    ".service": "ini",
    ".sh": "sh",
}
_log: Final = logging.getLogger("mkdocs.hooks")


def generated() -> set[str]:
    """Return the pages of the navigation that are made when the site is built."""
    return {*PAGES.values(), "api.md", "metrics.md"}


def outside(source: str, link: str) -> str | None:
    """Return the path within the repository that a link of a page leads to, None if it stays within docs/.

    `source` is the page's path within the repository.
    """
    if "://" in link or link.startswith(("mailto:", "#")):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return None if path.startswith("docs/") else path


def place_of(path: str) -> str:
    """Return where a file outside docs/ is on the site."""
    if path == "README.md":
        return "quick-start.md"
    return PAGES.get(path) or f"files/{path}.md"


def rewritten(text: str, source: str, place: str) -> str:
    """Return the text of a page with links that lead somewhere on the site.

    `source` is its path within the repository, `place` its path on the site.
    """

    def replace(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        path = outside(source, link)
        if path is None:
            if source.startswith("docs/") or "://" in link or link.startswith("mailto:"):
                return match[0]
            path = posixpath.normpath(link).removeprefix("docs/")
        else:
            path = place_of(path)
            anchor = anchor if path in PAGES.values() else ""
        return posixpath.relpath(path, posixpath.dirname(place) or ".") + anchor

    return "".join(part if fence else _LINK.sub(replace, part) for fence, part in _parts(text))


def titled(text: str, place: str) -> str:
    """Return the text of a page with titles where links show the name of the page's file.

    `place` is its path on the site. On a code host the name is what people look for.
    """

    def replace(match: re.Match[str]) -> str:
        target = ROOT / "docs" / posixpath.normpath(posixpath.join(posixpath.dirname(place), match[1]))
        if not target.exists():
            return match[0]
        title = target.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        return f"[{title}]({match[1]}{match[2] or ''})"

    return "".join(part if fence else _NAMED.sub(replace, part) for fence, part in _parts(text))


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the text in pieces, and whether each is a fenced block of code."""
    end = 0
    for match in _FENCE.finditer(text):
        yield False, text[end : match.start()]
        yield True, match[0]
        end = match.end()
    yield False, text[end:]


def linked(text: str, source: str) -> set[str]:
    """Return the files outside docs/ to which a page links."""
    links = (
        outside(source, match[1])
        for fence, part in _parts(text)
        if not fence
        for match in _LINK.finditer(part)
    )
    return {path for path in links if path is not None and path not in {*PAGES, "README.md"}}


def listing(path: str) -> str:
    """Return a page with the text of a file of the repository."""
    text = (ROOT / path).read_text(encoding="utf-8")
    language = _LANGUAGES.get(posixpath.splitext(path)[1], "text")
    return f"# `{path}`\n\nA file of the repository.\n\n````{language}\n{text.rstrip()}\n````\n"


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Read lists as code hosts do. Draw diagrams with the script that is installed: no page fetches it."""
    config.markdown_extensions.append(_two_spaces())
    if MERMAID.exists():
        config.extra_javascript.append("mermaid.js")
    else:
        _log.info("Diagrams are shown as text: `npm ci --prefix docs/site` installs what draws them")
        for fence in config.mdx_configs["pymdownx.superfences"]["custom_fences"]:
            fence["class"] = "diagram"
    return config


def _two_spaces() -> "Extension":
    """Return an extension for which two spaces, and not four, continue an item of a list."""
    from markdown import Extension, Markdown

    class TwoSpaces(Extension):
        def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 -- the name that Markdown calls
            md.tab_length = 2

    return TwoSpaces()


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are not in docs/, and the files to which pages link."""
    from mkdocs.structure.files import File, InclusionLevel

    def add(place: str, *, content: str | None = None, copied: Path | None = None) -> None:
        level = InclusionLevel.NOT_IN_NAV if place.startswith("files/") else InclusionLevel.INCLUDED
        path = None if copied is None else str(copied)
        files.append(File.generated(config, place, content=content, abs_src_path=path, inclusion=level))

    pages = {file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages()}
    pages |= {place: source for source, place in PAGES.items()}
    others: set[str] = set()
    for source in pages.values():
        others |= linked((ROOT / source).read_text(encoding="utf-8"), source)
    for source, place in PAGES.items():
        add(place, content=(ROOT / source).read_text(encoding="utf-8"))
    for path in sorted(others):
        add(place_of(path), content=listing(path))
    add("api.md", content=_api())
    add("metrics.md", content=_metrics())
    add("site.css", copied=Path(__file__).parent / "site.css")
    if MERMAID.exists():
        add("mermaid.js", copied=MERMAID)
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Rewrite the links that leave docs/."""
    place = page.file.src_uri
    if place.startswith("files/") or place in {"api.md", "metrics.md"}:
        return markdown
    source = next((source for source, own in PAGES.items() if own == place), f"docs/{place}")
    return titled(rewritten(markdown, source, place), place)


def _api() -> str:
    """Return the reference of the admin API, from its description in OpenAPI."""
    from unittest.mock import MagicMock, patch

    from gateway.admin.api import openapi, wiring

    # The operations are made for parts that none of them asks here.
    with patch.object(wiring, "api") as api:
        wiring.admin_api(MagicMock(issuers={}), "not used, and long enough")
    return api_page(openapi.document(api.call_args.args[0]))


def _metrics() -> str:
    """Return the reference of the metrics, from their declarations."""
    from gateway.telemetry.metrics import Metrics

    lines = ["# Metrics", "", "What `/metrics` of the admin port has, for all processes together."]
    lines += ["[operations.md](operations.md#metrics) says what each means in operation.", ""]
    lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for each in sorted(Metrics().snapshot(), key=lambda each: each.name):
        name = each.name + ("_total" if each.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in each.labels)
        lines.append(f"| `{name}` | {each.kind} | {labels} | {_cell(each.help)} |")
    return "\n".join([*lines, ""])


def api_page(document: Mapping[str, Any]) -> str:
    """Return a page with the operations and the objects of an OpenAPI document."""
    lines = [
        "# Reference of the admin API",
        "",
        f"{document['info']['description']} [admin-api.md](admin-api.md) has examples.",
        "",
    ]
    lines += [
        "A running gateway serves this description at `/v1/openapi.json`. All paths are below `/v1`.",
        "",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += [f"## `{method.upper()} {path}`", "", operation.get("summary", ""), ""]
            if "description" in operation:
                lines += [operation["description"], ""]
            if operation.get("parameters"):
                lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
                for each in operation["parameters"]:
                    needed = " (required)" if each.get("required") else ""
                    meaning = _cell(each.get("description") or each["schema"].get("description", ""))
                    lines.append(
                        f"| `{each['name']}`{needed} | {each['in']} | {_type(each['schema'])} | {meaning} |"
                    )
                lines.append("")
            if "requestBody" in operation:
                (body,) = operation["requestBody"]["content"].values()
                lines += [f"Body: {_type(body['schema'])}", ""]
            lines += ["| status | answer |", "|---|---|"]
            for status, answer in operation["responses"].items():
                kinds = ", ".join(
                    _type(each.get("schema", {})) for each in answer.get("content", {}).values()
                )
                lines.append(
                    f"| {status} | {_cell(answer.get('description', ''))}{': ' + kinds if kinds else ''} |"
                )
            lines.append("")
    for name, schema in document["components"]["schemas"].items():
        lines += [f"## {name}", "", schema.get("description", ""), ""]
        if "enum" in schema:
            lines += [", ".join(f"`{value}`" for value in schema["enum"]), ""]
        if "properties" in schema:
            lines += ["| field | type | meaning |", "|---|---|---|"]
            for field, each in schema["properties"].items():
                needed = " (required)" if field in schema.get("required", ()) else ""
                lines.append(f"| `{field}`{needed} | {_type(each)} | {_cell(each.get('description', ''))} |")
            lines.append("")
    return "\n".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of a value in a word, as a link if it is an object of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(each) for each in schema[several])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "any")
    return str(schema.get("format") or kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
