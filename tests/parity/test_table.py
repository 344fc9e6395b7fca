"""The packet table in C against its twin, and what only the table in C has.

Short histories of every kind are in tests/property/test_packet_table.py; here are long ones with
records of all sizes, and what the front lane reads.
"""

from __future__ import annotations

import re
import sys
import threading
from typing import TYPE_CHECKING
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay._speedups import table as compiled
from relay.http.responses import entity_tag
from relay.pkarr import dns_build
from relay.pkarr.dns import min_answer_ttl_s
from relay.pkarr.keys import Keypair
from relay.store import records
from relay.store.table import PurePacketTable
from tests.support.chance import seeded

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

SIZES: dict[str, Callable[[random.Random], int]] = {
    "all alike": lambda rng: 261,
    "any": lambda rng: rng.randint(80, 1080),
    "many small, some large": lambda rng: rng.randint(80, 110) if rng.random() < 0.9 else 1080,
}
KEY = bytes(range(32))


def step(
    table: PurePacketTable | compiled.PacketTable, choice: float, key: bytes, record: bytes
) -> object:
    """Do one of the things that a store does."""
    if choice < 0.30:
        return table.put(key, record)
    if choice < 0.50:
        return table.get(key)
    if choice < 0.60:
        return table.peek(key), key in table
    if choice < 0.70:
        return table.expect(key)
    if choice < 0.85:
        return table.load(key, record)
    if choice < 0.90:
        return table.remove(key)
    if choice < 0.92:
        return table.spare()
    if choice < 0.999:
        return table.evict()
    return table.forget_expected()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("capacity", [0, 700, 5000])
def test_long_histories_agree(sizes: str, capacity: int) -> None:
    """Thousands of packets fill pages and leave them again; others move into their places."""
    rng = seeded((sizes, capacity))
    twins = PurePacketTable(capacity), compiled.PacketTable(capacity)
    keys = [rng.randbytes(32) for _ in range(4000)]
    for count in range(40_000):
        shrinking = count // 8000 % 2
        choice = rng.uniform(0.4, 1) if shrinking else rng.uniform(0, 0.9)
        key, record = rng.choice(keys), rng.randbytes(8).ljust(SIZES[sizes](rng), b".")
        outcomes = [step(table, choice, key, record) for table in twins]
        assert outcomes[0] == outcomes[1], f"step {count}"
        if count % 4000 == 3999:
            assert len(twins[0]) == len(twins[1])
            assert twins[0].keys() == twins[1].keys()
            assert list(twins[0].records().items()) == list(twins[1].records().items())
    while (evicted := twins[0].evict()) is not None:
        assert evicted == twins[1].evict()
    assert twins[1].evict() is None


def test_a_table_that_grows_agrees_at_every_step_of_the_way() -> None:
    """From 256 buckets to 65,536, and while that is under way to 262,144; and never back."""
    rng = seeded("growing")
    twins = PurePacketTable(100), compiled.PacketTable(100)
    keys = [rng.randbytes(32) for _ in range(6000)]
    for key in keys[:5000]:
        record = rng.randbytes(80)
        for table in twins:
            table.put(key, record)
    spread = 0
    for capacity in (20_000, 100_000, 50):
        for table in twins:
            table.resize(capacity)
        for count in range(2000):
            spread += twins[1].spread()
            choice, key, record = rng.random(), rng.choice(keys), rng.randbytes(80)
            outcomes = [step(table, choice, key, record) for table in twins]
            assert outcomes[0] == outcomes[1], f"step {count}"
        assert twins[0].records() == twins[1].records()
    assert spread > 100
    assert not twins[1].spread()
    assert all(twins[1].peek(key) == twins[0].peek(key) for key in keys)


def test_others_look_up_while_it_grows() -> None:
    table = compiled.PacketTable(100)
    rng = seeded("growing with others")
    packets = {rng.randbytes(32): rng.randbytes(80) for _ in range(3000)}
    for key, record in packets.items():
        table.put(key, record)
    table.share(True)
    missing: list[bytes] = []
    grown = threading.Event()

    def look_up() -> None:
        while not grown.is_set():
            missing.extend(key for key in packets if compiled.lookup(table, key) is None)

    readers = [threading.Thread(target=look_up) for _ in range(2)]
    for reader in readers:
        reader.start()
    table.resize(200_000)
    while table.spread():
        pass
    grown.set()
    for reader in readers:
        reader.join()
    table.share(False)
    assert missing == []
    assert table.records() == packets


