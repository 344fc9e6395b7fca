"""Draws a Grafana dashboard from its own JSON and the answers to its own queries. No I/O.

Of what Grafana can do only as much as the dashboard uses: rows, "stat" and "timeseries" panels in
their grid, lines and stacks, linear and logarithmic axes, units, legends. What is drawn is what
is in the file; how Grafana itself would draw it differs in looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

WIDTH: Final = 1440
COLUMNS: Final = 24
CELL: Final = 36
GAP: Final = 4
TOP: Final = 58
_COLOURS: Final = (
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c",
    "#b877d9", "#8ab8ff", "#37872d", "#fade2a", "#c4162a",
)  # fmt: skip
_INK: Final = "#ccccdc"
_FAINT: Final = "#8e8e99"
_PAGE: Final = "#111217"
_PANEL: Final = "#181b1f"
_GRID: Final = "#2c3235"
_NAMED: Final = {"green": "#73bf69", "red": "#f2495c"}
_AXIS_WIDTH: Final = 62
_GAP_S: Final = 2.5
_BASES: Final = {"bytes": 1024.0**2}
_LETTER: Final = 6.2
"""Width of a letter of the legend, roughly."""

Panel = Mapping[str, Any]
_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend, and (seconds, value) in order; values are finite."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    height: float


def draw(
    dashboard: Panel, found: Mapping[int, Sequence[Series]], span: tuple[float, float], note: str
) -> str:
    """Return the dashboard as SVG.

    Args:
        dashboard: the JSON that Grafana loads.
        found: the series of each panel, by its id.
        span: first and last second of what is shown.
        note: below the title: when and of what.
    """
    rows = max(place["y"] + place["h"] for place in map(_place, dashboard["panels"]))
    height = TOP + rows * CELL + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="Inter, Helvetica, Arial, sans-serif">',
        f'<rect width="100%" height="100%" fill="{_PAGE}"/>',
        _text(12, 26, dashboard["title"], 18, colour="#fff"),
        _text(12, 46, note, 12, colour=_FAINT),
    ]
    for panel in dashboard["panels"]:
        parts += _draw_panel(panel, found.get(panel["id"], ()), span)
    return "\n".join([*parts, "</svg>\n"])


def _place(panel: Panel) -> Mapping[str, int]:
    place: Mapping[str, int] = panel["gridPos"]
    return place


def _draw_panel(panel: Panel, series: Sequence[Series], span: tuple[float, float]) -> Iterator[str]:
    place = _place(panel)
    cell = WIDTH / COLUMNS
    box = _Box(
        place["x"] * cell + GAP,
        TOP + place["y"] * CELL + GAP,
        place["w"] * cell - 2 * GAP,
        place["h"] * CELL - 2 * GAP,
    )
    if panel["type"] == "row":
        yield _text(box.x + 4, box.y + 19, f"▾ {panel['title']}", 14)
        return
    yield (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}"'
        f' height="{box.height:.1f}" fill="{_PANEL}" stroke="{_GRID}" rx="2"/>'
    )
    yield _text(box.x + 10, box.y + 19, panel["title"], 13)
    if not series:
        yield _text(box.x + box.width / 2, box.y + box.height / 2, "No data", 14, "middle", _FAINT)
    elif panel["type"] == "stat":
        yield _draw_stat(panel, series[0], box)
    else:
        yield from _draw_chart(panel, series, span, box)


def _draw_stat(panel: Panel, series: Series, box: _Box) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    value = series.points[-1][1]
    words = unit(defaults["unit"])(value)
    for mapping in defaults.get("mappings", ()):
        words = mapping["options"].get(f"{value:g}", {}).get("text", words)
    colour = _NAMED["green"]
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            colour = _NAMED[step["color"]]
    middle = box.y + box.height / 2 + 22
    return _text(box.x + box.width / 2, middle, words, 32, "middle", colour)


# ---- Charts ----


def _draw_chart(
    panel: Panel, series: Sequence[Series], span: tuple[float, float], box: _Box
) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    is_log = custom.get("scaleDistribution", {}).get("type") == "log"
    legend = list(_legend(series, box.width - 20))
    chart = _Box(
        box.x + _AXIS_WIDTH,
        box.y + 32,
        box.width - _AXIS_WIDTH - 12,
        box.height - 32 - 26 - 15 * len(legend),
    )
    shapes = _stacked(series) if stacked else [(one.points, None) for one in series]
    values = [value for points, _ in shapes for _, value in points]
    if is_log:
        values = [value for value in values if value > 0] or [1.0]
    low, high = (min(values), max(values)) if is_log else (0.0, (max(values) or 1.0) * 1.05)
    marks = _powers(low, high) if is_log else _steps(high, _BASES.get(defaults["unit"], 1.0))
    if is_log:
        low, high = min(low, marks[0]), max(high, marks[-1])
    at_y = _scale(low, high, chart.y + chart.height, chart.y, is_log=is_log)
    at_x = _scale(*span, chart.x, chart.x + chart.width, is_log=False)
    write = unit(defaults["unit"])
    for mark in marks:
        yield _line(chart.x, at_y(mark), chart.x + chart.width, at_y(mark))
        yield _text(chart.x - 6, at_y(mark) + 4, write(mark), 10, "end", _FAINT)
    for at in _steps(span[1] - span[0]):
        shown = f"{int(at) // 60}:{int(at) % 60:02}"
        yield _text(at_x(span[0] + at), chart.y + chart.height + 14, shown, 10, "middle", _FAINT)
    for number, (points, floor) in enumerate(shapes):
        colour = _COLOURS[number % len(_COLOURS)]
        for part in () if floor is None else _parts([*zip(points, floor, strict=True)]):
            edge = [*(upper for upper, _ in part), *(lower for _, lower in reversed(part))]
            corners = " ".join(f"{at_x(at):.1f},{at_y(value):.1f}" for at, value in edge)
            yield f'<polygon points="{corners}" fill="{colour}" fill-opacity="0.35"/>'
        shown_points = [(point, point) for point in points if point[1] > 0 or not is_log]
        for part in _parts(shown_points):
            line = " ".join(f"{at_x(at):.1f},{at_y(value):.1f}" for (at, value), _ in part)
            yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
    y = chart.y + chart.height + 32
    for entries in legend:
        for x, number, name in entries:
            colour = _COLOURS[number % len(_COLOURS)]
            swatch = f'<rect x="{box.x + 10 + x:.1f}" y="{y - 5:.1f}" width="12" height="3"'
            yield f'{swatch} fill="{colour}"/>'
            yield _text(box.x + 26 + x, y, name, 11)
        y += 15


def _stacked(
    series: Sequence[Series],
) -> list[tuple[list[tuple[float, float]], list[tuple[float, float]]]]:
    """Return upper and lower edge of each series, one on top of the other."""
    times = sorted({at for one in series for at, _ in one.points})
    floor = dict.fromkeys(times, 0.0)
    shapes = []
    for one in series:
        values = dict(one.points)
        top = {at: floor[at] + values.get(at, 0.0) for at in times}
        shapes.append((list(top.items()), list(floor.items())))
        floor = top
    return shapes


def _parts(edges: Sequence[tuple[_Point, _Point]]) -> Iterator[Sequence[tuple[_Point, _Point]]]:
    """Cut a line, or an area, where there is nothing for a while, as Grafana does."""
    begin = 0
    for here in range(1, len(edges) + 1):
        if here == len(edges) or edges[here][0][0] - edges[here - 1][0][0] > _GAP_S:
            yield edges[begin:here]
            begin = here


def _legend(series: Sequence[Series], width: float) -> Iterator[list[tuple[float, int, str]]]:
    """Break the names into lines: (where it begins, number of the series, name)."""
    line: list[tuple[float, int, str]] = []
    x = 0.0
    for number, one in enumerate(series):
        length = 26 + len(one.name) * _LETTER
        if line and x + length > width:
            yield line
            line, x = [], 0.0
        line.append((x, number, one.name))
        x += length
    yield line


def _scale(
    low: float, high: float, first: float, last: float, *, is_log: bool
) -> Callable[[float], float]:
    change = math.log10 if is_log else float
    span = change(high) - change(low) or 1.0

    def place(value: float) -> float:
        return first + (change(value) - change(low)) / span * (last - first)

    return place


def _steps(high: float, base: float = 1.0) -> list[float]:
    """Return numbers from 0 to `high`, some four to eight, that are round in units of `base`."""
    raw = high / 5
    size = base * 10 ** math.floor(math.log10(raw / base))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [number * step for number in range(math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Return the powers of ten around what is between `low` and `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


# ---- Words ----


def unit(name: str) -> Callable[[float], str]:
    """Return how Grafana's unit `name` writes a number.

    >>> unit("s")(0.00035), unit("bytes")(2 * 1024**2), unit("reqps")(12_300)
    ('350 µs', '2 MiB', '12.3 K req/s')
    >>> unit("percentunit")(0.25), unit("short")(1_000_000)
    ('25%', '1 Mil')
    """
    return _UNITS[name]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _scaled(steps: Sequence[tuple[float, str]], after: str = "") -> Callable[[float], str]:
    def write(value: float) -> str:
        size, name = (
            next((step for step in steps if abs(value) >= step[0] * 0.9999), steps[-1])
            if value
            else (1.0, "")
        )
        return " ".join(part for part in (_number(value / size), name, after) if part)

    return write


_SHORT: Final = (
    (1e9, "Bil"),
    (1e6, "Mil"),
    (1e3, "K"),
    (1.0, ""),
)
_UNITS: Final[Mapping[str, Callable[[float], str]]] = {
    "none": _number,
    "short": _scaled(_SHORT),
    "reqps": _scaled(_SHORT, "req/s"),
    "ops": _scaled(_SHORT, "ops/s"),
    "s": _scaled(((60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))),
    "bytes": _scaled(((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B"))),
    "percentunit": lambda value: f"{_number(100 * value)}%",
}  # fmt: skip


def _text(
    x: float, y: float, words: str, size: int, anchor: str = "start", colour: str = _INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        f' fill="{colour}">{escape(words)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_GRID}"/>'
