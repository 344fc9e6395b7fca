"""Records: every packet comes back as it was, recency is the order of bytes, spoiled rows show."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket, merge
from relay.store import records

KEY = PublicKey(bytes(range(32)))

seen_packets = st.builds(
    lambda signature, timestamp_us, dns, last_seen_us: SeenPacket(
        SignedPacket(KEY, signature, timestamp_us, dns), last_seen_us
    ),
    st.sampled_from([bytes(64), bytes(63) + b"\x01"]),
    st.integers(0, 3) | st.integers(0, 2**64 - 1),
    st.binary(max_size=2) | st.binary(max_size=1000),
    st.integers(0, 3) | st.integers(0, 2**63 - 1),
)


@given(seen_packets)
def test_a_record_comes_back_as_it_was(seen):
    record = records.encode(seen)
    assert records.decode(KEY, record) == seen
    assert records.timestamp_us(record) == seen.packet.timestamp_us


@given(seen_packets, seen_packets)
def test_newer_is_the_cache_update_rule(new, old):
    assert records.newer(records.encode(new), records.encode(old)) == (merge(old, new) is new)


@pytest.mark.parametrize(("clock_us", "kept_us"), [(-5, 0), (2**70, 2**63 - 1)])
def test_a_mad_clock_is_clamped(clock_us, kept_us):
    seen = SeenPacket(SignedPacket(KEY, bytes(64), 1, b""), clock_us)
    assert records.decode(KEY, records.encode(seen)).last_seen_us == kept_us


def as_hex(*columns: object) -> str | None:
    connection = sqlite3.connect(":memory:")
    try:
        row = "(SELECT ? AS key, ? AS last_seen_us, ? AS payload, ? AS checksum)"
        query = " ".join(("SELECT", records.ROW_AS_HEX, "FROM", row))
        return connection.execute(query, columns).fetchone()[0]
    finally:
        connection.close()


@given(seen_packets)
def test_a_row_comes_back_from_sql(seen):
    record = records.encode(seen)
    text = as_hex(*records.row(KEY.octets, record))
    assert records.checked_row(text) == (KEY.octets, record)


@given(st.data())
def test_any_changed_bit_of_a_row_is_noticed(data):
    record = records.encode(SeenPacket(SignedPacket(KEY, bytes(64), 7, b"abc"), 9))
    key, last_seen_us, payload, checksum = records.row(KEY.octets, record)
    octets = bytearray(
        key + last_seen_us.to_bytes(8, "big") + payload + checksum.to_bytes(4, "big")
    )
    bit = data.draw(st.integers(0, len(octets) * 8 - 1))
    octets[bit // 8] ^= 1 << bit % 8
    spoiled = as_hex(
        bytes(octets[:32]),
        int.from_bytes(octets[32:40], "big", signed=True),
        bytes(octets[40:-4]),
        int.from_bytes(octets[-4:], "big"),
    )
    assert records.checked_row(spoiled) is None


columns = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40), st.text(max_size=9), st.floats()
)


@given(columns, columns, columns, columns)
def test_rows_of_strangers_types_are_spoiled_rows(key, last_seen_us, payload, checksum):
    assert records.checked_row(as_hex(key, last_seen_us, payload, checksum)) is None


@given(st.text("0123456789abcdefXY", max_size=400))
def test_nonsense_is_a_spoiled_row(text):
    assert records.checked_row(text) is None


def test_floors_come_back_and_spoiled_ones_do_not():
    row = records.floor_row(KEY.octets, 2**64 - 1, 12)
    assert records.checked_floor(*row) == (KEY.octets, 2**64 - 1, 12)
    key, timestamp, evicted_us, checksum = row
    assert records.checked_floor(bytes(32), timestamp, evicted_us, checksum) is None
    assert records.checked_floor(key, bytes(8), evicted_us, checksum) is None
    assert records.checked_floor(key, timestamp, 13, checksum) is None
    assert records.checked_floor(key, timestamp, -1, checksum) is None
    assert records.checked_floor(key, timestamp, "12", checksum) is None
    assert records.checked_floor(None, timestamp, evicted_us, checksum) is None


def test_nodes_come_back_and_spoiled_ones_do_not():
    _, node_id, ip, port, checksum = records.node_row(0, bytes(20), "192.0.2.1", 6881)
    assert records.checked_node(node_id, ip, port, checksum) == (node_id, ip, port)
    assert records.checked_node(node_id, "192.0.2.2", port, checksum) is None
    assert records.checked_node(node_id, "\N{ARABIC-INDIC DIGIT ONE}", port, checksum) is None
    assert records.checked_node(node_id, ip, 2**40, checksum) is None
    assert records.checked_node(node_id, ip, None, checksum) is None
    assert records.checked_node("node", ip, port, checksum) is None
