"""What the soak's judge makes of series that leak, and of such that do not."""

from __future__ import annotations

import math
import mmap
import os
import random
import re
import time
from xml.etree import ElementTree

import pytest
import trio
import trio.testing

from bench.soak.__main__ import Run, picture_of, report
from bench.soak.judge import (
    MIB,
    Points,
    judge_failures,
    judge_flat,
    judge_latency,
    judge_log,
    slope,
)
from bench.soak.load import RATES, Answer, Load, Published
from bench.soak.memory import growth, parts
from tests.support.packets import Author

SAMPLES = [5.0 * number for number in range(600)]
"""50 minutes, every 5 seconds."""


def series(mean: float, per_hour: float = 0.0, noise: float = 0.0, seed: int = 1) -> Points:
    rng = random.Random(seed)  # noqa: S311
    return [(at, mean + per_hour * at / 3600 + rng.gauss(0, noise)) for at in SAMPLES]


def test_a_leak_of_three_percent_an_hour_is_found() -> None:
    verdict = judge_flat("rss", series(80 * MIB, 2.4 * MIB, 0.5 * MIB))
    assert not verdict.ok
    assert "grows" in verdict.figures


@pytest.mark.parametrize("name", ["descriptors", "threads", "tasks"])
def test_a_leak_of_two_in_an_hour_is_found(name: str) -> None:
    assert not judge_flat(name, series(40, 2.5, 0.5)).ok
    assert judge_flat(name, series(40, 0.0, 0.5)).ok


def busy_tasks(per_hour: float, seed: int) -> Points:
    """33 that are always there, some of their moment, more when the machine is busy; a leak."""
    rng, busy = random.Random(seed), 0.0  # noqa: S311
    points: list[tuple[float, float]] = []
    for at in SAMPLES:
        busy = 0.9 * busy + rng.gauss(0, 0.6)
        moment = rng.expovariate(0.4) * math.exp(0.3 * busy) * (rng.random() < 0.75)
        points.append((at, 33 + int(moment) + int(at * per_hour / 3600)))
    return points


@pytest.mark.parametrize("seed", range(20))
def test_a_task_every_ten_minutes_is_found_among_those_that_come_and_go(seed: int) -> None:
    assert judge_flat("tasks", busy_tasks(0, seed)).ok
    verdict = judge_flat("tasks", busy_tasks(6, seed))
    assert not verdict.ok
    assert "grows" in verdict.figures


def test_the_beginning_of_a_block_is_none() -> None:
    """The least of two samples is more than that of twelve."""
    points = [(at, 33.0 if at % 60 else 38.0) for at in SAMPLES]
    verdict = judge_flat("tasks", [*points, (3000.0, 60.0), (3005.0, 60.0)])
    assert verdict.ok
    assert "slope +0.000 an hour" in verdict.figures


def memory(per_hour: float, seed: int) -> Points:
    """A process that takes a little more now and then, ever more seldom; and a leak."""
    rng, value = random.Random(seed), 80.0  # noqa: S311
    points: list[tuple[float, float]] = []
    for at in SAMPLES:
        value += rng.uniform(0, 0.3) * (rng.random() < 0.01 * math.exp(-at / 1200))
        points.append((at, (value + per_hour * at / 3600 + rng.gauss(0, 0.05)) * MIB))
    return points


def test_two_mebibytes_an_hour_are_found_beneath_small_steps() -> None:
    assert not [seed for seed in range(20) if judge_flat("rss", memory(2.0, seed)).ok]
    assert sum(judge_flat("rss", memory(0.0, seed)).ok for seed in range(20)) >= 18


def test_a_slope_that_matters_never_passes_however_wide_its_interval_is() -> None:
    rng = random.Random(5)  # noqa: S311
    for _ in range(200):
        leak, noise = rng.uniform(-4, 8), rng.uniform(0, 4)
        points = series(80 * MIB, leak * MIB, noise * MIB, rng.randrange(1000))
        found = slope(points)
        assert found is not None
        assert found.per_hour <= 1.6 * MIB or not judge_flat("rss", points).ok


