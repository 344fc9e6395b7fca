"""Every metric of the relay: its name, what it means, and where its values are read.

Nothing is counted here. Rooms count for themselves, as cheaply as they can; `collect` reads what
they have when somebody asks. Labels take their values from sets in the code, so that no stranger
can add to them. docs/metrics.md lists the names, and a test compares.

Source: https://prometheus.io/docs/practices/naming/; issue 5, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal

import trio
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from relay import __version__, _kernels
from relay.dht.traffic import LOOKUPS, METHODS, OUTCOMES_OUT, PUT_OUTCOMES
from relay.histogram import Histogram

if TYPE_CHECKING:
    from relay.metrics.sources import Sources

PREFIX: Final = "pkarr_relay_"
PIECE_SAMPLES: Final = 12
"""After so many there is a new piece. A sample takes 5 us."""

Row = tuple[tuple[str, ...], float | Histogram]
"""Values of the labels, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `read` gives a row for each combination of labels that there is."""

    name: str
    """Without `PREFIX`; a counter's without ``_total``."""
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Sources], Iterable[Row]]

    def collect(self, sources: Sources) -> Iterator[Metric]:
        """Return its samples in one piece or several, each read when it is asked for."""
        metric = self._piece()
        for values, value in self.read(sources):
            labels = dict(zip(self.labels, values, strict=True))
            for suffix, extra, number in self._samples(value):
                metric.add_sample(metric.name + suffix, {**labels, **extra}, number)
                if len(metric.samples) == PIECE_SAMPLES:
                    yield metric
                    metric = self._piece()
        yield metric

    def _samples(self, value: float | Histogram) -> Sequence[tuple[str, dict[str, str], float]]:
        """Return suffix, further labels and value of each sample, all of this moment."""
        if not isinstance(value, Histogram):
            return [("_total" if self.kind == "counter" else "", {}, value)]
        sums = list(accumulate(value.counts))
        steps = zip(_shown(value.bounds), sums, strict=True)
        return [
            *(("_bucket", {"le": bound}, count) for bound, count in steps),
            ("_count", {}, sums[-1]),
            ("_sum", {}, value.total),
        ]

    def _piece(self) -> Metric:
        return Metric(PREFIX + self.name, self.meaning, self.kind)


def collect(sources: Sources) -> Iterator[Metric]:
    """Return the samples of all families, in pieces; those of one family follow each other."""
    sources.app.counters.refresh()
    for family in FAMILIES:
        yield from family.collect(sources)


@cache
def _shown(bounds: tuple[float, ...]) -> list[str]:
    return [*map(floatToGoString, bounds), "+Inf"]


def _one(value: float | Histogram | None) -> list[Row]:
    """The only row of a family without labels; none where the value is not known."""
    return [] if value is None else [((), value)]


# ---- Where it takes more than a line to read ----


def _build(_: Sources) -> Iterator[Row]:
    yield (__version__, _kernels.IMPLEMENTATION), 1


def _health(sources: Sources) -> Iterator[Row]:
    health = sources.service.health()
    for part, trouble in health.parts.items():
        yield (part,), trouble is None and (part != "http" or health.serving)


def _requests(sources: Sources) -> Iterator[Row]:
    for (kind, status, cached), count in sorted(sources.app.counters.answers.items()):
        yield (kind, str(status), cached), count


def _durations(sources: Sources) -> Iterator[Row]:
    for work, histogram in sources.app.counters.durations_s.items():
        yield (work,), histogram


def _accepted(sources: Sources) -> list[Row]:
    return _one(sources.app.counters.connections["accepted"])


def _refused_connections(sources: Sources) -> Iterator[Row]:
    for cap in ("total", "address"):
        yield (cap,), sources.app.counters.connections[f"refused_{cap}"]


def _lock_waits(sources: Sources) -> Iterator[Row]:
    for lock, count in sources.app.counters.waits.items():
        yield (lock,), count


def _refusals(sources: Sources) -> Iterator[Row]:
    for limit in ("http", "user_dht"):
        yield (limit,), sources.app.limits.refused[limit]
    yield ("dht",), sources.driver.node.counters.dropped_filter


def _cache_lookups(sources: Sources) -> Iterator[Row]:
    counters = sources.service.counters
    results = {"hit": "hits", "miss": "misses", "stale": "served_stale", "bypass": "network_only"}
    for result, name in results.items():
        yield (result,), counters[name]


