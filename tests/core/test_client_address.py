"""The client is the last address in X-Forwarded-For that no trusted proxy has."""

import ipaddress

import pytest

from gateway.core.headers import HeaderPolicy, HeaderRules, fold
from gateway.core.model import Header, Request
from gateway.core.networks import client_address, contains, hops, read_address
from gateway.core.requests.forwarding import ForwardingRules

NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
POLICY = HeaderPolicy(HeaderRules({}, trusted_proxies=NETWORKS))
PROXY, STRANGER = "10.0.0.7", "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        (STRANGER, [], STRANGER),
        # A client's own list counts for nothing, whatever it names.
        (STRANGER, [b"6.6.6.6"], STRANGER),
        (STRANGER, [b"10.0.0.1"], STRANGER),
        ("", [b"6.6.6.6"], ""),
        (PROXY, [], PROXY),
        (PROXY, [b""], PROXY),
        (PROXY, [b"198.51.100.4"], "198.51.100.4"),
        # What the client has sent stands before what the proxy has appended.
        (PROXY, [b"6.6.6.6, 198.51.100.4"], "198.51.100.4"),
        (PROXY, [b"6.6.6.6", b"198.51.100.4"], "198.51.100.4"),
        (PROXY, [b"10.0.0.1, 198.51.100.4"], "198.51.100.4"),
        (PROXY, [b"6.6.6.6, 198.51.100.4, 10.0.0.3", b"10.9.9.9"], "198.51.100.4"),
        (PROXY, [b"fd00::9, 2001:db8::1, fd00::1"], "2001:db8::1"),
        # All are trusted: the first.
        (PROXY, [b"10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        # Other spellings
        (PROXY, [b"198.51.100.4:5061"], "198.51.100.4"),
        (PROXY, [b"[2001:DB8::1]:443"], "2001:db8::1"),
        (PROXY, [b"[2001:db8:0::1]"], "2001:db8::1"),
        (PROXY, [b"::ffff:198.51.100.4"], "198.51.100.4"),
        (PROXY, [b"198.51.100.4, ::ffff:10.0.0.1"], "198.51.100.4"),
        (PROXY, [b",198.51.100.4 ,, "], "198.51.100.4"),
        ("fd00::1", [b"198.51.100.4"], "198.51.100.4"),
        # No address ends the chain.
        (PROXY, [b"unknown"], PROXY),
        (PROXY, [b"6.6.6.6, unknown, 10.0.0.3"], "10.0.0.3"),
        (PROXY, [b"6.6.6.6, 198.51.100.4.evil.example"], PROXY),
        (PROXY, [b"6.6.6.6 198.51.100.4"], PROXY),
        (PROXY, [b"6.6.6.6\xff"], PROXY),
        (PROXY, [b"0x0a.1.1.1"], PROXY),
        (PROXY, [b"010.0.0.1"], PROXY),
        (PROXY, [b"fe80::1%25eth0"], PROXY),
        (PROXY, [b"[198.51.100.4]"], PROXY),
        (PROXY, [b"1" * 5000], PROXY),
    ],
)
def test_the_chain_is_read_from_its_end_as_far_as_it_is_trusted(
    peer: str, chain: list[bytes], client: str
) -> None:
    told = POLICY.vouched([(b"X-Forwarded-For", each) for each in chain], peer)
    assert Request("GET", "/", (), peer, "http", "r-1", spoken_for=told[1]).client == client


def test_a_chain_without_end_is_not_followed() -> None:
    chain = b"6.6.6.6" + b", 10.0.0.1" * 5000

    assert client_address([chain], PROXY, contains(NETWORKS)) == "10.0.0.1"
    assert len(hops([chain], PROXY, contains(NETWORKS))) == 33


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    policy = HeaderPolicy(HeaderRules({}))
    assert not policy.trusts_proxies
    assert policy.vouched([(b"X-Forwarded-For", b"6.6.6.6")], PROXY) == (None, None)


def test_an_address_is_not_remembered_whatever_its_length() -> None:
    assert read_address(b" " * 65) is None


def test_a_request_is_spoken_for_or_speaks_for_itself() -> None:
    request = Request("GET", "/", (), STRANGER, "http", "r-1")
    assert request.client == STRANGER
    request = Request("GET", "/", (), PROXY, "http", "r-1", spoken_for=STRANGER)
    assert request.client == STRANGER


# The fields for the upstream ------------------------------------------------------------------------

ALL = ForwardingRules(forwarded=True, x_real_ip=True, via="gateway")


def sent(
    rules: ForwardingRules, *fields: Header, peer: str = PROXY, host: bytes = b"api.example.com"
) -> dict[bytes, list[bytes]]:
    """Return the fields that an upstream is sent, by their folded names."""
    policy = HeaderPolicy(HeaderRules({}, trusted_proxies=NETWORKS, forwarding=rules))
    request = Request("GET", "/", ((b"Host", host), *fields), peer, "https", "r-1")
    lines = policy.forwarded(request, policy.read(request))
    found: dict[bytes, list[bytes]] = {}
    for line in lines.removesuffix(b"\r\n").split(b"\r\n"):
        name, _, value = line.partition(b": ")
        found.setdefault(fold(name), []).append(value)
    return found


