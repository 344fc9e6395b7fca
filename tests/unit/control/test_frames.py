"""Frames of the control socket: whatever is sent comes out whole, and nothing else does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.control.frames import BODY_BYTES_MAX, HEAD_BYTES_MAX, Frame, FrameError, FrameReader

heads = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "bytes"),
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text()),
    max_size=4,
)
frames = st.builds(Frame, heads, st.binary(max_size=200))


def read_all(data: bytes, cuts: list[int]) -> list[Frame]:
    """Feed `data` in pieces of these sizes, then the rest; take what there is each time."""
    reader, found = FrameReader(), []
    for size in [*cuts, len(data)]:
        piece, data = data[:size], data[size:]
        reader.feed(piece)
        while (frame := reader.take()) is not None:
            found.append(frame)
    assert not reader.amid
    return found


@given(sent=st.lists(frames, max_size=4), cuts=st.lists(st.integers(0, 60)))
def test_frames_survive_any_pieces(sent: list[Frame], cuts: list[int]) -> None:
    found = read_all(b"".join(frame.encode() for frame in sent), cuts)
    assert [(f.head.items() - {("bytes", len(f.body))}, f.body) for f in _plain(found)] == [
        (f.head.items(), f.body) for f in _plain(sent)
    ]


def _plain(frames: list[Frame]) -> list[Frame]:
    """Make values hashable."""
    return [
        Frame({name: str(v) if isinstance(v, list) else v for name, v in f.head.items()}, f.body)
        for f in frames
    ]


@given(st.binary(max_size=300), st.lists(st.integers(0, 60)))
def test_garbage_is_refused_or_waited_for(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader()
    for size in [*cuts, len(data)]:
        reader.feed(data[:size])
        data = data[size:]
        try:
            while (frame := reader.take()) is not None:
                assert isinstance(frame.head, dict)
        except FrameError:
            return


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 60_000, "not JSON"),
        (b'{"bytes": -1}', "integer"),
        (b'{"bytes": "9"}', "integer"),
        (b'{"bytes": true}', "integer"),
        (b'{"bytes": 1e3}', "integer"),
        (b'{"bytes": %d}' % (BODY_BYTES_MAX + 1), "more than"),
    ],
)
def test_what_is_no_frame_is_named(line: bytes, complaint: str) -> None:
    reader = FrameReader()
    reader.feed(line + b"\n")
    with pytest.raises(FrameError, match=complaint):
        reader.take()


def test_a_line_without_end_is_refused_at_the_limit() -> None:
    reader = FrameReader()
    reader.feed(b"x" * (HEAD_BYTES_MAX - 1))
    assert reader.take() is None
    reader.feed(b"x")
    with pytest.raises(FrameError, match="more than 65536 bytes"):
        reader.take()


def test_the_largest_body_fits() -> None:
    body = bytes(BODY_BYTES_MAX)
    assert [f.body for f in read_all(Frame({}, body).encode(), [7, 70_000])] == [body]


@pytest.mark.parametrize(
    "frame", [Frame({"x": "y" * HEAD_BYTES_MAX}), Frame({}, bytes(BODY_BYTES_MAX + 1))]
)
def test_our_own_mistakes_show(frame: Frame) -> None:
    with pytest.raises(ValueError, match="too large"):
        frame.encode()


def test_the_bodys_size_cannot_be_given_otherwise() -> None:
    with pytest.raises(ValueError, match="size of the body"):
        Frame({"bytes": 7}).encode()


def test_values_are_of_the_kind_asked_for() -> None:
    frame = Frame({"n": 7, "t": "x", "f": False, "l": ["a"], "m": ["a", 1], "minus": -1})
    assert (frame.integer("n"), frame.text("t"), frame.flag("f")) == (7, "x", False)
    assert frame.texts("l") == ["a"]
    for look, name in (
        (frame.integer, "f"),
        (frame.integer, "minus"),
        (frame.integer, "none"),
        (frame.text, "n"),
        (frame.flag, "n"),
        (frame.texts, "m"),
        (frame.texts, "t"),
    ):
        with pytest.raises(FrameError, match=json.dumps(name)):
            look(name)
