"""What must hold in every history, whatever the faults and whoever lies.

Each check raises `Violation`; `test_invariants` plants a violation for each, to show that it would
be seen. Bounds are those that the modules of `relay.dht` state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from relay import service
from relay.dht import (
    dispatcher,
    estimate,
    lookup,
    maintenance,
    node,
    proofs,
    public_address,
    requests,
    routing_table,
    transactions,
)
from relay.dht.items import MutableItem
from relay.dht.lookup import Lookup
from relay.dht.maintenance import Pings
from relay.dht.node import DhtNode
from relay.dht.node_id import Address, is_exempt
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SignedPacket
from relay.store import floors
from relay.store.table import PurePacketTable
from tests.simulation.desk import Desk
from tests.simulation.world import Host

WINDOW_S = 10.0
"""Over which libtorrent counts packets of one address; above 50 it hears nothing for 5 minutes."""
PACKETS_MAX = 45
IDLE_S = 30.0
"""After this long without new work nothing of the old may be left."""
UPKEEP_S = dispatcher.OPERATION_S_MAX
"""As long a node's own errand may last, which goes on for ever: others may follow."""
NAMES_MAX = lookup.QUERIES_MAX * lookup.NODES_PER_ANSWER_MAX
"""Addresses that the answers to one look-up can name."""


class Violation(AssertionError):  # noqa: N818 - it is what it says
    """Something that must hold does not."""


class PacketWatch:
    """How many packets went from each honest host to each public address within `WINDOW_S`.

    Queries and answers, whoever asked for them: libtorrent makes no difference.

    Args:
        packets_max: more than this are a violation.
    """

    def __init__(self, packets_max: int = PACKETS_MAX) -> None:
        self.packets_max = packets_max
        self.most_packets = 0
        self._sent: dict[tuple[Address, str], deque[float]] = {}

    def __call__(self, host: Host, _payload: bytes, to: Address, now: float) -> None:
        """Count a datagram; see `World.watchers`."""
        if is_exempt(to[0]):
            return
        times = self._sent.setdefault((host.address, to[0]), deque())
        times.append(now)
        while times[0] < now - WINDOW_S:
            times.popleft()
        self.most_packets = max(self.most_packets, len(times))
        if len(times) > self.packets_max:
            raise Violation(f"{len(times)} packets from {host.address} to {to[0]} in 10 s")


