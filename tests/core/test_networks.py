"""Who is trusted, and who the client behind the trusted proxies is."""

from ipaddress import ip_network

import pytest

from gateway.core.networks import client_address, contains

TRUSTED = contains([ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48")])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("2001:db8:1::7", True),
        ("2001:db8:2::7", False),
        ("010.1.2.3", False),
        ("10.1.2.3 ", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_an_address_is_in_a_network(address: str, expected: bool) -> None:
    assert TRUSTED(address) is expected


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ([b"198.51.100.7"], "198.51.100.7"),
        ([b"198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ([b"1.1.1.1, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ([b"1.1.1.1", b"198.51.100.7,10.1.1.1"], "198.51.100.7"),
        ([b"10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ([b"198.51.100.7:5000"], "198.51.100.7"),
        ([b"[2001:DB8:2::7]:5000"], "2001:db8:2::7"),
        ([b"2001:db8:2::7"], "2001:db8:2::7"),
        ([b"::ffff:198.51.100.7"], "198.51.100.7"),
        ([b"unknown"], "10.0.0.1"),
        ([b"198.51.100.7, x, 10.1.1.1"], "10.1.1.1"),
        ([b""], "10.0.0.1"),
        ([b"\xff"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(chain: list[bytes], client: str) -> None:
    assert client_address(chain, "10.0.0.1", TRUSTED) == client
