"""The rules of the store, without a disk."""

from dataclasses import replace

import pytest

from relay.errors import NotMostRecentError
from relay.pkarr.packet import CLOCK_CORRECTION_US
from relay.store import records
from relay.store.floors import FLOOR_LIFE_US, Floor
from relay.store.found import Found
from relay.store.memory import SLACK_PACKETS, Memory
from relay.store.reader import Piece

NOW_US = 1_750_000_000_000_000


class World:
    """A memory with a clock to turn, and a count of changes."""

    def __init__(self, capacity: int) -> None:
        self.now_us = NOW_US
        self.changes = 0
        self.memory = Memory(capacity, lambda: self.now_us, self._changed)
        self.memory.durable = True

    def _changed(self) -> None:
        self.changes += 1


def disk(*seen_packets) -> dict[bytes, bytes]:
    return {seen.packet.public_key.octets: records.encode(seen) for seen in seen_packets}


def piece(rows: dict[bytes, bytes]) -> Piece:
    return Piece(pack=b"".join(records.packed(*row) for row in rows.items()))


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_the_winner_is_kept_and_noted(packet):
    world = World(10)
    old, new = packet(1, 5), packet(1, 6)
    assert world.memory.merge(new) == new
    assert world.memory.merge(old) == new
    assert world.memory.get(new.packet.public_key) == new
    assert world.memory.backlog.take({}).records == disk(new)
    assert world.changes == 1


def test_seen_again_later_is_noted_and_the_same_is_not(packet):
    world = World(10)
    world.memory.merge(packet(1, seen_us=NOW_US))
    world.memory.backlog.take({})
    world.memory.merge(packet(1, seen_us=NOW_US))
    assert world.memory.backlog.waiting == 0
    world.memory.merge(packet(1, seen_us=NOW_US + 1))
    assert world.memory.backlog.waiting == 1


def test_a_time_still_to_come_is_corrected(packet):
    """The clock was ahead when it was seen; seen again it is known how old it is."""
    world = World(10)
    right = replace(packet(1, 5), last_seen_us=NOW_US)
    ahead = replace(right, last_seen_us=NOW_US + CLOCK_CORRECTION_US + 1)
    world.memory.merge(ahead)
    assert world.memory.merge(right) == right
    slightly = replace(right, last_seen_us=NOW_US + CLOCK_CORRECTION_US)
    assert world.memory.merge(slightly) == slightly
    assert world.memory.merge(right) == slightly
    assert world.memory.merge(packet(1, 4)) == slightly, "an older packet corrects nothing"


def test_an_evicted_packet_leaves_a_floor_for_thirty_days(packet):
    world = World(1)
    world.memory.merge(packet(1, 5))
    world.memory.merge(packet(2, 5))
    assert world.memory.crowded
    world.memory.evict(64)
    assert not world.memory.crowded
    assert world.memory.floor_us(key(1)) == 5
    with pytest.raises(NotMostRecentError):
        world.memory.merge(packet(1, 4))
    world.memory.merge_unless_below_floor(packet(1, 4))
    assert key(1) not in world.memory.table
    world.memory.merge(packet(1, 5))
    world.memory.evict(64)
    world.now_us += FLOOR_LIFE_US
    assert world.memory.merge(packet(2, 1)) == packet(2, 1)
    assert world.memory.evictions == 2


BEHIND_US = NOW_US - 2 * FLOOR_LIFE_US


def evicted_while_behind(world: World, seen) -> None:
    world.now_us = BEHIND_US
    world.memory.merge(seen)
    world.memory.purge(seen.packet.public_key.octets)


def test_a_floor_holds_while_the_clock_is_behind(packet):
    world = World(10)
    world.memory.merge(packet(1, 5))
    world.memory.purge(key(1))
    for world.now_us in (BEHIND_US, 0, -1, NOW_US):
        assert world.memory.floor_us(key(1)) == 5


@pytest.mark.parametrize("evidence", ["when it was seen", "when it was signed", "the clock before"])
def test_a_floor_set_while_the_clock_is_behind_holds_when_that_is_right_again(packet, evidence):
    world = World(10)
    seen_us = NOW_US if evidence == "when it was seen" else BEHIND_US
    signed_us = NOW_US if evidence == "when it was signed" else 5
    if evidence == "the clock before":
        world.memory.merge(packet(2))
    evicted_while_behind(world, packet(1, signed_us, seen_us=seen_us))
    world.now_us = NOW_US + FLOOR_LIFE_US - 1
    assert world.memory.floor_us(key(1)) == signed_us
    with pytest.raises(NotMostRecentError):
        world.memory.merge(packet(1, signed_us - 1))
    world.now_us += 1
    assert world.memory.floor_us(key(1)) is None


