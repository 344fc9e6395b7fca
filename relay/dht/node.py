"""Our Mainline DHT node, without a socket, a clock or a task inside.

Six verbs make it work (design/style.md, section 4). Inward `receive_datagram`, `handle_deadline`
and the `start_` methods with `release`; outward `datagrams_to_send`, `next_deadline` and
`take_events`. After any call inward a driver sends what is to be sent, hands out the events,
and calls `handle_deadline` when the next deadline has come. The same seed and the same calls
give the same bytes.

    receive_datagram(s) ┬ query ──→ budgets, filter ─→ responder ─→ reply      (server mode)
                        └ answer ─→ dispatcher: its transaction ─→ operation (look-up, put, ping)
                                        ↑ pulls queries from ↓ ends of
    start_get, start_put ──────────→ requests ─→ look-up ─→ round of writes ─→ events
    deadlines ─────────────────────→ maintenance: bootstrap, refresh, sweep

A driver may ask `native_responder` first: it answers plain queries as `receive_datagram` would,
from the same tables, and what it answers is not shown to us.

Source: BEP 5, 42, 43, 44; design/protocol.md, section 7; issue 3, section 4.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final, Literal, TypeAlias

from relay._kernels import Answer, Value
from relay.dht import krpc, native
from relay.dht.budget import QueryLimit, SourceBudgets
from relay.dht.counters import NodeCounters
from relay.dht.dispatcher import Dispatcher
from relay.dht.estimate import LookupHistory
from relay.dht.events import Bootstrapped, Event, GetHandle, Handle, PutHandle, TablePoor
from relay.dht.identity import Identity
from relay.dht.items import ItemStore, MutableItem, PeerStore
from relay.dht.krpc import ErrorReply, KrpcDecodeError, Query
from relay.dht.lookup import Lookup
from relay.dht.maintenance import Maintenance, Pings
from relay.dht.node_id import (
    ID_BYTES,
    Address,
    NodeInfo,
    is_secure,
    random_id,
    secure_id,
    usable_address,
)
from relay.dht.operations import Contact, Operation
from relay.dht.proofs import Proofs
from relay.dht.public_address import PublicAddress
from relay.dht.put import StoreRound
from relay.dht.requests import Requests
from relay.dht.responder import Responder
from relay.dht.routing_table import RoutingTable
from relay.dht.tokens import TokenIssuer
from relay.dht.traffic import ANSWERED, ERROR, IGNORED, OVER_BUDGET, RATE_LIMITED, Traffic

SILENCES_MAX: Final = 2
"""Time-outs in a row after which a node leaves the routing table, if others do answer."""
GREETINGS_MAX: Final = 32
"""Pings under way to newcomers."""
GREETING_BYTES: Final = 160
"""Two pings to a newcomer, which may be somebody else's address: they count as a reply does."""
GREET_BELOW: Final = 160
"""Nodes in the routing table from which on newcomers are not greeted: we have enough."""

QueryFilter = Callable[[str, float], bool]
"""(source IP, monotonic seconds) to whether its query is served."""


_Message: TypeAlias = Query | Answer | ErrorReply