def _batches(sources: Sources) -> Iterator[Row]:
    yield ("http",), sources.app.checker.sizes
    yield ("dht",), sources.driver.node.traffic.batches


def _queries_in(sources: Sources) -> Iterator[Row]:
    yield from sorted(sources.driver.node.queries_in().items())


def _queries_out(sources: Sources) -> Iterator[Row]:
    counts = sources.driver.node.traffic.queries_out
    for method in METHODS[:-1]:
        for outcome in OUTCOMES_OUT:
            yield (method, outcome), counts[method, outcome]


def _lookups(sources: Sources) -> Iterator[Row]:
    for kind in LOOKUPS:
        yield (kind,), sources.driver.node.traffic.lookups_s[kind]


def _puts(sources: Sources) -> Iterator[Row]:
    for outcome in PUT_OUTCOMES:
        yield (outcome,), sources.driver.node.traffic.puts[outcome]


def _datagrams(sources: Sources) -> Iterator[Row]:
    counters = sources.driver.counters
    yield ("in",), counters.received
    yield ("out",), counters.sent


def _socket_errors(sources: Sources) -> Iterator[Row]:
    counters = sources.driver.counters
    yield ("in",), counters.receive_errors
    yield ("out",), counters.send_errors


def _dropped(sources: Sources) -> Iterator[Row]:
    counters = sources.driver.node.counters
    yield ("malformed",), counters.dropped_malformed
    yield ("unsolicited",), counters.unsolicited
    yield ("outbox",), counters.dropped_outbox + sources.driver.counters.send_overflows


def _pacing(sources: Sources) -> Iterator[Row]:
    counters = sources.driver.node.counters
    yield ("waited",), counters.paced
    yield ("dropped",), counters.dropped_pacing


