"""The header of the PROXY protocol: nothing after it is read, and nothing else is accepted."""

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.downstream.proxy_protocol import Malformed, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes((198, 51, 100, 4, 10, 0, 0, 1)) + struct.pack("!HH", 5061, 443)
V6 = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack("!HH", 5061, 443)
MAPPED = bytes.fromhex("00000000000000000000ffff0a000001" * 2) + struct.pack("!HH", 5061, 443)


def binary(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def reader(data: bytes) -> tuple[Callable[[int], Awaitable[bytes]], list[bytes]]:
    """Return a function that reads from `data`, and a list with what is left."""
    left = [data]

    async def read(number: int) -> bytes:
        if len(left[0]) < number:
            raise EOFError
        piece, left[0] = left[0][:number], left[0][number:]
        return piece

    return read, left


GOOD = {
    "tcp4": (b"PROXY TCP4 198.51.100.4 10.0.0.1 5061 443\r\n", "198.51.100.4"),
    "tcp4-shortest": (b"PROXY TCP4 1.1.1.1 2.2.2.2 0 1\r\n", "1.1.1.1"),
    "tcp6": (b"PROXY TCP6 2001:DB8::1 fd00::1 5061 443\r\n", "2001:db8::1"),
    "tcp6-mapped": (b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n", "10.0.0.1"),
    "unknown": (b"PROXY UNKNOWN\r\n", None),
    "unknown-with-more": (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    "longest": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    "v2-tcp4": (binary(0x21, 0x11, V4), "198.51.100.4"),
    "v2-tcp6": (binary(0x21, 0x21, V6), "2001:db8::1"),
    "v2-mapped": (binary(0x21, 0x21, MAPPED), "10.0.0.1"),
    "v2-with-extensions": (binary(0x21, 0x11, V4 + b"\xea\x00\x05vpc-1" * 20), "198.51.100.4"),
    "v2-local": (binary(0x20, 0x00, b""), None),
    "v2-local-with-addresses": (binary(0x20, 0x11, V4), None),
    "v2-unspecified": (binary(0x21, 0x00, b"whatever"), None),
    "v2-unix": (binary(0x21, 0x31, bytes(216)), None),
}


@pytest.mark.parametrize(("header", "client"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("after", [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\n"])
async def test_a_header_is_read_and_no_byte_more(header: bytes, client: str | None, after: bytes) -> None:
    read, left = reader(header + after)

    assert await read_header(read) == client
    assert left == [after]


BAD = {
    "http": b"GET /public/x HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20),
    "lower-case": b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "udp": b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
    "two-spaces": b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
    "tab": b"PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n",
    "no-ports": b"PROXY TCP4 1.1.1.1 2.2.2.2\r\n",
    "one-more": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
    "line-feed-alone": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET / HTTP/1.1\r\n",
    "space-at-the-end": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
    "other-family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "other-family-6": b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
    "leading-zero": b"PROXY TCP4 010.0.0.1 2.2.2.2 1 2\r\n",
    "no-address": b"PROXY TCP4 localhost 2.2.2.2 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
    "port-too-large": b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
    "port-with-zero": b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
    "port-negative": b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
    "too-long": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n" + b"x" * 100,
    "nul": b"PROXY TCP4 1.1.1.1\x00 2.2.2.2 1 2\r\n",
    "v2-version-1": binary(0x11, 0x11, V4),
    "v2-version-3": binary(0x31, 0x11, V4),
    "v2-command-2": binary(0x22, 0x11, V4),
    "v2-udp": binary(0x21, 0x12, V4),
    "v2-family-unknown": binary(0x21, 0x41, V4),
    "v2-addresses-cut": binary(0x21, 0x11, V4[:11]),
    "v2-addresses-cut-6": binary(0x21, 0x21, V6[:35]),
    "v2-too-long": binary(0x21, 0x11, V4 + bytes(5000)),
    "v2-signature-broken": SIGNATURE[:-1] + b"\r" + binary(0x21, 0x11, V4)[12:],
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
async def test_data_that_is_no_proxy_header_is_refused(header: bytes) -> None:
    with pytest.raises(Malformed):
        await read_header(reader(header)[0])


@pytest.mark.parametrize("header", [GOOD["tcp4"][0], GOOD["v2-tcp4"][0], GOOD["v2-with-extensions"][0]])
async def test_a_truncated_header_is_refused(header: bytes) -> None:
    for length in range(len(header)):
        with pytest.raises(EOFError):
            await read_header(reader(header[:length])[0])


@given(
    st.binary(max_size=130),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
)
async def test_any_bytes_are_a_header_or_refused(data: bytes, beginning: bytes) -> None:
    with suppress(Malformed, EOFError):
        await read_header(reader(beginning + data)[0])
