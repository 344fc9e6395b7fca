"""The figures of ``/stats`` as a person reads them: chosen, grouped and worded for the page.

Expected in `RelayService.stats()`; whatever is missing is shown as unknown:

    version, uptime_s
    http:  requests {kind: {status: n}}, connections {open: n, ...}
    cache: packets, capacity, hits, misses, evictions
    dht:   node_id, local_address, public_address, server_mode, firewalled, table_size,
           size_estimate, size_deviation (a ratio), queries_in, queries_out, timeouts,
           lookups, puts, dropped_..., datagrams {kernel_drops: n, ...}

``index.js`` words the same figures again in the browser, each time it has fetched them; a test
lets a browser do that and compares.

Source: design/protocol.md, section 4.6, for those of the reference; issue 3, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MISSING: Final = "unknown"
_SCALES: Final = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
_EXACT_BELOW: Final = 10_000
_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line: what it is, its value as text, and what it means where that helps."""

    name: str
    """Its name in ``index.js``, which renews the value."""
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Meter:
    """How full the cache is."""

    used: int
    capacity: int
    percent: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What rates are made of, as numbers; the browser's first sample."""

    uptime_s: float
    requests: int
    queries_in: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the page says about the relay."""

    version: str
    uptime: str
    tiles: tuple[Figure, ...]
    """The four that tell most; `index.js` puts rates in the place of some of their notes."""
    cache: tuple[Figure, ...]
    cache_meter: Meter
    dht: tuple[Figure, ...]
    http: tuple[Figure, ...]
    sample: Sample

    def figures(self) -> dict[str, str]:
        """Return the value of every figure by its name, as ``index.js`` computes them, too."""
        listed = (*self.tiles, *self.cache, *self.dht, *self.http)
        return {figure.name: figure.value for figure in listed} | {"uptime": self.uptime}


def overview(stats: Mapping[str, Any]) -> Overview:
    """Choose and word the figures of `stats`."""
    cache, dht, http = (stats.get(part) or {} for part in ("cache", "dht", "http"))
    uptime_s = stats.get("uptime_s")
    return Overview(
        version=str(stats.get("version", MISSING)),
        uptime=span(uptime_s),
        tiles=_tiles(cache, dht, http),
        cache=_cache_figures(cache),
        cache_meter=_meter(cache),
        dht=_dht_figures(dht),
        http=_http_figures(http),
        sample=Sample(
            uptime_s if isinstance(uptime_s, int | float) else 0.0,
            sum(_totals(http).values()),
            _known(dht.get("queries_in")),
        ),
    )


def count(value: object) -> str:
    """Return a number as people read it: ``9,999``, ``12.3K``, ``1.0M``."""
    if not isinstance(value, int | float):
        return MISSING
    if abs(value) < _EXACT_BELOW:
        return f"{value:,.0f}"
    scale, letter = next(entry for entry in _SCALES if abs(value) >= entry[0])
    return f"{value / scale:.1f}{letter}"


def span(seconds: object) -> str:
    """Return a duration in its two largest units: ``3 d 4 h``, ``12 s``."""
    if not isinstance(seconds, int | float):
        return MISSING
    left, parts = int(seconds), []
    for size, unit in _SPANS:
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _tiles(
    cache: Mapping[str, Any], dht: Mapping[str, Any], http: Mapping[str, Any]
) -> tuple[Figure, ...]:
    meter = _meter(cache)
    hits, misses = cache.get("hits"), cache.get("misses")
    rate = MISSING
    if isinstance(hits, int) and isinstance(misses, int) and hits + misses:
        rate = f"{100 * hits / (hits + misses):.1f} %"
    return (
        Figure("packets", "Packets", count(cache.get("packets")), f"{meter.percent} of the cache"),
        Figure("hit_rate", "Hit rate", rate, "look-ups answered without the network"),
        Figure("requests", "Requests", count(sum(_totals(http).values())), "since the start"),
        Figure("queries_in", "DHT queries", count(dht.get("queries_in")), "received from others"),
    )


def _cache_figures(cache: Mapping[str, Any]) -> tuple[Figure, ...]:
    return (
        Figure("capacity", "Capacity", count(cache.get("capacity"))),
        Figure("utilisation", "Utilisation", _meter(cache).percent),
        Figure("hits", "Hits", count(cache.get("hits"))),
        Figure("misses", "Misses", count(cache.get("misses"))),
        Figure("evictions", "Evictions", count(cache.get("evictions"))),
    )


def _meter(cache: Mapping[str, Any]) -> Meter:
    used, capacity = cache.get("packets"), cache.get("capacity")
    if not isinstance(used, int) or not isinstance(capacity, int):
        return Meter(0, 1, MISSING)
    percent = 100 * used / capacity if capacity else 0.0
    return Meter(used, max(capacity, 1), f"{percent:.2f} %")


def _dht_figures(dht: Mapping[str, Any]) -> tuple[Figure, ...]:
    address = dht.get("public_address") or dht.get("local_address")
    datagrams: Mapping[str, int] = dht.get("datagrams") or {}
    return (
        Figure("size", "Size estimate", _size(dht), "nodes in the whole network"),
        Figure("table", "Routing table", count(dht.get("table_size")), "nodes known to answer"),
        Figure("address", "Address", MISSING if address is None else str(address)),
        Figure("port", "Node port", _port(address)),
        Figure("firewalled", "Firewalled", _yes_no(dht.get("firewalled"))),
        Figure("server", "Answers others", _yes_no(dht.get("server_mode"))),
        Figure("lookups", "Look-ups", count(dht.get("lookups"))),
        Figure("puts", "Puts", count(dht.get("puts"))),
        Figure("queries_out", "Queries sent", count(dht.get("queries_out"))),
        Figure("timeouts", "Time-outs", count(dht.get("timeouts"))),
        Figure("dropped", "Dropped", count(_dropped(dht)), "over budget or malformed"),
        Figure("lost", "Lost", count(datagrams.get("kernel_drops")), "the buffer was full"),
        Figure("node_id", "Node id", str(dht.get("node_id", MISSING))),
    )


def _http_figures(http: Mapping[str, Any]) -> tuple[Figure, ...]:
    totals = _totals(http)
    connections: Mapping[str, int] = http.get("connections") or {}
    return (
        Figure("read", "Packets read", count(totals.get("get", 0) + totals.get("head", 0))),
        Figure("written", "Packets written", count(totals.get("put", 0))),
        Figure("limited", "Rate-limited", count(_answered(http, "429"))),
        Figure("failed", "Server errors", count(_answered(http, "5"))),
        Figure("open", "Open connections", count(connections.get("open"))),
    )


def _totals(http: Mapping[str, Any]) -> dict[str, int]:
    """Return how many requests of each kind there were."""
    requests: Mapping[str, Mapping[str, int]] = http.get("requests") or {}
    return {kind: sum(statuses.values()) for kind, statuses in requests.items()}


def _answered(http: Mapping[str, Any], status: str) -> int:
    """Return how many answers had a status that begins so."""
    requests: Mapping[str, Mapping[str, int]] = http.get("requests") or {}
    return sum(
        number
        for statuses in requests.values()
        for each, number in statuses.items()
        if each.startswith(status)
    )


def _known(value: object) -> int:
    return value if isinstance(value, int) else 0


def _size(dht: Mapping[str, Any]) -> str:
    deviation = dht.get("size_deviation")
    text = count(dht.get("size_estimate"))
    return f"{text} ± {100 * deviation:.2f} %" if isinstance(deviation, int | float) else text


def _dropped(dht: Mapping[str, Any]) -> int | None:
    reasons = [value for name, value in dht.items() if name.startswith("dropped_")]
    return sum(reasons) if reasons else None


def _port(address: object) -> str:
    return MISSING if address is None else str(address).rpartition(":")[2] or MISSING


def _yes_no(value: object) -> str:
    return MISSING if value is None else "yes" if value else "no"
