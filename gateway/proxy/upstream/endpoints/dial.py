"""Opens connections: TCP, TLS and Unix sockets. A request that fails here has not reached an application."""

import asyncio
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from gateway.core.reasons import UPSTREAM_TIMEOUT, UPSTREAM_UNREACHABLE, Denial
from gateway.core.tls import distrust, set_strictness
from gateway.proxy.certificate import unusable
from gateway.proxy.upstream.connection import Owner, UpstreamConnection
from gateway.proxy.upstream.options import TlsRules, UpstreamRules

UNIX: Final = "unix:"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """The parsed URL of an upstream."""

    host: str
    """A name, an IP address, or the path of a Unix socket."""
    port: int | None
    """None for a Unix socket."""
    tls: bool
    authority: bytes
    """Its Host (RFC 9110 §7.2)."""

    @property
    def is_name(self) -> bool:
        """True if the host must be looked up."""
        if self.port is None:
            return False
        try:
            ip_address(self.host)
        except ValueError:
            return True
        return False


def read_origin(url: str) -> Origin:
    """Parse `http://host:port`, `https://host:port` or `unix:/path`."""
    if url.startswith(UNIX):
        return Origin(url.removeprefix(UNIX), None, tls=False, authority=b"localhost")
    parts = urlsplit(url)
    default = _DEFAULT_PORTS[parts.scheme]
    port = parts.port or default
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    authority = name if port == default else f"{name}:{port}"
    return Origin(host, port, parts.scheme == "https", authority.encode("ascii"))


def tls_context(rules: TlsRules) -> ssl.SSLContext:
    """Return the TLS context of a client (RFC 9110 §4.3.4). Raises OSError when a file cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=rules.ca)
    set_strictness(context, strict=rules.strict)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not rules.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if rules.certificate is not None:
        # With the empty password, OpenSSL does not ask the terminal for the password of an encrypted key.
        context.load_cert_chain(rules.certificate, rules.key, password="")
    return context


class Dialer:
    """Opens connections for one upstream."""

    def __init__(self, rules: UpstreamRules) -> None:
        """Read the files of `rules.tls`. Raises OSError when one cannot be used."""
        self._name = rules.name
        self._connect_timeout = rules.connect_timeout
        self._idle_timeout = rules.idle_timeout
        self._server_name = rules.tls.server_name
        https = any(url.startswith("https:") for url in rules.urls)
        try:
            self._tls = tls_context(rules.tls) if https else None
        except OSError as error:
            files = filter(None, (rules.tls.ca, rules.tls.certificate, rules.tls.key))
            raise unusable(f"upstreams.{rules.name}.tls", tuple(files), error) from error

    async def dial(self, origin: Origin, address: str, owner: Owner) -> UpstreamConnection:
        """Open a connection to one address of an origin.

        Raises `Denial`: `upstream_unreachable` or `upstream_timeout`.
        """
        loop = asyncio.get_running_loop()

        def connection() -> UpstreamConnection:
            return UpstreamConnection(loop, owner, self._idle_timeout)

        try:
            async with asyncio.timeout(self._connect_timeout):
                if origin.port is None:
                    _, opened = await loop.create_unix_connection(connection, address)
                elif origin.tls and self._tls is not None:
                    opened = await self._dial_tls(self._tls, origin, address, origin.port, connection())
                else:
                    _, opened = await loop.create_connection(connection, address, origin.port)
        except TimeoutError as error:
            raise Denial(UPSTREAM_TIMEOUT, f"connecting to {self._name} took too long") from error
        except OSError as error:
            raise Denial(
                UPSTREAM_UNREACHABLE, f"connecting to {self._name} failed: {self._why(error)}"
            ) from error
        return opened

    async def _dial_tls(
        self,
        tls: ssl.SSLContext,
        origin: Origin,
        address: str,
        port: int,
        connection: UpstreamConnection,
    ) -> UpstreamConnection:
        """Open a connection in two steps, to know the transport below its TLS. Raises OSError."""
        loop = asyncio.get_running_loop()
        wire, _ = await loop.create_connection(asyncio.Protocol, address, port)
        name = self._server_name or origin.host
        transport = await loop.start_tls(wire, connection, tls, server_hostname=name)
        if transport is not None and not transport.is_closing():
            connection.secured(transport, wire)
        return connection

    def _why(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return distrust(error, f"upstreams.{self._name}.tls.strict")
        return error.strerror or str(error) or type(error).__name__
