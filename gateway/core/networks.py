"""Networks of trusted peers, and the address of the client behind them. The only owner of these rules.

Each proxy appends to X-Forwarded-For the address that it got a request from. So the list is read from its
end, and only as far as trusted proxies have written it. What stands before is what a client says of itself.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HOPS: Final = 32
"""The longest chain of trusted proxies that is followed."""
_LONGEST: Final = 64
"""The longest spelling of an address, with brackets and a port."""
_ADDRESS: Final = re.compile(
    rb"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)"
)


def contains(networks: Iterable[Network]) -> Callable[[str], bool]:
    """Return a function that tells whether a text is an address in one of the networks.

    An IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) is the IPv4 address. The function
    remembers its latest answers.
    """
    trusted = tuple(networks)

    @lru_cache(maxsize=1024)
    def is_in(text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in trusted)

    return is_in


def client_address(chain: Iterable[bytes], peer: str, is_trusted: Callable[[str], bool]) -> str:
    """Return the last address in a chain of `X-Forwarded-For` that no trusted proxy has.

    `chain` are the values of the fields in their order, `peer` is the address of the connection, which a
    trusted proxy made. If all addresses are trusted, it is the first. An entry that is no address ends the
    chain: the proxy after it is the client.
    """
    return hops(chain, peer, is_trusted)[-1]


def hops(chain: Iterable[bytes], peer: str, is_trusted: Callable[[str], bool]) -> list[str]:
    """Return the addresses that trusted proxies vouch for, from a trusted peer back to the client."""
    found = [peer]
    # What is left of a longer chain stays in one piece, which is no address.
    for entry in reversed(b",".join(chain).rsplit(b",", _MOST_HOPS)):
        text = entry.strip(b" \t")
        if not text:
            continue  # RFC 9110 §5.6.1.2: empty elements of a list mean nothing
        address = read_address(text)
        if address is None:
            break
        found.append(address)
        if not is_trusted(address):
            break
    return found


def read_address(text: bytes) -> str | None:
    """Return an IP address in its usual spelling, without brackets and port; None if the text is none."""
    return _read_address(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)
def _read_address(text: bytes) -> str | None:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        return None
    try:
        address = ipaddress.ip_address((match[1] or match[2] or match[3]).decode("ascii"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address)
    # Brackets are for IPv6 alone (RFC 3986 §3.2.2).
    return None if match[1] else str(address)
