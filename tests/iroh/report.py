"""What the scenarios measured, for people and for programs.

Each figure is a number of seconds or of bytes. They are in ``artifacts/iroh.json`` and, as the
table that docs/iroh.md shows, in ``artifacts/iroh.md``; both are written anew by each run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.peers import ROOT

FOLDER: Final = ROOT / "artifacts"


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario at one place with one version of iroh."""

    scenario: str
    place: str
    iroh: str
    figures: dict[str, float]


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table, one line for each scenario and figure."""
    columns: dict[tuple[str, str], None] = {}
    lines: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in rows:
        columns[row.place, row.iroh] = None
        for name, figure in row.figures.items():
            lines.setdefault((row.scenario, name), {})[row.place, row.iroh] = figure
    heads = [f"{place}, {iroh}" for place, iroh in columns]
    text = [
        "| Scenario | Seconds | " + " | ".join(heads) + " |",
        "| --- | --- |" + " --- |" * len(heads),
    ]
    for (scenario, name), found in lines.items():
        cells = [f"{found[column]:.2f}" if column in found else "" for column in columns]
        text.append(f"| {scenario} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def write(rows: list[Row], folder: Path = FOLDER) -> None:
    """Write both forms."""
    folder.mkdir(exist_ok=True)
    (folder / "iroh.md").write_text(table(rows))
    found = [
        {"scenario": r.scenario, "place": r.place, "iroh": r.iroh, "figures": r.figures}
        for r in rows
    ]
    (folder / "iroh.json").write_text(json.dumps(found, indent=1) + "\n")
