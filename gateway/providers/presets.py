"""`preset: NAME` → the settings that it stands for. Settings that are written beside it win."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, cast

from gateway.core.model import JSON
from gateway.providers.catalogue import PARAMETERS, PROVIDERS
from gateway.providers.provider import Fault, IssuerSettings, Parameter, Provider

_JOINED: Final = ("expect", "claims")
"""Mappings whose entries win one by one; `null` takes an entry of the preset away."""
_ALSO: Final = {
    **dict.fromkeys(("aad", "azure", "azure-ad", "azuread", "microsoft", "msal", "entra-id"), "entra"),
    **dict.fromkeys(("aws", "amazon"), "cognito"),
    **dict.fromkeys(("gcp", "google-oauth"), "google"),
    **dict.fromkeys(("k8s", "eks", "gke", "aks"), "kubernetes"),
    **dict.fromkeys(("gha", "actions"), "github-actions"),
}
"""Other names of providers."""
_KNOWN: Final = ("issuer", "audiences", "tenants")
"""Settings of the issuer that presets read."""


@dataclass(frozen=True, slots=True)
class Unfolded:
    """An issuer's settings, without preset and parameters."""

    settings: Mapping[str, object]
    faults: tuple[Fault, ...] = ()
    """With any, the settings are for finding other mistakes alone: examples stand for what is missing."""


def unfold(entry: Mapping[str, object]) -> Unfolded:
    """Replace the preset of one entry of `issuers` by the settings that it stands for."""
    if "preset" not in entry:
        return Unfolded(entry)
    name = entry["preset"]
    if name is None:
        return Unfolded({key: value for key, value in entry.items() if key != "preset"})
    provider = PROVIDERS.get(name) if isinstance(name, str) else None
    if provider is None:
        word = str(name).lower()
        close = _ALSO.get(word) or next(iter(get_close_matches(word, PROVIDERS, n=1)), None)
        hint = f"did you mean {close}?" if close else f"write one of {', '.join(PROVIDERS)}"
        rest = {key: value for key, value in entry.items() if key != "preset" and key not in PARAMETERS}
        stand_in = {"issuer": _stand_in(entry), "audiences": ["api"], **rest}
        return Unfolded(stand_in, (Fault(("preset",), f"there is no preset {name!r}", hint),))
    given, faults = _given(provider, entry)
    faults += _missing(provider, entry, given)
    if not faults:
        # An example in the place of a wrong value would contradict the others.
        faults += [*provider.mistakes(given), *_slash(provider, given.get("issuer"))]
    defaults = provider.settings(given)
    written = {key: value for key, value in entry.items() if key != "preset" and key not in PARAMETERS}
    if faults:
        defaults["issuer"] = _stand_in(entry)
    return Unfolded(_over(defaults, written), tuple(faults))


def filled(provider: Provider, parameters: Mapping[str, JSON]) -> IssuerSettings:
    """Return what a preset fills in for parameters that are known to fit, as those of an `Example`."""
    unfolded = unfold({"preset": provider.name, **parameters})
    return cast("IssuerSettings", dict(unfolded.settings))


def _slash(provider: Provider, issuer: JSON) -> Iterator[Fault]:
    if provider.slash is None or not isinstance(issuer, str) or issuer.endswith("/") == provider.slash:
        return
    right, must = (f"{issuer}/", "must") if provider.slash else (issuer.rstrip("/"), "must not")
    yield Fault(("issuer",), f"{must} end with a slash, as the `iss` of its tokens", f"write issuer: {right}")


def _given(provider: Provider, entry: Mapping[str, object]) -> tuple[dict[str, JSON], list[Fault]]:
    """Read the parameters beside a preset."""
    given: dict[str, JSON] = {
        name: cast("JSON", entry[name]) for name in _KNOWN if entry.get(name) is not None
    }
    faults: list[Fault] = []
    for parameter in provider.parameters:
        word, value = _written(parameter, entry)
        if (
            word == parameter.name
            and parameter.singular is not None
            and entry.get(parameter.singular) is not None
        ):
            faults.append(
                Fault((parameter.singular,), f"is also given as {word}", f"write {parameter.name} alone")
            )
        if value is None:
            if parameter.default is not None:
                given[parameter.name] = parameter.default
            continue
        fault = _fault(parameter, word, value)
        if fault is not None:
            faults.append(fault)
            value = parameter.example
        given[parameter.name] = cast("JSON", _listed(value) if parameter.many else value)
    for word in entry.keys() & (PARAMETERS - provider.words):
        takes = ", ".join(each.name for each in provider.parameters)
        faults.append(
            Fault((word,), f"is not a parameter of the preset {provider.name}", f"it takes {takes}")
        )
    return given, faults