class DhtNode:
    """A DHT node, client and server; see the module for how to drive it.

    Nothing that a stranger sends makes any method raise, and all that it makes us remember is
    bounded.

    Args:
        rng: all randomness: identifier, transaction ids. Seeded in tests.
        secret: at least 16 random bytes: keys of tokens and of the tables per address.
        now: monotonic seconds, as in all methods.
        local_address: what the socket is bound to.
        server_mode: True: serve queries from the start; False: never; "auto": once strangers
            are known to reach us (checked every 15 minutes).
        public_ip: our public IPv4 address if known: gives a secure identifier at once.
        bootstrap: addresses to start from; none and `server_mode` True make the first node of
            a network.
        nodes: the routing table of an earlier run (`nodes`), used before `bootstrap`.
        request_timeout_s: how long a node may take to answer, seconds.
        query_filter: an extra limit on served queries; refused ones stay unanswered.
    """

    def __init__(
        self,
        *,
        rng: Random,
        secret: bytes,
        now: float,
        local_address: Address,
        server_mode: bool | Literal["auto"] = "auto",
        public_ip: str | None = None,
        bootstrap: Sequence[Address] = (),
        nodes: Sequence[NodeInfo] = (),
        request_timeout_s: float = 2.0,
        query_filter: QueryFilter | None = None,
    ) -> None:
        self._rng = rng
        self._local_address = local_address
        self._adaptive = server_mode == "auto"
        self._query_filter = query_filter
        self.counters = NodeCounters()
        self.traffic: Final = Traffic()
        """The same by kind, but for what the native responder does; see `queries_in`."""
        self._events: list[Event] = []
        self._bootstrapped = False
        self._greeted: set[Address] = set()
        own_id = random_id(rng) if public_ip is None else secure_id(public_ip, rng)
        self._identity = Identity(own_id, server_mode is True, {local_address})
        self._table = RoutingTable(own_id)
        self._public = PublicAddress(rng, public_ip)
        self._history = LookupHistory()
        self._budgets = SourceBudgets(secret)
        tokens, items, peers = TokenIssuer(secret), ItemStore(), PeerStore()
        self._proofs = Proofs(rng, self.traffic)
        self._responder = Responder(
            self._table,
            tokens,
            items,
            peers,
            rng,
            on_proof=self._budgets.prove,
            holds=self._proofs.holds,
        )
        self.native_responder: Final = self._make_native(tokens, items, peers)
        """Answers plain queries as we would, for the lane of our driver; None: nobody does."""
        self._dispatcher = Dispatcher(
            rng=rng,
            pacer=self._budgets,
            request_timeout_s=request_timeout_s,
            counters=self.counters,
            traffic=self.traffic,
            on_settled=self._on_settled,
            on_silent=self._on_silent,
            on_starving=self._on_starving,
        )
        self._requests = Requests(
            dispatcher=self._dispatcher,
            history=self._history,
            identity=self._identity,
            proofs=self._proofs,
            counters=self.counters,
            traffic=self.traffic,
            emit=self._events.append,
            seed=self._seed,
            on_lookup=self._on_lookup,
        )
        self._maintenance = Maintenance(
            identity=self._identity,
            table=self._table,
            dispatcher=self._dispatcher,
            requests=self._requests,
            bootstrap=bootstrap,
            saved=nodes,
            poor=lambda: self._events.append(TablePoor()),
            on_refresh=self._adapt,
        )
        self._maintenance.start(now)

    def limit_queries(self, limit: QueryLimit | None) -> None:
        """Take another extra limit on served queries; those that count begin anew."""
        self._query_filter = limit
        if self.native_responder is not None:
            self.native_responder.set_limit(None if limit is None else limit.cells)

    # The verbs.

    def receive_datagram(self, payload: bytes, source: Address, now: float) -> None:
        """Take in a datagram. Never raises, whatever it holds.

        Args:
            payload: the datagram, whole.
            source: IPv4 address and port it came from; port 0 is ignored.
            now: monotonic seconds.
        """
        message = self._read(payload, source)
        if message is not None:
            self._take_in(message, source, len(payload), now)

    def receive_datagrams(self, batch: Iterable[tuple[bytes, Address]], now: float) -> None:
        """Take in datagrams that have come together, with the effect of one after the other.

        The items among them that look-ups want are verified together, which costs less.

        Args:
            batch: payloads and where they came from, as for `receive_datagram`.
            now: monotonic seconds.
        """
        messages: list[tuple[_Message, Address, int]] = []
        wanted: dict[Lookup, MutableItem] = {}  # of twenty equal answers one will do
        for payload, source in batch:
            message = self._read(payload, source)
            if message is None:
                continue
            messages.append((message, source, len(payload)))
            if isinstance(message, Answer) and message.v_encoded is not None:
                lookup = self._dispatcher.asker(source, message.transaction_id)
                if isinstance(lookup, Lookup) and lookup not in wanted:
                    item = lookup.wanted(message)
                    if item is not None:
                        wanted[lookup] = item
        if len(wanted) > 1:
            self._proofs.verify(wanted.values())
        for message, source, payload_bytes in messages:
            self._take_in(message, source, payload_bytes, now)

    def handle_deadline(self, now: float) -> None:
        """Let everything happen that is due by `now`; early calls are harmless."""
        self._dispatcher.handle_deadline(now)

    def next_deadline(self) -> float:
        """Return when `handle_deadline` wants to be called, monotonic seconds."""
        return self._dispatcher.next_deadline()

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Return the datagrams to send now, in order, and forget them."""
        return self._dispatcher.take_datagrams()

    def take_events(self) -> list[Event]:
        """Return what has happened since the last call, in order.

        Events of a handle that was released meanwhile may still be among them.
        """
        events = self._events[:]
        self._events.clear()
        return events

    def start_get(
        self, public_key: bytes, *, salt: bytes = b"", seq: int | None = None, now: float
    ) -> GetHandle:
        """Look for the newest mutable item of a key.

        Args:
            public_key: 32 bytes.
            salt: at most 64 bytes; empty: an item without salt.
            seq: look only for items with a higher sequence number.
            now: monotonic seconds.

        Returns:
            A handle: `ItemReceived` events for each item newer than those before it, then one
            `GetFinished`.
        """
        return self._requests.get_item(public_key, salt or None, seq, now)

    def start_get_immutable(self, target: bytes, *, now: float) -> GetHandle:
        """Look for the value with a hash: `ValueReceived` at most once, then `GetFinished`."""
        return self._requests.get_value(target, now)

    def start_get_peers(self, info_hash: bytes, *, now: float) -> GetHandle:
        """Look for torrent peers: `PeersReceived` for each answer, then `GetFinished`."""
        return self._requests.get_peers(info_hash, now)

    def start_find_node(self, target: bytes, *, now: float) -> GetHandle:
        """Look for the nodes closest to `target`: `GetFinished`, its outcome names them."""
        return self._requests.find_node(target, now)

    def start_put(self, item: MutableItem, *, cas: int | None = None, now: float) -> PutHandle:
        """Store a signed item on the nodes closest to its target.

        Args:
            item: its signature is taken to be good.
            cas: store only where this is the present sequence number.
            now: monotonic seconds.

        Returns:
            A handle: one `PutFinished`. The same item with the same `cas` while it is being
            stored joins the put under way.
        """
        return self._requests.put_item(item, cas, now)

    def start_put_immutable(self, value: Value, *, now: float) -> PutHandle:
        """Store a value under its hash (`PutHandle.target`): one `PutFinished`."""
        return self._requests.put_value(value, now)

    def start_announce_peer(
        self, info_hash: bytes, *, port: int | None = None, now: float
    ) -> PutHandle:
        """Announce a torrent peer at `port`, None: at the node's own: one `PutFinished`."""
        return self._requests.announce(info_hash, port, now)

    def release(self, handle: Handle, now: float) -> None:
        """Give up interest in a handle; harmless after its last event.

        A look-up that nobody else waits for stops; a put goes on to its end.
        """
        self._requests.release(handle)

    # Facts.

    @property
    def node_id(self) -> bytes:
        """Our identifier, 20 bytes; changes when our public address becomes known."""
        return self._identity.node_id

    @property
    def bootstrapped(self) -> bool:
        """Whether any node has ever answered us."""
        return self._bootstrapped

    @property
    def public_address(self) -> Address | None:
        """Our address as most nodes see it; None before the first vote."""
        return self._public.address

    @property
    def firewalled(self) -> bool:
        """Whether strangers are not known to reach us."""
        return self._public.firewalled

    @property
    def server_mode(self) -> bool:
        """Whether queries are served now."""
        return self._identity.server_mode

    @property
    def table_size(self) -> int:
        """Number of nodes in the routing table."""
        return len(self._table)

    @property
    def size_estimate(self) -> tuple[float, float]:
        """Estimated number of nodes in the network, and its standard deviation (a fraction)."""
        return self._history.size

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed round-trip time to other nodes, seconds; None before the first answer."""
        return self._dispatcher.round_trip_s

    @property
    def window(self) -> int:
        """Most queries on the wire at a time (see `dispatcher`)."""
        return self._dispatcher.window

    @window.setter
    def window(self, queries: int) -> None:
        self._dispatcher.window = max(queries, 1)

    @property
    def in_flight(self) -> int:
        """Queries of ours whose outcome is not known yet."""
        return self._dispatcher.in_flight

    def queries_in(self) -> Counter[tuple[str, str]]:
        """Return how many queries of others there were, by method and outcome."""
        counted = self.traffic.queries_in.copy()
        if self.native_responder is not None:
            counted.update(self.native_responder.outcomes())
        return counted

    def nodes(self) -> list[NodeInfo]:
        """Return the routing table, to be saved for the next start."""
        return self._table.nodes()

    def add_bootstrap(self, addresses: Iterable[Address], now: float) -> None:
        """Take in bootstrap addresses that have become known (or have changed)."""
        self._maintenance.add_bootstrap(addresses, now)

    # What comes in.

    def _read(self, payload: bytes, source: Address) -> _Message | None:
        if source[1]:
            try:
                return krpc.read(payload)
            except KrpcDecodeError:
                pass
        self.counters.dropped_malformed += 1
        return None

    def _take_in(self, message: _Message, source: Address, payload_bytes: int, now: float) -> None:
        if isinstance(message, Query):
            self._on_query(message, source, payload_bytes, now)
        else:
            self._on_answer(message, source, now)

    # Queries of others.

    def _on_query(self, query: Query, source: Address, payload_bytes: int, now: float) -> None:
        self.counters.queries_in += 1
        outcome = self._serve(query, source, payload_bytes, now)
        self.traffic.note_query(query.method, outcome)

    def _serve(self, query: Query, source: Address, payload_bytes: int, now: float) -> str:
        """Answer a query, or not; returns which of `OUTCOMES_IN` it was."""
        if self._public.confirm(query, source):
            self._check_id(source[0], now)
            return IGNORED
        if not self._identity.server_mode:
            return IGNORED
        if not self._budgets.admit(source, payload_bytes, now):
            self.counters.dropped_budget += 1
            return OVER_BUDGET
        if self._query_filter is not None and not self._query_filter(source[0], now):
            self.counters.dropped_filter += 1
            return RATE_LIMITED
        answer = self._responder.answer(query, source, now)
        reply = krpc.encode(answer)
        if not self._budgets.charge_reply(source, len(reply), now):
            self.counters.dropped_budget += 1
            return OVER_BUDGET
        self.counters.replies_out += 1
        self._dispatcher.reply(reply, source)
        self._greet(query, source, now)
        return ERROR if isinstance(answer, ErrorReply) else ANSWERED

    def _make_native(
        self, tokens: TokenIssuer, items: ItemStore, peers: PeerStore
    ) -> "native.Responder | None":
        """A responder in C on our tables, unless a limit is set that it cannot keep."""
        limit = self._query_filter
        if native.Responder is None or not isinstance(limit, QueryLimit | None):
            return None
        return native.Responder(
            identity=self._identity,
            public=self._public,
            counters=self.counters,
            ids=self._table.ids,
            values=items.immutable_records,
            items=items.mutable_records,
            swarms=peers.info_hashes,
            budgets=self._budgets.cells,
            limit=None if limit is None else limit.cells,
            token_key=tokens.key,
            greets_below=GREET_BELOW,
        )

    def _greet(self, query: Query, source: Address, now: float) -> None:
        """Ask a newcomer for a sign of life, while we know few nodes.

        In a small network nobody else may be able to tell us of it. The reference enters
        newcomers unasked, but only into the first node of a network (the one without bootstrap
        addresses): when that one goes, nodes that joined later are not found any more.
        """
        if query.method != b"find_node" or query.read_only or len(self._table) >= GREET_BELOW:
            return
        node_id = query.arguments.get(b"id")
        if not isinstance(node_id, bytes) or len(node_id) != ID_BYTES:
            return
        node = NodeInfo(node_id, source)
        if (
            len(self._greeted) < GREETINGS_MAX
            and source not in self._greeted
            and node not in self._table
            and usable_address(source, source, self._identity.addresses)
            and self._budgets.charge_reply(source, GREETING_BYTES, now)
        ):
            self._greeted.add(source)
            self._dispatcher.submit(Greeting(node, self._identity), now)

    # Answers to us.

    def _on_answer(self, answer: Answer | ErrorReply, source: Address, now: float) -> None:
        transaction = self._dispatcher.close(source, answer.transaction_id, now)
        if transaction is None:
            self.counters.unsolicited += 1
            return
        self._budgets.prove(source, now)
        operation, contact = transaction.operation, transaction.contact
        if isinstance(answer, ErrorReply):
            self.counters.errors_in += 1
            self.traffic.note_end(transaction.template.method, ERROR)
            if not operation.done:
                operation.on_refusal(contact, answer)
        else:
            self.counters.responses_in += 1
            self.traffic.note_end(transaction.template.method, ANSWERED)
            self._on_response(operation, contact, answer, source, now)
        self._dispatcher.advance(operation, now)

    def _on_response(
        self,
        operation: Operation,
        contact: Contact,
        answer: Answer,
        source: Address,
        now: float,
    ) -> None:
        node_id = answer.node_id
        if answer.read_only or node_id is None or node_id == self._identity.node_id:
            if not operation.done:
                operation.on_refusal(contact, None)
            return
        self._table.add(NodeInfo(node_id, source), now)
        if not self._bootstrapped:
            self._bootstrapped = True
            self._events.append(Bootstrapped())
        if not operation.done:
            operation.on_response(contact, node_id, answer)

    # What the parts report.

    def _seed(self, lookup: Lookup, now: float) -> None:
        self._maintenance.seed(lookup, now)

    def _on_settled(self, operation: Operation, now: float) -> None:
        if isinstance(operation, Lookup):
            self._requests.finish_lookup(operation, now)
        elif isinstance(operation, StoreRound):
            self._requests.finish_round(operation, now)
        elif isinstance(operation, Greeting):
            self._greeted.discard(operation.address)

    def _on_starving(self, operation: Operation) -> None:
        if isinstance(operation, Lookup):
            self._maintenance.seed_more(operation)

    def _on_silent(self, contact: Contact, times: int) -> None:
        if times >= SILENCES_MAX and contact.id is not None:
            node = NodeInfo(contact.id, contact.address)
            if node in self._table:
                self._table.remove(node.id)

    def _on_lookup(self, lookup: Lookup, now: float) -> None:
        """Count the votes about our address; try a new one, or ask others about it."""
        former = self._public.address
        address = self._public.vote(lookup.target, lookup.votes, now)
        if address is not None:
            self._try_address(address, former, now)
        target = self._public.take_target()
        if target is not None:
            self._requests.refresh(target, now, self._seed, lambda *_: None)

    def _try_address(self, address: Address, former: Address | None, now: float) -> None:
        if former is not None and former != self._local_address:
            self._identity.addresses.discard(former)
        self._identity.addresses.add(address)
        ping = self._public.trial(self._identity.node_id, read_only=self._identity.read_only)
        if not self._dispatcher.send_ping(ping, address, now):
            self._public.postpone()

    def _check_id(self, ip: str, now: float) -> None:
        """Take a secure identifier for an address that proved to be ours (BEP 42)."""
        if is_secure(self._identity.node_id, ip):
            return
        self._identity.node_id = secure_id(ip, self._rng)
        self._table.reset(self._identity.node_id)
        self._maintenance.adopt(now)

    def _adapt(self, now: float) -> None:
        """Become a server for good, in adaptive mode, once strangers can reach us."""
        if self._adaptive and not self._public.firewalled:
            self._identity.server_mode = True


class Greeting(Pings):
    """The ping to a newcomer."""

    __slots__ = ("address",)

    def __init__(self, node: NodeInfo, identity: Identity) -> None:
        super().__init__([node], identity)
        self.address = node.address