def test_walks_agree_while_nothing_changes() -> None:
    twins = PurePacketTable(9000), compiled.PacketTable(9000)
    for number in range(9000):
        for table in twins:
            if number % 3:
                table.put(b"%032d" % number, bytes(80 + number % 1000))
            else:
                table.expect(b"%032d" % number)
    for table in twins:
        table.begin_walk()
    while piece := twins[0].walk(1000):
        assert piece == twins[1].walk(1000)
    assert twins[1].walk(1000) == b""


def test_a_walk_delivers_what_is_used_meanwhile_later() -> None:
    """With that the pieces, last one first, are the order: the first of each key counts."""
    table = compiled.PacketTable(10)  # the last of them is new, the others are kept
    keys = [bytes([number]) * 32 for number in range(6)]
    for key in keys:
        table.put(key, bytes(80))
    table.begin_walk()
    assert table.walk(2) == keys[0] + keys[5]
    table.get(keys[2])  # where the walk will be
    table.get(keys[0])  # where it has been
    table.put(keys[4], bytes(1000))  # moves to another place in memory
    assert table.walk(3) == keys[0] + keys[3] + keys[1]
    assert table.walk(3) == keys[4] + keys[2]
    assert table.walk(3) == b""
    assert table.keys() == [keys[number] for number in (4, 2, 0, 3, 1, 5)]


@pytest.mark.parametrize("table", [PurePacketTable(1), compiled.PacketTable(1)])
def test_refusals_agree(table: PurePacketTable | compiled.PacketTable) -> None:
    for key in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match=r"^a key has 32 bytes$"):
            table.put(key, bytes(80))
        with pytest.raises(ValueError, match=r"^a key has 32 bytes$"):
            table.expect(key or bytes(1))
        assert (table.get(key), table.peek(key), key in table) == (None, None, False)
    for size in (0, 79, 1081):
        for method in (table.put, table.load):
            with pytest.raises(ValueError, match=r"^a record has 80 to 1080 bytes$"):
                method(KEY, bytes(size))
        with pytest.raises(ValueError, match=r"^these are no packed rows$"):
            table.load_pack(records.packed(KEY, bytes(80)) + records.packed(KEY, bytes(size)))
    with pytest.raises(ValueError, match=r"^a piece has at least one key$"):
        table.walk(0)
    assert table.records() == {}


names = st.sampled_from([b"\0", b"\3abc\0", b"\1a\xc0\x0c", b"\xc0\x0c"])
questions = st.lists(names.map(lambda name: name + bytes(4)), max_size=3)
answers = st.lists(
    st.tuples(names, st.integers(0, 2**32 - 1), st.binary(max_size=70)).map(
        lambda parts: (
            b"%b%b%b%b%b"
            % (parts[0], bytes(4), parts[1].to_bytes(4, "big"), len(parts[2]).to_bytes(2), parts[2])
        )
    ),
    max_size=8,
)


@given(questions, answers, st.binary(max_size=40), st.integers(0, 2**64 - 1))
def test_the_front_lane_reads_what_python_says(
    asked: list[bytes], answered: list[bytes], rest: bytes, timestamp_us: int
) -> None:
    header = bytes(4) + len(asked).to_bytes(2) + len(answered).to_bytes(2) + bytes(4)
    dns = b"".join([header, *asked, *answered, rest])
    payload = bytes(64) + timestamp_us.to_bytes(8) + dns
    table = compiled.PacketTable(10)
    table.put(KEY, (7).to_bytes(8) + payload)
    seen = compiled.lookup(table, KEY)
    assert seen is not None
    assert seen[:4] == (payload, timestamp_us, 7, min_answer_ttl_s(dns))
    assert b'"%b"' % seen[4].hex().encode() == entity_tag(payload)
    assert compiled.lookup(table, bytes(32)) is None


@given(st.binary(min_size=72, max_size=1072))
@example(bytes(128))
@example(bytes(129))
@example(bytes(1024))
def test_bytes_that_are_no_dns_message_have_a_tag_too(payload: bytes) -> None:
    """Whatever they say about their own length."""
    table = compiled.PacketTable(10)
    table.put(KEY, bytes(8) + payload)
    seen = compiled.lookup(table, KEY)
    assert seen is not None
    assert seen[0] == payload
    assert b'"%b"' % seen[4].hex().encode() == entity_tag(payload)


