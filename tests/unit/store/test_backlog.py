"""The backlog: groups of those who wait, filled up with others; nothing lost when writing fails."""

from relay.store.backlog import GROUP_RECORDS_MAX, Backlog
from relay.store.floors import Floor
from relay.store.table import PacketTable


def key(name: str) -> bytes:
    return name.encode().rjust(32, b".")


def record(text: str) -> bytes:
    return text.encode().rjust(80, b".")


def backlog_of(*names: str) -> tuple[PacketTable, Backlog]:
    table = PacketTable(10_000)
    backlog = Backlog(table)
    for name in names:
        put(table, backlog, name, f"record of {name}")
    return table, backlog


def put(table: PacketTable, backlog: Backlog, name: str, text: str) -> None:
    table.put(key(name), record(text))
    backlog.add(key(name), record(text))


def test_those_who_wait_are_served_before_a_long_backlog():
    _, backlog = backlog_of(*(str(number) for number in range(2000)))
    done = backlog.written(key("1999"))
    assert done is not None
    group = backlog.take({})
    assert len(group.records) == GROUP_RECORDS_MAX
    assert key("1999") in group.records
    assert len(backlog) == 2000
    backlog.finish(group)
    assert done.is_set()
    assert backlog.written(key("1999")) is None
    assert len(backlog) == backlog.waiting == 2000 - GROUP_RECORDS_MAX


async def test_a_record_being_written_is_waited_for():
    table, backlog = backlog_of("a")
    group = backlog.take({})
    assert backlog.written(key("a")) is group.done
    put(table, backlog, "a", "newer")
    assert backlog.written(key("a")) is not group.done
    backlog.finish(group)
    assert backlog.take({}).records == {key("a"): record("newer")}


def test_a_newer_record_takes_the_place_of_one_waited_for():
    table, backlog = backlog_of("a")
    done = backlog.written(key("a"))
    put(table, backlog, "a", "newer")
    assert backlog.written(key("a")) is done
    assert backlog.take({}).records == {key("a"): record("newer")}


def test_after_a_failure_all_go_on_and_nothing_is_lost():
    table, backlog = backlog_of("a", "b", "c")
    waits = [backlog.written(key(name)) for name in "abc"]
    group = backlog.take({})
    put(table, backlog, "a", "newer")
    waits.append(backlog.written(key("a")))
    table.evict()  # the least recently used: b
    backlog.fail(group)
    assert all(done.is_set() for done in waits)
    assert backlog.take({}).records == {key("a"): record("newer"), key("c"): record("record of c")}


def test_what_left_the_table_is_not_written():
    _, backlog = backlog_of("a", "b")
    done = backlog.written(key("a"))
    backlog.drop(key("a"))
    backlog.drop(key("b"))
    assert backlog.waiting == 0
    group = backlog.take({})
    backlog.finish(group)
    assert done.is_set()


FLOORS = {key(name): Floor(number, 0) for number, name in enumerate("abc")}


async def test_who_waits_for_what_is_evicted_waits_for_its_floor():
    _, backlog = backlog_of("a", "b")
    done = backlog.written(key("a"))
    for name in "ab":
        backlog.evict(key(name), FLOORS[key(name)])
    assert backlog.waiting == 0
    group = backlog.take({key("c"): FLOORS[key("c")]})
    assert group.done is done
    assert (group.records, group.evicted.keys()) == ({}, {key("a"), key("c")})
    assert backlog.written(key("a"), FLOORS[key("a")]) is done, "it is in the group"
    later = backlog.written(key("b"), FLOORS[key("b")])
    assert later is not done
    backlog.finish(group)
    assert backlog.written(key("a")) is None
    group = backlog.take({})
    assert group.done is later
    assert group.evicted == {key("b"): FLOORS[key("b")]}


async def test_what_comes_back_while_its_floor_is_waited_for_is_waited_for():
    table, backlog = backlog_of("a", *(str(number) for number in range(2000)))
    done = backlog.written(key("a"))
    backlog.evict(key("a"), FLOORS[key("a")])
    put(table, backlog, "a", "newer")
    group = backlog.take({})
    assert group.done is done
    assert group.records[key("a")] == record("newer")
    assert group.evicted == {}


def test_after_a_failure_no_floor_is_waited_for():
    _, backlog = backlog_of("a", "b")
    waits = [backlog.written(key(name)) for name in "ab"]
    for name in "ab":
        backlog.evict(key(name), FLOORS[key(name)])
    backlog.fail(backlog.take({}))
    waits.append(backlog.written(key("a"), FLOORS[key("a")]))
    backlog.release()
    assert all(done.is_set() for done in waits)
    assert backlog.take({}).evicted == {}


def test_giving_up_lets_all_go():
    _, backlog = backlog_of("a", "b")
    done = backlog.written(key("a"))
    backlog.clear()
    assert done.is_set()
    assert len(backlog) == 0
