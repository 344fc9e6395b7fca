"""What a node's queries, look-ups and puts came to, by kind: for metrics.

Every key comes from a small fixed set, whatever strangers send. Answers that the datagram lane
gives are counted by it (`relay._kernels`, `native`) and added where this is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from relay.dht.events import PutFailure, PutOutcome
from relay.histogram import NODES, SIZES, SPANS_S, Histogram

METHODS: Final = ("ping", "find_node", "get_peers", "announce_peer", "get", "put", "other")
_METHOD_OF: Final = {method.encode(): method for method in METHODS[:-1]}
ANSWERED: Final = "answered"
ERROR: Final = "error"
OVER_BUDGET: Final = "over_budget"
RATE_LIMITED: Final = "rate_limited"
IGNORED: Final = "ignored"
TIMEOUT: Final = "timeout"
OUTCOMES_IN: Final = (ANSWERED, ERROR, OVER_BUDGET, RATE_LIMITED, IGNORED)
"""What becomes of others' queries. Ignored are those that come while we do not serve, and our own
by which we try our address."""
OUTCOMES_OUT: Final = (ANSWERED, ERROR, TIMEOUT)
"""What becomes of ours."""
LOOKUPS: Final = ("item", "value", "peers", "nodes", "tokens")
"""What look-ups are for: ``tokens`` are for announcements, ``nodes`` also the node's upkeep."""
STORED: Final = "stored"
PUT_OUTCOMES: Final = (STORED, *(failure.name.lower() for failure in PutFailure))

Counts = Mapping[tuple[str, str], int]
"""By method and outcome."""


class Traffic:
    """Counts since the start; seconds are those of the node's clock."""

    def __init__(self) -> None:
        self.queries_in: Counter[tuple[str, str]] = Counter()
        self.queries_out: Counter[tuple[str, str]] = Counter()
        """Those that were answered or timed out."""
        self.lookups_s: Final = {kind: Histogram(SPANS_S) for kind in LOOKUPS}
        """How long look-ups took that were not given up."""
        self.puts: Counter[str] = Counter()
        self.stored_nodes: Final = Histogram(NODES)
        """Nodes that acknowledged each put."""
        self.batches: Final = Histogram(SIZES)
        """Signatures verified together."""

    def note_query(self, method: bytes, outcome: str) -> None:
        """Count a query of somebody else."""
        self.queries_in[_METHOD_OF.get(method, METHODS[-1]), outcome] += 1

    def note_end(self, method: bytes, outcome: str) -> None:
        """Count a query of ours whose outcome is known."""
        self.queries_out[_METHOD_OF.get(method, METHODS[-1]), outcome] += 1

    def note_put(self, outcome: PutOutcome) -> None:
        """Count a put that has ended, or was refused."""
        failure = outcome.failure
        self.puts[STORED if failure is None else failure.name.lower()] += 1
        self.stored_nodes.observe(outcome.stored)
