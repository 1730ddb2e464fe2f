"""Chunk extensions are cut out of responses, wherever the reads end."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.upstream.chunk_extensions import ChunkExtensions
from gateway.proxy.upstream.parser import ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"', b";a;b=1;c", b";" + b"x" * 60]),
        st.sampled_from([b"%x", b"%X", b"0%x"]),
    ),
    max_size=5,
)
TRAILERS = st.sampled_from([b"", b"T: 1;2\r\n", b"A: b\r\nC: ;\r\n"])


@given(CHUNKS, TRAILERS, st.sampled_from([b"", b";last=1"]), st.lists(st.integers(0, 400), max_size=8))
def test_all_else_is_passed_on_as_it_is(
    chunks: list[tuple[bytes, bytes, bytes]], trailers: bytes, last: bytes, cuts: list[int]
) -> None:
    def body(*, extended: bool) -> bytes:
        sizes = [
            (size % len(data) + (extension if extended else b""), data) for data, extension, size in chunks
        ]
        lines = b"".join(size + b"\r\n" + data + b"\r\n" for size, data in sizes)
        return lines + b"0" + (last if extended else b"") + b"\r\n" + trailers + b"\r\n"

    sent = HEAD + body(extended=True)
    ends = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    parser = ResponseParser(bodiless=False)
    got = b"".join(parser.feed(sent[a:b]) for a, b in pairwise(ends) if a < b)

    assert parser.complete
    assert got == body(extended=False)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_body_without_extensions_is_the_same_object_where_it_can_be(size: int) -> None:
    body = b"5\r\nhel;o\r\n" * 9 + b"0\r\nT: ;\r\n\r\n"
    extensions = ChunkExtensions()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    kept = [extensions.remove(piece) for piece in pieces]

    assert b"".join(kept) == body
    assert all(one is another for one, another in zip(kept, pieces, strict=True))