def test_a_step_is_a_leak_as_well() -> None:
    """A table that grows once in the middle: no line, and still a slope."""
    points = [(at, (80 if at < 1500 else 86) * MIB) for at in SAMPLES]
    assert not judge_flat("rss", points).ok


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_leak(seed: int) -> None:
    assert judge_flat("rss", series(80 * MIB, 0.0, 1 * MIB, seed)).ok


def test_a_sawtooth_is_no_leak() -> None:
    """The write-ahead log grows until its checkpoint, again and again."""
    points = [(at, 8 * MIB * (at % 97 / 97)) for at in SAMPLES]
    assert judge_flat("wal", points).ok


def test_what_never_changes_is_flat() -> None:
    verdict = judge_flat("packets", series(20_000))
    assert verdict.ok
    assert "slope +0.000 an hour" in verdict.figures


def test_noise_that_would_hide_a_leak_is_no_pass() -> None:
    rng, value = random.Random(3), 80 * MIB  # noqa: S311
    points: list[tuple[float, float]] = []
    for at in SAMPLES:
        value += rng.gauss(0, 1.5 * MIB)
        points.append((at, value))
    assert not judge_flat("rss", points).ok


def test_memory_that_falls_is_no_leak_but_packets_that_go_are() -> None:
    assert judge_flat("rss", series(80 * MIB, -10 * MIB, 0.5 * MIB)).ok
    verdict = judge_flat("packets", series(20_000, -3_000))
    assert not verdict.ok
    assert "falls" in verdict.figures


def test_few_samples_are_no_pass() -> None:
    assert slope(series(1)[:60]) is None
    assert not judge_flat("rss", series(80 * MIB)[:60]).ok
    assert not judge_latency([(1.0, 1.0)] * 5).ok


def test_the_interval_holds_the_true_slope_also_where_neighbours_resemble_each_other() -> None:
    """19 of 20 intervals should; with correlated noise 16 are asked for."""
    held = 0
    for seed in range(20):
        rng, drift = random.Random(seed), 0.0  # noqa: S311
        points: list[tuple[float, float]] = []
        for at in SAMPLES:
            drift = 0.98 * drift + rng.gauss(0, 0.1)
            points.append((at, 50 + 6 * at / 3600 + drift))
        found = slope(points)
        assert found is not None
        held += found.low <= 6 <= found.high
    assert held >= 16


def test_latency_may_waver_and_not_grow() -> None:
    steady = [(at, 2.0 + 0.5 * math.sin(at)) for at in SAMPLES]
    assert judge_latency(steady).ok
    assert not judge_latency([(at, y * (1 + at / 1500)) for at, y in steady]).ok


def test_one_failure_without_a_cause_is_too_many() -> None:
    assert judge_failures({}, 10).ok
    assert not judge_failures({"hot: status 404": 1}, 10**6).ok
    assert not judge_failures({}, 0).ok


@pytest.mark.parametrize(("age_s", "failures"), [(250.0, 1), (290.0, 1), (301.0, 0)])
def test_a_hot_key_may_be_missed_only_where_its_owner_was_late(age_s: float, failures: int) -> None:
    load = Load(1, 2, seed=1, rate=1.0, window_s=10.0, fill_s=0.0)
    key = Published(Author.numbered(1, "soak"), 1, time.monotonic() - age_s)
    trio.run(load._judge_hot, "hot", key, 1, key.at, Answer(404, {}, b""))
    assert load.window.failures.total() == failures
    assert load.window.statuses.total() == 1 - failures


