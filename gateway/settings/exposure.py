"""Warnings of settings that let more clients reach, claim or read something than was probably meant."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.settings.findings import Location
from gateway.settings.reading.environment import variable_of
from gateway.settings.reading.loading import Problem, Source
from gateway.settings.sections.model import Settings
from gateway.settings.urls import is_loopback

_OPEN: Final = "is not loopback, and there is no admin.token: metrics and /readyz are open to the network"


def exposure(settings: Settings, source: Source) -> Iterator[Problem]:
    """Yield the warnings."""
    admin = settings.admin
    if admin.token is None and not admin.listen.startswith("unix:") and not is_loopback(f"//{admin.listen}"):
        yield source.problem(
            ("admin", "listen"),
            _OPEN,
            "listen on 127.0.0.1, or keep the port off the public network and set admin.token",
        )
    for index, network in enumerate(settings.server.trusted_proxies):
        if network.prefixlen == 0:
            yield source.problem(
                ("server", "trusted_proxies", index),
                f"({network}) trusts every client: each can name any address as its own",
                "write the networks of your proxies alone",
            )
    for place, is_secret in _secrets(settings):
        if is_secret and source.is_in_readable_file(place):
            variable = variable_of(place)
            yield source.problem(
                place,
                "is a secret in a file that all users of this machine can read",
                f"chmod 640 {source.path}, or set {variable} or {variable}_FILE",
            )


def _secrets(settings: Settings) -> Iterator[tuple[Location, bool]]:
    """Yield the settings that may be secrets, and whether they are."""
    yield ("admin", "token"), settings.admin.token is not None
    yield ("admin", "oidc", "client_secret"), settings.admin.oidc is not None
    yield ("postgres", "dsn"), _has_password(settings.postgres.dsn)
    yield ("redis", "url"), _has_password(settings.redis.url)
    if settings.users.source is not None and settings.users.source.dsn is not None:
        yield ("users", "source", "dsn"), _has_password(settings.users.source.dsn)


def _has_password(url: SecretStr) -> bool:
    return urlsplit(url.get_secret_value()).password is not None
