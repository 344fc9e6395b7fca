"""The metric kernel against its twin, and both against the reference's vectors."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay._pure import xor as pure
from relay._speedups import xor as compiled

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
DISTANCES = json.loads((VECTORS / "distance.json").read_text())["cases"]
BOTH = pytest.mark.parametrize("kernel", [compiled, pure], ids=["compiled", "pure"])

identifiers = st.binary(min_size=20, max_size=20) | st.sampled_from(
    # Equal beginnings make every part of a comparison decide now and then.
    [bytes(20), bytes(7) + b"\x01" + bytes(12), bytes(15) + b"\x01" + bytes(4), bytes(19) + b"\x01"]
)


@BOTH
@pytest.mark.parametrize("case", DISTANCES, ids=lambda case: case["id"])
def test_vectors(kernel: ModuleType, case: dict[str, object]) -> None:
    left, right = bytes.fromhex(str(case["a"])), bytes.fromhex(str(case["b"]))
    assert kernel.bucket_index(left, right) == case["distance"]
    assert kernel.distance(left, right) == int(str(case["xor"]), 16)


@given(identifiers, identifiers)
def test_metrics_agree(left: bytes, right: bytes) -> None:
    assert compiled.distance(left, right) == pure.distance(left, right)
    assert compiled.bucket_index(left, right) == pure.bucket_index(left, right)


@BOTH
@pytest.mark.parametrize(("left", "right"), [(b"", bytes(20)), (bytes(20), bytes(21))])
def test_identifiers_have_20_bytes(kernel: ModuleType, left: bytes, right: bytes) -> None:
    for metric in (kernel.distance, kernel.bucket_index):
        with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
            metric(left, right)


@given(
    steps=st.lists(
        st.tuples(st.integers(-1, 9), st.none() | st.tuples(identifiers, st.booleans())),
        max_size=40,
    ),
    target=identifiers,
    count=st.integers(-1, 12),
)
def test_tables_agree(
    steps: list[tuple[int, tuple[bytes, bool] | None]], target: bytes, count: int
) -> None:
    """After any history the same slots are closest, and the same slots do not exist."""
    tables = [compiled.IdTable(9), pure.IdTable(9)]
    for slot, content in steps:
        outcomes = []
        for table in tables:
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


@given(st.lists(st.tuples(identifiers, st.booleans()), max_size=60), identifiers)
def test_closest_is_what_sorting_gives(entries: list[tuple[bytes, bool]], target: bytes) -> None:
    """Also for more results than the compiled twin keeps on its stack."""
    ranked = sorted(
        range(len(entries)),
        key=lambda slot: (not entries[slot][1], pure.distance(entries[slot][0], target), slot),
    )
    for kernel in (compiled, pure):
        table = kernel.IdTable(60)
        for slot, (identifier, preferred) in enumerate(entries):
            table.set(slot, identifier, preferred=preferred)
        for count in (1, 20, 50):
            assert table.closest(target, count) == ranked[:count]


@BOTH
def test_a_table_refuses_what_it_cannot_hold(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^an identifier table has at least one slot$"):
        kernel.IdTable(0)
    table = kernel.IdTable(2)
    with pytest.raises(IndexError, match=r"^no slot 2 in a table of 2$"):
        table.set(2, bytes(20), preferred=True)
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        table.set(0, bytes(19), preferred=True)
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        table.closest(bytes(21), 1)
    assert len(table) == 0
    assert table.closest(bytes(20), 5) == []
