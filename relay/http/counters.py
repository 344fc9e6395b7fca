"""What the HTTP side has done so far, for ``/stats`` and for metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final, Literal

from relay.histogram import SPANS_S, Histogram

Cached = Literal["hit", "miss", "stale", "bypass", "none"]
"""What the cache knew of a request: a packet that answered it; none that could; one that stood in
for a silent DHT; it was not to be asked (``NetworkOnly``); the request was none for a packet, or
was refused before."""
WORK: Final = ("hit", "miss", "put", "refused", "other")
"""Sorts of requests whose durations are worth telling apart."""


class Counters:
    """Requests by kind and status, and connections; figures since the start."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int, Cached]] = Counter()
        """Requests by kind, status, and what the cache knew."""
        self.durations_s: Final = {work: Histogram(SPANS_S) for work in WORK}
        """Seconds that each request took, by `WORK`. Those of a front lane are in it after
        `refresh`."""
        self.refresh: Callable[[], None] = lambda: None
        """Fetches what has been counted elsewhere; to be called before all this is read."""
        self.connections: Counter[str] = Counter()
        self.connections_open = 0
        self.waits: dict[str, int] = {}
        """How often threads of the front lane waited for what; empty where there are none."""

    @property
    def requests(self) -> defaultdict[str, Counter[int]]:
        """Requests by kind and status."""
        requests: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for (kind, status, _), count in self.answers.items():
            requests[kind][status] += count
        return requests

    def count_request(self, kind: str, status: int, cached: Cached, seconds: float) -> None:
        """Count one answered request; `kind` and `status` come from small fixed sets."""
        self.answers[kind, status, cached] += 1
        self.durations_s[_work_of(kind, status, cached)].observe(seconds)

    def count_connection(self, event: str) -> None:
        """Count ``accepted``, ``refused_total`` or ``refused_address``."""
        self.connections[event] += 1

    def snapshot(self) -> dict[str, object]:
        """Return everything, ready for JSON."""
        return {
            "requests": {
                kind: {str(status): count for status, count in sorted(statuses.items())}
                for kind, statuses in sorted(self.requests.items())
            },
            "connections": {"open": self.connections_open, **self.connections},
            **({"waits": self.waits} if self.waits else {}),
        }


def _work_of(kind: str, status: int, cached: Cached) -> str:
    if status == 429:
        return "refused"
    if cached == "none":
        return "put" if kind == "put" else "other"
    return "hit" if cached == "hit" else "miss"
