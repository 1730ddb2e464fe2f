"""The settings for people, without secrets: what `/v1/configuration` and the console show."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Final, get_args, get_origin
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, SecretStr, WithJsonSchema

from gateway.core.model import JSON
from gateway.settings.sections.model import Settings

HIDDEN: Final = "***"
_HARMLESS: Final = frozenset(
    {"db", "sslmode", "ssl_cert_reqs", "ssl_check_hostname", "target_session_attrs", "host", "port", "dbname"}
)
"""Parameters of URLs that are shown."""
URLS: Final = ("dsn", "url", "proxy")
"""How the names of settings end whose secret is only a part of a URL."""
_UNITS: Final[Mapping[str, tuple[tuple[str, float], ...]]] = {
    "duration": (("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001)),
    "size": (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting that is in force."""

    name: str
    """Its place: `cache.local_ttl`, `routes[orders].auth`."""
    value: JSON
    """As in the file, apart from the unit; a secret is `***`."""
    given: bool
    """Whether it was written; otherwise it is the default."""


def redacted(settings: Settings) -> list[Setting]:
    """Return all settings in the order of the reference, without secrets."""
    return [*_section("", settings, given=True)]


def _section(where: str, section: BaseModel, *, given: bool) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        written = field.alias or name
        place = f"{where}.{written}" if where else written
        is_given = given and name in section.model_fields_set
        unit = _kind(field.annotation, field.metadata)
        yield from _found(place, getattr(section, name), unit if unit in _UNITS else "", given=is_given)


def _found(place: str, value: object, unit: str, *, given: bool) -> Iterator[Setting]:
    """Yield a value, or what is in it if it is a section, or has sections."""
    if isinstance(value, BaseModel):
        yield from _section(place, value, given=given)
    elif isinstance(value, Mapping) and _has_sections(value.values()):
        for name, each in value.items():
            yield from _found(f"{place}.{name}", each, unit, given=given)
    elif isinstance(value, list | tuple) and _has_sections(value):
        for index, each in enumerate(value):
            called = getattr(each, "name", None) or index
            yield from _found(f"{place}[{called}]", each, unit, given=given)
    else:
        yield Setting(place, _value(value, unit, place), given)


def _has_sections(values: Any) -> bool:  # noqa: ANN401 -- any collection
    return any(isinstance(each, BaseModel) for each in values)


def _value(value: object, unit: str, place: str) -> JSON:
    match value:
        case None | bool():
            return value
        case SecretStr():
            is_url = place.endswith(URLS)
            return without_secrets(value.get_secret_value()) if is_url else HIDDEN
        case int() | float():
            return _amount(value, unit) if unit else value
        case str():
            return HIDDEN if place.endswith(("secret", "password")) else value
        case PurePath():
            return str(value)
        case Mapping():
            return {str(name): _value(each, unit, f"{place}.{name}") for name, each in value.items()}
        case list() | tuple():
            return [_value(each, unit, place) for each in value]
        case set() | frozenset():
            return [_value(each, unit, place) for each in sorted(map(str, value))]
        case _:
            return str(value)


def _amount(value: float, kind: str) -> str:
    """Return a duration or a size in the largest unit of which it is a multiple."""
    units = _UNITS[kind]
    for unit, size in units:
        if value and abs(value / size - round(value / size)) < 1e-9:
            return f"{round(value / size)}{unit}"
    return f"{value:g}{'s' if kind == 'duration' else 'B'}"


def without_secrets(text: str) -> str:
    """Return a URL without its password and all parameters that may be one; `***` for any other secret."""
    try:
        url = urlsplit(text)
        # A `/`, `?` or `#` in a password that is not percent-encoded ends the host before its `@`.
        if not url.scheme or "://" not in text or "@" in f"{url.path}{url.query}{url.fragment}":
            return HIDDEN
        parameters = parse_qsl(url.query, keep_blank_values=True)
    except ValueError:
        return HIDDEN
    user, at, hosts = url.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = f"{name}{colon}{HIDDEN if colon else ''}{at}{hosts}"
    query = "&".join(f"{key}={value if key in _HARMLESS else HIDDEN}" for key, value in parameters)
    return f"{url.scheme}://{shown}{url.path}{'?' if query else ''}{query}"


def _kind(annotation: Any, metadata: Any) -> str:  # noqa: ANN401 -- what pydantic keeps
    """Return the `x-kind` of a type: whether a number is a duration or a size."""
    for each in metadata:
        if isinstance(each, WithJsonSchema) and each.json_schema is not None and "x-kind" in each.json_schema:
            return str(each.json_schema["x-kind"])
    for part in get_args(annotation):
        if get_origin(part) is Annotated and (found := _kind(part.__origin__, part.__metadata__)):
            return found
    return ""
