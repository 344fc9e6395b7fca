"""What a run has measured: rows of figures, goals, and the tables made of them. No I/O.

A row is one question. Every subject that answers it has a list of values for each figure, one a
round; what is told of a list is its median, with the least and the greatest. A goal is one line
of issue 4's table "Must be shown", and is judged on medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from math import isnan
from typing import Any, Final, Literal

OURS: Final = "ours"
REFERENCE: Final = "reference"

FIGURES: Final[Mapping[str, tuple[str, int]]] = {
    "rate": ("good/s", 0),
    "cpu_us": ("CPU µs each", 1),
    "p50_ms": ("p50 ms", 2),
    "p99_ms": ("p99 ms", 2),
    "failed": ("failed %", 1),
    "loader_us": ("loader CPU µs each", 1),
    "network": ("network's share of its core %", 0),
    "slow_rate": ("misses and pages/s", 0),
    "put_rate": ("PUTs/s", 0),
    "slow_failed": ("slow ones failed %", 1),
    "nodes": ("nodes in a reply", 1),
    "reply_bytes": ("bytes of a reply", 0),
    "table": ("nodes in the table", 0),
    "lost": ("lost", 0),
    "table_waits": ("waits for the table", 0),
    "limiter_waits": ("waits for the limiter", 0),
    "lane_waits": ("waits for a lane", 0),
    "received": ("replies received %", 2),
    "queries": ("queries sent", 0),
    "us": ("µs each", 2),
    "rss_mib": ("resident MiB", 1),
    "bytes_each": ("bytes per packet", 0),
    "first_s": ("first answer s", 3),
    "hot_s": ("all hot s", 3),
}
"""Heading and decimal places of every figure, in the order of columns."""

Kind = Literal["times", "times fewer", "share", "at least", "at most"]
_HIGHER_IS_BETTER: Final[frozenset[Kind]] = frozenset({"times", "times fewer", "at least"})


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row has to show.

    ``times``: subject over the other, at least; ``times fewer``: the other over the subject, at
    least; ``share``: subject over the other, at most; ``at least``, ``at most``: the subject alone.
    """

    figure: str
    kind: Kind
    bound: float
    subject: str = OURS
    against: str = REFERENCE

    @property
    def text(self) -> str:
        """The goal in words."""
        heading = FIGURES[self.figure][0]
        match self.kind:
            case "times":
                return f"{heading}: at least {self.bound:g} times"
            case "times fewer":
                return f"{heading}: at least {self.bound:g} times fewer"
            case "share":
                return f"{heading}: at most {self.bound:g} times"
            case _:
                return f"{heading}: {self.kind} {self.bound:,g}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal beside what was measured."""

    row: str
    goal: Goal
    measured: float
    met: bool

    @property
    def margin(self) -> float:
        """How many times better than the goal; 1 is just met."""
        good = self.measured, self.goal.bound
        above, below = good if self.goal.kind in _HIGHER_IS_BETTER else good[::-1]
        return above / below if below else float("inf")


@dataclass(slots=True)
class Row:
    """One question and what every subject answered, a value a round for each figure."""

    bench: str
    name: str
    goals: Sequence[Goal] = ()
    curve: str = ""
    """The picture that this row is a point of; the subjects are its lines."""
    x: float = 0.0
    note: str = ""
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    builds: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(
        self,
        subject: str,
        build: str,
        figures: Mapping[str, float],
        statuses: Mapping[str, int] | None = None,
    ) -> None:
        """Keep one round of one subject."""
        self.builds[subject] = build
        kept = self.values.setdefault(subject, {})
        for name, value in figures.items():
            kept.setdefault(name, []).append(value)
        counts = self.statuses.setdefault(subject, {})
        for status, count in (statuses or {}).items():
            counts[status] = counts.get(status, 0) + count

    def median(self, subject: str, figure: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.values[subject][figure])

    def verdicts(self) -> list[Verdict]:
        """Judge every goal whose subjects were measured."""
        return [
            self._judge(goal)
            for goal in self.goals
            if goal.subject in self.values
            and (goal.kind in {"at least", "at most"} or goal.against in self.values)
        ]

    def _judge(self, goal: Goal) -> Verdict:
        value = self.median(goal.subject, goal.figure)
        if goal.kind == "times fewer":
            value = _ratio(self.median(goal.against, goal.figure), value)
        elif goal.kind in {"times", "share"}:
            value = _ratio(value, self.median(goal.against, goal.figure))
        # A peer that did nothing right proves nothing: against zero no goal is met (it is NaN).
        met = value >= goal.bound if goal.kind in _HIGHER_IS_BETTER else value <= goal.bound
        return Verdict(self.name, goal, value, met)

    def to_json(self) -> dict[str, Any]:
        """Return the row, its medians and its verdicts as JSON's types."""
        verdicts = [
            {
                "goal": verdict.goal.text,
                "measured": None if isnan(verdict.measured) else verdict.measured,
                "met": verdict.met,
            }
            for verdict in self.verdicts()
        ]
        medians = {
            subject: {figure: statistics.median(values) for figure, values in figures.items()}
            for subject, figures in self.values.items()
        }
        return asdict(self) | {"medians": medians, "verdicts": verdicts}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Row:
        """Return the row that `to_json` was called on."""
        fields = {name: row[name] for name in cls.__slots__ if name in row}
        return cls(**fields | {"goals": [Goal(**goal) for goal in row["goals"]]})


def _ratio(above: float, below: float) -> float:
    return above / below if above > 0 and below > 0 else float("nan")


def spread(values: Sequence[float], digits: int) -> str:
    """Return ``median (min to max)``, the median alone where all are one."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if low == high:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def goals_table(rows: Iterable[Row]) -> str:
    """Return every goal beside what was measured as Markdown; nothing where there is none."""
    lines = []
    for row in rows:
        for verdict in row.verdicts():
            goal = verdict.goal
            digits = FIGURES[goal.figure][1]
            cells = [
                row.name,
                goal.text,
                spread(row.values[goal.subject][goal.figure], digits),
                "",
                f"{verdict.measured:,.{digits}f}",
                "yes" if verdict.met else "**no**",
            ]
            if goal.kind not in {"at least", "at most"}:
                theirs = spread(row.values[goal.against][goal.figure], digits)
                cells[3] = f"{goal.against}: {theirs}"
                cells[4] = "-" if isnan(verdict.measured) else f"{verdict.measured:.2f} times"
            lines.append(_line(cells))
    if not lines:
        return ""
    headings = ["measurement", "goal", "ours", "against", "measured", "met"]
    return "\n".join([_line(headings), _line(["---"] * len(headings)), *lines])


def figures_tables(rows: Iterable[Row]) -> str:
    """Return all figures as Markdown, a line per subject, a table per run of rows of one form."""
    return "\n\n".join(
        _figures_table(columns, list(alike))
        for columns, alike in groupby(rows, _columns)
        if columns
    )


def notes(rows: Iterable[Row]) -> str:
    """Return what has to be said of single rows, a line each."""
    return "\n".join(f"- {row.name}: {row.note}" for row in rows if row.note)


def _columns(row: Row) -> list[str]:
    there = {name for figures in row.values.values() for name in figures}
    return [name for name in FIGURES if name in there]


def _figures_table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    headings = ["measurement", "subject", *(FIGURES[name][0] for name in columns)]
    lines = [_line(headings), _line(["---"] * len(headings))]
    for row in rows:
        for subject, figures in row.values.items():
            cells = [row.name, f"{subject} ({row.builds[subject]})"]
            cells += [
                spread(figures[name], FIGURES[name][1]) if name in figures else ""
                for name in columns
            ]
            lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
