"""Draws a soak: one small chart for each series, time along it, warm-up shaded. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from bench.soak.judge import HOUR_S, Points, Slope, slope

COLUMNS: Final = 2
CHART_WIDTH: Final = 500
CHART_HEIGHT: Final = 170
_LEFT: Final = 64
_TOP: Final = 34
_RIGHT: Final = 14
_BOTTOM: Final = 26
_LINE: Final = "#1769aa"
_FIT: Final = "#c2571a"


@dataclass(frozen=True, slots=True)
class Chart:
    """A series to draw; values are divided by `scale`; `fitted` draws the line through it."""

    title: str
    points: Points
    scale: float = 1.0
    fitted: bool = True
    floor: float | None = None
    """The least value that the axis must show."""


def draw(title: str, charts: Sequence[Chart], warmup_s: float) -> str:
    """Return the SVG."""
    rows = math.ceil(len(charts) / COLUMNS)
    width, height = COLUMNS * CHART_WIDTH, 40 + rows * CHART_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="24" font-size="15">{escape(title)}</text>',
    ]
    for number, chart in enumerate(charts):
        x = number % COLUMNS * CHART_WIDTH
        y = 40 + number // COLUMNS * CHART_HEIGHT
        parts += _chart(chart, x, y, warmup_s)
    return "\n".join(parts) + "\n</svg>\n"


def _chart(chart: Chart, x: float, y: float, warmup_s: float) -> list[str]:
    points = [(at, value / chart.scale) for at, value in chart.points if math.isfinite(value)]
    left, right = x + _LEFT, x + CHART_WIDTH - _RIGHT
    top, bottom = y + _TOP, y + CHART_HEIGHT - _BOTTOM
    parts = [f'<text x="{left}" y="{y + 22}" font-size="12">{escape(chart.title)}</text>']
    if len(points) < 2:
        return parts
    ends = points[0][0], max(points[-1][0], points[0][0] + 1)
    low, high = min(v for _, v in points), max(v for _, v in points)
    if chart.floor is not None:
        low = min(low, chart.floor)
    room = (high - low) * 0.08 or max(abs(high) * 0.05, 1.0)
    low, high = low if low == chart.floor else low - room, high + room

    def place(at: float, value: float) -> tuple[float, float]:
        across = (at - ends[0]) / (ends[1] - ends[0])
        return left + across * (right - left), bottom - (value - low) / (high - low) * (
            bottom - top
        )

    warm_x = min(max(place(warmup_s, low)[0], left), right)
    parts.append(
        f'<rect x="{left}" y="{top}" width="{warm_x - left:.1f}" height="{bottom - top}"'
        ' fill="#eee"/>'
    )
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        _, at = place(ends[0], value)
        parts.append(
            f'<line x1="{left}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#bbb"/>'
            f'<text x="{left - 5}" y="{at + 4:.1f}" font-size="10" text-anchor="end">'
            f"{_number(value, high - low)}</text>"
        )
    for minute in _minutes(ends):
        at, _ = place(minute * 60, low)
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 14}" font-size="10" text-anchor="middle">'
            f"{minute:g} min</text>"
        )
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in points))
    parts.append(f'<polyline points="{path}" fill="none" stroke="{_LINE}"/>')
    found = slope([point for point in points if point[0] >= warmup_s]) if chart.fitted else None
    if found is not None:
        parts += _fit(found, warmup_s, ends[1], place)
    return parts


def _fit(found: Slope, start: float, end: float, place: object) -> list[str]:
    assert callable(place)
    middle = (start + end) / 2
    ends = [place(at, found.mean + found.per_hour * (at - middle) / HOUR_S) for at in (start, end)]
    (x1, y1), (x2, y2) = ends
    return [
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_FIT}"'
        ' stroke-width="1.5" stroke-dasharray="6 3"/>'
    ]


def _minutes(ends: tuple[float, float]) -> list[float]:
    step = max(10.0 * math.ceil((ends[1] - ends[0]) / 60 / 60), 0.5)
    if ends[1] - ends[0] < 1200:
        step = max((ends[1] - ends[0]) / 60 / 4, 0.1)
    return [round(step * n, 1) for n in range(int(ends[1] / 60 / step) + 1)]


def _number(value: float, span: float) -> str:
    digits = max(0, math.ceil(-math.log10(span)) + 1) if span > 0 else 0
    return f"{value:,.{digits}f}"
