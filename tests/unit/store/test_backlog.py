"""The backlog: groups of those who wait, filled up with others; nothing lost when writing fails."""

from relay.store.backlog import GROUP_RECORDS_MAX, Backlog
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
    group = backlog.take()
    assert len(group.records) == GROUP_RECORDS_MAX
    assert key("1999") in group.records
    assert len(backlog) == 2000
    backlog.finish(group)
    assert done.is_set()
    assert backlog.written(key("1999")) is None
    assert len(backlog) == backlog.waiting == 2000 - GROUP_RECORDS_MAX


async def test_a_record_being_written_is_waited_for():
    table, backlog = backlog_of("a")
    group = backlog.take()
    assert backlog.written(key("a")) is group.done
    put(table, backlog, "a", "newer")
    assert backlog.written(key("a")) is not group.done
    backlog.finish(group)
    assert backlog.take().records == {key("a"): record("newer")}


def test_a_newer_record_takes_the_place_of_one_waited_for():
    table, backlog = backlog_of("a")
    done = backlog.written(key("a"))
    put(table, backlog, "a", "newer")
    assert backlog.written(key("a")) is done
    assert backlog.take().records == {key("a"): record("newer")}


def test_after_a_failure_all_go_on_and_nothing_is_lost():
    table, backlog = backlog_of("a", "b", "c")
    waits = [backlog.written(key(name)) for name in "abc"]
    group = backlog.take()
    put(table, backlog, "a", "newer")
    waits.append(backlog.written(key("a")))
    table.evict()  # the least recently used: b
    backlog.fail(group)
    assert all(done.is_set() for done in waits)
    assert backlog.take().records == {key("a"): record("newer"), key("c"): record("record of c")}


def test_what_left_the_table_is_not_written():
    _, backlog = backlog_of("a", "b")
    done = backlog.written(key("a"))
    backlog.drop(key("a"))
    backlog.drop(key("b"))
    assert backlog.waiting == 0
    group = backlog.take()
    backlog.finish(group)
    assert done.is_set()


def test_giving_up_lets_all_go():
    _, backlog = backlog_of("a", "b")
    done = backlog.written(key("a"))
    backlog.clear()
    assert done.is_set()
    assert len(backlog) == 0
