"""The measure of HTTP/2 frames does not depend on how they are cut."""

from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from relay.http.http2 import FRAME_BYTES_MAX, HEADER_BLOCK_BYTES_MAX, FrameMeter

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(length: int, kind: int = 0, flags: int = 0) -> bytes:
    return length.to_bytes(3) + bytes([kind, flags]) + (1).to_bytes(4) + bytes(length)


def measured(data: bytes, cuts: list[int]) -> ErrorCodes | None:
    meter, at = FrameMeter(), 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        fault = meter.measure(data[at:cut])
        if fault is not None:
            return fault
        at = cut
    return None


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 10)), max_size=8),
    st.sampled_from([None, FRAME_BYTES_MAX + 1]),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_only_large_frames_are_faulty(
    frames: list[tuple[int, int]], large: int | None, cuts: list[int]
) -> None:
    data = PREFACE + b"".join(frame(length, kind) for length, kind in frames)
    if large is not None:
        data += frame(large)[: 9 + 5]
    expected = None if large is None else ErrorCodes.FRAME_SIZE_ERROR
    assert measured(data, cuts) == expected


def test_header_blocks_are_measured_over_their_frames() -> None:
    half = HEADER_BLOCK_BYTES_MAX // 2
    block = frame(half, kind=1) + frame(half, kind=9)
    assert measured(PREFACE + block, []) is None
    assert measured(PREFACE + block + frame(1, kind=9), []) is ErrorCodes.ENHANCE_YOUR_CALM
    assert measured(PREFACE + block + frame(1, kind=9, flags=4) + block, []) is None
