"""What the series of a soak say: does anything grow, did latency hold, was every answer meant?

No I/O. A series is flat if a straight line through it has no slope that matters. Samples follow
each other too closely to count as independent, so they are averaged over blocks of `BLOCK_S`, a
line is fitted to the averages by least squares, and its interval of confidence (95 %, Student's t)
is widened by the correlation of neighbouring residuals: n averages count as n (1 - r) / (1 + r).

What counts work under way, as tasks do, moves with the load and comes back to what is always there.
Of such a series the least value of each block is taken: a task that never ends is in all of them.

Source: von Storch and Zwiers, Statistical Analysis in Climate Research, section 6.6.8.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

BLOCK_S: Final = 60.0
BLOCKS_MIN: Final = 10
"""With fewer nothing is said of slopes."""
INDEPENDENT_MIN: Final = 6.0
"""Blocks are worth as many at least, however much neighbours resemble each other. For fewer the
tables of t reach so far that no leak could be told from one small step."""
HOUR_S: Final = 3600.0
T_95: Final = {
    1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23,
    12: 2.18, 15: 2.13, 20: 2.09, 25: 2.06, 30: 2.04, 40: 2.02, 60: 2.00,
}  # fmt: skip
"""Student's t for 95 %, two-sided, by degrees of freedom."""

Points = Sequence[tuple[float, float]]
"""Seconds since the start, and a value."""


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through a series: value per hour, with the ends of its interval of confidence."""

    mean: float
    per_hour: float
    low: float
    high: float
    blocks: int

    @property
    def percent(self) -> tuple[float, float, float]:
        """Slope, lower and upper end in percent of the mean an hour."""
        scale = 100 / self.mean if self.mean else math.nan
        return self.per_hour * scale, self.low * scale, self.high * scale


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement, with the figures it rests on."""

    what: str
    ok: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Rule:
    """How much a series may change.

    Args:
        unit: what a value counts, for the reader.
        share: percent of the mean an hour that are no matter, and that the interval of
            confidence may reach beyond the slope: a noisier series says nothing.
        least: the same as a value, where a share of the mean is less than can be told.
        fall: whether a fall is as bad as growth.
        base: whether the least value of each block is judged, not the average.
    """

    unit: str
    share: float
    least: float = 0.0
    fall: bool = False
    base: bool = False


MIB: Final = 2.0**20
RULES: Final[Mapping[str, Rule]] = {
    "rss": Rule("MiB", 2.0, 1.0 * MIB),
    "private": Rule("MiB", 2.0, 1.0 * MIB),
    "descriptors": Rule("", 2.0, 1.0),
    "threads": Rule("", 2.0, 1.0),
    "tasks": Rule("", 2.0, 1.0, base=True),
    "wal": Rule("MiB", 2.0, 1.0 * MIB),
    "database": Rule("MiB", 2.0, 1.0 * MIB),
    "packets": Rule("", 2.0, fall=True),
}
"""By series; `share` in percent an hour. Of memory both bounds are judged: what is resident (rss),
and what of that is nobody else's (private). The share in between (pss) goes up and down as other
processes with the same libraries begin and end."""
LATENCY_GROWTH_MAX: Final = 1.5
LATENCY_NO_MATTER_MS: Final = 1.0


def slope(points: Points, *, base: bool = False) -> Slope | None:
    """Return the line through a series, or its `base`; None where there are too few blocks."""
    blocks = _blocks(points, min if base else statistics.fmean)
    if len(blocks) < BLOCKS_MIN:
        return None
    xs, ys = [x for x, _ in blocks], [y for _, y in blocks]
    fit = statistics.linear_regression(xs, ys)
    residuals = [y - fit.intercept - fit.slope * x for x, y in blocks]
    count = _independent(residuals)
    spread = math.fsum((x - statistics.fmean(xs)) ** 2 for x in xs)
    noise = math.fsum(residual**2 for residual in residuals) / max(count - 2, 1)
    reach = _t95(count - 2) * math.sqrt(noise / spread)
    return Slope(
        mean=statistics.fmean(ys),
        per_hour=fit.slope * HOUR_S,
        low=(fit.slope - reach) * HOUR_S,
        high=(fit.slope + reach) * HOUR_S,
        blocks=len(blocks),
    )