def sizes(subject: DhtNode) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and bound of everything that a node remembers."""
    send, desk, table = subject._dispatcher, subject._requests, subject._table
    open_now = send._transactions
    responder = subject._responder
    yield "routing table", len(table), 160 * routing_table.K
    yield "fullest bucket", max(map(len, table._buckets)), routing_table.K
    yield "addresses in the routing table", len(table._by_address), len(table)
    yield "machines in the routing table", len(table._by_ip), len(table)
    yield "nodes of one /24 in a bucket", _most_neighbours(subject), routing_table.PER_NETWORK_MAX
    yield "mutable items", len(responder._items.mutable_records), 1000
    yield "immutable values", len(responder._items.immutable_records), 1000
    peers = responder._peers
    yield "info hashes", len(peers._swarms), peers._info_hashes_max
    yield "largest swarm", max(map(len, peers._swarms.values()), default=0), peers._peers_max
    yield "torrent peers", peers._total, peers._peers_total_max
    yield "verdicts", len(subject._proofs._verdicts), proofs.VERDICTS_MAX
    yield "greetings", len(subject._greeted), node.GREETINGS_MAX
    yield "own addresses", len(subject._identity.addresses), 2
    yield "open transactions", len(open_now), transactions.PENDING_MAX
    yield "transaction ids", len(open_now._open), 2 * transactions.PENDING_MAX
    yield "lengths of ids", len(open_now._lengths), transactions._LENGTHS_MAX
    yield "silences", len(send._silences._since), dispatcher._SILENCES_MAX
    # A timer stays until its time, at most the request time-out, whatever it was for.
    yield "timers", len(send._timers), 4 * transactions.PENDING_MAX
    yield "young transactions", len(send._young), transactions.PENDING_MAX
    yield "queued operations", len(send._ready), requests.SEARCHES_MAX + requests.PUTS_MAX + 100
    yield "on the wire", send._on_wire, send.window
    yield "searches", len(desk._by_lookup), requests.SEARCHES_MAX + 3  # and the node's own
    yield "puts", len(desk._puts), requests.PUTS_MAX
    yield "remembered look-ups", len(subject._history._lookups), estimate.LOOKUPS_REMEMBERED_MAX
    history = subject._history
    yield "nodes in remembered store sets", history.nodes, history._nodes_max
    for search in desk._by_lookup:
        yield "contacts in a row", search.in_row, lookup.CANDIDATES_MAX
        yield "nodes asked in a look-up", search.sent, lookup.QUERIES_MAX
        yield "addresses known to a look-up", search.known, NAMES_MAX
        yield "votes in a look-up", len(search._votes), lookup.QUERIES_MAX
    check = subject._public._check
    heard = 0 if check is None else len(check.networks)
    yield "networks heard in a check", heard, public_address.CHECK_LOOKUPS * lookup.QUERIES_MAX
    yield "look-ups of a check", len(subject._public.check_targets), public_address.CHECK_LOOKUPS
    upkeep = subject._maintenance
    yield "bootstrap addresses", len(upkeep._bootstrap), maintenance.BOOTSTRAP_MAX


def _most_neighbours(subject: DhtNode) -> int:
    counts: dict[tuple[int, bytes], int] = {}
    for entry in subject._table._entries.values():
        if entry.network is not None:
            key = (entry.bucket, entry.network)
            counts[key] = counts.get(key, 0) + 1
    return max(counts.values(), default=0)


def check_bounds(host: Host) -> None:
    """Raise if anything that a node remembers is larger than it may be."""
    for name, size, bound in sizes(host.node):
        if size > bound:
            raise Violation(f"{name} of {host.address}: {size}, at most {bound} allowed")


def desk_sizes(desk: Desk) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and bound of everything that a relay's service and cache remember."""
    front, memory = desk.service, desk.cache.memory
    outliving = 0 if front._nursery is None else len(front._nursery.child_tasks)
    yield "keys known to be absent", len(front._absent), service.ABSENT_MAX
    yield "publishes that outlive their clients", outliving, service.OUTLIVING_MAX
    capacity = memory.table.capacity
    yield "packets", len(memory.table), capacity  # evicted at once, where nothing is waited for
    yield "floors", len(memory.floors), max(4 * capacity, floors._SAVED_MAX)
    yield "evictions to be saved", memory.floors.unsaved, 0  # without a disk, as is the next
    yield "packets to be saved", len(memory.backlog), 0
    yield "keys not on the disk", len(memory.floors._absent), floors._ABSENT_MAX
    requests_ = desk.driver.node._requests
    running = sum(map(len, requests_._running.values()))
    yield "shared look-ups", running, len(requests_._by_lookup)
    yield "handles of look-ups", len(requests_._by_handle), len(desk.driver._gets)
    yield "handles of puts", len(requests_._put_by_handle), len(desk.driver._puts)
    if isinstance(memory.table, PurePacketTable):  # the kernel's are made once, in one piece
        places = memory.table._places
        yield "ghosts", len(memory.table._ghosts), memory.table._ghosts_max
        yield "counts of uses", len(memory.table._uses), places
        yield "used packets", len(memory.table._used), places


def check_desk(desk: Desk) -> None:
    """Raise if anything that a relay remembers is larger than it may be."""
    for name, size, bound in desk_sizes(desk):
        if size > bound:
            raise Violation(f"{name} of a relay: {size}, at most {bound} allowed")


def _is_upkeep(subject: DhtNode, transaction: transactions.Transaction) -> bool:
    """Whether it is a ping, or of the node's search for its neighbours or its own address."""
    operation = transaction.operation
    if isinstance(operation, Lookup):
        return operation.target in (subject.node_id, *subject._public.check_targets)
    return isinstance(operation, Pings)


