"""``python -m tests.fuzz.planted``: do the fuzzers find anything? Defects are planted for them.

Each is put into a copy of the sources, and its target is fuzzed there from its seeds alone, without
the corpus. The exit status is 1 if one was not found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from tests.fuzz import building, vectors

SECONDS_MAX = 300
COPIED = ("relay", "_speedups", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Defect:
    """A mistake that somebody could make: `wrong` in the place of `right` in a source file."""

    target: str
    path: str
    right: str
    wrong: str


DEFECTS = (
    Defect(  # one byte beyond the datagram is read
        "c_query",
        "_speedups/dht_query.h",
        "if (size > (size_t)(source->end - at))",
        "if (size > (size_t)(source->end - at) + 1)",
    ),
    Defect(  # a body may be longer than there is room for
        "c_request",
        "_speedups/front_parse.h",
        "return request->body_bytes <= (request->method == FR_PUT ? FR_BODY_MAX : 0);",
        "return true;",
    ),
    Defect(  # a colon begins a key
        "bencode",
        "relay/_pure/bencode.py",
        "if not 0x30 <= octet <= 0x39:",
        "if not 0x30 <= octet <= 0x3A:",
    ),
    Defect(  # an address may lack its last byte
        "dns",
        "relay/pkarr/dns.py",
        "            position += step\n            if position > end:",
        "            position += step\n            if position > end + 1:",
    ),
    Defect(  # text of a spoiled file is taken for text
        "database",
        "relay/store/database.py",
        "connection.text_factory = _text",
        "connection.text_factory = str",
    ),
)


def main() -> int:
    """Plant the defects one after the other and have them found."""
    missed = [defect for defect in DEFECTS if not find(defect)]
    for defect in missed:
        print(f"NOT FOUND: {defect.path}", file=sys.stderr)
    return 1 if missed else 0


def find(defect: Defect) -> bool:
    """Return whether fuzzing a copy with the defect finds it; the run's row is printed."""
    copy = building.BUILD / "planted" / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in COPIED:
        path = building.ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(path, copy)
    (copy / "config.toml").symlink_to(building.ROOT / "config.toml")
    for spared in ("corpus", "found"):
        shutil.rmtree(copy / "tests" / "fuzz" / spared)
        (copy / "tests" / "fuzz" / spared).mkdir()
    if not defect.path.startswith("_speedups"):  # made of the same sources
        building.kernels()
        (copy / "build" / "fuzz" / "tree").mkdir(parents=True)
        shutil.copytree(building.TREE / "_speedups", copy / "build" / "fuzz" / "tree" / "_speedups")
        shutil.copy(building.BUILD / "kernels.stamp", copy / "build" / "fuzz")
    source = copy / defect.path
    text = source.read_text()
    assert text.count(defect.right) == 1, defect
    source.write_text(text.replace(defect.right, defect.wrong))
    command = (sys.executable, "-m", "tests.fuzz", defect.target, "--seconds", str(SECONDS_MAX))
    shared = os.environ.get("PKARR_RELAY_SHARED", str(vectors.SHARED))
    environment = {**os.environ, "PKARR_RELAY_SHARED": shared}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, flush=True)
    return done.returncode == 1 and "FOUND: " in done.stderr


if __name__ == "__main__":
    sys.exit(main())
