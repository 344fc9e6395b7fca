"""The front desk: look-ups and puts on behalf of callers, shared where they want the same.

A caller holds a handle; a `_Search` is a look-up with everybody who waits for it: handles,
puts that need its nodes, and the node's own upkeep. Concurrent gets of one target share a
search if the running one asks for at least as much; who joins late is told what was found
before. One that has heard nothing so far is not joined for long: it may have lost all that it
sent to an outage that is over, and whoever comes after that is not to share its fate. The store
sets of recent look-ups save a put its own.

Bounded: `SEARCHES_MAX` look-ups and `PUTS_MAX` puts at a time; beyond that new ones are
refused at once, which is better than making all of them late.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from relay import _kernels
from relay._kernels import Value
from relay.dht.collectors import Collector, ItemCollector, PeerCollector, ValueCollector
from relay.dht.counters import NodeCounters
from relay.dht.dispatcher import Dispatcher
from relay.dht.estimate import LookupHistory, StoreNode
from relay.dht.events import (
    Event,
    GetFinished,
    GetHandle,
    GetOutcome,
    Handle,
    ItemReceived,
    PeersReceived,
    PutAssured,
    PutFailure,
    PutFinished,
    PutHandle,
    PutOutcome,
    ValueReceived,
)
from relay.dht.identity import Identity
from relay.dht.items import MutableItem, immutable_target, mutable_target
from relay.dht.krpc import QueryTemplate
from relay.dht.lookup import Lookup
from relay.dht.node_id import ID_BYTES, NodeInfo
from relay.dht.proofs import Proofs
from relay.dht.put import Put, StoreRound, Write
from relay.dht.traffic import Traffic

SEARCHES_MAX: Final = 1024
PUTS_MAX: Final = 1024
STALLED_S: Final = 0.5
"""From then on a look-up without any answer is not joined. Each client's quota bounds how many
there may be of one key."""

_Key: TypeAlias = tuple[str, bytes]
"""What a search is for: a kind of value, and the target."""

_OVERLOADED: Final = PutOutcome(0, 0, PutFailure.OVERLOADED)
_ITEM: Final = "item"
_VALUE: Final = "value"
_PEERS: Final = "peers"
_NODES: Final = "nodes"
_TOKENS: Final = "tokens"

_GIVING_TOKENS: Final = (_ITEM, _VALUE, _PEERS, _TOKENS)

Done: TypeAlias = Callable[[Lookup, float], None]


class _Search:
    """A look-up and all who wait for it; `seq` is what nodes were told to leave out."""

    __slots__ = ("done", "handles", "key", "lookup", "puts", "seq", "since")

    def __init__(
        self, key: _Key, lookup: Lookup, seq: int | None, done: Done | None, since: float
    ) -> None:
        self.since = since
        self.key = key
        self.lookup = lookup
        self.seq = seq
        self.done = done
        self.handles: dict[GetHandle, int | None] = {}
        """Who waits, and above which seq items are wanted."""
        self.puts: list[Put] = []

    def serves(self, seq: int | None) -> bool:
        """Whether the search finds everything that one with `seq` would."""
        return self.seq is None or (seq is not None and self.seq <= seq)

    def stalled(self, now: float) -> bool:
        """Whether it has asked and heard nothing for so long that a new one may do better."""
        lookup = self.lookup
        return lookup.sent > 0 and lookup.responded == 0 and now - self.since >= STALLED_S


class Requests:
    """Starts, shares and ends look-ups and puts.

    Args:
        dispatcher: sends the queries.
        history: store sets of earlier look-ups; told of each finished one.
        identity: who we are.
        proofs: verifies the items that are found.
        counters: counted into.
        traffic: likewise.
        emit: takes the events for the driver.
        seed: gives a new look-up its first contacts.
        on_lookup: told of every finished look-up, with its responders.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        history: LookupHistory,
        identity: Identity,
        proofs: Proofs,
        counters: NodeCounters,
        traffic: Traffic,
        emit: Callable[[Event], None],
        seed: Callable[[Lookup, float], None],
        on_lookup: Callable[[Lookup, float], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._history = history
        self._identity = identity
        self._proofs = proofs
        self._counters = counters
        self._traffic = traffic
        self._emit = emit
        self._seed = seed
        self._on_lookup = on_lookup
        self._running: dict[_Key, list[_Search]] = {}
        self._by_lookup: dict[Lookup, _Search] = {}
        self._by_handle: dict[GetHandle, _Search] = {}
        self._puts: dict[tuple[object, ...], Put] = {}
        self._put_by_handle: dict[PutHandle, Put] = {}

    # Look-ups.

    def get_item(
        self, public_key: bytes, salt: bytes | None, seq: int | None, now: float
    ) -> GetHandle:
        """Look for a mutable item; `seq`: only for one with a higher sequence number."""
        target = mutable_target(public_key, salt)
        collector = ItemCollector(public_key, salt, self._proofs.holds)
        return self._get((_ITEM, target), collector, b"get", b"target", seq, now)

    def get_value(self, target: bytes, now: float) -> GetHandle:
        """Look for an immutable value."""
        return self._get((_VALUE, target), ValueCollector(target), b"get", b"target", None, now)

    def get_peers(self, info_hash: bytes, now: float) -> GetHandle:
        """Look for torrent peers."""
        return self._get(
            (_PEERS, info_hash), PeerCollector(), b"get_peers", b"info_hash", None, now
        )

    def find_node(self, target: bytes, now: float) -> GetHandle:
        """Look for the nodes closest to a target."""
        return self._get((_NODES, target), None, b"find_node", b"target", None, now)

    def refresh(self, target: bytes, now: float, prepare: Done, done: Done) -> None:
        """Look for the nodes closest to `target` for the node's own upkeep.

        Args:
            target: 20 bytes.
            now: monotonic seconds.
            prepare: gives the look-up its first contacts, in place of `seed`.
            done: called when the look-up has ended.
        """
        search = self._open((_NODES, target), None, b"find_node", b"target", None, done, now)
        prepare(search.lookup, now)
        self._dispatcher.submit(search.lookup, now)

    def _get(
        self,
        key: _Key,
        collector: Collector | None,
        method: bytes,
        target_name: bytes,
        seq: int | None,
        now: float,
    ) -> GetHandle:
        handle = GetHandle(key[1])
        search = self._shared(key, seq, now)
        if search is not None:
            self._join(search, handle, seq)
            return handle
        if len(self._by_lookup) >= SEARCHES_MAX:
            self._counters.lookups_refused += 1
            self._emit(GetFinished(handle, GetOutcome(None, 0, 0, 0, overloaded=True)))
            return handle
        search = self._open(key, collector, method, target_name, seq, None, now)
        self._join(search, handle, seq)
        self._seed(search.lookup, now)
        self._dispatcher.submit(search.lookup, now)
        return handle

    def _shared(self, key: _Key, seq: int | None, now: float) -> _Search | None:
        for search in self._running.get(key, ()):
            if search.serves(seq) and not search.stalled(now):
                return search
        return None

    def _open(
        self,
        key: _Key,
        collector: Collector | None,
        method: bytes,
        target_name: bytes,
        seq: int | None,
        done: Done | None,
        now: float,
    ) -> _Search:
        identity = self._identity
        arguments: dict[bytes, Value] = {b"id": identity.node_id, target_name: key[1]}
        if seq is not None:
            arguments[b"seq"] = seq
        query = QueryTemplate(method, arguments, identity.read_only)
        lookup = Lookup(key[1], query, identity.node_id, identity.addresses, collector)
        lookup.on_found = self._on_found
        lookup.limit_crowd(self._history.crowd_distance.to_bytes(ID_BYTES, "big"))
        search = _Search(key, lookup, seq, done, now)
        self._running.setdefault(key, []).append(search)
        self._by_lookup[lookup] = search
        self._counters.lookups += 1
        return search

    def _close(self, search: _Search) -> None:
        del self._by_lookup[search.lookup]
        siblings = self._running[search.key]
        siblings.remove(search)
        if not siblings:
            del self._running[search.key]

    def _join(self, search: _Search, handle: GetHandle, seq: int | None) -> None:
        search.handles[handle] = seq
        self._by_handle[handle] = search
        collector = search.lookup.collector
        if isinstance(collector, ItemCollector | ValueCollector | PeerCollector):
            for found in collector.found:
                self._tell(handle, seq, found)

    def _on_found(self, lookup: Lookup, found: object) -> None:
        search = self._by_lookup.get(lookup)
        if search is not None:
            for handle, seq in search.handles.items():
                self._tell(handle, seq, found)

    def _tell(self, handle: GetHandle, seq: int | None, found: object) -> None:
        if isinstance(found, MutableItem):
            if seq is None or found.seq > seq:
                self._emit(ItemReceived(handle, found))
        elif isinstance(found, bytes):
            self._emit(ValueReceived(handle, found))
        elif isinstance(found, tuple):
            self._emit(PeersReceived(handle, found))

    def finish_lookup(self, lookup: Lookup, now: float) -> None:
        """A look-up has ended: tell everybody, remember it, start the puts that waited."""
        search = self._by_lookup.get(lookup)
        if search is None:
            return
        self._close(search)
        self._counters.items_invalid += lookup.invalid
        self._traffic.lookups_s[search.key[0]].observe(now - search.since)
        closest = [
            StoreNode(contact.id, contact.address, contact.token)
            for contact in lookup.responders()
            if contact.id is not None
        ]
        starved, cut_short = lookup.starved, lookup.cut_short
        store_set = (
            ()
            if starved
            else self._history.remember(lookup.target, lookup.candidates(), closest, now)
        )
        if cut_short:  # what it saw is not what there is
            self._history.forget(lookup.target)
        for handle, seq in search.handles.items():
            del self._by_handle[handle]
            outcome = _outcome(lookup, closest, seq, overloaded=starved or cut_short)
            self._emit(GetFinished(handle, outcome))
        if search.done is not None:
            search.done(lookup, now)
        self._on_lookup(lookup, now)
        for put in search.puts:
            if not starved:
                self._write(put, store_set, now, cached=False)
            elif put.looked_up:  # nobody would look for it where it could be stored now
                self._give_up(put)
            else:  # nodes that were busy when another's look-up began may be so no longer
                put.looked_up = True
                self._find_store_set(put, now)

    # Puts.

    def put_item(self, item: MutableItem, cas: int | None, now: float) -> PutHandle:
        """Store a mutable item."""
        arguments: dict[bytes, Value] = {
            b"k": item.public_key,
            b"seq": item.seq,
            b"sig": item.signature,
            b"target": item.target,
            b"v": _kernels.decode(item.v_encoded),
        }
        if item.salt is not None:
            arguments[b"salt"] = item.salt
        if cas is not None:
            arguments[b"cas"] = cas
        return self._put(
            Write(item.target, b"put", arguments, (item, cas)),
            (_ITEM, item.target),
            ItemCollector(item.public_key, item.salt, self._proofs.holds),
            now,
        )

    def put_value(self, value: Value, now: float) -> PutHandle:
        """Store an immutable value."""
        v_encoded = _kernels.encode(value)
        target = immutable_target(v_encoded)
        write = Write(target, b"put", {b"target": target, b"v": value}, (b"put", v_encoded))
        return self._put(write, (_VALUE, target), ValueCollector(target), now)

    def announce(self, info_hash: bytes, port: int | None, now: float) -> PutHandle:
        """Announce ourselves as a torrent peer; port None: the one our datagrams come from."""
        arguments: Mapping[bytes, Value] = {
            b"info_hash": info_hash,
            b"implied_port": int(port is None),
            b"port": port or 0,
        }
        write = Write(info_hash, b"announce_peer", arguments, (b"announce", info_hash, port))
        return self._put(write, (_TOKENS, info_hash), None, now)

    def _put(self, write: Write, key: _Key, collector: Collector | None, now: float) -> PutHandle:
        handle = PutHandle(write.target)
        put = self._puts.get(write.identity)
        if put is None:
            if len(self._puts) >= PUTS_MAX or len(self._by_lookup) >= SEARCHES_MAX:
                self._counters.lookups_refused += 1
                self._traffic.note_put(_OVERLOADED)
                self._emit(PutFinished(handle, _OVERLOADED))
                return handle
            put = Put(write, key, collector, self._on_assured)
            self._puts[write.identity] = put
            self._counters.puts += 1
            put.handles.append(handle)
            self._put_by_handle[handle] = put
            store_set = self._history.store_set(write.target, now)
            if store_set:
                self._write(put, store_set, now, cached=True)
            else:
                self._find_store_set(put, now)
            return handle
        put.handles.append(handle)
        self._put_by_handle[handle] = put
        return handle

    def _find_store_set(self, put: Put, now: float) -> None:
        """Wait for a look-up of the target that gives tokens: a running one or a new one."""
        for kind in _GIVING_TOKENS:
            for running in self._running.get((kind, put.write.target), ()):
                if not running.stalled(now):
                    running.puts.append(put)
                    return
        if len(self._by_lookup) >= SEARCHES_MAX:
            self._give_up(put)
            return
        search = self._open(put.key, put.collector, b"get", b"target", None, None, now)
        search.puts.append(put)
        put.looked_up = True
        self._seed(search.lookup, now)
        self._dispatcher.submit(search.lookup, now)

    def _write(self, put: Put, nodes: tuple[StoreNode, ...], now: float, *, cached: bool) -> None:
        identity = self._identity
        writes = put.round(nodes, identity.node_id, read_only=identity.read_only, cached=cached)
        self._dispatcher.submit(writes, now)

    def _on_assured(self, put: Put) -> None:
        for handle in put.handles:
            self._emit(PutAssured(handle))

    def finish_round(self, writes: StoreRound, now: float) -> None:
        """A round of writes has ended: make a second one, or tell everybody."""
        put = writes.put
        if writes.lapsed() and not put.refreshed:
            put.refreshed = True
            self._history.forget(put.write.target)
            self._find_store_set(put, now)
            return
        self._end_put(put, put.outcome(writes))

    def _give_up(self, put: Put) -> None:
        """End a put for which nothing more can be done now; what its first round stored counts."""
        stored = len(put.stored_at)
        failure = None if stored else PutFailure.OVERLOADED
        self._end_put(put, PutOutcome(stored, len(put.contacted), failure))

    def _end_put(self, put: Put, outcome: PutOutcome) -> None:
        del self._puts[put.write.identity]
        self._traffic.note_put(outcome)
        for handle in put.handles:
            del self._put_by_handle[handle]
            self._emit(PutFinished(handle, outcome))

    # Both.

    def release(self, handle: Handle) -> None:
        """Nobody waits for `handle` any longer; a look-up that nobody needs stops.

        A put goes on: to stop it halfway would leave a value on some of its nodes only.
        """
        if isinstance(handle, PutHandle):
            put = self._put_by_handle.pop(handle, None)
            if put is not None:
                put.handles.remove(handle)
            return
        search = self._by_handle.pop(handle, None)
        if search is None:
            return
        del search.handles[handle]
        if not search.handles and not search.puts and search.done is None:
            self._close(search)
            self._dispatcher.abandon(search.lookup)


def _outcome(
    lookup: Lookup, closest: list[StoreNode], seq: int | None, *, overloaded: bool
) -> GetOutcome:
    best = lookup.collector.best if isinstance(lookup.collector, ItemCollector) else None
    if best is not None and seq is not None and best.seq <= seq:
        best = None
    return GetOutcome(
        best,
        lookup.sent,
        lookup.responded,
        lookup.usable,
        tuple(NodeInfo(node.id, node.address) for node in closest),
        overloaded=overloaded,
    )