def _blocks(points: Points, of: Callable[[list[float]], float]) -> list[tuple[float, float]]:
    """Return what `of` makes of each block, at its middle.

    Blocks that miss half of their samples are left out: the least of few is not that of many.
    """
    found: dict[int, list[float]] = {}
    for x, y in points:
        found.setdefault(int(x // BLOCK_S), []).append(y)
    most = max(map(len, found.values()), default=0)
    whole = (entry for entry in sorted(found.items()) if 2 * len(entry[1]) >= most)
    return [((at + 0.5) * BLOCK_S, of(ys)) for at, ys in whole]


def _independent(residuals: Sequence[float]) -> float:
    """Return how many independent values the residuals are worth."""
    total = math.fsum(value**2 for value in residuals)
    if total == 0:
        return len(residuals)
    neighbours = pairwise(residuals)
    r = min(max(math.fsum(a * b for a, b in neighbours) / total, 0.0), 0.99)
    return max(len(residuals) * (1 - r) / (1 + r), INDEPENDENT_MIN)


def _t95(freedom: float) -> float:
    """Return Student's t; between two entries of the table the greater."""
    return T_95[max(known for known in T_95 if known <= max(freedom, 1))]


def judge_flat(name: str, points: Points) -> Verdict:
    """Judge one series by its rule in `RULES`."""
    rule = RULES[name]
    found = slope(points, base=rule.base)
    if found is None:
        return Verdict(f"{name} flat", ok=False, figures="too few samples to tell")
    allowed = max(rule.share / 100 * abs(found.mean), rule.least)
    within = found.low <= 0 <= found.high
    growing = not within and found.per_hour > allowed
    falling = rule.fall and not within and found.per_hour < -allowed
    reach = (found.high - found.low) / 2
    unclear = (within and found.high > 2 * allowed) or (found.high > 0 and reach > 2 * allowed)
    scale = MIB if rule.unit == "MiB" else 1.0
    shown = [f"{value / scale:+.3f}" for value in (found.per_hour, found.low, found.high)]
    words = "grows" if growing else "unclear: too much noise" if unclear else "falls"
    words = words if growing or falling or unclear else "within noise" if within else "no matter"
    figures = (
        f"mean{' of minima' * rule.base} {found.mean / scale:,.1f} {rule.unit}".rstrip()
        + f"; slope {shown[0]} an hour ({shown[1]} to {shown[2]}), {words}"
        + f"; no matter up to {allowed / scale:.2f}"
    )
    return Verdict(f"{name} flat", ok=not (growing or falling or unclear), figures=figures)


def judge_latency(points: Points) -> Verdict:
    """Compare the medians of the windows' p99, in ms, of the first and the last third."""
    third = len(points) // 3
    if third < 3:
        return Verdict("p99 stable", ok=False, figures="too few windows to tell")
    first, last = (
        statistics.median(y for _, y in part) for part in (points[:third], points[-third:])
    )
    allowed = max(first * LATENCY_GROWTH_MAX, first + LATENCY_NO_MATTER_MS)
    figures = f"{first:.2f} ms in the first third, {last:.2f} ms in the last; {allowed:.2f} allowed"
    return Verdict("p99 stable", ok=last <= allowed, figures=figures)


def judge_failures(failures: Mapping[str, int], answers: int) -> Verdict:
    """Nothing may have happened that has no cause."""
    shown = "; ".join(f"{count} times {what}" for what, count in sorted(failures.items()))
    figures = f"{answers:,} answers" + (f"; {shown}" if shown else "; none without a cause")
    return Verdict("errors accounted for", ok=answers > 0 and not failures, figures=figures)


def judge_log(lines: Sequence[str]) -> Verdict:
    """The relay's log must have no warning and no error."""
    bad = [line for line in lines if _level(line) in {"warn", "error"}]
    figures = f"{len(lines)} lines" + (f"; {len(bad)} bad: {bad[0][:200]}" if bad else ", no bad")
    return Verdict("log without warnings", ok=bool(lines) and not bad, figures=figures)


def _level(line: str) -> Literal["warn", "error", ""]:
    words = line.split(maxsplit=2)
    level = words[1].lower() if len(words) > 1 else ""
    if level in {"warn", "warning"}:
        return "warn"
    if level in {"error", "critical"} or line.startswith("Traceback"):
        return "error"
    return ""
