"""Networks of trusted peers, and the address of the client behind them. The only owner of these rules."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def contains(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Return a function that tells whether a text is an address in one of the networks.

    An IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) is the IPv4 address. The function
    remembers its latest answers.
    """
    trusted = tuple(networks)

    @lru_cache(maxsize=1024)
    def is_in(text: str) -> bool:
        address = _parsed(text)
        return address is not None and any(address in network for network in trusted)

    return is_in


def client_address(chain: Sequence[bytes], peer: str, is_trusted: Callable[[str], bool]) -> str:
    """Return the last address in a chain of `X-Forwarded-For` that no trusted proxy has.

    `chain` are the values of the fields in their order, `peer` is the address of the connection, which a
    trusted proxy made. Each trusted proxy has appended the address of its own peer. So the chain is read from
    its end, as far as only trusted proxies have written it. If all addresses are trusted, it is the first.
    An entry that is no address ends the chain: the proxy after it is the client.
    """
    address = peer
    for entry in reversed(b",".join(chain).decode("latin-1").split(",")):
        found = _parsed(_without_port(entry.strip(" \t")))
        if found is None:
            break
        address = str(found)
        if not is_trusted(address):
            break
    return address


def _without_port(entry: str) -> str:
    """Return an address without the port that some proxies append: `[2001:db8::1]:80`, `192.0.2.1:80`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, _, port = entry.partition(":")
    return host if port.isdecimal() and "." in host else entry


def _parsed(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
