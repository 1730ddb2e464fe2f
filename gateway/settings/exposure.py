"""Warnings of settings that let more clients reach, claim or read something than was probably meant."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, SecretStr

from gateway.settings.findings import Location
from gateway.settings.listening import all_addresses
from gateway.settings.reading.environment import variable_of
from gateway.settings.reading.loading import Problem, Source
from gateway.settings.redaction import URLS
from gateway.settings.sections.model import Settings
from gateway.settings.urls import is_loopback

_OPEN: Final = "is not loopback, and there is no admin.token: metrics and /readyz are open to the network"
_SECRET_FILES: Final = frozenset({"key", "key_file", "private_key_file", "secret_file", "client_secret_file"})
"""Settings that name a file with a secret."""


def exposure(settings: Settings, source: Source) -> Iterator[Problem]:
    """Yield the warnings."""
    admin = settings.admin
    if admin.token is None and not admin.listen.startswith("unix:") and not is_loopback(f"//{admin.listen}"):
        yield source.problem(
            ("admin", "listen"),
            _OPEN,
            "listen on 127.0.0.1, or keep the port off the public network and set admin.token",
        )
    yield from _trust(settings, source)
    for place, value in _values((), settings):
        if isinstance(value, SecretStr) and _is_secret(place, value) and source.is_in_readable_file(place):
            # A variable reaches no place within a list.
            variable = variable_of(place)
            instead = (
                "write ${NAME}, and set NAME" if _in_list(place) else f"set {variable} or {variable}_FILE"
            )
            yield source.problem(
                place,
                "is a secret in a file that all users of this machine can read",
                f"chmod 640 {source.path}, or {instead}",
            )
        if isinstance(value, Path) and place[-1] in _SECRET_FILES and _is_readable(value):
            yield source.problem(place, "can be read by all users of this machine", f"chmod o-r {value}")


def _trust(settings: Settings, source: Source) -> Iterator[Problem]:
    """Yield that all addresses are trusted, by one network or by several together."""
    where, proxies = ("server", "trusted_proxies"), settings.server.trusted_proxies
    told = "every client: each can name any address as its own"
    everything = [(index, network) for index, network in enumerate(proxies) if network.prefixlen == 0]
    for index, network in everything:
        yield source.problem(
            (*where, index), f"({network}) trusts {told}", "write the networks of your proxies alone"
        )
    if not everything and all_addresses(proxies):
        yield source.problem(where, f"together trust {told}", "write the networks of your proxies alone")


def _values(where: Location, value: object) -> Iterator[tuple[Location, object]]:
    """Yield each single value of the settings, and its place."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _values((*where, field.alias or name), getattr(value, name))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _values((*where, str(name)), each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _values((*where, index), each)
    else:
        yield where, value


def _is_secret(place: Location, value: SecretStr) -> bool:
    """Return whether a value is a secret: a URL is one if it has a password."""
    if not str(place[-1]).endswith(URLS):
        return True
    url = urlsplit(value.get_secret_value())
    return url.password is not None or any("password" in name for name in parse_qs(url.query))


def _in_list(place: Location) -> bool:
    return any(isinstance(key, int) for key in place)


def is_file(path: Path) -> bool:
    """Return whether there is such a file. In a folder that may not be searched, there is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_readable(file: Path) -> bool:
    return is_file(file) and bool(file.stat().st_mode & stat.S_IROTH)
