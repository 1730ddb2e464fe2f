"""The ends of WebSocket frames, and the close frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from gateway.proxy.exchanges.websocket import FrameTracker, close_frame

FRAMES = st.lists(
    st.builds(
        Frame,
        st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.PING]),
        st.one_of(
            st.binary(max_size=125),
            st.integers(120, 70_000).map(bytes),
        ),
        st.booleans(),
    ),
    max_size=6,
)


def serialized(frame: Frame, *, mask: bool) -> bytes:
    if frame.opcode is Opcode.PING:
        frame = Frame(Opcode.PING, frame.data[:125])
    return frame.serialize(mask=mask)


@given(FRAMES, st.booleans(), st.lists(st.integers(1, 200), max_size=30))
def test_only_the_end_of_a_frame_is_between_two_frames(
    frames: list[Frame], mask: bool, pieces: list[int]
) -> None:
    wire, ends = b"", {0}
    for frame in frames:
        wire += serialized(frame, mask=mask)
        ends.add(len(wire))
    followed, at = FrameTracker(), 0
    # Some cuts near the ends, in the middle of heads; then the rest in one piece.
    for size in [*pieces, len(wire)]:
        followed.feed(wire[at : at + size])
        at = min(at + size, len(wire))
        assert followed.between is (at in ends)
    assert not followed.closed


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_may_arrive_byte_by_byte(size: int, mask: bool) -> None:
    wire = Frame(Opcode.BINARY, bytes(size)).serialize(mask=mask)
    followed = FrameTracker()
    for at in range(min(20, len(wire) - 1)):
        followed.feed(wire[at : at + 1])
        assert not followed.between
    followed.feed(wire[20:] if len(wire) > 20 else wire[-1:])
    assert followed.between


def test_nothing_may_follow_a_close_frame() -> None:
    followed = FrameTracker()
    followed.feed(Frame(Opcode.TEXT, b"\x88").serialize(mask=False))
    assert not followed.closed
    followed.feed(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
    assert followed.closed


@pytest.mark.parametrize("mask", [None, b"\x01\x02\x03\x04"])
def test_other_libraries_can_read_our_close_frames(mask: bytes | None) -> None:
    reader = StreamReader()
    reader.feed_data(close_frame("token_expired", mask))
    parsing = Frame.parse(reader.read_exact, mask=mask is not None)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    frame = parsed.value.value
    assert (frame.opcode, frame.fin) == (Opcode.CLOSE, True)
    assert Close.parse(frame.data) == Close(1008, "token_expired")
