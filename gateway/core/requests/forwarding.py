"""The fields that tell an upstream about the request before the gateway: X-Forwarded-*, Forwarded, Via.

What a client sends of them arrives nowhere. What a trusted proxy sends is continued. Many proxies write only
X-Forwarded-For, and pass on a Forwarded or an X-Real-IP of the client. So beside an X-Forwarded-For these two
count only where they agree with it.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.core.model import Header, Request
from gateway.core.networks import client_address, hops, read_address

_NODE: Final = re.compile(rb"(?:^|[;,])[ \t]*for=(\"?)([0-9A-Fa-f.:\[\]]+)\1[ \t]*(?=[;,]|$)", re.IGNORECASE)
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True)
class ForwardingRules:
    """The fields that are written besides X-Forwarded-*."""

    forwarded: bool = False
    """Forwarded (RFC 7239)."""
    x_real_ip: bool = False
    """X-Real-IP: the client's address."""
    via: str | None = None
    """The gateway's name in Via (RFC 9110 §7.6.3); None: no Via of ours."""


class ForwardingFields:
    """Writes the fields for an upstream, each with its line end."""

    def __init__(self, rules: ForwardingRules, trusts: Callable[[str], bool]) -> None:
        """`trusts` returns whether an address is that of a trusted proxy."""
        self._rules = rules
        self._trusts = trusts
        self._more = rules != ForwardingRules()

    def write(self, request: Request, host: bytes, received: Iterable[Header], prefix: str) -> bytes:
        """Return the fields. `received` are those of the request, `prefix` what was removed from its path."""
        if self._trusts(request.peer):
            return self._continue(request, host, received, prefix)
        lines = [
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n"
            # Without `_octets`, to save a call.
            % (request.peer.encode("latin-1", "replace"), request.scheme.encode(), host)
        ]
        if prefix:
            lines.append(_line(b"X-Forwarded-Prefix", prefix.encode()))
        if self._more:
            lines += self._extend(request, host, request.peer, [], [])
        return b"".join(lines)

    def _continue(self, request: Request, host: bytes, received: Iterable[Header], prefix: str) -> bytes:
        """Continue the fields of a trusted peer."""
        named, proto = False, request.scheme.encode()
        lines: list[bytes] = []
        chain: list[bytes] = []
        prefixes: list[bytes] = []
        forwarded: list[bytes] = []
        real: list[bytes] = []
        for name, value in received:
            lower = name.lower()
            if lower == b"x-forwarded-for":
                chain.append(value)
            elif lower == b"x-forwarded-proto":
                proto = value if value in {b"http", b"https"} else proto
            elif lower == b"forwarded":
                forwarded.append(value)
            elif lower == b"x-real-ip":
                real.append(value)
            elif prefix and lower == b"x-forwarded-prefix":
                prefixes.append(value.rstrip(b"/"))
            else:
                named = named or lower == b"x-forwarded-host"
                lines.append(_line(name, value))
        client = client_address(chain, request.peer, self._trusts) if self._rules.x_real_ip else ""
        if forwarded or real:
            vouched = hops(chain, request.peer, self._trusts) if chain else ()
            forwarded, real = _agreeing(forwarded, real, vouched)
        chain.append(_octets(request.peer))
        lines += (_line(b"X-Forwarded-For", b", ".join(chain)), _line(b"X-Forwarded-Proto", proto))
        if not named:
            lines.append(_line(b"X-Forwarded-Host", host))
        if prefix:
            lines.append(_line(b"X-Forwarded-Prefix", b"".join(prefixes) + prefix.encode()))
        return b"".join(lines + self._extend(request, host, client, forwarded, real))

    def _extend(
        self, request: Request, host: bytes, client: str, forwarded: list[bytes], real: list[bytes]
    ) -> list[bytes]:
        """Return the fields besides X-Forwarded-*: those of a trusted peer, and those that are configured."""
        lines: list[bytes] = []
        if self._rules.x_real_ip:
            lines.append(_line(b"X-Real-IP", _octets(client)))
        elif real:
            lines.append(_line(b"X-Real-IP", real[0]))
        if self._rules.forwarded:
            forwarded.append(_element(request, host))
        if forwarded:
            lines.append(_line(b"Forwarded", b", ".join(forwarded)))
        if self._rules.via is not None:
            lines.append(_line(b"Via", b"1.1 " + self._rules.via.encode("ascii")))
        return lines


def _agreeing(
    forwarded: list[bytes], real: list[bytes], vouched: Collection[str]
) -> tuple[list[bytes], list[bytes]]:
    """Return what is kept of Forwarded and X-Real-IP: what names a `vouched` address, or any if none is.

    Of Forwarded, the last element counts, which is that of the proxy.
    """
    nodes = _NODE.findall(b",".join(forwarded).rpartition(b",")[2])
    node = read_address(nodes[0][1]) if len(nodes) == 1 else None
    address = read_address(real[0]) if len(real) == 1 else None
    return (
        [] if node is None or (vouched and node not in vouched) else forwarded,
        [] if address is None or (vouched and address not in vouched) else real,
    )


def _element(request: Request, host: bytes) -> bytes:
    """Return the element of Forwarded for this hop (RFC 7239 §4, with the nodes of §6)."""
    peer = _octets(request.peer)
    node = (b'"[%b]"' % peer if b":" in peer else peer) or b"unknown"
    return b"for=%b;host=%b;proto=%b" % (node, _value(host), request.scheme.encode())


def _value(text: bytes) -> bytes:
    """Return a token, or a quoted string where the text is none (RFC 9110 §5.6.4)."""
    if _TOKEN.fullmatch(text):
        return text
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _octets(address: str) -> bytes:
    return address.encode("latin-1", "replace")


def _line(name: bytes, value: bytes) -> bytes:
    return b"%b: %b\r\n" % (name, value)