def as_row(key: bytes, record: bytes) -> str:
    """Return what `records.ROW_AS_HEX` gives."""
    return f"{crc32(key + record):08x}{key.hex().upper()}{record[:8].hex()}{record[8:].hex()}"


def spoiled(row: str, at: int, character: str) -> str:
    return row[: at % len(row)] + character + row[at % len(row) + 1 :]


rows = st.builds(as_row, st.binary(min_size=32, max_size=32), st.binary(min_size=80, max_size=120))
any_rows = st.one_of(
    rows,
    st.builds(spoiled, rows, st.integers(0), st.sampled_from("0aF gG:@/`\0\u0130\n")),
    st.builds(lambda row, count: row[:count], rows, st.integers(0, 300)),
    st.builds(as_row, st.just(KEY), st.integers(70, 90).map(bytes)),
    st.builds(as_row, st.just(KEY), st.integers(1075, 1085).map(bytes)),
    st.text("0123456789abcdefABCDEF", max_size=300),
    st.text(max_size=9),
)


@given(st.lists(any_rows, max_size=5))
@example([as_row(KEY, bytes(range(72, 152))), as_row(KEY, bytes(1080)), ""])
def test_rows_are_packed_alike(pieces: list[str]) -> None:
    text = " ".join(pieces)
    good, pack = compiled.pack_rows(text)
    assert (good, pack) == records.pack_rows(text)
    assert len(list(records.unpack(pack))) == good


def test_facts_follow_the_packet() -> None:
    keypair = Keypair.from_seed(bytes(32))
    table = compiled.PacketTable(10)
    for ttl_s in (30, 60):
        packet = dns_build.message(keypair.public_key, [dns_build.txt("_foo", "bar", ttl_s=ttl_s)])
        payload = bytes(72) + packet
        for last_seen_us in (1, 2):
            table.put(KEY, last_seen_us.to_bytes(8) + payload)
            seen = compiled.lookup(table, KEY)
            assert seen is not None
            assert seen[1:4] == (0, last_seen_us, ttl_s)
            assert b'"%b"' % seen[4].hex().encode() == entity_tag(payload)


def test_a_lookup_is_a_use() -> None:
    table = compiled.PacketTable(10)
    other = bytes(32)
    for key in (KEY, other):
        table.put(key, bytes(80))
    assert table.keys() == [KEY, other], "one is kept, the other new"
    compiled.lookup(table, other)
    assert table.keys() == [other, KEY]
    table.expect(bytes(31) + b"1")
    assert compiled.lookup(table, bytes(31) + b"1") is None


def test_a_capsule_keeps_its_table() -> None:
    table = compiled.PacketTable(10)
    before = sys.getrefcount(table)
    capsule = table.capsule
    assert re.search(r'"relay\.packet_table\.[0-9a-f]{16}"', repr(capsule))
    assert sys.getrefcount(table) == before + 1
    del capsule
    assert sys.getrefcount(table) == before


def test_other_threads_may_look_up_in_a_shared_table() -> None:
    """They find whole packets only, while packets come, change, move and go."""
    table = compiled.PacketTable(100)
    table.share(True)
    keys = [bytes([number]) * 32 for number in range(60)]
    found = [0, 0]
    torn: list[bytes] = []
    ready, stop = threading.Barrier(3), threading.Event()

    def read(reader: int) -> None:
        rng = seeded(reader)
        ready.wait()
        while not stop.is_set():
            seen = compiled.lookup(table, rng.choice(keys))
            if seen is not None:
                found[reader] += 1
                if len(set(seen[0])) != 1 or len(seen[0]) < 72 + seen[0][0]:
                    torn.append(seen[0])

    threads = [threading.Thread(target=read, args=(reader,)) for reader in (0, 1)]
    for thread in threads:
        thread.start()
    ready.wait()
    rng = seeded("writer")
    rounds = 0
    while rounds < 20_000 or min(found) < 100:
        octet = rng.randrange(256)
        table.put(rng.choice(keys), bytes([octet]) * (80 + octet + rng.randrange(500)))
        if rng.random() < 0.3:
            table.evict()
        rounds += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []
