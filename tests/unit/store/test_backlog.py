"""The backlog: groups of those who wait, filled up with others; nothing lost when writing fails."""

from relay.store.backlog import GROUP_RECORDS_MAX, Backlog
from relay.store.table import PacketTable


def backlog_of(*keys: bytes) -> tuple[PacketTable, Backlog]:
    table = PacketTable(10_000)
    backlog = Backlog(table)
    for key in keys:
        put(table, backlog, key, b"record of " + key)
    return table, backlog


def put(table: PacketTable, backlog: Backlog, key: bytes, record: bytes) -> None:
    table.put(key, record)
    backlog.add(key, record)


def test_those_who_wait_are_served_before_a_long_backlog():
    _, backlog = backlog_of(*(b"%d" % number for number in range(2000)))
    done = backlog.written(b"1999")
    assert done is not None
    group = backlog.take()
    assert len(group.records) == GROUP_RECORDS_MAX
    assert b"1999" in group.records
    assert len(backlog) == 2000
    backlog.finish(group)
    assert done.is_set()
    assert backlog.written(b"1999") is None
    assert len(backlog) == backlog.waiting == 2000 - GROUP_RECORDS_MAX


async def test_a_record_being_written_is_waited_for():
    table, backlog = backlog_of(b"a")
    group = backlog.take()
    assert backlog.written(b"a") is group.done
    put(table, backlog, b"a", b"newer")
    assert backlog.written(b"a") is not group.done
    backlog.finish(group)
    assert backlog.take().records == {b"a": b"newer"}


def test_a_newer_record_takes_the_place_of_one_waited_for():
    table, backlog = backlog_of(b"a")
    done = backlog.written(b"a")
    put(table, backlog, b"a", b"newer")
    assert backlog.written(b"a") is done
    assert backlog.take().records == {b"a": b"newer"}


def test_after_a_failure_all_go_on_and_nothing_is_lost():
    table, backlog = backlog_of(b"a", b"b", b"c")
    waits = [backlog.written(key) for key in (b"a", b"b", b"c")]
    group = backlog.take()
    put(table, backlog, b"a", b"newer")
    waits.append(backlog.written(b"a"))
    table.evict()  # the least recently used: b
    backlog.fail(group)
    assert all(done.is_set() for done in waits)
    assert backlog.take().records == {b"a": b"newer", b"c": b"record of c"}


def test_what_left_the_table_is_not_written():
    _, backlog = backlog_of(b"a", b"b")
    done = backlog.written(b"a")
    backlog.drop(b"a")
    backlog.drop(b"b")
    assert backlog.waiting == 0
    group = backlog.take()
    backlog.finish(group)
    assert done.is_set()


def test_giving_up_lets_all_go():
    _, backlog = backlog_of(b"a", b"b")
    done = backlog.written(b"a")
    backlog.clear()
    assert done.is_set()
    assert len(backlog) == 0
