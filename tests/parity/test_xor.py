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