FAMILIES: Final = (
    Family(
        "build_info", "gauge", "Always 1; the labels say what runs.", ("version", "kernels"), _build
    ),
    Family(
        "part_healthy",
        "gauge",
        "Whether a part of the relay works (1) or is in trouble (0), as in /health.",
        ("part",),
        _health,
    ),
    Family(
        "tasks",
        "gauge",
        "Tasks of the event loop that are running or waiting.",
        (),
        lambda _: _one(trio.lowlevel.current_statistics().tasks_living),
    ),
    # HTTP
    Family(
        "http_requests",
        "counter",
        "Requests answered, by what was asked, status, and what the cache knew.",
        ("route", "status", "cache"),
        _requests,
    ),
    Family(
        "http_request_duration_seconds",
        "histogram",
        "Time from a request's arrival in the relay until its answer was made, by sort of work.",
        ("work",),
        _durations,
    ),
    Family(
        "http_connections",
        "gauge",
        "Connections open.",
        (),
        lambda sources: _one(sources.app.counters.connections_open),
    ),
    Family("http_connections_accepted", "counter", "Connections accepted.", (), _accepted),
    Family(
        "http_connections_refused",
        "counter",
        "Connections closed as they came, by the cap that was reached.",
        ("cap",),
        _refused_connections,
    ),
    Family(
        "http_lock_waits",
        "counter",
        "How often threads of the front lane waited for each other, by what for.",
        ("lock",),
        _lock_waits,
    ),
    Family(
        "rate_limit_refusals",
        "counter",
        "Requests and DHT queries refused, by the limit of [rate_limiter].",
        ("limit",),
        _refusals,
    ),
    # The cache
    Family(
        "cache_packets",
        "gauge",
        "Packets in memory.",
        (),
        lambda sources: _one(sources.store.stats().packets),
    ),
    Family(
        "cache_capacity_packets",
        "gauge",
        "Packets kept at most.",
        (),
        lambda sources: _one(sources.store.stats().capacity),
    ),
    Family(
        "cache_pending_packets",
        "gauge",
        "Packets that are not on the disk yet.",
        (),
        lambda sources: _one(sources.store.stats().pending),
    ),
    Family(
        "cache_loading",
        "gauge",
        "Whether the packets on the disk are still being loaded (1) or not (0).",
        (),
        lambda sources: _one(sources.store.stats().loading),
    ),
    Family(
        "cache_lookups",
        "counter",
        "Look-ups of packets for HTTP clients, by what the cache knew.",
        ("result",),
        _cache_lookups,
    ),
    Family(
        "cache_evictions",
        "counter",
        "Packets dropped because the cache was full.",
        (),
        lambda sources: _one(sources.store.stats().evictions),
    ),
    Family(
        "cache_bad_rows",
        "counter",
        "Rows of the database left out because their checksum was wrong.",
        (),
        lambda sources: _one(sources.store.stats().bad_rows),
    ),
    Family(
        "cache_commit_duration_seconds",
        "histogram",
        "Time that one group commit took, with its fsync.",
        (),
        lambda sources: _one(sources.store.commits[0]),
    ),
    Family(
        "cache_commit_packets",
        "histogram",
        "Packets written by one group commit.",
        (),
        lambda sources: _one(sources.store.commits[1]),
    ),
    Family(
        "verification_batch_signatures",
        "histogram",
        "Signatures verified together, by where the packets came from.",
        ("source",),
        _batches,
    ),
    # The DHT
    Family(
        "dht_queries_received",
        "counter",
        "Queries of other nodes, by method and what became of them.",
        ("method", "outcome"),
        _queries_in,
    ),
    Family(
        "dht_queries_sent",
        "counter",
        "Queries to other nodes that have ended, by method and outcome.",
        ("method", "outcome"),
        _queries_out,
    ),
    Family(
        "dht_queries_in_flight",
        "gauge",
        "Queries to other nodes whose outcome is not known yet.",
        (),
        lambda sources: _one(sources.driver.node.in_flight),
    ),
    Family(
        "dht_queries_repeated",
        "counter",
        "Queries sent a second time because the node was slow.",
        (),
        lambda sources: _one(sources.driver.node.counters.queries_repeated),
    ),
    Family(
        "dht_queries_paced",
        "counter",
        "Queries that waited for their turn at an address, or were dropped for it.",
        ("result",),
        _pacing,
    ),
    Family(
        "dht_round_trip_seconds",
        "gauge",
        "Smoothed time that other nodes take to answer.",
        (),
        lambda sources: _one(sources.driver.node.round_trip_s),
    ),
    Family(
        "dht_lookup_duration_seconds",
        "histogram",
        "Time from the start of a look-up until its last answer, by what was looked for.",
        ("kind",),
        _lookups,
    ),
    Family(
        "dht_lookups_refused",
        "counter",
        "Look-ups and puts refused because too many were running.",
        (),
        lambda sources: _one(sources.driver.node.counters.lookups_refused),
    ),
    Family("dht_puts", "counter", "Puts that have ended, by outcome.", ("outcome",), _puts),
    Family(
        "dht_put_stored_nodes",
        "histogram",
        "Nodes that acknowledged one put.",
        (),
        lambda sources: _one(sources.driver.node.traffic.stored_nodes),
    ),
    Family(
        "dht_items_invalid",
        "counter",
        "Values in answers that were not used: bad signature, wrong key or hash, too large.",
        (),
        lambda sources: _one(sources.driver.node.counters.items_invalid),
    ),
    Family(
        "dht_routing_table_nodes",
        "gauge",
        "Nodes in the routing table.",
        (),
        lambda sources: _one(sources.driver.node.table_size),
    ),
    Family(
        "dht_size_estimate_nodes",
        "gauge",
        "Nodes that the whole DHT has, estimated from look-ups.",
        (),
        lambda sources: _one(sources.driver.node.size_estimate[0]),
    ),
    Family(
        "dht_server_mode",
        "gauge",
        "Whether queries of others are served (1) or not (0).",
        (),
        lambda sources: _one(sources.driver.node.server_mode),
    ),
    Family(
        "dht_firewalled",
        "gauge",
        "Whether strangers are not known to reach us (1), or are (0).",
        (),
        lambda sources: _one(sources.driver.node.firewalled),
    ),
    Family(
        "dht_datagrams",
        "counter",
        "Datagrams received and sent.",
        ("direction",),
        _datagrams,
    ),
    Family(
        "dht_datagrams_dropped",
        "counter",
        "Datagrams thrown away: no KRPC, an answer to nothing we asked, no room to send.",
        ("reason",),
        _dropped,
    ),
    Family(
        "dht_datagram_errors",
        "counter",
        "Errors that the system reported when datagrams were received and sent.",
        ("direction",),
        _socket_errors,
    ),
    Family(
        "dht_kernel_drops",
        "counter",
        "Datagrams that the kernel dropped because the receive buffer was full.",
        (),
        lambda sources: _one(sources.driver.kernel_drops),
    ),
)
