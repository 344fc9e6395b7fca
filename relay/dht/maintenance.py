"""Keeping contact with the network: bootstrap, refresh, and the care of the routing table.

- *Bootstrap*: look for our own identifier, starting from the nodes saved by an earlier run; if
  none of those answers within half a second, and when there are none, from the bootstrap
  addresses too. While nobody answers this is tried again after 1, 2, 4 ... 60 s, and at once
  when a caller wants something; each failure tells the driver to resolve the bootstrap names
  again, as they may have moved.
- *Refresh*, every 15 minutes or when the table is empty: the same look-up, from the table.
- *Sweep*, every 5 minutes: nodes unheard of for 15 minutes are dropped, the others asked for a
  sign of life unless they gave one in the last 10 s.

Source: design/protocol.md, sections 7.3 to 7.5. Sans-IO: callers pass `now`.
"""

from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Final

from relay.dht.dispatcher import Dispatcher
from relay.dht.identity import Identity
from relay.dht.krpc import QueryTemplate
from relay.dht.lookup import CANDIDATES_MAX, Lookup
from relay.dht.node_id import Address, NodeInfo
from relay.dht.operations import Contact, Operation, State
from relay.dht.requests import Requests
from relay.dht.routing_table import K, RoutingTable

REFRESH_INTERVAL_S: Final = 900.0
SWEEP_INTERVAL_S: Final = 300.0
RECENTLY_SEEN_S: Final = 10.0
RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
HEAD_START_S: Final = 0.5
"""How long saved nodes are asked before the bootstrap addresses are."""
BOOTSTRAP_MAX: Final = 64
"""Bootstrap addresses kept; the latest ones stay."""


class Pings(Operation):
    """Asks nodes for a sign of life; what comes of it is the routing table's affair."""

    __slots__ = ("_contacts", "_query")

    def __init__(self, nodes: Iterable[NodeInfo], identity: Identity) -> None:
        super().__init__()
        self._query = QueryTemplate(b"ping", {b"id": identity.node_id}, identity.read_only)
        self._contacts = [Contact(node.address, node.id) for node in nodes]
        self._contacts.reverse()

    def next_contact(self) -> Contact | None:
        """See `Operation`."""
        while self._contacts and self._contacts[-1].state is not State.NEW:
            self._contacts.pop()
        return self._contacts[-1] if self._contacts else None

    def query_for(self, contact: Contact) -> QueryTemplate:
        """See `Operation`."""
        return self._query

    def settled(self) -> bool:
        """See `Operation`."""
        return self.next_contact() is None and not self.waiting


