"""Freshness floors in memory."""

from relay.store.floors import FLOOR_LIFE_US, Floor, FloorTable


def test_a_floor_holds_for_thirty_days():
    floors = FloorTable(10, 10)
    floors.add(b"a", Floor(7, 1000), save=True)
    assert floors.get(b"a", 1000 + FLOOR_LIFE_US - 1) == 7
    assert floors.get(b"a", 1000 + FLOOR_LIFE_US) is None
    assert floors.get(b"b", 0) is None


def test_saved_floors_are_still_known_but_not_saved_again():
    floors = FloorTable(10, 10)
    floors.add(b"a", Floor(1, 0), save=True)
    floors.add(b"b", Floor(2, 0), save=True)
    batch = floors.to_save(1)
    assert batch == {b"a": Floor(1, 0)}
    floors.saved(batch.items())
    assert floors.to_save(10) == {b"b": Floor(2, 0)}
    assert floors.get(b"a", 0) == 1


def test_evicted_again_while_being_saved_is_saved_again():
    floors = FloorTable(10, 10)
    floors.add(b"a", Floor(1, 0), save=True)
    batch = floors.to_save(10)
    floors.add(b"a", Floor(5, 0), save=True)
    floors.saved(batch.items())
    assert floors.to_save(10) == {b"a": Floor(5, 0)}


def test_the_oldest_unsaved_is_forgotten_beyond_the_bound():
    floors = FloorTable(2, 2)
    assert floors.add(b"a", Floor(1, 0), save=True)
    assert floors.add(b"b", Floor(2, 0), save=True)
    assert floors.add(b"a", Floor(3, 0), save=True), "a known key takes no more room"
    assert not floors.add(b"c", Floor(4, 0), save=True)
    assert floors.get(b"b", 0) is None
    assert floors.to_save(10) == {b"a": Floor(3, 0), b"c": Floor(4, 0)}
    assert floors.unsaved == len(floors) == 2


def test_what_the_disk_says_does_not_replace_what_is_known_unless_it_is_higher():
    floors = FloorTable(2, 2)
    floors.add(b"a", Floor(5, 0), save=True)
    floors.learn(b"a", Floor(1, 0))
    floors.learn(b"b", Floor(2, 0))
    floors.learn(b"b", Floor(3, 0))
    floors.learn(b"b", Floor(2, 0))
    assert (floors.get(b"a", 0), floors.get(b"b", 0)) == (5, 3)


def test_what_the_disk_says_does_not_replace_what_waits_for_it():
    floors = FloorTable(1, 10)
    floors.add(b"a", Floor(5, 0), save=True)
    floors.add(b"b", Floor(5, 0), save=True)
    floors.learn(b"a", Floor(1, 0))
    floors.learn_absent(b"a")
    assert floors.get(b"a", 0) == 5
    assert not floors.is_absent(b"a")


def test_floors_read_from_the_disk_are_bounded():
    floors = FloorTable(10**6, 0)
    for number in range(10_000):
        floors.learn(b"%d" % number, Floor(1, 0))
    assert len(floors) < 9000
    assert floors.get(b"9999", 0) == 1


def test_few_floors_may_be_known_while_many_evictions_wait():
    floors = FloorTable(1, 10)
    assert floors.add(b"a", Floor(1, 0), save=True)
    assert floors.add(b"b", Floor(2, 0), save=True)
    assert len(floors) == 1
    assert floors.get(b"a", 0) == 1, "its row may still be on the disk"
    assert floors.to_save(10) == {b"a": Floor(1, 0), b"b": Floor(2, 0)}
    floors.never_save()
    assert floors.unsaved == 0
    assert floors.get(b"a", 0) is None
    assert floors.get(b"b", 0) == 2


def test_what_came_back_before_its_eviction_was_saved_is_not_evicted():
    floors = FloorTable(10, 10)
    floors.add(b"a", Floor(1, 0), save=True)
    floors.add(b"b", Floor(2, 0), save=True)
    batch = floors.to_save(10)
    floors.take_back(b"a")
    assert floors.to_save(10) == {b"b": Floor(2, 0)}
    assert floors.get(b"a", 0) == 1
    floors.saved(batch.items())
    assert floors.unsaved == 0


def test_without_a_disk_nothing_waits_for_it():
    floors = FloorTable(2, 10)
    assert floors.add(b"a", Floor(1, 0), save=False)
    assert floors.unsaved == 0
    assert floors.get(b"a", 0) == 1


def test_what_the_disk_does_not_have_is_known_until_it_may_have_it():
    floors = FloorTable(10, 10)
    floors.learn_absent(b"a")
    floors.learn_absent(b"b")
    assert floors.is_absent(b"a")
    assert not floors.is_absent(b"c")
    floors.add(b"a", Floor(1, 0), save=True)
    assert not floors.is_absent(b"a")
    floors.learn_absent(b"a")
    assert not floors.is_absent(b"a"), "it was evicted while the disk was asked"
    floors.forget_absent()
    assert not floors.is_absent(b"b")


def test_keys_that_the_disk_does_not_have_are_bounded():
    floors = FloorTable(10, 10)
    for number in range(10_000):
        floors.learn_absent(b"%d" % number)
    assert not floors.is_absent(b"0")
    assert floors.is_absent(b"9999")
    assert sum(floors.is_absent(b"%d" % number) for number in range(10_000)) < 5000
