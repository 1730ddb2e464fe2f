"""The gateway and Envoy with the same issuer, keys, audience and leeway, and what each says of a request."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import yaml

from bench.population import settle
from bench.processes import HOST, Process, free_port, python, status
from bench.programs import found
from bench.tokens import AUDIENCE, ISSUER, ISSUER_NAME, Signer
from bench.verdicts.minting import LEEWAY, Case, jwks
from gateway.core.model import JSON
from gateway.demo.configuration import write
from gateway.demo.embedded import EmbeddedPostgres, EmbeddedRedis

NO_ANSWER: Final = "no answer"
# The token is good. No user has its subject, or the user is of another tenant.
_OF_USERS: Final = frozenset({"user_not_found", "tenant_mismatch"})
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a proxy says of a token."""

    accepted: bool
    why: str
    """The reason of a refusal, in the proxy's own words."""


@dataclass(frozen=True, slots=True)
class Proxies:
    """Both proxies, running."""

    gateway: int
    envoy: int

    def verdicts(self, case: Case) -> tuple[Verdict, Verdict]:
        """Return what the gateway says, and what Envoy says."""
        return _of_gateway(*_ask(self.gateway, case)), _of_envoy(*_ask(self.envoy, case))


@contextmanager
def running() -> Iterator[Proxies]:
    """Start both. Raises Refused when a program is missing or does not start, or `EmbeddedError`."""
    envoy = found("envoy")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gateway-verdicts-")))
        keys = folder / "keys.json"
        keys.write_text(jwks())
        postgres, redis = stack.enter_context(EmbeddedPostgres()), stack.enter_context(EmbeddedRedis())
        settle(folder, postgres.dsn, schema="public", users=1, signer=Signer.ed25519(), holders=())
        ports = Proxies(free_port(), free_port())
        upstream, admin = free_port(), free_port()
        configuration = folder / "envoy.yaml"
        configuration.write_text(yaml.safe_dump(_envoy(ports.envoy, upstream, keys)))
        command = (
            envoy,
            "-c",
            configuration,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
        )
        process = stack.enter_context(Process(command, log=folder / "envoy.log"))
        process.until(partial(_answers, upstream, "/"))
        settings = _gateway(ports.gateway, admin, upstream, keys, postgres.dsn, redis.url)
        write(folder / "gateway.yaml", settings)
        run = python("gateway", "run", "--config", folder / "gateway.yaml")
        process = stack.enter_context(Process(run, log=folder / "gateway.log"))
        process.until(partial(_answers, admin, "/readyz"))
        yield ports


def _gateway(port: int, admin: int, upstream: int, keys: Path, postgres: str, redis: str) -> dict[str, JSON]:
    return {
        "server": {"listen": f"{HOST}:{port}", "workers": 1},
        "admin": {"listen": f"{HOST}:{admin}"},
        "issuers": [
            {
                "name": ISSUER_NAME,
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "keys": {"jwks_file": str(keys)},
                "leeway": f"{LEEWAY}s",
            }
        ],
        "postgres": {"dsn": postgres},
        "redis": {"url": redis},
        "errors": {"detail": "full"},
        "upstreams": {"service": {"urls": [f"http://{HOST}:{upstream}"]}},
        "routes": [{"name": "all", "match": {"path": "/**"}, "upstream": "service"}],
    }


def _envoy(port: int, upstream: int, keys: Path) -> dict[str, JSON]:
    """One listener with `jwt_authn`, as strict as it can be set; another is the gateway's upstream."""
    authenticate: dict[str, JSON] = {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": f"{_TYPES}.http.jwt_authn.v3.JwtAuthentication",
            "providers": {
                ISSUER_NAME: {
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "local_jwks": {"filename": str(keys)},
                    "clock_skew_seconds": LEEWAY,
                    "require_expiration": True,
                }
            },
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": ISSUER_NAME}}],
        },
    }
    return {
        "static_resources": {"listeners": [_listener(port, authenticate), _listener(upstream)]},
    }


def _listener(port: int, *filters: dict[str, JSON]) -> dict[str, JSON]:
    route: JSON = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "yes"}},
    }
    router: JSON = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
    }
    manager: JSON = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [*filters, router],
        },
    }
    return {
        "address": {"socket_address": {"address": HOST, "port_value": port}},
        "filter_chains": [{"filters": [manager]}],
    }


def _answers(port: int, path: str) -> bool:
    return status(port, path) == 200


def _ask(port: int, case: Case) -> tuple[int | None, bytes]:
    """Send one request with exactly these octets; return the status, None without an answer, and the body."""
    request = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: "
        + case.field
        + b"\r\n\r\n"
    )
    try:
        with socket.create_connection((HOST, port), timeout=20) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection, method="GET")
            response.begin()
            return response.status, response.read()
    except (OSError, HTTPException):
        return None, b""


def _of_gateway(code: int | None, body: bytes) -> Verdict:
    if code is None or code == 200:
        return Verdict(code == 200, "" if code else NO_ANSWER)
    try:
        reason = str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        reason = f"status {code}"
    return Verdict(reason in _OF_USERS, reason)


def _of_envoy(code: int | None, body: bytes) -> Verdict:
    if code is None or code == 200:
        return Verdict(code == 200, "" if code else NO_ANSWER)
    return Verdict(accepted=False, why=body.decode(errors="replace").strip() or f"status {code}")
