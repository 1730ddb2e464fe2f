"""The PROXY protocol, versions 1 and 2: a load balancer tells the client's address before the first byte.

Specification: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. The header
comes before everything else, TLS included, and says nothing about single requests.
"""

import re
import struct
from collections.abc import Awaitable, Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, TypeAlias

ReadExactly: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Reads exactly that many bytes. Raises EOFError when the connection ends before."""

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
# The shortest header is `PROXY UNKNOWN\r\n`. Nothing after a header may be read: it belongs to TLS or HTTP.
_SHORTEST: Final = 15
_LONGEST_LINE: Final = 107
_MOST_BYTES: Final = 4096
"""The largest version 2 header, with its extensions (TLVs), which are not used."""
_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [\x20-\x7e]*)?|TCP([46]) (\S+) (\S+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_V4: Final = 0x11
_V6: Final = 0x21
# The peer speaks for no other address that is known here: UNSPEC, and Unix sockets.
_NO_ADDRESS: Final = frozenset({0x00, 0x31})


class Malformed(ValueError):
    """Bytes that are no header of the PROXY protocol."""


async def read_header(read: ReadExactly) -> str | None:
    """Read a header, and no byte more; return the client's address. None: the peer speaks for itself.

    Raises `Malformed`, and EOFError if the connection ends within the header.
    """
    start = await read(_SHORTEST)
    if start[: len(_SIGNATURE)] == _SIGNATURE:
        return await _read_binary(start[len(_SIGNATURE) :], read)
    if not start.startswith(b"PROXY "):
        raise Malformed("it does not begin with a PROXY header")
    while not start.endswith(b"\r\n"):
        if len(start) >= _LONGEST_LINE:
            raise Malformed("its PROXY line is too long")
        start += await read(1 if start.endswith(b"\r") or len(start) + 1 == _LONGEST_LINE else 2)
    match = _LINE.fullmatch(start)
    if match is None:
        raise Malformed("its PROXY line is malformed")
    if match[1] is None:
        return None
    kind = IPv4Address if match[1] == b"4" else IPv6Address
    addresses = [_address(kind, text.decode("latin-1")) for text in match.group(2, 3)]
    if any(int(port) > 65535 for port in match.group(4, 5)):
        raise Malformed("its PROXY line has no port")
    return addresses[0]


def _address(kind: type[IPv4Address | IPv6Address], text: str) -> str:
    try:
        address = kind(text)
    except AddressValueError as error:
        raise Malformed("its PROXY line has no address") from error
    if "%" in text:
        raise Malformed("its PROXY line has an address with a zone")
    return _spelled(address)


async def _read_binary(start: bytes, read: ReadExactly) -> str | None:
    start += await read(1)
    command, family, length = struct.unpack("!BBH", start)
    if length > _MOST_BYTES:
        raise Malformed("its PROXY header is too long")
    # Even if it is refused below, the rest of it must not be taken for a request.
    rest = await read(length) if length else b""
    if command == 0x20:
        return None  # LOCAL: a health check of the load balancer
    if command != 0x21:
        raise Malformed("its PROXY header has an unknown version or command")
    if family in _NO_ADDRESS:
        return None
    if family not in {_V4, _V6}:
        raise Malformed("its PROXY header has an unknown family")
    size = 4 if family == _V4 else 16
    if length < 2 * size + 4:
        raise Malformed("its PROXY header has no addresses")
    return _spelled(IPv4Address(rest[:4]) if family == _V4 else IPv6Address(rest[:16]))


def _spelled(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
