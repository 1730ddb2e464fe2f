"""`gateway check --explain-preset NAME`, and the page docs/providers.md: both from the table of providers."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from gateway.cli.terminal import output
from gateway.cli.terminal.yaml import entry
from gateway.providers.catalogue import PROVIDERS
from gateway.providers.presets import filled
from gateway.providers.provider import Example, IssuerSettings, Provider

ALL: Final = "all"
_HEAD: Final = """\
# Token providers

A preset fills in the settings of an issuer for a provider: write `preset: NAME` and a few parameters.
Settings that you write yourself win. `expect` and `claims` are merged entry by entry, and `null` removes an
entry of the preset.

`gateway token inspect` recognises the provider of a token; with `--as-config` it prints the entry for it.
`gateway check --explain-preset NAME` shows what a preset stands for.
[All settings](configuration.md#issuers).

`gateway check --explain-preset all --markdown` generates this page from `gateway/providers/table/`.
"""


def explain(name: str, *, markdown: bool, json: bool) -> None:
    """Print what a preset stands for, or the page with all of them."""
    if markdown:
        output.out.out(page(), end="", highlight=False)
        return
    chosen = list(PROVIDERS.values()) if name == ALL else [_find(name)]
    if json:
        documents = [_document(provider) for provider in chosen]
        output.emit_json(documents if name == ALL else documents[0])
        return
    for provider in chosen:
        for line in _lines(provider):
            output.out.print(line, markup=False, soft_wrap=True)


def page() -> str:
    """Return docs/providers.md."""
    lines = [_HEAD, "| preset | provider | parameters |", "|---|---|---|"]
    for provider in PROVIDERS.values():
        names = ", ".join(f"`{each.name}`" for each in provider.parameters)
        anchor = provider.title.lower().replace(" ", "-")
        lines.append(f"| [`{provider.name}`](#{anchor}) | {provider.title} | {names} |")
    for provider in PROVIDERS.values():
        lines += _section(provider)
    return "\n".join([*lines, ""])


def _section(provider: Provider) -> Iterator[str]:
    yield from ("", f"## {provider.title}", "")
    yield from ("| parameter | value | meaning |", "|---|---|---|")
    for each in provider.parameters:
        name = f"`{each.name}`" if each.singular is None else f"`{each.name}`, `{each.singular}`"
        default = f" Default: `{each.default}`." if each.default else ""
        what = f"list: {each.what}" if each.many else each.what
        yield f"| {name} | {what.replace('|', chr(92) + '|')} | {each.meaning}{default} |"
    yield from ("", f"Needed: {_needs(provider)}.")
    for example in provider.examples:
        yield from (
            "",
            f"{example.title}:",
            "",
            "```yaml",
            "issuers:",
            *entry(_short(provider, example)),
            "```",
        )
        yield from (
            "",
            "which stands for",
            "",
            "```yaml",
            "issuers:",
            *entry(_unfolded(provider, example)),
            "```",
        )
    yield from ("", "What surprises:", "")
    yield from (f"- {quirk}" for quirk in provider.quirks)
    yield from ("", "Where to find it:", "")
    yield from (f"- {step}" for step in provider.console)


def _lines(provider: Provider) -> Iterator[str]:
    yield f"{provider.name}: {provider.title}\n"
    width = max(len(each.name) for each in provider.parameters)
    for each in provider.parameters:
        default = f" Default: {each.default}." if each.default else ""
        yield f"  {each.name:<{width}}  {each.meaning}{default}"
    yield f"\nneeded: {_needs(provider)}"
    for example in provider.examples:
        yield from (f"\n# {example.title}", "issuers:", *entry(_short(provider, example)))
        yield from ("# stands for", "issuers:", *entry(_unfolded(provider, example)))
    yield ""
    yield from (f"- {quirk}" for quirk in provider.quirks)
    yield ""
    yield from (f"> {step}" for step in provider.console)


def _needs(provider: Provider) -> str:
    return "; ".join(" or ".join(f"`{name}`" for name in need) for need in provider.needs)


def _document(provider: Provider) -> dict[str, object]:
    return {
        "preset": provider.name,
        "provider": provider.title,
        "parameters": [
            {
                "name": each.name,
                "singular": each.singular,
                "list": each.many,
                "what": each.what,
                "meaning": each.meaning,
                "default": each.default,
                "example": each.example,
            }
            for each in provider.parameters
        ],
        "needs": [list(need) for need in provider.needs],
        "examples": [
            {
                "title": example.title,
                "entry": _short(provider, example),
                "settings": _unfolded(provider, example),
            }
            for example in provider.examples
        ],
        "quirks": list(provider.quirks),
        "console": list(provider.console),
    }


def _short(provider: Provider, example: Example) -> IssuerSettings:
    return {"name": "main", "preset": provider.name, **example.parameters}


def _unfolded(provider: Provider, example: Example) -> IssuerSettings:
    return {"name": "main", **filled(provider, example.parameters)}


def _find(name: str) -> Provider:
    provider = PROVIDERS.get(name)
    if provider is None:
        near = get_close_matches(name.lower(), PROVIDERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(PROVIDERS)}"
        output.fail(f"there is no preset {name!r}", hint, output.USAGE)
    return provider