def test_what_the_disk_knows_of_the_time_counts_for_floors(packet):
    """As on a machine whose clock starts at 1970, and is set once there is a network."""
    world = World(10)
    world.memory.note_time(NOW_US)
    evicted_while_behind(world, packet(1, 5, seen_us=BEHIND_US))
    assert world.memory.floors.to_save(9) == {key(1): Floor(5, NOW_US)}
    world.memory.note_time(NOW_US - 1)
    evicted_while_behind(world, packet(2, 2**64 - 1, seen_us=BEHIND_US))
    latest = Floor(2**64 - 1, 2**63 - 1)
    assert world.memory.floors.to_save(9)[key(2)] == latest, "the disk has signed integers"
    evicted_while_behind(world, packet(3, 5, seen_us=BEHIND_US))
    assert world.memory.floors.to_save(9)[key(3)] == Floor(5, NOW_US), "what is signed is nobody's"


def test_eviction_takes_the_least_recently_used_and_no_more_than_asked(packet):
    world = World(2)
    for number in range(6):
        world.memory.merge(packet(number))
    world.memory.get(packet(0).packet.public_key)
    world.memory.evict(3)
    assert world.memory.table.keys() == [key(0), key(5), key(4)]
    assert world.memory.backlog.waiting == 3


def test_no_packet_goes_that_is_asked_for_all_the_while_however_many_such_there_are(packet):
    """Published one after the other they stand in a row; new ones come and are kept."""
    world = World(300)
    hot = [packet(number).packet.public_key for number in range(200)]
    for number in range(300):
        world.memory.merge(packet(number))
    for number in range(1000, 1400):
        for hot_key in hot:
            assert world.memory.get(hot_key) is not None, f"at the packet {number}"
        world.memory.merge(packet(number))
        world.memory.get(packet(number).packet.public_key)
        while world.memory.crowded:
            world.memory.evict(64)
    assert world.memory.evictions == 400
    assert len(world.memory.table) == 300


def test_an_insertion_that_evicts_its_own_packet_leaves_a_floor_to_wait_for(packet):
    world = World(1)
    numbers = range(SLACK_PACKETS + 2)
    for number in numbers:
        world.memory.merge(packet(number, 7))
        done = world.memory.written(key(number))
        assert done is not None
    (gone,) = (number for number in numbers if key(number) not in world.memory.table)
    group = world.memory.backlog.take({})
    assert group.done is done
    assert group.evicted == {key(gone): Floor(7, NOW_US)}
    assert len(group.records) == SLACK_PACKETS + 1


def test_of_a_packet_that_is_not_kept_the_floor_is_waited_for(packet):
    world = World(0)
    for timestamp_us in (5, 6):
        world.memory.merge(packet(1, timestamp_us))
        assert world.memory.written(key(1)) is not None
    group = world.memory.backlog.take({})
    assert (group.records, group.evicted) == ({}, {key(1): Floor(6, NOW_US)})
    assert world.changes == 2
    world.memory.merge(packet(1, 6))
    assert world.memory.written(key(1)) is group.done
    assert world.changes == 2, "nothing is new"
    world.memory.floors.saved(group.evicted.items())
    world.memory.backlog.finish(group)
    world.now_us += FLOOR_LIFE_US // 30 + 1
    world.memory.merge(packet(1, 6))
    assert world.memory.floors.to_save(9) == {key(1): Floor(6, world.now_us)}, "for another month"


def test_a_step_of_eviction_is_short_also_where_all_are_in_use(packet):
    world = World(100)
    packets = [packet(number) for number in range(101)]
    for seen in packets:
        world.memory.merge(seen)
    for seen in packets * 3:
        world.memory.get(seen.packet.public_key)
    world.memory.evict(18)
    assert world.memory.crowded, "18 times 16 are less than 303 uses"
    world.memory.evict(2)
    assert world.memory.evictions == 1


def test_without_an_evicting_task_the_table_stays_bounded(packet):
    world = World(3)
    for number in range(3 + SLACK_PACKETS + 50):
        world.memory.merge(packet(number))
    assert len(world.memory.table) == 3 + SLACK_PACKETS


def test_packets_from_the_disk_never_downgrade_memory(packet):
    world = World(10)
    world.memory.merge(packet(1, 5))
    world.memory.merge(packet(2, 5))
    newer, older = packet(1, 6), packet(2, 4)
    for number, deliver in enumerate((world.memory.adopt, world.memory.take_over)):
        found = disk(packet(1, 6 + number), older, packet(3 + number))
        if deliver == world.memory.adopt:
            deliver(Found(packets=found))
        else:
            deliver(piece(found), may_evict=True)
    assert world.memory.get(newer.packet.public_key) == packet(1, 7)
    assert world.memory.get(older.packet.public_key) == packet(2, 5)
    assert {key(3), key(4)} < set(world.memory.table.keys())
    assert world.memory.backlog.take({}).records == disk(packet(2, 5)), "the disk has the others"


