"""The node's tables against their twins."""

import random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay._pure import dht as pure
from relay._pure.xor import distance
from relay._speedups import dht as compiled
from relay.dht.budget import CREDIT_RATIO, PACE, PROOF_LASTS_S

BOTH = pytest.mark.parametrize("kernel", [compiled, pure], ids=["compiled", "pure"])
KEY = bytes(range(16))

identifiers = st.binary(min_size=20, max_size=20) | st.sampled_from(
    # Equal beginnings make every part of a comparison decide now and then.
    [bytes(20), bytes(7) + b"\x01" + bytes(12), bytes(15) + b"\x01" + bytes(4), bytes(19) + b"\x01"]
)
nodes = st.tuples(identifiers, st.sampled_from([b"addr-1", b"addr-2"])).map(b"".join)


# ---- SipHash ----


@BOTH
@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "310e0edd47db6f72"),
        (1, "fd67dc93c539f874"),
        (2, "5a4fa9d909806c0d"),
        (3, "2d7efbd796666785"),
        (15, "e545be4961ca29a1"),
    ],
)
def test_siphash_has_the_values_of_its_authors(kernel: ModuleType, size: int, digest: str) -> None:
    assert kernel.siphash(KEY, bytes(range(size))).to_bytes(8, "little").hex() == digest


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=70))
def test_hashes_agree(key: bytes, data: bytes) -> None:
    assert compiled.siphash(key, data) == pure.siphash(key, data)


@BOTH
@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_key_has_16_bytes(kernel: ModuleType, size: int) -> None:
    with pytest.raises(ValueError, match=r"^a SipHash key has 16 bytes$"):
        kernel.siphash(bytes(size), b"")


# ---- Identifiers ----


@given(
    steps=st.lists(
        st.tuples(st.integers(-1, 9), st.none() | st.tuples(nodes, st.booleans())),
        max_size=40,
    ),
    cleared=st.none() | st.integers(0, 40),
    target=identifiers,
    count=st.integers(-1, 12),
)
def test_id_tables_agree(
    steps: list[tuple[int, tuple[bytes, bool] | None]],
    cleared: int | None,
    target: bytes,
    count: int,
) -> None:
    """After any history the same slots are closest, and the same slots do not exist."""
    tables = [compiled.IdTable(9), pure.IdTable(9)]
    for number, (slot, content) in enumerate(steps):
        outcomes = []
        for table in tables:
            if number == cleared:
                table.clear_all()
            try:
                if content is None:
                    table.clear(slot)
                else:
                    table.set(slot, *content)
                outcomes.append("")
            except IndexError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        assert len(tables[0]) == len(tables[1])
    assert tables[0].closest(target, count) == tables[1].closest(target, count)
    assert tables[0].closest_compact(target, count) == tables[1].closest_compact(target, count)


@given(st.lists(st.tuples(nodes, st.booleans()), max_size=60), identifiers)
def test_closest_is_what_sorting_gives(entries: list[tuple[bytes, bool]], target: bytes) -> None:
    """Also for more results than the compiled twin keeps on its stack."""
    ranked = sorted(
        range(len(entries)),
        key=lambda slot: (not entries[slot][1], distance(entries[slot][0][:20], target), slot),
    )
    for kernel in (compiled, pure):
        table = kernel.IdTable(60)
        for slot, (node, preferred) in enumerate(entries):
            table.set(slot, node, preferred=preferred)
        for count in (1, 20, 50):
            assert table.closest(target, count) == ranked[:count]


@pytest.mark.parametrize("size", [100, 500, 3200])
@pytest.mark.parametrize("bits", [0, 8, 40, 155])
def test_large_tables_agree(size: int, bits: int) -> None:
    """Identifiers that share `bits` with each other, as those near our own do."""
    chance = random.Random(size + bits)  # noqa: S311  # the same identifiers for the same seed
    tables = [compiled.IdTable(size), pure.IdTable(size)]
    for slot in range(size):
        node = (chance.getrandbits(160 - bits)).to_bytes(20, "big") + slot.to_bytes(6, "big")
        preferred = chance.random() < 0.05
        for table in tables:
            table.set(slot, node, preferred)
    for _ in range(40):
        target = chance.getrandbits(160 - chance.choice([0, bits])).to_bytes(20, "big")
        found = [table.closest_compact(target, 20) for table in tables]
        assert found[0] == found[1]
        for table in tables:
            table.clear(int.from_bytes(target, "big") % size)


@BOTH
def test_an_id_table_refuses_what_it_cannot_hold(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^an identifier table has at least one slot$"):
        kernel.IdTable(0)
    table = kernel.IdTable(2)
    with pytest.raises(IndexError, match=r"^no slot 2 in a table of 2$"):
        table.set(2, bytes(26), preferred=True)
    with pytest.raises(ValueError, match=r"^compact node info has 26 bytes$"):
        table.set(0, bytes(20), preferred=True)
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        table.closest(bytes(21), 1)
    assert len(table) == 0
    assert table.closest(bytes(20), 5) == []
    assert table.closest_compact(bytes(20), 5) == b""


# ---- Records ----


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.integers(0, 7), st.none() | st.binary(max_size=30)),
        max_size=60,
    ),
)
def test_record_tables_agree(capacity: int, steps: list[tuple[int, bytes | None]]) -> None:
    """Also on what they forget, and in which order."""
    tables = [compiled.RecordTable(capacity), pure.RecordTable(capacity)]
    for number, record in steps:
        target = bytes([number]) * 20
        if number == 7:
            for table in tables:
                table.drop_oldest()
        elif record is None:
            assert tables[0].get(target) == tables[1].get(target)
        else:
            for table in tables:
                table.put(target, record)
        assert len(tables[0]) == len(tables[1]) <= capacity
    for number in range(7):
        assert tables[0].get(bytes([number]) * 20) == tables[1].get(bytes([number]) * 20)


