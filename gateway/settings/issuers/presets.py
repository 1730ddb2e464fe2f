"""`preset:` of an issuer: replaced by the settings that it stands for, before anything is checked.

So the rest of the settings knows no presets. In the schema, `preset` and its parameters stand beside the
settings of an issuer.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.providers.catalogue import PROVIDERS
from gateway.providers.presets import unfold
from gateway.settings.findings import Finding

_NEEDED: Final = ("issuer", "audiences")
"""What an issuer needs that presets fill in."""


def unfolded(data: object) -> tuple[object, list[Finding]]:
    """Return a raw configuration without presets, and what is wrong with these."""
    issuers = data.get("issuers") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(issuers, list | tuple):
        return data, []
    if not any(isinstance(issuer, Mapping) and "preset" in issuer for issuer in issuers):
        return data, []
    entries: list[object] = []
    findings: list[Finding] = []
    for index, issuer in enumerate(issuers):
        if not isinstance(issuer, Mapping):
            entries.append(issuer)
            continue
        found = unfold(issuer)
        entries.append(dict(found.settings))
        findings += (
            Finding(("issuers", index, *fault.where), fault.message, fault.hint) for fault in found.faults
        )
    return {**data, "issuers": entries}, findings


def extend_schema(schema: dict[str, Any]) -> None:
    """Add `preset` and the parameters to the JSON Schema of an issuer."""
    properties = {
        "preset": {
            "type": "string",
            "enum": [*PROVIDERS],
            "title": "Preset",
            "default": None,
            "description": "A provider, whose preset fills in the settings below, with parameters of its"
            " own: see [providers.md](providers.md). Settings that you write yourself win.",
        },
        **dict(_parameters()),
    }
    required = schema["required"]
    schema["x-required"] = required
    schema["required"] = [name for name in required if name not in _NEEDED]
    schema["if"] = {"not": {"required": ["preset"]}}
    schema["then"] = {"required": [*_NEEDED]}
    first = schema["properties"].pop("name")
    schema["properties"] = {"name": first, **properties, **schema["properties"]}


def _parameters() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schema of each parameter, whichever presets take it."""
    meanings: dict[str, list[str]] = {}
    lists: set[str] = set()
    for provider in PROVIDERS.values():
        for parameter in provider.parameters:
            for word in (parameter.name, parameter.singular):
                if word is not None:
                    meanings.setdefault(word, []).append(f"Preset {provider.name}: {parameter.meaning}")
            if parameter.many:
                lists.add(parameter.name)
    for word, texts in meanings.items():
        kind: dict[str, Any] = {"type": "string"}
        if word in lists:
            kind = {"type": "array", "items": kind, "minItems": 1}
        yield word, {**kind, "description": " ".join(texts), "default": None, "x-parameter": True}
