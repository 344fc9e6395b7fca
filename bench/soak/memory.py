"""Which parts of a process's memory grew: what stands behind a step in a soak's figures.

The parts are the mappings of ``/proc/PID/smaps``. One that grows at both ends, or is split, is
told as two, so the sum over the parts of a step is what counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

STEP_BYTES: Final = 256 * 1024
"""What rises by less from one reading to the next is not told."""
PARTS_MAX: Final = 4
_HEAD: Final = re.compile(r"([0-9a-f]+)-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")


@dataclass(frozen=True, slots=True)
class Part:
    """One mapping: sizes in bytes."""

    name: str
    resident: int
    huge: int
    flags: str


Parts: TypeAlias = Mapping[str, Part]
"""By where they begin, in hexadecimal digits."""


def parts(pid: int) -> Parts:
    """Return the mappings of a process that have pages in memory."""
    return parse(Path(f"/proc/{pid}/smaps").read_text())


def parse(smaps: str) -> Parts:
    """Return the mappings that a file of the form of ``/proc/PID/smaps`` tells of."""
    found: dict[str, Part] = {}
    begin = name = ""
    fields: dict[str, str] = {}
    for line in smaps.splitlines():
        head = _HEAD.fullmatch(line)
        if head is not None:
            begin, name, fields = head[1], head[2], {}
            continue
        key, _, value = line.partition(":")
        fields[key] = value.strip()
        if key == "VmFlags" and _bytes(fields["Rss"]):
            huge = _bytes(fields["AnonHugePages"])
            found[begin] = Part(name or "anonymous", _bytes(fields["Rss"]), huge, fields[key])
    return found


def _bytes(kilobytes: str) -> int:
    return int(kilobytes.removesuffix(" kB")) * 1024


def growth(before: Parts, after: Parts) -> list[str]:
    """Tell of the parts that grew most, the largest first."""
    nothing = Part("", 0, 0, "")
    grown = {
        begin: part.resident - before.get(begin, nothing).resident for begin, part in after.items()
    }
    largest = sorted((begin for begin in grown if grown[begin] > 0), key=lambda b: -grown[b])
    return [
        f"{after[begin].name} at {begin}: {before.get(begin, nothing).resident // 1024:,} to"
        f" {after[begin].resident // 1024:,} kB, {after[begin].huge // 1024:,} kB in huge pages"
        f"{', which it asks for' if ' hg' in f' {after[begin].flags}' else ''}"
        for begin in largest[:PARTS_MAX]
    ]
