"""Which kernels are loaded, and why: the choice is made once, at import, in `relay._kernels`."""

import os
import subprocess
import sys

from relay import _kernels
from relay._pure import answers as pure_answers
from relay._pure import bencode as pure_bencode
from relay._pure import contacts as pure_contacts
from relay._pure import dht as pure_dht
from relay._pure import ed25519 as pure_ed25519
from relay._pure import xor as pure_xor
from relay._speedups import answers, bencode, contacts, dht, ed25519, xor

KERNELS = {
    "Answer": (answers, pure_answers),
    "BencodeError": (bencode, pure_bencode),
    "BudgetCells": (dht, pure_dht),
    "Contact": (contacts, pure_contacts),
    "IdTable": (dht, pure_dht),
    "Progress": (contacts, pure_contacts),
    "RateCells": (dht, pure_dht),
    "RecordTable": (dht, pure_dht),
    "Row": (contacts, pure_contacts),
    "bucket_index": (xor, pure_xor),
    "decode": (bencode, pure_bencode),
    "decode_prefix": (bencode, pure_bencode),
    "distance": (xor, pure_xor),
    "encode": (bencode, pure_bencode),
    "is_point": (ed25519, pure_ed25519),
    "read_answer": (answers, pure_answers),
    "siphash": (dht, pure_dht),
    "verify": (ed25519, pure_ed25519),
    "verify_batch": (ed25519, pure_ed25519),
}

REPORT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s", level=logging.INFO)
if "hide" in sys.argv:
    sys.modules["relay._speedups.xor"] = None  # the import system's way to say: not there
from relay import _kernels as k
kernels = (k.read_answer, k.decode, k.Row, k.distance, k.verify, k.IdTable)
print(k.IMPLEMENTATION, k.FORCED_PURE, *sorted({kernel.__module__ for kernel in kernels}))
"""


def report(*, environment: dict[str, str], arguments: tuple[str, ...] = ()) -> list[str]:
    """What a fresh interpreter chose, as lines: log records first, the choice last."""
    inherited = {k: v for k, v in os.environ.items() if k != "RELAY_PURE_PYTHON"}
    result = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout.splitlines()


NAMES = ("answers", "bencode", "contacts", "dht", "ed25519", "xor")
COMPILED = " ".join(["compiled False", *(f"relay._speedups.{name}" for name in NAMES)])
PURE = " ".join(f"relay._pure.{name}" for name in NAMES)


def test_this_suite_runs_with_the_kernels_it_was_asked_to_run_with() -> None:
    """The compiled ones, unless RELAY_PURE_PYTHON=1: no test run passes by falling back."""
    pure = os.environ.get("RELAY_PURE_PYTHON") == "1"
    assert pure == _kernels.FORCED_PURE
    assert ("pure" if pure else "compiled") == _kernels.IMPLEMENTATION
    for name, modules in KERNELS.items():
        assert getattr(_kernels, name) is getattr(modules[pure], name), name


def test_the_table_above_names_every_kernel() -> None:
    constants = {name for name in _kernels.__all__ if name.isupper()}
    assert set(_kernels.__all__) == KERNELS.keys() | constants | {"Refusal", "State", "Value"}


def test_compiled_kernels_are_chosen_and_are_machine_code() -> None:
    assert report(environment={}) == [COMPILED]
    for module in (answers, bencode, contacts, dht, ed25519, xor):
        assert module.__file__ is not None
        assert module.__file__.endswith((".so", ".pyd"))


def test_the_environment_forces_the_twins_without_a_warning() -> None:
    assert report(environment={"RELAY_PURE_PYTHON": "1"}) == [f"pure True {PURE}"]


def test_only_1_forces_the_twins() -> None:
    assert report(environment={"RELAY_PURE_PYTHON": "0"}) == [COMPILED]


def test_one_missing_kernel_means_the_twins_for_all_and_one_warning() -> None:
    assert report(environment={}, arguments=("hide",)) == [
        "WARNING relay.kernels",
        f"pure False {PURE}",
    ]
