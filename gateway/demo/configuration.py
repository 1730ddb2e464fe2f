"""The demo's configuration: a file like that of any gateway."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from gateway.core.model import JSON
from gateway.demo.issuer import AUDIENCE


def configuration(
    *,
    listen: str,
    admin_listen: str,
    admin_token: str,
    issuer: str,
    upstream: str,
    postgres: str,
    redis: str,
    users: Mapping[str, JSON] | None = None,
) -> dict[str, JSON]:
    """Return the settings of the demo's gateway. The `listen` arguments are host:port, the others URLs.

    `users` is `users.source`, if there is one.
    """

    def route(name: str, path: str, **rest: JSON) -> JSON:
        return {"name": name, "match": {"path": path}, "upstream": "echo", **rest}

    return {
        "server": {"listen": listen, "workers": 1},
        "admin": {"listen": admin_listen, "token": admin_token},
        "issuers": [
            {"name": "demo", "issuer": issuer, "audiences": [AUDIENCE], "keys": {"discovery": True}},
        ],
        "postgres": {"dsn": postgres},
        "redis": {"url": redis},
        **({} if users is None else {"users": {"source": dict(users)}}),
        # Short, so that an UPDATE of a user shows soon.
        "cache": {"local_ttl": "2s", "user_ttl": "2s", "negative_ttl": "1s"},
        "upstreams": {"echo": {"urls": [upstream]}},
        "routes": [
            route("echo", "/echo/**"),
            route("admin", "/admin/**", require={"roles": ["admin"]}),
            route("orders", "/orders/**", require={"scopes": ["orders:read"]}),
            route("public", "/public/**", auth="none"),
            # A page in a browser cannot set Authorization on these two.
            route("ws", "/ws", credentials={"query": "access_token", "subprotocol": "bearer"}),
            route("events", "/events", credentials={"query": "access_token"}),
        ],
    }


def write(path: Path, content: dict[str, JSON]) -> None:
    """Write a configuration that only its owner can read: it contains passwords."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
