"""The URLs of a configuration, each parsed as its driver will parse it.

Error messages do not contain the value: it may contain a password.
"""

import re
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Final, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import AfterValidator, SecretStr, WithJsonSchema

from gateway.core.reasons import Denial
from gateway.core.routes import normal_path
from gateway.settings.values import UNIX_ADDRESS, mistake

POSTGRES_EXAMPLE: Final = "postgresql://gateway@127.0.0.1:5432/gateway"
REDIS_EXAMPLE: Final = "redis://127.0.0.1:6379/0"
PROXY_EXAMPLE: Final = "http://proxy.example.com:3128"

# The values that the driver accepts for a parameter.
_POSTGRES_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
# The client accepts more parameters, with which a URL would override settings that the gateway needs.
_REDIS_PARAMETERS: Final = ("db", "username", "password", "client_name", "health_check_interval")
_REDIS_TLS_PARAMETERS: Final = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile",
    "ssl_password",
)  # fmt: skip
_CERT_REQS: Final = ("none", "optional", "required")
_REDIS_SENTINEL_PARAMETERS: Final = ("sentinel_username", "sentinel_password")
_ENCODE: Final = (
    "percent-encode user and password: @ is %40, / is %2F, # is %23, ? is %3F, : is %3A, [ is %5B"
)


def _split_url(value: str) -> SplitResult | None:
    """Split an absolute http(s) URL without credentials and fragment; None if it is not one."""
    try:
        url = urlsplit(value)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        return None
    return (
        url
        if usable and "@" not in url.netloc and "#" not in value and not re.search(r"[\s\\]", value)
        else None
    )


def _upstream_url(value: str) -> str:
    if UNIX_ADDRESS.fullmatch(value):
        return value
    url = _split_url(value)
    if url is None or "?" in value:
        raise mistake(
            "must be an http or https URL without query, or unix: and a path",
            "write http://orders:9000, http://orders:9000/base or unix:/run/orders.sock",
        )
    try:
        path = normal_path(url.path) if url.path else ""
    except Denial as denial:
        raise mistake(
            f"has a base path that is refused in requests: {denial.detail}",
            "write a plain path, such as /base",
        ) from denial
    return f"{url.scheme}://{url.netloc}{path.removesuffix('/')}"


def base_path(url: str) -> str:
    """Return the path of an upstream's URL without its final slash; nothing for a Unix socket."""
    parts = None if UNIX_ADDRESS.fullmatch(url) else _split_url(url)
    if parts is None or not parts.path:
        return ""
    with suppress(Denial):
        return normal_path(parts.path).removesuffix("/")
    return parts.path


def _key_url(value: str) -> str:
    if _split_url(value) is None:
        raise mistake(
            "must be an http or https URL without credentials", "write https://idp.example.com/jwks.json"
        )
    return value


def _proxy_url(value: SecretStr) -> SecretStr:
    url = _parts(value.get_secret_value(), ("http", "https"), PROXY_EXAMPLE)
    hosts = url.netloc.rpartition("@")[2]
    _check_host(hosts, PROXY_EXAMPLE)
    if not url.hostname or url.path not in ("", "/") or url.query:
        raise mistake("must be a URL with only host and port", f"write {PROXY_EXAMPLE}")
    return value


