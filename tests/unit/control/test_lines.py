"""Packets as JSON lines."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.control.lines import LINE_BYTES_MAX, from_line, to_line
from tests.support.packets import Author, zbase32

GOOD = {"key": zbase32(bytes(32)), "payload": b64encode(bytes(72)).decode()}


@given(
    key=st.binary(min_size=32, max_size=32),
    seen_us=st.integers(0, 2**63 - 1),
    payload=st.binary(min_size=72, max_size=1072),
)
def test_a_packet_survives(key: bytes, seen_us: int, payload: bytes) -> None:
    record = seen_us.to_bytes(8) + payload
    line = to_line(key, record)
    assert line.endswith("}\n")
    assert from_line(line.encode("ascii")) == (key, record)


def test_a_line_says_what_people_look_for() -> None:
    packet = Author().packet()
    entry = json.loads(to_line(packet.public_key, (7).to_bytes(8) + packet.payload))
    assert entry == {
        "key": packet.key,
        "timestamp_us": packet.timestamp_us,
        "last_seen_us": 7,
        "payload": b64encode(packet.payload).decode(),
    }


def test_key_and_payload_are_enough_and_more_is_ignored() -> None:
    assert from_line(json.dumps(GOOD).encode()) == (bytes(32), bytes(80))
    assert from_line(json.dumps(GOOD | {"timestamp_us": "x", "note": []}).encode()) == (
        bytes(32),
        bytes(80),
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b" " * LINE_BYTES_MAX + b"{}", "longer than"),
        (b"{}", 'no "key"'),
        (json.dumps(GOOD | {"key": 1}).encode(), 'no "key"'),
        (json.dumps(GOOD | {"key": "yy"}).encode(), "52 letters"),
        (json.dumps(GOOD | {"key": "ü" * 52}).encode(), "52 letters"),
        (json.dumps(GOOD | {"key": "2" * 52}).encode(), "52 letters"),
        (json.dumps({"key": GOOD["key"]}).encode(), 'no "payload"'),
        (json.dumps(GOOD | {"payload": "*"}).encode(), "base64"),
        (json.dumps(GOOD | {"payload": "ü"}).encode(), "base64"),
        (json.dumps(GOOD | {"payload": "AAAA"}).encode(), "3 bytes"),
        (json.dumps(GOOD | {"payload": b64encode(bytes(1073)).decode()}).encode(), "1073 bytes"),
        (json.dumps(GOOD | {"last_seen_us": -1}).encode(), "last_seen_us"),
        (json.dumps(GOOD | {"last_seen_us": 2**63}).encode(), "last_seen_us"),
        (json.dumps(GOOD | {"last_seen_us": True}).encode(), "last_seen_us"),
        (json.dumps(GOOD | {"last_seen_us": 1.5}).encode(), "last_seen_us"),
    ],
)
def test_a_bad_line_is_told_why(line: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        from_line(line)
