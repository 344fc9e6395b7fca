"""The wording of figures, and that missing ones are survived."""

import pytest

from relay.http.figures import MISSING, Sample, count, overview, span

STATS = {
    "version": "1.2.3",
    "uptime_s": 93_784.5,
    "http": {
        "requests": {"get": {"200": 5, "429": 2}, "put": {"204": 3, "429": 1, "500": 2}},
        "connections": {"open": 4},
    },
    "cache": {"packets": 250, "capacity": 1000, "hits": 3, "misses": 1, "evictions": 0},
    "dht": {
        "local_address": "0.0.0.0:6881",
        "public_address": None,
        "firewalled": True,
        "server_mode": False,
        "size_estimate": 12_345_678.0,
        "size_deviation": 0.0412,
        "queries_in": 7,
        "dropped_budget": 2,
        "dropped_malformed": 3,
    },
}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9999, "9,999"),
        (10_000, "10.0K"),
        (74_231, "74.2K"),
        (1_000_000, "1.0M"),
        (2.5e9, "2.5B"),
        (None, MISSING),
    ],
)
def test_counts(value: object, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (3600, "1 h"), (93_784.5, "1 d 2 h"), (None, MISSING)],
)
def test_spans(seconds: object, text: str) -> None:
    assert span(seconds) == text


def test_overview() -> None:
    seen = overview(STATS)
    listed = (*seen.tiles, *seen.cache, *seen.dht, *seen.http)
    figures = {f.label: f.value for f in listed}
    assert len(seen.figures()) == len(figures) + 1 == len(listed) + 1  # all names differ
    assert (seen.version, seen.uptime) == ("1.2.3", "1 d 2 h")
    assert (seen.cache_meter.used, seen.cache_meter.capacity) == (250, 1000)
    assert figures["Utilisation"] == "25.00 %"
    assert figures["Hit rate"] == "75.0 %"
    assert figures["Size estimate"] == "12.3M ± 4.12 %"
    assert (figures["Node port"], figures["Firewalled"]) == ("6881", "yes")
    assert figures["Dropped"] == "5"
    assert (figures["Requests"], figures["Rate-limited"]) == ("13", "3")
    assert figures["Server errors"] == "2"
    assert seen.sample == Sample(93_784.5, 13, 7)


def test_nothing_known_is_survived() -> None:
    seen = overview({})
    assert seen.cache_meter.capacity == 1
    assert all(seen.figures().values())


def test_a_cache_without_room() -> None:
    meter = overview({"cache": {"packets": 0, "capacity": 0}}).cache_meter
    assert (meter.percent, meter.capacity) == ("0.00 %", 1)