def _dsn(value: SecretStr) -> SecretStr:
    """Check a DSN as asyncpg parses it: it may have several hosts or none, and sockets in the query."""
    text = value.get_secret_value()
    url = _parts(text, ("postgresql", "postgres"), POSTGRES_EXAMPLE)
    user, _, hosts = url.netloc.rpartition("@")
    if "@" in user:
        raise mistake("has more than one @ before its host", _ENCODE)
    for host in hosts.split(",") if hosts else ():
        if not host or host.startswith(":"):
            raise mistake("has a port or a comma without a host", f"write {POSTGRES_EXAMPLE}")
        _check_host(host, POSTGRES_EXAMPLE)
    try:
        query = parse_qs(url.query, strict_parsing=True) if url.query else {}
    except ValueError:
        raise mistake("has a query that cannot be read", "write ?key=value&key=value") from None
    for name, choices in _POSTGRES_CHOICES.items():
        if name in query and query[name][-1] not in choices:
            raise mistake(f"has a {name} that does not exist", f"write one of {', '.join(choices)}")
    ports = ",".join(query.get("port", ())).split(",")
    if "port" in query and not all(map(_is_port, ports)):
        raise mistake("has an invalid port", "write a number from 1 to 65535")
    if not hosts and "host" in query:
        for host in query["host"][-1].split(","):
            if not host.startswith("/"):
                _check_host(host, POSTGRES_EXAMPLE)
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    schemes = [f"{scheme}{kind}" for kind in ("", "+sentinel", "+cluster") for scheme in ("redis", "rediss")]
    url = _parts(text, (*schemes, "unix"), REDIS_EXAMPLE)
    hosts = url.netloc.rpartition("@")[2]
    path = unquote(url.path)
    if url.scheme == "unix":
        if hosts or not url.path:
            raise mistake("must name the path of a socket", "write unix:///run/redis.sock")
    elif url.scheme.endswith("+sentinel"):
        _check_hosts(hosts, "redis+sentinel://127.0.0.1:26379/mymaster")
        if not re.fullmatch(r"/[^/]+(/[0-9]*)?", path):
            raise mistake(
                "has no service, or a database that is not a number",
                "write the Sentinels' name of the service: redis+sentinel://127.0.0.1:26379/mymaster/0",
            )
    elif url.scheme.endswith("+cluster"):
        _check_hosts(hosts, "redis+cluster://127.0.0.1:6379")
        if path not in ("", "/"):
            raise mistake("has a database, but a cluster has none", "end the URL after the hosts")
    else:
        _check_host(hosts, REDIS_EXAMPLE)
        if not re.fullmatch(r"/?|/[0-9]+", path):
            raise mistake("has a database that is not a number", f"write {REDIS_EXAMPLE}")
    _check_redis_query(url)
    return value


def _check_redis_query(url: SplitResult) -> None:
    known = [*_REDIS_PARAMETERS]
    if url.scheme.startswith("rediss"):
        known += _REDIS_TLS_PARAMETERS
    if url.scheme.endswith("+sentinel"):
        known += _REDIS_SENTINEL_PARAMETERS
    if url.scheme.endswith("+cluster"):
        known.remove("db")
    query = parse_qs(url.query, keep_blank_values=True)
    if not set(query) <= set(known):
        raise mistake("has a parameter that is not supported", f"supported: {', '.join(known)}")
    if any(not query[name][0].isdecimal() for name in ("db", "health_check_interval") if name in query):
        raise mistake(
            "has a parameter that is not a number", "db and health_check_interval are whole numbers"
        )
    if query.get("ssl_cert_reqs", ["none"])[0] not in _CERT_REQS:
        raise mistake("has an ssl_cert_reqs that does not exist", f"write one of {', '.join(_CERT_REQS)}")


def _parts(text: str, schemes: tuple[str, ...], example: str) -> SplitResult:
    """Split a URL that may contain a password, and check that no part of the password is misplaced."""
    if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise mistake(f"must be a URL that starts with {schemes[0]}://", f"write {example}")
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise mistake("must not contain spaces or control characters", _ENCODE)
    try:
        url = urlsplit(text)
    except ValueError:
        raise mistake(
            "has a bracket that is not part of an IPv6 address", f"write {example}, or {_ENCODE}"
        ) from None
    if "#" in text or ("@" in text and "@" not in url.netloc):
        raise mistake("has a character that ends the host too early", _ENCODE)
    return url


def _check_hosts(hosts: str, example: str) -> None:
    for host in hosts.split(","):
        if not host or host.startswith(":"):
            raise mistake("has a port or a comma without a host", f"write {example}")
        _check_host(host, example)


def _check_host(host: str, example: str) -> None:
    """Refuse text that is not a host name or address, with or without a port."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|[^:\[\],\s]*)(?::([^:]*))?", host)
    if match is None:
        raise mistake("has an invalid host", f"write {example}; put an IPv6 address in brackets")
    if match[1] is not None:
        try:
            IPv6Address(match[1])
        except ValueError:
            raise mistake("has a bracket that is not part of an IPv6 address", f"write {example}") from None
    if match[2] and not _is_port(match[2]):
        raise mistake("has an invalid port", "write a number from 1 to 65535")


def is_loopback(url: str) -> bool:
    """Tell whether the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 65536


UpstreamUrl: TypeAlias = Annotated[
    str, AfterValidator(_upstream_url), WithJsonSchema({"type": "string", "x-kind": "URL", "format": "uri"})
]
KeyUrl: TypeAlias = Annotated[
    str, AfterValidator(_key_url), WithJsonSchema({"type": "string", "x-kind": "URL", "format": "uri"})
]
ProxyUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_proxy_url)]
PostgresDsn: TypeAlias = Annotated[SecretStr, AfterValidator(_dsn)]
RedisUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_redis_url)]
