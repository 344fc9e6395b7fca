"""The SQLite shadow, synchronous: groups, floors, order of use, shrinking, spoiled rows."""

import sqlite3
from pathlib import Path

import pytest

from relay.store import packets, records
from relay.store.faults import DatabaseFaultError, as_faults
from relay.store.floors import FLOOR_LIFE_US, Floor
from relay.store.found import Found
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader

NOW_US = 1_750_000_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite3"


@pytest.fixture
def cache(path: Path):
    with PacketCache(path, floors_max=100) as cache:
        yield cache


@pytest.fixture
def reader(path: Path, cache: PacketCache):
    with PacketReader(path) as reader:
        yield reader


@pytest.fixture
def record(packet):
    return lambda *arguments: records.encode(packet(*arguments))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def keys_of(octets: bytes) -> list[bytes]:
    return [octets[at : at + 32] for at in range(0, len(octets), 32)]


def loaded(reader: PacketReader) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Return the expected keys in their order, and all packets."""
    expected: list[bytes] = []
    found: dict[bytes, bytes] = {}
    for piece in reader.load():
        expected.extend(keys_of(piece.expected))
        found.update(records.unpack(piece.pack))
    return expected, found


@pytest.mark.parametrize("count", [0, 1, 5, 85, 1500])
def test_a_group_of_any_size_is_written_whole(cache, reader, record, count):
    group = {key(number): record(number) for number in range(count)}
    assert cache.commit(Changes(records=group), NOW_US) == Found()
    assert loaded(reader) == ([], group)
    newer = {octets: record(int.from_bytes(octets, "big"), 2) for octets in group}
    cache.commit(Changes(records=newer), NOW_US)
    assert loaded(reader) == ([], newer)


def test_single_packets_are_read_without_waiting_for_the_load(cache, reader, record):
    cache.commit(Changes(records={key(1): record(1), key(2): record(2)}), NOW_US)
    found = reader.read([key(1), key(9)])
    assert found.packets == {key(1): record(1)}
    assert found.floors == {}


def test_eviction_deletes_the_row_and_leaves_a_floor(cache, reader, record):
    cache.commit(Changes(records={key(1): record(1, 7), key(2): record(2)}), NOW_US)
    assert not reader.has_floors()
    cache.commit(Changes(evicted={key(1): Floor(7, NOW_US)}), NOW_US)
    assert reader.has_floors()
    found = reader.read([key(1), key(2)])
    assert found.packets == {key(2): record(2)}
    assert found.floors == {key(1): Floor(7, NOW_US)}


def test_the_reader_tells_when_the_newest_packet_was_seen(cache, path, reader, packet):
    assert reader.latest_us() == 0
    for number, seen_us in ((1, NOW_US), (2, NOW_US - 5)):
        record = records.encode(packet(number, seen_us=seen_us))
        cache.commit(Changes(records={key(number): record}), NOW_US)
    assert reader.latest_us() == NOW_US - 5
    for script in ("UPDATE packets SET last_seen_us = 1", "UPDATE packets SET payload = 'text'"):
        spoil(path, script)
        assert reader.latest_us() == 0


def test_what_was_evicted_and_came_back_is_there(cache, reader, record):
    changes = Changes(records={key(1): record(1, 8)}, evicted={key(1): Floor(7, NOW_US)})
    cache.commit(changes, NOW_US)
    assert reader.read([key(1)]).packets == {key(1): record(1, 8)}


@pytest.mark.parametrize("count", [1, 100])
def test_an_eviction_leaves_rows_that_are_newer_than_what_was_evicted(cache, reader, record, count):
    numbers = range(count)
    times = {n: (253 + n % 3) << 56 | n + 1 for n in numbers}  # beyond SQLite's integers
    group = {key(number): record(number, times[number]) for number in numbers}
    cache.commit(Changes(records=group), NOW_US)
    older = {key(number): Floor(times[number] - 1, NOW_US) for number in numbers}
    cache.commit(Changes(evicted=older), NOW_US)
    assert loaded(reader)[1] == group
    same = {key(number): Floor(times[number], NOW_US) for number in numbers}
    cache.commit(Changes(evicted=same), NOW_US)
    assert loaded(reader)[1] == {}


def test_the_oldest_floors_go_when_there_are_too_many(cache, reader):
    def evict(*numbers: int) -> None:
        floors = {key(number): Floor(1, NOW_US) for number in numbers}
        cache.commit(Changes(evicted=floors), NOW_US)

    evict(*range(100))
    evict(0)  # now the latest
    evict(100, 101)
    left = {number for number in range(102) if reader.read([key(number)]).floors}
    assert left == {0, *range(3, 102)}


def test_floors_that_a_larger_cache_left_go_by_age_alone(path, record):
    """They are what it promised of the packets that a smaller one has no room for."""
    group = {key(number): record(number) for number in range(300)}

    def evict(cache: PacketCache, count: int, first: int = 0, *, later_us: int = 0) -> int:
        floors = {key(first + n): Floor(1, NOW_US + later_us) for n in range(count)}
        cache.commit(Changes(evicted=floors, floors_max=10), NOW_US + later_us)
        with PacketReader(path) as reader:
            return sum(bool(reader.read([key(n)]).floors) for n in range(1000))

    with PacketCache(path, floors_max=1200) as cache:
        cache.commit(Changes(records=group, floors_max=1200), NOW_US)
        cache.look()
        assert evict(cache, 50) == 50
        assert evict(cache, 50, 50) == 100
    with PacketCache(path, floors_max=10) as cache:
        assert evict(cache, 100, 100) == 200
        assert evict(cache, 40, 200) == 200, "no more than were there when it was opened"
    with PacketCache(path, floors_max=10) as cache:
        assert evict(cache, 60, 240) == 200
        assert evict(cache, 10, 300, later_us=FLOOR_LIFE_US) == 10


def test_floors_go_after_thirty_days(cache, reader):
    cache.commit(Changes(evicted={key(1): Floor(1, NOW_US)}), NOW_US)
    cache.commit(Changes(evicted={key(2): Floor(1, NOW_US + 1)}), NOW_US + 1)
    later_us = NOW_US + FLOOR_LIFE_US
    cache.commit(Changes(evicted={key(3): Floor(1, later_us)}), later_us)
    assert reader.read([key(number) for number in (1, 2, 3)]).floors.keys() == {key(2), key(3)}


def test_a_floor_whose_time_is_over_takes_none_along_that_came_before_it(cache, reader):
    """As one that was set while the clock was behind."""
    behind_us = NOW_US - 2 * FLOOR_LIFE_US
    cache.commit(Changes(evicted={key(1): Floor(1, NOW_US)}), NOW_US)
    cache.commit(Changes(evicted={key(2): Floor(1, behind_us)}), behind_us)
    cache.commit(Changes(evicted={key(3): Floor(1, behind_us)}), behind_us)
    assert len(reader.read([key(number) for number in (1, 2, 3)]).floors) == 3
    cache.commit(Changes(evicted={key(4): Floor(1, NOW_US)}), NOW_US)
    left = reader.read([key(number) for number in (1, 2, 3, 4)]).floors.keys()
    assert left == {key(1), key(4)}


def test_floors_are_counted_again_after_a_failure(cache, reader, monkeypatch):
    cache.commit(Changes(evicted={key(0): Floor(1, NOW_US)}), NOW_US)
    with monkeypatch.context() as broken:
        broken.setattr(packets, "_INSERT_FLOORS", "INSERT INTO nowhere VALUES ROWS")
        with pytest.raises(DatabaseFaultError):
            cache.commit(Changes(evicted={key(0): Floor(2, NOW_US)}), NOW_US)
    assert reader.read([key(0)]).floors == {key(0): Floor(1, NOW_US)}
    cache.commit(
        Changes(evicted={key(number): Floor(2, NOW_US) for number in range(1, 101)}), NOW_US
    )
    assert not reader.read([key(0)]).floors
    assert reader.read([key(1)]).floors


def test_unsure_of_the_file_newer_packets_in_it_are_kept(cache, reader, record):
    cache.commit(Changes(records={key(1): record(1, 9), key(2): record(2, 1)}), NOW_US)
    ours = {key(1): record(1, 5), key(2): record(2, 5), key(3): record(3, 5)}
    found = cache.commit(Changes(records=ours, unsure=True), NOW_US)
    assert found == Found({key(1): record(1, 9)})
    assert loaded(reader)[1] == ours | found.packets


@pytest.mark.parametrize("count", [3, 99])
def test_unsure_of_the_file_what_is_below_a_floor_in_it_is_not_written(
    cache, reader, record, count
):
    many = {key(number): Floor(9, NOW_US) for number in range(count)}
    cache.commit(Changes(evicted=many), NOW_US)
    times = [8, 9, 10]
    ours = {octets: record(n, times[n % 3]) for n, octets in enumerate(many)}
    found = cache.commit(Changes(records=ours, unsure=True), NOW_US)
    assert found == Found(floors=dict(list(many.items())[::3]))
    assert loaded(reader)[1] == {octets: ours[octets] for octets in many.keys() - found.floors}
    later_us = NOW_US + FLOOR_LIFE_US
    assert cache.commit(Changes(records=ours, unsure=True), later_us) == Found()
    assert loaded(reader)[1] == ours


def test_unsure_of_the_file_no_eviction_lowers_a_floor_or_hides_a_newer_packet(
    cache, reader, record
):
    before = Changes({key(1): record(1, 9)}, {key(2): Floor(9, NOW_US), key(3): Floor(1, NOW_US)})
    cache.commit(before, NOW_US)
    ours = {key(number): Floor(5, NOW_US + 1) for number in (1, 2, 3)}
    found = cache.commit(Changes(evicted=ours, unsure=True), NOW_US + 1)
    assert found == Found({key(1): record(1, 9)}, {key(2): Floor(9, NOW_US)})
    there = reader.read([key(number) for number in (1, 2, 3)])
    assert there.packets == {key(1): record(1, 9)}
    assert there.floors == ours | {key(2): Floor(9, NOW_US + 1)}


def test_unsure_of_the_file_a_spoiled_floor_does_not_count(cache, path, reader, record):
    cache.commit(Changes(evicted={key(1): Floor(9, NOW_US)}), NOW_US)
    spoil(path, "UPDATE floors SET checksum = checksum + 1")
    assert cache.commit(Changes({key(1): record(1, 5)}, unsure=True), NOW_US) == Found()
    assert reader.read([key(1)]).packets == {key(1): record(1, 5)}


def test_unsure_of_the_file_a_spoiled_row_is_replaced(cache, path, reader, record):
    cache.commit(Changes(records={key(1): record(1, 9)}), NOW_US)
    spoil(path, "UPDATE packets SET checksum = checksum + 1")
    cache.commit(Changes(records={key(1): record(1, 5)}, unsure=True), NOW_US)
    assert reader.read([key(1)]).packets == {key(1): record(1, 5)}


def spoil(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        "payload = x'00'",
        "payload = NULL",
        "payload = 'text'",
        "payload = zeroblob(5000)",
        "key = x'00'",
        "key = CAST(zeroblob(100) AS TEXT)",
        "last_seen_us = 'yesterday'",
        "last_seen_us = -1",
        "checksum = checksum + 1",
        "checksum = 1e300",
    ],
)
def test_spoiled_packets_are_left_out_and_counted(cache, path, reader, record, damage):
    group = {key(number): record(number) for number in range(5)}
    cache.commit(Changes(records=group), NOW_US)
    spoil(
        path,
        # Without the constraint, as a disk does not know of constraints either.
        "PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') "
        "WHERE name = 'packets'; PRAGMA writable_schema=RESET;"
        "UPDATE packets SET DAMAGE WHERE id = 3".replace("DAMAGE", damage),
    )
    del group[key(2)]
    assert loaded(reader) == ([], group)
    assert reader.bad_rows == 1


def test_spoiled_floors_nodes_and_order_are_left_out_and_counted(cache, path, reader):
    floors = {key(1): Floor(1, NOW_US), key(2): Floor(1, NOW_US)}
    nodes = [(bytes(20), "192.0.2.1", 1), (bytes(20), "192.0.2.2", 2)]
    cache.commit(Changes(evicted=floors, nodes=nodes), NOW_US)
    cache.write_recency([key(1)], 1, last=False)
    cache.write_recency([key(2)], 1, last=True)
    spoil(
        path,
        "UPDATE floors SET timestamp = x'0000000000000009' WHERE id = 1;"
        "UPDATE nodes SET ip = CAST(x'3139322eff' AS TEXT) WHERE position = 0;"
        "UPDATE recency SET keys = x'00' WHERE id = 1",
    )
    assert reader.read([key(1), key(2)]).floors.keys() == {key(2)}
    assert reader.nodes() == nodes[1:]
    assert loaded(reader) == ([key(2)], {})
    assert reader.bad_rows == 3


@pytest.mark.parametrize("spoiled", ["'text'", "x'ff'", "9223372036854775807", "-1", "1e300"])
def test_spoiled_numbers_of_the_order_of_use_are_borne(cache, path, reader, record, spoiled):
    group = {key(number): record(number) for number in range(5)}
    cache.commit(Changes(records=group), NOW_US)
    for column in ("newest_id", "generation"):
        cache.write_recency([key(1)], cache.next_generation(), last=True)
        spoil(path, "UPDATE recency SET COLUMN = ".replace("COLUMN", column) + spoiled)
        assert loaded(reader)[1] == group
        generation = cache.next_generation()
        assert 0 <= generation < 2**62
        cache.write_recency([key(2)], generation, last=True)
        assert loaded(reader) == ([key(2)], group)


def test_a_length_beyond_ours_is_damage_and_not_a_gigabyte(cache, path, reader, record):
    cache.commit(Changes(records={key(1): record(1)}), NOW_US)
    spoil(path, "UPDATE packets SET payload = zeroblob(20000000)")
    with pytest.raises(DatabaseFaultError, match="is damaged") as fault:
        loaded(reader)
    assert not fault.value.heals


def test_too_little_memory_heals(path):
    with pytest.raises(DatabaseFaultError, match="not enough memory") as fault, as_faults(path):
        raise MemoryError
    assert fault.value.heals


def test_nodes_are_replaced_as_a_whole(cache, reader):
    nodes = [(bytes([number] * 20), f"192.0.2.{number}", number) for number in range(1, 200)]
    cache.commit(Changes(nodes=nodes), NOW_US)
    assert reader.nodes() == nodes
    cache.commit(Changes(), NOW_US)
    assert reader.nodes() == nodes
    cache.commit(Changes(nodes=nodes[::-1][:3]), NOW_US)
    assert reader.nodes() == nodes[::-1][:3]


def test_the_load_gives_later_packets_then_the_order_of_use_then_the_rest(cache, reader, record):
    for number in range(4):
        cache.commit(Changes(records={key(number): record(number)}), NOW_US)
    generation = cache.next_generation()
    cache.write_recency([key(2), key(0)], generation, last=False)
    cache.write_recency([key(3), key(1)], generation, last=True)
    for number in (4, 5):
        cache.commit(Changes(records={key(number): record(number)}), NOW_US)
    pieces = [
        (keys_of(piece.expected), [key for key, _ in records.unpack(piece.pack)])
        for piece in reader.load()
    ]
    assert pieces == [
        ([], [key(5), key(4)]),
        ([key(2), key(0)], []),
        ([key(3), key(1)], []),
        ([], [key(3), key(2), key(1), key(0)]),
    ]


def test_an_order_half_written_does_not_count(cache, reader):
    first = cache.next_generation()
    cache.write_recency([key(1)], first, last=True)
    second = cache.next_generation()
    cache.write_recency([key(2)], second, last=False)
    assert loaded(reader)[0] == [key(1)]
    third = cache.next_generation()
    cache.write_recency([key(3)], third, last=False)
    cache.write_recency([key(4)], third, last=True)
    assert loaded(reader)[0] == [key(3), key(4)]


def test_free_pages_go_back_to_the_file_system(cache, path, record):
    group = {key(number): record(number, 1, bytes(900)) for number in range(4000)}
    cache.commit(Changes(records=group), NOW_US)
    cache.commit(Changes(evicted={octets: Floor(1, NOW_US) for octets in list(group)[50:]}), NOW_US)
    before = path.stat().st_size
    steps = 1
    while cache.shrink():
        steps += 1
    assert steps > 2, "in bounded steps"
    assert path.stat().st_size < before / 5


def test_a_file_that_gives_no_pages_back_is_not_asked_forever(path, record):
    with PacketCache(path, floors_max=9) as cache:
        group = {key(n): record(n, 1, bytes(900)) for n in range(900)}
        cache.commit(Changes(records=group), NOW_US)
    spoil(path, "PRAGMA journal_mode=DELETE; PRAGMA auto_vacuum=NONE; VACUUM; DELETE FROM packets")
    with PacketCache(path, floors_max=9) as cache:
        assert not cache.shrink()


@pytest.mark.parametrize("table", ["packets", "recency"])
def test_rows_out_of_order_are_damage_and_no_endless_load(path, record, number_alike, table):
    with PacketCache(path, floors_max=9) as cache:
        cache.commit(Changes(records={key(n): record(n) for n in range(9)}), NOW_US)
        for _ in range(9):
            cache.write_recency([key(1)], 1, last=False)
    number_alike(path, table)
    with (
        PacketReader(path) as reader,
        pytest.raises(DatabaseFaultError, match=f"rows of {table} are out of order") as fault,
    ):
        loaded(reader)
    assert not fault.value.heals


def test_a_failed_group_has_not_happened(cache, reader, record, monkeypatch):
    monkeypatch.setattr(packets, "_INSERT_NODES", "INSERT INTO nowhere VALUES ROWS")
    changes = Changes(records={key(1): record(1)}, nodes=[(bytes(20), "192.0.2.1", 1)])
    with pytest.raises(DatabaseFaultError) as failure:
        cache.commit(changes, NOW_US)
    assert failure.value.heals
    assert loaded(reader) == ([], {})
    cache.commit(Changes(records={key(1): record(1)}), NOW_US)
    assert loaded(reader) == ([], {key(1): record(1)})