def test_nothing_more_is_written_unless_it_is_configured() -> None:
    for peer in (STRANGER, PROXY):
        assert sent(ForwardingRules(), peer=peer).keys() == {
            b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
        }  # fmt: skip


def test_a_stranger_is_described_in_each_configured_field() -> None:
    forged = ((b"X-Real-IP", b"6.6.6.6"), (b"Forwarded", b"for=6.6.6.6"), (b"X-Forwarded-For", b"6.6.6.6"))
    fields = sent(ALL, *forged, peer=STRANGER)

    assert fields[b"x-real-ip"] == [STRANGER.encode()]
    assert fields[b"forwarded"] == [b"for=203.0.113.9;host=api.example.com;proto=https"]
    assert fields[b"via"] == [b"1.1 gateway"]


@pytest.mark.parametrize(
    ("peer", "host", "element"),
    [
        ("2001:db8::1", b"a", b'for="[2001:db8::1]";host=a;proto=https'),
        ("203.0.113.9", b"a:8443", b'for=203.0.113.9;host="a:8443";proto=https'),
        ("203.0.113.9", b"[::1]", b'for=203.0.113.9;host="[::1]";proto=https'),
        ("", b"a", b"for=unknown;host=a;proto=https"),
    ],
)
def test_an_element_of_forwarded_is_quoted_where_it_must_be(peer: str, host: bytes, element: bytes) -> None:
    assert sent(ALL, peer=peer, host=host)[b"forwarded"] == [element]


def test_the_list_of_a_trusted_proxy_is_continued() -> None:
    fields = sent(
        ALL,
        (b"X-Forwarded-For", b"6.6.6.6, 198.51.100.4"),
        (b"Forwarded", b"for=6.6.6.6"),
        (b"Forwarded", b'for="198.51.100.4:5061";proto=https'),
        (b"X-Real-IP", b"198.51.100.4"),
        (b"Via", b"1.0 fred"),
    )

    assert fields[b"x-real-ip"] == [b"198.51.100.4"]
    assert fields[b"forwarded"] == [
        b'for=6.6.6.6, for="198.51.100.4:5061";proto=https, for=10.0.0.7;host=api.example.com;proto=https'
    ]
    assert fields[b"via"] == [b"1.0 fred", b"1.1 gateway"]


CHAIN: Header = (b"X-Forwarded-For", b"6.6.6.6, 198.51.100.4, 10.0.0.3")


@pytest.mark.parametrize(
    "field",
    [
        (b"X-Real-IP", b"198.51.100.4"),
        (b"x-real-ip", b"10.0.0.3"),
        (b"Forwarded", b"for=6.6.6.6, for=198.51.100.4"),
        (b"Forwarded", b'proto=https; For="198.51.100.4" ;host=a'),
        (b"Forwarded", b"for=10.0.0.3"),
    ],
)
def test_fields_that_agree_with_the_chain_are_kept(field: Header) -> None:
    assert sent(ForwardingRules(), CHAIN, field)[fold(field[0])] == [field[1]]
    # Without a chain, the proxy tells the client in this field alone.
    assert sent(ForwardingRules(), field)[fold(field[0])] == [field[1]]


@pytest.mark.parametrize(
    "field",
    [
        (b"X-Real-IP", b"6.6.6.6"),
        (b"X-Real-IP", b"198.51.100.4, 6.6.6.6"),
        (b"Forwarded", b"for=6.6.6.6"),
        (b"Forwarded", b"for=198.51.100.4, for=6.6.6.6"),
        (b"Forwarded", b"for=198.51.100.4;for=6.6.6.6"),
        (b"Forwarded", b"for=unknown"),
        (b"Forwarded", b"host=forged.example.com"),
    ],
)
def test_fields_that_contradict_the_chain_are_dropped(field: Header) -> None:
    """A proxy that writes X-Forwarded-For alone passes on what its client wrote elsewhere."""
    assert fold(field[0]) not in sent(ForwardingRules(), CHAIN, field)


def test_two_of_one_kind_are_no_address() -> None:
    twice = (b"X-Real-IP", b"198.51.100.4")
    assert b"x-real-ip" not in sent(ForwardingRules(), CHAIN, twice, twice)


@pytest.mark.parametrize(
    "name",
    ["Proxy", "Remote-User", "REMOTE_USER", "X-Remote-User", "x.remote.user", "X_HTTP_Method_Override"],
)
def test_spellings_that_frameworks_read_as_forwarding_fields_are_removed(name: str) -> None:
    for peer in (STRANGER, PROXY):
        assert fold(name.encode()) not in sent(ForwardingRules(), (name.encode(), b"forged"), peer=peer)


def test_the_list_of_removed_fields_is_the_operators() -> None:
    policy = HeaderPolicy(HeaderRules({}, strip=("X-Debug",)))
    request = Request("GET", "/", ((b"x_debug", b"1"), (b"Proxy", b"2")), STRANGER, "http", "r-1")

    assert policy.read(request).kept == b"Proxy: 2\r\n"
