"""Fetches a JSON document from an issuer, without trusting the network or the answer.

This file has all rules about the destination and the content of such a connection: only http and https, no
redirects, no proxy but the configured one, no cookies, no addresses of clouds' metadata services, no
compression, a size limit and a time limit.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from gateway.core.model import JSON
from gateway.core.text import json_text
from gateway.core.tls import distrust, set_strictness
from gateway.issuer_keys.dns import SystemLookups
from gateway.telemetry.tracing.span import inside

TIMEOUT: Final = 5.0
"""Seconds for one document, from name resolution to the last byte."""
MAX_BYTES: Final = 512 * 1024
_LOOK_UP: Final = 0.9
"""The part of that time for the look-up, so that its failure is distinguished from that of the server."""

_MAX_AGE: Final = re.compile(r'(?:^|,)\s*max-age\s*=\s*"?(\d+)"?\s*(?=,|$)', re.ASCII | re.IGNORECASE)
_REVALIDATE: Final = re.compile(r"(?:^|,)\s*no-(?:cache|store)\s*(?=,|$)", re.ASCII | re.IGNORECASE)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""The prefix for IPv4 addresses in networks that translate (RFC 6052 §2.1)."""
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Metadata services without link-local addresses: Amazon's for IPv6, and Alibaba's."""


class FetchError(Exception):
    """A document of an issuer could not be fetched or used. The text has the URL or file, and the cause."""


class NotFound(FetchError):
    """The server answered that the document does not exist. It may be elsewhere."""


class UnknownIssuer(FetchError):
    """The server knows no such issuer: no document exists, or it is another issuer's."""


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document from a server."""

    url: str
    """Its URL without a password, for messages."""
    content: JSON
    max_age: float | None
    """Seconds of freshness by the server (RFC 9111 §5.2.2); None if it gives none."""


@cache
def _system_trust(strict: bool) -> ssl.SSLContext:  # noqa: FBT001 -- what it is remembered by
    """Return the process's context with the system's authorities, which take 50 ms to read."""
    context = ssl.create_default_context()
    set_strictness(context, strict=strict)
    return context


class Fetcher:
    """An HTTP client for issuers' documents. It fetches many concurrently, and its owner closes it.

    `timeout` is in seconds, `tls` replaces the system's trust store, `resolver` its name service.
    With `strict`, certificates must follow RFC 5280 strictly (`jwks.tls.strict`). Through `proxy`, a URL,
    hosts are resolved there: it must not let anyone reach what only this network may. With `keep_alive`,
    connections are kept open for as many seconds.
    Must be created inside a running event loop.
    """

    def __init__(
        self,
        *,
        timeout: float = TIMEOUT,
        tls: ssl.SSLContext | None = None,
        strict: bool = False,
        resolver: AbstractResolver | None = None,
        proxy: str | None = None,
        keep_alive: float | None = None,
    ) -> None:
        self._proxy = None if proxy is None else URL(proxy)
        self.timeout = timeout
        self.heard: Callable[[Mapping[str, str], float], None] | None = None
        """Gets the header of each answer, and when its request was sent, in Unix seconds."""
        self._patience = timeout * _LOOK_UP
        if tls is None:
            tls = _system_trust(strict)
        else:
            set_strictness(tls, strict=strict)
        self._session = aiohttp.ClientSession(
            # Fetches of keys are minutes apart, so a kept connection or address would be useless.
            connector=aiohttp.TCPConnector(
                limit=0,
                force_close=keep_alive is None,
                keepalive_timeout=keep_alive,
                use_dns_cache=False,
                ssl=tls,
                resolver=SystemLookups(self._patience) if resolver is None else resolver,
                socket_factory=_guarded_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "gateway"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    async def get(self, url: str) -> Document:
        """Fetch and parse the document at `url`.

        Raises `NotFound` for a 404, `FetchError` for everything else that is not a 200 with JSON
        within the limits.
        """
        return await self._fetch("GET", url)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Document:
        """Send a form to `url`, with additional headers, and parse the answer. Raises as `get` does."""
        return await self._fetch("POST", url, form, headers)

    async def _fetch(
        self,
        method: str,
        url: str,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        try:
            target = URL(url)
        except ValueError as error:
            raise FetchError("a URL of the issuer cannot be parsed") from error
        # A password in a URL is a secret, and messages are logged.
        shown = str(target.with_user(None)) if target.host else "a URL without a host"
        if target.scheme not in ("http", "https") or not target.host:
            raise FetchError(f"{shown}: only http and https URLs with a host are fetched")
        # A part of the trace of the request that caused it.
        without_query = str(target.with_user(None).with_query(None))
        attributes = {"http.request.method": method, "server.address": target.host, "url.full": without_query}
        with inside(method, attributes, "client"):
            body, cache_control = await self._exchange(method, target, form, headers, shown)
        content = await parsed(shown, body)
        return Document(shown, content, max_age(cache_control))

    async def _exchange(
        self,
        method: str,
        target: URL,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        shown: str,
    ) -> tuple[bytes, str]:
        """Return the body of the answer, and its Cache-Control."""
        try:
            _check_literal(target.host or "")
            began = time.time()
            async with self._session.request(
                method, target, data=form, headers=headers, allow_redirects=False, proxy=self._proxy
            ) as response:
                if self.heard is not None:
                    self.heard(response.headers, began)
                _check_head(shown, response)
                body = await _read(shown, response)
        except (aiohttp.ClientError, PermissionError, TimeoutError, ValueError) as error:
            raise FetchError(f"{shown}: {self._reason(error)}") from error
        return body, ",".join(response.headers.getall("Cache-Control", []))

    def _reason(self, error: Exception) -> str:
        match error:
            case PermissionError():
                return f"cannot connect: {error}"
            case aiohttp.ClientHttpProxyError():
                return f"the proxy of jwks.proxy answered {error.status}"
            case aiohttp.ClientProxyConnectionError():
                code = error.os_error.errno
                why = os.strerror(code) if code else error.os_error
                return f"cannot connect to the proxy of jwks.proxy: {why}"
            case TimeoutError():
                return f"no complete answer within {self.timeout:g} s"
            case aiohttp.ClientConnectorCertificateError():
                cause = error.certificate_error
                if isinstance(cause, ssl.SSLCertVerificationError):
                    return distrust(cause, "jwks.tls.strict")
                return f"its certificate is not trusted: {cause}"
            case aiohttp.ClientConnectorDNSError(os_error=TimeoutError()):
                return f"its host name cannot be resolved: no answer within {self._patience:g} s"
            case aiohttp.ClientConnectorDNSError():
                return "its host name cannot be resolved"
            case aiohttp.ClientSSLError():
                return f"TLS cannot be established: {error.os_error}"
            case aiohttp.ClientConnectorError():
                cause = error.os_error
                return f"cannot connect: {os.strerror(cause.errno) if cause.errno else cause}"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
                return "the connection ended before the end of the answer"
            case _:
                return f"no valid HTTP answer ({type(error).__name__})"


async def parsed(shown: str, body: bytes) -> JSON:
    """Parse JSON with `json_text.read`, in a thread. Raises `FetchError` with `shown`."""
    try:
        return await asyncio.to_thread(json_text.read, body)
    except ValueError as error:
        raise FetchError(f"{shown}: not usable JSON: {error}") from error


def max_age(cache_control: str) -> float | None:
    """Return the seconds of freshness in a Cache-Control field; None if it has none (RFC 9111 §5.2.2)."""
    if _REVALIDATE.search(cache_control):
        return 0.0
    stated = _MAX_AGE.search(cache_control)
    return None if stated is None else float(stated[1])


def forbidden_address(address: str) -> str | None:
    """Return why no issuer can have an IP address; None if an issuer can.

    Link-local addresses are those of most clouds' metadata services, which answer every request from inside.
    Private and loopback addresses are allowed, because many issuers have them.
    """
    ip = _reached(address)
    if ip in _METADATA:
        return "metadata"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast:
        return "multicast"
    if ip.is_unspecified:
        return "unspecified"
    return None


def _reached(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address, or the IPv4 address that it embeds."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _guarded_socket(address_info: aiohttp.AddrInfoType) -> socket.socket:
    """Open a socket for the address of the connection.

    Every connection comes here, with a literal or a resolved address. So a name that resolves differently the
    second time cannot bypass the check.
    """
    family, kind, protocol, _, address = address_info
    why = forbidden_address(str(address[0]))
    if why is not None:
        raise PermissionError(f"the {why} address {address[0]} is refused")
    return socket.socket(family, kind, protocol)


def _check_literal(host: str) -> None:
    """Refuse an address that no issuer can have, which a proxy would connect to. Raises PermissionError."""
    with suppress(ValueError):
        why = forbidden_address(host)
        if why is not None:
            raise PermissionError(f"the {why} address {host} is refused")


def _check_head(shown: str, response: aiohttp.ClientResponse) -> None:
    # 400 is what Entra answers for a tenant that it does not have.
    if response.status in (400, 404, 410):
        raise NotFound(f"{shown}: answered {response.status}")
    if 300 <= response.status < 400:
        raise FetchError(f"{shown}: answered {response.status}; redirects are not followed")
    if response.status != 200:
        raise FetchError(f"{shown}: answered {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f"{shown}: the answer is compressed although that was not accepted")


async def _read(shown: str, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise FetchError(f"{shown}: the answer is larger than {MAX_BYTES // 1024} KiB")
    return bytes(body)
