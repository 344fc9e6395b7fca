"""Draws a run as one SVG: how far each goal was met, and how cost grows. No I/O.

Written by hand so that a bench needs no plotting library. Scales are logarithmic where it says
so; what is not positive is left out of those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from bench.results import FIGURES, Row, Verdict

WIDTH: Final = 1000
_BAR_HEIGHT: Final = 18
_LABEL_WIDTH: Final = 560
_MARGIN_MAX: Final = 32.0
_CHART_HEIGHT: Final = 260
_COLOURS: Final = ("#1769aa", "#c2571a", "#3c8c40", "#7a4b9c", "#8a6d00", "#a03050")
_MET: Final = "#3c8c40"
_MISSED: Final = "#c23b22"

Points = Sequence[tuple[float, float]]


@dataclass(slots=True)
class _Page:
    """The drawing so far; `y` is where the next part begins."""

    y: float = 10.0
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, size: int = 12, anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "#bbb") -> None:
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
        )

    def finish(self) -> str:
        height = math.ceil(self.y + 10)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">\n'
            f'<rect width="100%" height="100%" fill="#fff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def picture(rows: Sequence[Row], title: str) -> str:
    """Return the SVG of a run."""
    page = _Page()
    page.text(10, page.y + 16, title, 16)
    page.y += 36
    _draw_verdicts(page, [verdict for row in rows for verdict in row.verdicts()])
    for name, lines in curves(rows).items():
        _draw_curves(page, name, lines)
    return page.finish()


def curves(rows: Sequence[Row]) -> dict[str, dict[str, Points]]:
    """Return title -> line -> points of what is to be plotted, in the order of the rows."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if not row.curve:
            continue
        figure, _, axis = row.curve.partition(" by ")
        lines = found.setdefault(f"{FIGURES[figure][0]} by {axis}", {})
        for subject, figures in row.values.items():
            if figure in figures:
                lines.setdefault(subject, []).append((row.x, row.median(subject, figure)))
    return {name: {line: sorted(at) for line, at in lines.items()} for name, lines in found.items()}


def _draw_verdicts(page: _Page, verdicts: Sequence[Verdict]) -> None:
    """Draw a bar a goal, from the goal (the line in the middle) to what was measured."""
    if not verdicts:
        return
    page.text(10, page.y + 12, "Times better than the goal (logarithmic; left of the line: missed)")
    page.y += 24
    middle = (_LABEL_WIDTH + WIDTH - 60) / 2
    reach = (WIDTH - 60 - _LABEL_WIDTH) / 2
    top = page.y
    for verdict in verdicts:
        # The order of the comparisons puts what cannot be told (NaN) at the bad end.
        margin = min(max(1 / _MARGIN_MAX, verdict.margin), _MARGIN_MAX)
        length = math.log(margin) / math.log(_MARGIN_MAX) * reach
        left, colour = min(middle, middle + length), _MET if verdict.met else _MISSED
        label = f"{verdict.row}; {verdict.goal.text}"
        page.text(_LABEL_WIDTH - 6, page.y + 13, label, 10, "end")
        page.parts.append(
            f'<rect x="{left:.1f}" y="{page.y + 3:.1f}" width="{max(abs(length), 1):.1f}"'
            f' height="{_BAR_HEIGHT - 5}" fill="{colour}"/>'
        )
        page.text(WIDTH - 54, page.y + 13, _margin_text(verdict), 10)
        page.y += _BAR_HEIGHT
    page.line(middle, top, middle, page.y, "#000")
    page.y += 20


def _margin_text(verdict: Verdict) -> str:
    if not math.isfinite(verdict.margin) or verdict.margin == 0:  # nothing has no factor
        return "met" if verdict.met else "missed"
    return f"{verdict.margin:.2f}"


def _draw_curves(page: _Page, title: str, lines: Mapping[str, Points]) -> None:
    """Draw lines on logarithmic scales, both."""
    drawn = {name: [(x, y) for x, y in at if x > 0 and y > 0] for name, at in lines.items()}
    xs = [x for at in drawn.values() for x, _ in at]
    ys = [y for at in drawn.values() for _, y in at]
    if len(set(xs)) < 2:
        return
    left, right, top = 90.0, WIDTH - 200.0, page.y + 26
    bottom = top + _CHART_HEIGHT
    x_low, x_high = math.log10(min(xs)), math.log10(max(xs))
    y_low, y_high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    y_high = max(y_high, y_low + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    page.text(10, page.y + 14, f"{title} (both logarithmic)", 13)
    for power in range(y_low, y_high + 1):
        _, y = place(10**x_low, 10.0**power)
        page.line(left, y, right, y)
        page.text(left - 6, y + 4, f"{10.0**power:,g}", 10, "end")
    for tick in sorted(set(xs)):
        x, _ = place(tick, 10.0**y_low)
        page.line(x, top, x, bottom, "#eee")
        page.text(x, bottom + 14, f"{tick:,g}", 10, "middle")
    for number, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        spots = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        page.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        page.parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots
        ]
        page.text(right + 12, top + 14 + 16 * number, name, 11)
        page.line(right + 2, top + 10 + 16 * number, right + 10, top + 10 + 16 * number, colour)
    page.y = bottom + 34
