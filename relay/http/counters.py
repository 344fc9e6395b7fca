"""What the HTTP side has done so far, for ``/stats``."""

from __future__ import annotations

from collections import Counter, defaultdict


class Counters:
    """Requests by kind and status, and connections; figures since the start."""

    def __init__(self) -> None:
        self.requests: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.connections: Counter[str] = Counter()
        self.connections_open = 0
        self.waits: dict[str, int] = {}
        """How often threads of the front lane waited for what; empty where there are none."""

    def count_request(self, kind: str, status: int) -> None:
        """Count one answered request; `kind` and `status` come from small fixed sets."""
        self.requests[kind][status] += 1

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
