"""The rules about what a gateway listens on: addresses of their own, and who may ask for decisions."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final

from gateway.settings.findings import Finding, Location

SERVER_ADDRESS: Final = "0.0.0.0:8080"
ADMIN_ADDRESS: Final = "127.0.0.1:9901"
_DEFAULTS: Final[Mapping[str, str]] = {"server": SERVER_ADDRESS, "admin": ADMIN_ADDRESS}
"""Where sections listen that do not say it."""
_ALL: Final = "[::]"
"""All addresses of both families."""
_ALL_IPV4: Final = "0.0.0.0"  # noqa: S104 -- what a configuration may say
_GRPC: Final = {"grpc": "grpcio", "google.protobuf": "protobuf"}
"""By module: the packages of the extra `gateway[grpc]`."""


def listener_findings(data: Mapping[str, Mapping[str, object]]) -> Iterator[Finding]:
    """Yield the mistakes in the raw sections `server`, `admin` and `decision`."""
    decision = data["decision"]
    listens = [decision.get(key) for key in ("listen", "grpc_listen")]
    if any(isinstance(each, str) and not each.startswith("unix:") for each in listens):
        networks = decision.get("trusted_proxies")
        if not networks:
            yield Finding(
                ("decision",),
                "has no trusted_proxies, so it would answer no proxy",
                "write the networks of your proxies, such as trusted_proxies: [10.0.0.0/8]",
            )
        elif isinstance(networks, list | tuple):
            yield from _asking(networks)
    yield from _places(data)
    yield from _grpc(decision.get("grpc_listen"))


def _places(data: Mapping[str, Mapping[str, object]]) -> Iterator[Finding]:
    """Yield the addresses that cannot be listened on beside an earlier one."""
    taken: list[tuple[str, str]] = []
    for section, key in (
        ("server", "listen"),
        ("admin", "listen"),
        ("decision", "listen"),
        ("decision", "grpc_listen"),
    ):
        listen = data[section].get(key, _DEFAULTS.get(section))
        if not isinstance(listen, str):
            continue
        other = next((name for name, place in taken if _overlap(place, listen)), None)
        if other is not None:
            where: Location = (section, key)
            yield Finding(where, f"is also the address of {other}", "give it its own port")
        taken.append((f"{section}.{key}", listen))


def _overlap(one: str, other: str) -> bool:
    """Return whether two addresses cannot both be listened on: one may stand for all of a machine."""
    (host, _, port), (beside, _, same) = one.rpartition(":"), other.rpartition(":")
    if port != same or port == "0":
        return False
    if host == beside or _ALL in {host, beside}:
        return True
    # Names may have addresses of both families.
    return _ALL_IPV4 in {host, beside} and not (host + beside).count("[")


def _asking(networks: list[object] | tuple[object, ...]) -> Iterator[Finding]:
    """Yield that the networks which may ask are all addresses, if that takes several of them."""
    try:
        read = [ip_network(each if isinstance(each, str) else "") for each in networks]
    except ValueError:
        return
    for together in all_addresses(read):
        if str(together) not in networks:
            yield Finding(
                ("decision", "trusted_proxies"),
                f"are {together} together, so any client may ask, and say what it likes about itself",
                "write the networks of your proxies, such as 10.0.0.0/8",
            )


def all_addresses(networks: Sequence[IPv4Network | IPv6Network]) -> list[IPv4Network | IPv6Network]:
    """Return the networks of all addresses of a family that some networks are together."""
    four = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    six = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    together: list[IPv4Network | IPv6Network] = [*four, *six]
    return [each for each in together if each.prefixlen == 0]


def _grpc(listen: object) -> Iterator[Finding]:
    if not isinstance(listen, str):
        return
    if listen.startswith("unix:"):
        yield Finding(
            ("decision", "grpc_listen"),
            "must be host:port: workers cannot share the Unix socket of a gRPC server",
            "write 127.0.0.1:8082",
        )
    absent = [package for module, package in _GRPC.items() if find_spec(module) is None]
    if absent:
        yield Finding(
            ("decision", "grpc_listen"),
            f"needs {' and '.join(absent)}, not installed here",
            "install the extra: pip install 'gateway[grpc]'",
        )
