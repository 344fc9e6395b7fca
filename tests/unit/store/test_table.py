"""The packet table: who goes, room for expected packets. The rest is in tests/property."""

import pytest

from relay.store.records import packed
from relay.store.table import PacketTable

A, B, NEW, RECENT, OLDER, GONE, OTHER = (bytes([number]) * 32 for number in range(7))


def record(key: bytes) -> bytes:
    """Return the shortest record there can be, another one for each key."""
    return key * 2 + bytes(16)


def filled(capacity: int, *keys: bytes) -> PacketTable:
    table = PacketTable(capacity)
    for key in keys:
        table.put(key, record(key))
    return table


def test_who_is_not_used_goes_first():
    table = filled(2, A, B, NEW)
    assert table.get(B) == record(B)
    assert table.peek(NEW) == record(NEW)
    table.put(OTHER, record(OTHER))
    assert table.evict() == (NEW, record(NEW)), "B was new, too, but used"
    assert table.evict() == (A, record(A))
    assert table.keys() == [B, OTHER]


def test_packets_from_the_disk_take_their_places():
    table = PacketTable(4)
    for key in (RECENT, OLDER, GONE):
        table.expect(key)
    assert len(table) == 0
    assert OLDER not in table
    assert table.get(OLDER) is None
    table.put(NEW, record(NEW))
    assert table.load(OLDER, record(OLDER))
    assert table.load(RECENT, record(RECENT))
    assert not table.load(OTHER, record(OTHER)), "the places of expected packets are taken"
    table.forget_expected()
    assert table.load(OTHER, record(OTHER))
    assert table.keys() == [RECENT, OLDER, OTHER, NEW]
    assert len(table) == 4


def test_what_is_in_memory_is_not_loaded_over():
    table = filled(2, A)
    assert table.load(A, record(B))
    assert table.peek(A) == record(A)


def test_eviction_passes_over_expected_packets():
    table = filled(2, A)
    table.expect(B)
    assert table.evict() == (A, record(A))
    assert table.evict() is None
    assert len(table) == 0


def test_records_are_a_copy():
    table = filled(2, A)
    table.expect(B)
    table.records().clear()
    assert table.records() == {A: record(A)}


def test_a_walk_put_together_from_its_end_is_the_order_of_use():
    table = filled(5, A, B, NEW, OTHER)
    table.expect(GONE)
    table.get(B)
    table.begin_walk()
    pieces = [table.walk(3), table.walk(3), table.walk(3)]
    assert pieces == [NEW + A + OTHER, B, b""]
    with pytest.raises(ValueError, match=r"^a piece has at least one key$"):
        table.walk(0)


def test_the_count_of_changes_tells_whether_the_order_of_use_may_have_changed():
    table = filled(3, A, B)
    before = table.changes
    table.peek(A)
    table.expect(OTHER)
    assert table.get(NEW) is None
    assert table.changes - before <= 1, "a place may count, though it is no packet yet"
    counts = [table.changes]
    for change in (
        lambda: table.get(A),
        lambda: table.put(NEW, record(NEW)),
        lambda: table.load(OTHER, record(OTHER)),
        table.evict,
    ):
        change()
        counts.append(table.changes)
    assert counts == sorted(set(counts))


def test_a_packet_that_comes_before_it_was_loaded_changes_the_order_even_in_the_first_place():
    table = PacketTable(1)
    table.expect(A)
    before = table.changes
    table.put(A, record(A))
    assert table.keys() == [A]
    assert table.changes > before


def test_settling_leaves_everything_as_it_is():
    table = PacketTable(20_000)
    for number in range(20_000):  # some megabytes, so that there is something to settle
        table.put(number.to_bytes(32), number.to_bytes(300))
    before = table.keys(), table.records(), table.changes
    table.settle()
    assert (table.keys(), table.records(), table.changes) == before


def test_what_cannot_be_a_key_or_a_record_is_not_taken():
    table = filled(2, A)
    for key in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match=r"^a key has 32 bytes$"):
            table.put(key, record(A))
        assert (table.get(key), table.peek(key), key in table) == (None, None, False)
    for size in (0, 79, 1081):
        for method in (table.put, table.load):
            with pytest.raises(ValueError, match=r"^a record has 80 to 1080 bytes$"):
                method(B, bytes(size))
    with pytest.raises(ValueError, match=r"^a key has 32 bytes$"):
        table.expect(B + bytes(31))
    pack = packed(B, record(B))
    for size in (0, 79, 1081):
        for spoiled in (pack[:-1], pack + pack[:33], pack + packed(OTHER, bytes(size))):
            with pytest.raises(ValueError, match=r"^these are no packed rows$"):
                table.load_pack(spoiled)
    assert table.records() == {A: record(A)}