@pytest.mark.parametrize(
    ("line", "ok"),
    [
        ("2026-11-23T05:00:00.000000Z  INFO pkarr_relay: listening", True),
        ("2026-11-23T05:00:00.000000Z  WARN pkarr_relay: hm", False),
        ("2026-11-23T05:00:00.000000Z ERROR pkarr_relay: oh", False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_a_warning_in_the_log_counts(line: str, ok: bool) -> None:
    assert judge_log(["2026-11-23T05:00:00Z  INFO pkarr_relay: x", line]).ok is ok
    assert not judge_log([]).ok


def a_run(leak: float = 0.0, **failures: int) -> Run:
    names = {"rss": 80 * MIB, "private": 70 * MIB, "wal": 8 * MIB}
    names |= {"descriptors": 50, "threads": 4, "tasks": 35, "database": 20 * MIB, "packets": 2e4}
    samples = [
        {
            "at": at,
            "evictions": at,
            **{name: mean * (1 + leak * at) for name, mean in names.items()},
        }
        for at in SAMPLES
    ]
    statuses = {f"{kind} 200": int(rate * 10) + 1 for kind, rate in RATES.items()}
    window = {"ready": True, "statuses": statuses, "reasons": {"miss 404: never": 1}}
    window |= {"failures": failures, "hot_p50_ms": 0.3, "hot_p99_ms": 1.2}
    facts = {"seconds": 3000.0, "rate": 1.0, "nodes_gone": 3, "begun": "2026-11-23T05:00:00+00:00"}
    facts |= {"commit": "abc", "capacity": 20_000, "nodes": 20, "life_s": 240.0}
    return Run(
        facts={**facts, "peers": True, "realtime": True},
        samples=samples,
        windows=[{"at": 10.0 * number, **window} for number in range(300)],
        log=["2026-11-23T05:00:00Z  INFO pkarr_relay: x"],
    )


def test_a_run_is_as_good_as_its_worst_verdict() -> None:
    assert [verdict.what for verdict in a_run().verdicts() if not verdict.ok] == []
    leaking = {verdict.what for verdict in a_run(leak=1e-4).verdicts() if not verdict.ok}
    assert leaking >= {"rss flat", "descriptors flat", "tasks flat", "wal flat", "packets flat"}
    failing = [v.what for v in a_run(**{"hot: status 500": 1}).verdicts() if not v.ok]
    assert failing == ["errors accounted for"]
    lame = a_run()
    del lame.windows[200:]
    assert [v.what for v in lame.verdicts() if not v.ok] == ["the rates were kept"]
    filled = a_run()
    filled.facts["fill_s"] = 1500.0  # half of the time as often again, and 2/3 of that came
    assert [v.what for v in filled.verdicts() if not v.ok] == ["the rates were kept"]


def test_the_load_comes_twice_as_often_until_what_is_bounded_is_full() -> None:
    load = Load(1, 2, seed=1, rate=1.0, window_s=10.0, fill_s=100.0)
    times: list[float] = []

    async def work() -> None:
        times.append(trio.current_time())

    async def run() -> None:
        load.filled_at = trio.current_time() + load.fill_s
        with trio.move_on_after(200):
            await load._pace("hot", work, 0.1, 0.0)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    early = sum(at < times[0] + 100 for at in times)
    assert early == pytest.approx(2000, rel=0.05)
    assert len(times) - early == pytest.approx(1000, rel=0.05)


def test_a_run_is_told_and_drawn() -> None:
    run = a_run(leak=1e-5)
    text = report(run, "soak.svg")
    assert "| rss flat | **no** |" in text
    assert "| miss 404: never | 300 |" in text
    drawing = ElementTree.fromstring(picture_of(run))  # noqa: S314 -- ours
    lines = list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 11
    for line in lines:
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= float(drawing.attrib["width"])
            assert 0 <= y <= float(drawing.attrib["height"])


def test_a_step_of_memory_is_told_with_where_it_is() -> None:
    with mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[: 1 << 20] = bytes(1 << 20)
        before = parts(os.getpid())
        memory[1 << 20 : 4 << 20] = bytes(3 << 20)
        largest, *_ = growth(before, parts(os.getpid()))
    kilobytes = re.fullmatch(r"\S+ at [0-9a-f]+: ([\d,]+) to ([\d,]+) kB, .*", largest)
    assert kilobytes is not None, largest
    small, large = (int(number.replace(",", "")) for number in kilobytes.groups())
    assert 3072 <= large - small < 4096