def test_what_was_evicted_does_not_come_back_from_the_disk(packet):
    world = World(1)
    world.memory.merge(packet(1, 5))
    world.memory.merge(packet(2, 5))
    world.memory.evict(1)
    stale = disk(packet(1, 5))
    world.memory.adopt(Found(packets=stale))
    world.memory.take_over(piece(stale), may_evict=True)
    assert world.memory.table.keys() == [key(2)]
    assert world.memory.floors.unsaved == 1


def merged(memory: Memory, packet) -> None:
    memory.merge(packet(1, 6))


def read(memory: Memory, packet) -> None:
    memory.adopt(Found(packets=disk(packet(1, 6))))


def loaded(memory: Memory, packet) -> None:
    memory.take_over(piece(disk(packet(1, 6))), may_evict=True)


@pytest.mark.parametrize("comes", [merged, read, loaded])
@pytest.mark.parametrize("floors_known", [True, False])
def test_an_eviction_that_waits_for_the_disk_ends_when_its_key_has_a_packet_again(
    packet, comes, floors_known
):
    """Saved later it would take the new packet's row from the disk."""
    world = World(1)
    if not floors_known:  # so many others came since
        world.memory.floors.resize(0, 10)
    world.memory.merge(packet(1, 5))
    world.memory.merge(packet(2, 5))
    world.memory.evict(64)
    world.memory.purge(key(2))
    world.memory.resize(10)
    assert key(1) in world.memory.floors.to_save(9)
    assert bool(world.memory.floors) == floors_known
    comes(world.memory, packet)
    assert world.memory.get(packet(1).packet.public_key) == packet(1, 6)
    assert key(1) not in world.memory.floors.to_save(9)
    world.memory.purge(key(1))
    assert world.memory.floors.to_save(9)[key(1)] == Floor(6, NOW_US), "its own eviction does wait"


def test_a_floor_from_the_disk_is_kept(packet):
    world = World(10)
    world.memory.adopt(Found(floors={key(1): Floor(5, NOW_US)}))
    assert world.memory.floor_us(key(1)) == 5
    with pytest.raises(NotMostRecentError):
        world.memory.merge(packet(1, 4))


def test_a_floor_from_the_disk_takes_a_packet_that_is_below_it(packet):
    """Which was taken in while the disk could not be read."""
    world = World(10)
    for number in (1, 2, 3):
        winner = world.memory.merge(packet(number, 5))
        assert world.memory.judged(winner) == winner
        assert world.memory.written(key(number)) is not None
    floors = {key(number): Floor(3 + number, NOW_US) for number in (1, 2, 3)}
    floors[key(3)] = Floor(6, NOW_US - FLOOR_LIFE_US)
    world.memory.adopt(
        Found(packets=disk(packet(2, 7)), floors=floors | {key(2): Floor(8, NOW_US)})
    )
    assert set(world.memory.table.keys()) == {key(1), key(3)}
    assert world.memory.judged(packet(1, 5)) == packet(1, 5)
    with pytest.raises(NotMostRecentError):
        world.memory.judged(packet(2, 5))
    assert world.memory.floor_us(key(2)) == 8
    group = world.memory.backlog.take(world.memory.floors.to_save(9))
    assert group.records == disk(packet(1, 5), packet(3, 5))
    assert group.evicted == {}


def test_a_packet_from_the_disk_is_the_winner_if_it_is_newer(packet):
    world = World(10)
    winner = world.memory.merge(packet(1, 5))
    world.memory.adopt(Found(packets=disk(packet(1, 7))))
    assert world.memory.judged(winner) == packet(1, 7)
    assert world.memory.judged(packet(1, 8)) == packet(1, 8)


def test_a_smaller_capacity_evicts_from_the_disk(packet):
    world = World(2)
    pieces = [
        Piece(expected=key(3) + key(1) + key(2)),
        piece(disk(packet(2, 7), packet(1), packet(3))),
    ]
    for entry in pieces:
        world.memory.take_over(entry, may_evict=True)
    assert world.memory.table.keys() == [key(3), key(1)]
    assert world.memory.floors.to_save(9) == {key(2): Floor(7, NOW_US)}
    assert not world.memory.lost_evictions


def test_a_disk_that_cannot_be_written_keeps_what_finds_no_room(packet):
    world = World(1)
    world.memory.take_over(piece(disk(packet(2), packet(1))), may_evict=False)
    assert world.memory.table.keys() == [key(2)]
    assert world.memory.lost_evictions
    assert world.memory.floors.unsaved == 0
