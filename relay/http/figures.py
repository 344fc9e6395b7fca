"""The figures of ``/stats`` as a person reads them: chosen, grouped and worded for the page.

Expected in `RelayService.stats()`; whatever is missing is shown as unknown:

    version, uptime_s
    http:  requests {kind: {status: n}}, connections {open: n, ...}
    cache: packets, capacity, hits, misses, evictions
    dht:   node_id, local_address, public_address, server_mode, firewalled, table_size,
           size_estimate, size_deviation (a ratio), queries_in, queries_out, timeouts,
           dropped_...

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
class Overview:
    """Everything the page says about the relay."""

    version: str
    uptime: str
    cache: tuple[Figure, ...]
    cache_meter: Meter
    dht: tuple[Figure, ...]
    http: tuple[Figure, ...]


def overview(stats: Mapping[str, Any]) -> Overview:
    """Choose and word the figures of `stats`."""
    cache, dht, http = (stats.get(part) or {} for part in ("cache", "dht", "http"))
    return Overview(
        version=str(stats.get("version", MISSING)),
        uptime=span(stats.get("uptime_s")),
        cache=_cache_figures(cache),
        cache_meter=_meter(cache),
        dht=_dht_figures(dht),
        http=_http_figures(http),
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


def _cache_figures(cache: Mapping[str, Any]) -> tuple[Figure, ...]:
    hits, misses = cache.get("hits"), cache.get("misses")
    rate = MISSING
    if isinstance(hits, int) and isinstance(misses, int) and hits + misses:
        rate = f"{100 * hits / (hits + misses):.1f} %"
    return (
        Figure("Packets", count(cache.get("packets"))),
        Figure("Capacity", count(cache.get("capacity"))),
        Figure("Utilisation", _meter(cache).percent),
        Figure("Hit rate", rate, "look-ups answered without asking the network"),
        Figure("Evictions", count(cache.get("evictions"))),
    )


def _meter(cache: Mapping[str, Any]) -> Meter:
    used, capacity = cache.get("packets"), cache.get("capacity")
    if not isinstance(used, int) or not isinstance(capacity, int):
        return Meter(0, 1, MISSING)
    percent = 100 * used / capacity if capacity else 0.0
    return Meter(used, max(capacity, 1), f"{percent:.2f} %")


def _dht_figures(dht: Mapping[str, Any]) -> tuple[Figure, ...]:
    address = dht.get("public_address") or dht.get("local_address")
    return (
        Figure("Size estimate", _size(dht), "nodes in the whole network"),
        Figure("Node port", _port(address)),
        Figure("Address", MISSING if address is None else str(address)),
        Figure("Firewalled", _yes_no(dht.get("firewalled"))),
        Figure("Answers others", _yes_no(dht.get("server_mode"))),
        Figure("Routing table", count(dht.get("table_size")), "nodes known to answer"),
        Figure("Queries sent", count(dht.get("queries_out"))),
        Figure("Queries received", count(dht.get("queries_in"))),
        Figure("Time-outs", count(dht.get("timeouts"))),
        Figure("Dropped", count(_dropped(dht)), "over budget or malformed"),
        Figure("Node id", str(dht.get("node_id", MISSING))),
    )


def _http_figures(http: Mapping[str, Any]) -> tuple[Figure, ...]:
    requests: Mapping[str, Mapping[str, int]] = http.get("requests") or {}
    totals = {kind: sum(statuses.values()) for kind, statuses in requests.items()}
    limited = sum(statuses.get("429", 0) for statuses in requests.values())
    connections: Mapping[str, int] = http.get("connections") or {}
    return (
        Figure("Requests", count(sum(totals.values()))),
        Figure("Packets read", count(totals.get("get", 0) + totals.get("head", 0))),
        Figure("Packets written", count(totals.get("put", 0))),
        Figure("Rate-limited", count(limited)),
        Figure("Open connections", count(connections.get("open"))),
    )


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