def check_idle(host: Host, now: float) -> None:
    """Raise if a node has kept something of work that ended `IDLE_S` before `now`.

    Its upkeep goes on for ever: pings and the search for its neighbours may be under way, each
    query for no longer than answers are accepted.
    """
    subject = host.node
    open_now = subject._dispatcher._transactions
    underway = set(open_now._open.values())
    oldest = host.clock(now) - open_now.request_timeout_s - 1e-3
    send, desk = subject._dispatcher, subject._requests
    left = {
        "handles of look-ups": len(desk._by_handle),
        "handles of puts": len(desk._put_by_handle),
        "puts": len(desk._puts),
        "look-ups for others": sum(search.done is None for search in desk._by_lookup.values()),
        "greetings": len(subject._greeted),
        "open transactions, but for upkeep": sum(not _is_upkeep(subject, one) for one in underway),
        "overdue transactions": sum(one.sent_at < oldest for one in underway),
        "transactions uncounted": abs(len(open_now) - len(underway)),
        "datagrams unsent": len(send._outbox),
        "events untold": len(subject._events),
    }
    for name, size in left.items():
        if size:
            raise Violation(f"{name} of {host.address}: {size} left when all was over")
    if send._on_wire != sum(transaction.counted for transaction in underway):
        raise Violation(f"{host.address} has miscounted what is on the wire")


def stored_items(host: Host, targets: list[bytes]) -> Iterator[MutableItem]:
    """Yield the items that a node stores under some targets."""
    for target in targets:
        item = host.node._responder._items.mutable(target)
        if item is not None:
            yield item


class StoreWatch:
    """What honest nodes store: never unsigned, never older than before, never on a forged token.

    Args:
        targets: of all keys that are used; may grow.
        forged_keys: keys whose items only ever came with a forged token.
    """

    def __init__(self, targets: list[bytes], forged_keys: frozenset[bytes]) -> None:
        self.targets = targets
        self._forged_keys = forged_keys
        self._seqs: dict[tuple[Address, bytes], int] = {}
        self._verified: set[MutableItem] = set()
        self.seen = 0

    def __call__(self, host: Host) -> None:
        """Look into the store of an honest host."""
        for item in stored_items(host, self.targets):
            self.seen += 1
            if item.public_key in self._forged_keys:
                raise Violation(f"{host.address} took a forged token")
            if item not in self._verified:
                if not item.verify():
                    raise Violation(f"{host.address} stores an item with a false signature")
                self._verified.add(item)
            key = (host.address, item.target)
            before = self._seqs.get(key)
            if before is not None and item.seq < before:
                raise Violation(f"{host.address} went back from seq {before} to {item.seq}")
            self._seqs[key] = item.seq


class Recency:
    """What one relay's callers have been given: never an older packet after a newer one.

    "After" means asked for when the newer one had been answered, or its PUT acknowledged.
    """

    def __init__(self) -> None:
        self._newest: dict[PublicKey, SignedPacket] = {}
        self.answers = 0

    def begin(self, key: PublicKey) -> SignedPacket | None:
        """Return what an answer to be asked for now must not be older than."""
        return self._newest.get(key)

    def given(self, packet: SignedPacket) -> None:
        """Note an answer or an acknowledged PUT."""
        newest = self._newest.get(packet.public_key)
        if newest is None or packet.more_recent_than(newest):
            self._newest[packet.public_key] = packet

    def check(self, packet: SignedPacket, least: SignedPacket | None, *, ties: bool) -> None:
        """Raise if an answer is older than `least`.

        `ties`: also if it has the same timestamp and smaller bytes. What was evicted is known by
        its timestamp alone.
        """
        self.answers += 1
        if least is None or (not ties and least.timestamp_us == packet.timestamp_us):
            return
        if least.more_recent_than(packet):
            raise Violation(
                f"a packet of {packet.timestamp_us} was served after one of {least.timestamp_us}"
            )