def test_thousands_of_records_agree() -> None:
    chance = random.Random(7)  # noqa: S311  # the same records for the same seed
    tables = [compiled.RecordTable(700), pure.RecordTable(700)]
    for _ in range(20_000):
        target = chance.randrange(1500).to_bytes(20, "little")
        if chance.random() < 0.5:
            assert tables[0].get(target) == tables[1].get(target)
        else:
            record = chance.randbytes(chance.randrange(40))
            for table in tables:
                table.put(target, record)
    assert len(tables[0]) == len(tables[1]) == 700


@BOTH
def test_a_record_table_refuses_what_it_cannot_hold(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^a record table has room for at least one record$"):
        kernel.RecordTable(0)
    table = kernel.RecordTable(1)
    longest = bytes(kernel.RECORD_BYTES_MAX)
    table.put(bytes(20), longest)
    assert table.get(bytes(20)) == longest
    with pytest.raises(ValueError, match=rf"^a record has at most {len(longest)} bytes$"):
        table.put(bytes(20), longest + b"x")
    for access in (table.get, lambda target: table.put(target, b"")):
        with pytest.raises(ValueError, match=r"^a target has 20 bytes$"):
            access(bytes(19))
    assert len(table) == 1


# ---- Budgets ----


def budget_cells(kernel: ModuleType, cells: int) -> compiled.BudgetCells:
    made: compiled.BudgetCells = kernel.BudgetCells(
        KEY,
        cells,
        pace=(2.0, 25.0, 20.0, 10.0, 1.0, 15.0, 5.0),
        unproven=(512.0, 8192.0),
        strangers=(1024.0, 12_000.0),
        credit_ratio=CREDIT_RATIO,
        proof_lasts_s=PROOF_LASTS_S,
    )
    return made


def test_the_pace_is_in_the_order_that_the_cells_expect() -> None:
    assert list(PACE.__slots__) == [
        "packets_per_s",
        "packets_burst",
        "to_proven",
        "to_strangers",
        "queries_per_s",
        "queries_burst",
        "queries_spare",
    ]
    assert PACE.packets_burst == 25.0


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.sampled_from(["admit", "charge", "reserve", "busy", "prove"]),
            st.integers(0, 4),
            st.integers(0, 1500),
            st.just(0.0) | st.floats(0, 0.5) | st.floats(0, 700),
        ),
        max_size=200,
    ),
)
def test_budgets_agree(cells: int, steps: list[tuple[str, int, int, float]]) -> None:
    tables = [budget_cells(compiled, cells), budget_cells(pure, cells)]
    now = 100.0
    for verb, host, size, pause_s in steps:
        now += pause_s
        octets = bytes([203, 0, 113, host])
        if verb == "prove":
            for table in tables:
                table.prove(octets, now)
        elif verb == "reserve":
            waits = [table.reserve(octets, size / 1000, now) for table in tables]
            assert waits[0] == waits[1]
        elif verb == "busy":
            assert tables[0].busy(octets, now) == tables[1].busy(octets, now)
        else:
            outcomes = [getattr(table, verb)(octets, size, now) for table in tables]
            assert outcomes[0] == outcomes[1]


@BOTH
def test_budgets_are_of_ipv4_addresses(kernel: ModuleType) -> None:
    table = budget_cells(kernel, 4)
    for ask in (table.admit, table.charge):
        with pytest.raises(ValueError, match=r"^an IPv4 address has 4 bytes$"):
            ask(bytes(16), 1, 0.0)
    with pytest.raises(ValueError, match=r"^an IPv4 address has 4 bytes$"):
        table.prove(b"", 0.0)
    with pytest.raises(ValueError, match=r"^an IPv4 address has 4 bytes$"):
        table.reserve(b"12345", 1.0, 0.0)
    with pytest.raises(ValueError, match=r"^an IPv4 address has 4 bytes$"):
        table.busy(b"123", 0.0)
    with pytest.raises(ValueError, match=r"^a table of budgets has at least one cell$"):
        budget_cells(kernel, 0)


# ---- The rate limit ----


@given(
    st.floats(1e-9, 1e6),
    st.integers(1, 2**32 - 1) | st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 1e5) | st.just(0.0))),
)
def test_rates_agree(
    interval_s: float, burst: int, max_keys: int, steps: list[tuple[int, float]]
) -> None:
    tables = [kernel.RateCells(interval_s, burst, max_keys) for kernel in (compiled, pure)]
    now = 1000.0
    for host, pause_s in steps:
        now += pause_s
        octets = bytes([203, 0, 113, host])
        assert tables[0].check(octets, now) == tables[1].check(octets, now)


@BOTH
@pytest.mark.parametrize(
    "arguments",
    [(0.0, 1, 1), (-1.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0), (1e10, 1, 1), (1.0, 2**32, 1)],
)
def test_impossible_rates_are_refused(
    kernel: ModuleType, arguments: tuple[float, int, int]
) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        kernel.RateCells(*arguments)
    with pytest.raises(ValueError, match=r"^an IPv4 address has 4 bytes$"):
        kernel.RateCells(1.0, 1, 1).check(b"", 0.0)
