"""The packet table: order of use, room for expected packets. The rest is in tests/property."""

from relay.store.table import PacketTable


def filled(capacity: int, *keys: bytes) -> PacketTable:
    table = PacketTable(capacity)
    for key in keys:
        table.put(key, b"record of " + key)
    return table


def test_the_least_recently_used_goes_first():
    table = filled(3, b"a", b"b", b"c")
    assert table.get(b"a") == b"record of a"
    assert table.peek(b"b") == b"record of b"
    assert [table.evict(), table.evict()] == [(b"b", b"record of b"), (b"c", b"record of c")]
    assert table.keys() == [b"a"]


def test_packets_from_the_disk_take_their_places():
    table = PacketTable(4)
    for key in (b"recent", b"older", b"gone"):
        table.expect(key)
    assert len(table) == 0
    assert b"older" not in table
    assert table.get(b"older") is None
    table.put(b"new", b"1")
    assert table.load(b"older", b"2")
    assert table.load(b"recent", b"3")
    assert not table.load(b"other", b"4"), "the places of expected packets are taken"
    table.forget_expected()
    assert table.load(b"other", b"4")
    assert table.keys() == [b"new", b"recent", b"older", b"other"]
    assert len(table) == 4


def test_what_is_in_memory_is_not_loaded_over():
    table = filled(2, b"a")
    assert table.load(b"a", b"from the disk")
    assert table.peek(b"a") == b"record of a"


def test_eviction_passes_over_expected_packets():
    table = filled(2, b"a")
    table.expect(b"b")
    assert table.evict() == (b"a", b"record of a")
    assert table.evict() is None
    assert len(table) == 0


def test_records_are_a_copy():
    table = filled(2, b"a")
    table.expect(b"b")
    table.records().clear()
    assert table.records() == {b"a": b"record of a"}