class Maintenance:
    """The node's own errands, on the clock of its dispatcher.

    Args:
        identity: who we are.
        table: the routing table.
        dispatcher: sends pings and keeps the time.
        requests: makes the look-ups.
        bootstrap: addresses to start from.
        saved: nodes of an earlier run.
        poor: called when nobody answers and new bootstrap addresses would help.
        on_refresh: called at each 15-minute refresh.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        table: RoutingTable,
        dispatcher: Dispatcher,
        requests: Requests,
        bootstrap: Sequence[Address],
        saved: Sequence[NodeInfo],
        poor: Callable[[], None],
        on_refresh: Callable[[float], None],
    ) -> None:
        self._identity = identity
        self._table = table
        self._dispatcher = dispatcher
        self._requests = requests
        self._bootstrap = list(dict.fromkeys(bootstrap))[-BOOTSTRAP_MAX:]
        self._saved = list(saved)
        self._poor = poor
        self._on_refresh = on_refresh
        self._looking: Lookup | None = None
        self._retry_s = RETRY_FIRST_S
        self._retry_at: float | None = None

    def start(self, now: float) -> None:
        """Begin; called once."""
        self._look(now)
        self._dispatcher.call_at(now + REFRESH_INTERVAL_S, self._refresh)
        self._dispatcher.call_at(now + SWEEP_INTERVAL_S, self._sweep)

    def add_bootstrap(self, addresses: Iterable[Address], now: float) -> None:
        """Take in newly resolved bootstrap addresses; use them at once if the table is poor."""
        fresh = [address for address in addresses if address not in self._bootstrap]
        self._bootstrap = (self._bootstrap + fresh)[-BOOTSTRAP_MAX:]
        if not fresh or not self._is_poor():
            return
        if self._looking is not None:
            self._add_bootstrap_to(self._looking)
            self._dispatcher.advance(self._looking, now)
        else:
            self._look(now)

    def seed(self, lookup: Lookup, now: float) -> None:
        """Give a caller's look-up its first contacts; from an empty table also wake up.

        Twice as many as it will ask at first: the nearest may be a crowd around its target.
        """
        nodes = self._table.closest(lookup.target, 2 * K)
        for node in nodes:
            lookup.add(node)
        if len(nodes) < K:
            for node in self._closest_saved(lookup.target):
                lookup.add(node)
        if len(nodes) < max(len(self._bootstrap), 1):
            self._add_bootstrap_to(lookup)
        if not nodes and self._looking is None:
            self._look(now)

    def seed_more(self, lookup: Lookup) -> None:
        """Give a look-up more first contacts: those nearest to its target are busy."""
        for node in self._table.closest(lookup.target, 8 * K):
            lookup.add(node)

    def adopt(self, now: float) -> None:
        """Our identifier has changed: find its neighbours."""
        self._looking = None
        self._look(now)

    def _is_poor(self) -> bool:
        return len(self._table) < max(len(self._bootstrap), 1)

    def _add_bootstrap_to(self, lookup: Lookup) -> None:
        for address in self._bootstrap:
            if address not in self._identity.addresses:
                lookup.add_address(address)

    def _closest_saved(self, target: bytes) -> list[NodeInfo]:
        centre = int.from_bytes(target, "big")
        return nsmallest(K, self._saved, key=lambda node: int.from_bytes(node.id, "big") ^ centre)

    def _look(self, now: float) -> None:
        """Look for our own identifier, unless that is under way."""
        if self._looking is None:
            self._requests.refresh(self._identity.node_id, now, self._prepare, self._looked)

    def _prepare(self, lookup: Lookup, now: float) -> None:
        self._looking = lookup
        for node in self._table.closest(lookup.target, K):
            lookup.add(node)
        for node in self._saved[:CANDIDATES_MAX]:
            lookup.add(node)
        if not self._is_poor():
            return
        if self._saved:
            self._dispatcher.call_at(now + HEAD_START_S, self._end_head_start)
        else:
            self._add_bootstrap_to(lookup)

    def _end_head_start(self, now: float) -> None:
        lookup = self._looking
        if lookup is not None and lookup.responded == 0:
            self._add_bootstrap_to(lookup)
            self._dispatcher.advance(lookup, now)

    def _looked(self, lookup: Lookup, now: float) -> None:
        if lookup is not self._looking:
            return  # our identifier has changed meanwhile
        self._looking = None
        if lookup.responded and len(self._table):
            self._retry_s = RETRY_FIRST_S
            self._saved.clear()  # whoever is alive among them has answered
            return
        self._poor()
        self._retry_at = now + self._retry_s
        self._dispatcher.call_at(self._retry_at, self._retry)
        self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)

    def _retry(self, now: float) -> None:
        if self._retry_at is not None and now >= self._retry_at and not len(self._table):
            self._retry_at = None
            self._look(now)

    def _refresh(self, now: float) -> None:
        self._dispatcher.call_at(now + REFRESH_INTERVAL_S, self._refresh)
        self._on_refresh(now)
        self._look(now)

    def _sweep(self, now: float) -> None:
        self._dispatcher.call_at(now + SWEEP_INTERVAL_S, self._sweep)
        for node in self._table.stale(now):
            self._table.remove(node.id)
        quiet = self._table.unseen_since(now, RECENTLY_SEEN_S)
        if quiet:
            self._dispatcher.submit(Pings(quiet, self._identity), now)
        if self._is_poor():
            self._poor()
            self._look(now)
