"""Inputs on the disk: one text file a target, one input a line, so that changes can be read.

Lines are base64, sorted, shortest first. What once went wrong lies beside it as it is, one file
each, under a name that says what it was.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
INPUTS_MAX = 400
"""A target's inputs in the repository; the shortest are kept."""
BYTES_MAX = 150_000
"""Of a target's inputs together."""


def names() -> list[str]:
    """Return all targets: those in Python and those in C."""
    return python_names() + native_names()


def python_names() -> list[str]:
    """Return the targets that are Python modules."""
    return sorted(path.stem for path in (FOLDER / "targets").glob("[a-z]*.py"))


def native_names() -> list[str]:
    """Return the targets that are C files."""
    return sorted(path.stem for path in (FOLDER / "native").glob("c_*.c"))


def packed(name: str) -> list[bytes]:
    """Return the inputs of a target that are in the repository."""
    path = FOLDER / "corpus" / f"{name}.txt"
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [b64decode(line, validate=True) for line in lines]


def found(name: str) -> dict[str, bytes]:
    """Return what once went wrong, by name."""
    folder = FOLDER / "found" / name
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def kept(name: str) -> list[bytes]:
    """Return all inputs of a target that are in the repository."""
    return [*packed(name), *found(name).values()]


def pack(name: str, inputs: Iterable[bytes]) -> int:
    """Replace the inputs of a target in the repository; return how many there are now."""
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))[:INPUTS_MAX]
    kept: list[bytes] = []
    room = BYTES_MAX
    for data in ordered:
        room -= len(data)
        if room < 0:
            break
        kept.append(data)
    text = "".join(f"{b64encode(data).decode('ascii')}\n" for data in kept)
    (FOLDER / "corpus" / f"{name}.txt").write_text(text, "ascii")
    return len(kept)


def spread(folder: Path, inputs: Iterable[bytes]) -> None:
    """Write inputs as libFuzzer wants them: one file each, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / sha256(data).hexdigest()[:32]).write_bytes(data)


def gather(folder: Path) -> list[bytes]:
    """Return the inputs in a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]