def _written(parameter: Parameter, entry: Mapping[str, object]) -> tuple[str, object]:
    for word in (parameter.name, parameter.singular):
        if word is not None and entry.get(word) is not None:
            return word, entry[word]
    return parameter.name, None


def _fault(parameter: Parameter, word: str, value: object) -> Fault | None:
    """Return what is wrong with a parameter's value."""
    values = _listed(value) if parameter.many and word == parameter.name else [value]
    hint = f"write {word}: {_shown(parameter, word)}"
    if not values:
        return Fault((word,), "must have at least one entry", hint)
    for index, each in enumerate(values):
        if not parameter.fits(each):
            where = (word, index) if isinstance(value, list | tuple) else (word,)
            return Fault(where, f"must be {parameter.what}", hint)
    return None


def _shown(parameter: Parameter, word: str) -> str:
    example = f'"{parameter.example}"' if parameter.example.isdecimal() else parameter.example
    return f"[{example}]" if parameter.many and word == parameter.name else example


def _missing(provider: Provider, entry: Mapping[str, object], given: dict[str, JSON]) -> list[Fault]:
    """Return a fault for each need that nothing meets, and meet it with an example."""
    faults: list[Fault] = []
    parameters = {parameter.name: parameter for parameter in provider.parameters}
    for need in provider.needs:
        if any(given.get(name) is not None or entry.get(name) is not None for name in need):
            continue
        if _written_out(provider, entry, need):
            continue
        lines = [
            f"{name}: {_shown(parameters[name], name) if name in parameters else _EXAMPLES[name]}"
            for name in need
            if name != "issuer" or name == need[0]
        ]
        wanted = " or ".join(line.partition(":")[0] for line in lines)
        faults.append(Fault((), f"the preset {provider.name} needs {wanted}", f"write {', or '.join(lines)}"))
        first = parameters.get(need[0])
        if first is not None:
            given[need[0]] = [first.example] if first.many else first.example
        else:
            given[need[0]] = "https://idp.example.com" if need[0] == "issuer" else ["api"]
    return faults


def _written_out(provider: Provider, entry: Mapping[str, object], need: tuple[str, ...]) -> bool:
    """Tell whether the clients are given by the settings that their parameter stands for."""
    if need[0] not in ("client_ids", "authorized_parties"):
        return False
    expect = entry.get("expect")
    named = isinstance(expect, Mapping) and expect.get(provider.client) is not None
    return named or entry.get("audiences") is not None


_EXAMPLES: Final = {
    "issuer": "https://idp.example.com",
    "audiences": "[https://api.example.com]",
    "tenants": "[8a1c3b52-6f0e-4d1b-9a57-0d2f6c1e4b90]",
}


def _over(defaults: Mapping[str, JSON], written: Mapping[str, object]) -> dict[str, object]:
    """Lay what is written over what a preset fills in."""
    merged: dict[str, object] = {**defaults, **written}
    for name in _JOINED:
        below, above = defaults.get(name), written.get(name)
        if isinstance(below, dict) and isinstance(above, Mapping):
            joined = {**below, **above}
            merged[name] = {key: value for key, value in joined.items() if value is not None}
    require, expect = defaults.get("require"), merged.get("expect")
    if "require" not in written and isinstance(require, list) and isinstance(expect, Mapping):
        # `expect` asks for the claim as well.
        merged["require"] = [path for path in require if path not in expect]
    # The name of an entry stands first, as in a file.
    return {key: merged[key] for key in ("name", *merged) if key in merged}


def _stand_in(entry: Mapping[str, object]) -> str:
    """Return an issuer that no other entry has, or a pattern for tenants."""
    return f"https://{entry.get('name')}.invalid/" + ("" if entry.get("tenants") is None else "{tenant}")


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
