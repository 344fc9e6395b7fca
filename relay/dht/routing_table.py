"""The nodes we know, in buckets by their distance from us.

One bucket of `k` nodes for each distance 1 to 160, never split further; the near buckets
stay nearly empty by themselves. What may enter:

- Only nodes that answered us; the caller sees to that.
- One node per IP address, and two per /24 in a bucket, so that whoever owns one machine or
  one small network cannot fill the table. Exempt addresses (`node_id.is_exempt`) are free of
  both.
- A full bucket takes a newcomer only in place of its head, the node seen longest ago, and
  only if that one is stale. Old nodes are the likeliest to stay, and a flood of new ones
  cannot wash them out (Kademlia, section 2.2).

Departures from the paper: a bucket is not split by its place near our own identifier but by
distance alone, and there is no replacement cache; both as in the reference node.

Source: BEP 5, BEP 42; design/protocol.md, section 7.5; issue 3, section 4.
Sans-IO: callers pass `now`, in monotonic seconds.
"""

from typing import Final

from relay._kernels import IdTable, bucket_index
from relay.dht import krpc
from relay.dht.node_id import Address, NodeInfo, ip_octets, is_exempt

K: Final = 20
"""Nodes per bucket, and nodes named in an answer."""

STALE_AFTER_S: Final = 900.0
"""A node not heard of for 15 minutes is no longer worth its place (BEP 5: "questionable")."""

PER_NETWORK_MAX: Final = 2
"""Nodes of one /24 in a bucket."""

_BUCKETS: Final = 160


class _Entry:
    """A node in the table.

    `slot` is its number in the table of identifiers, `network` its /24 unless it is exempt.
    """

    __slots__ = ("bucket", "network", "node", "seen", "slot")

    def __init__(self, node: NodeInfo, bucket: int, seen: float) -> None:
        self.node = node
        self.bucket = bucket
        self.seen = seen
        self.slot = -1
        ip = node.address[0]
        self.network = None if is_exempt(ip) else ip_octets(ip)[:3]


class RoutingTable:
    """At most 160 * `k` nodes. See the module for who may enter.

    Args:
        own_id: our identifier, 20 bytes; never in the table.
        k: nodes per bucket.

    >>> table = RoutingTable(bytes(20))
    >>> table.add(NodeInfo(bytes(19) + b"a", ("127.0.0.1", 6881)), now=0.0)
    True
    >>> [node.address for node in table.closest(bytes(20))]
    [('127.0.0.1', 6881)]
    """

    def __init__(self, own_id: bytes, k: int = K) -> None:
        self._k = k
        self.ids: Final = IdTable(k * _BUCKETS)
        """Compact node info by slot: the part that the datagram lane reads, too."""
        self._clear(own_id)

    @property
    def own_id(self) -> bytes:
        """Our identifier, the centre of the table."""
        return self._own_id

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, node: NodeInfo) -> bool:
        """Whether exactly this node, identifier and address, is in the table."""
        entry = self._entries.get(node.id)
        return entry is not None and entry.node == node

    def nodes(self) -> list[NodeInfo]:
        """Return all nodes, in no particular order."""
        return [entry.node for entry in self._entries.values()]

    def closest(self, target: bytes, count: int = K) -> list[NodeInfo]:
        """Return at most `count` nodes: secure ones first, then by distance to `target`.

        This is the order in which nodes are named to others (protocol.md, section 7.2).

        Raises:
            ValueError: `target` is not 20 bytes long.
        """
        by_slot = self._by_slot
        return [by_slot[slot].node for slot in self.ids.closest(target, count)]

    def closest_compact(self, target: bytes, count: int = K) -> bytes:
        """Return `closest` as compact node info, 26 bytes each (`krpc.pack_nodes`)."""
        return self.ids.closest_compact(target, count)

    def add(self, node: NodeInfo, now: float) -> bool:
        """Enter a node that has just answered us, or note that a known one has.

        A known identifier at another port of its address moves there. At another address it
        is believed only once the old one is stale, because identifiers are free to copy. A new
        identifier at a known address and port replaces the old one: that node restarted.

        Args:
            node: 20 bytes of identifier; the address the answer came from.
            now: monotonic seconds.

        Returns:
            Whether the node is in the table now.
        """
        known = self._entries.get(node.id)
        if known is not None:
            if known.node.address == node.address:
                self._touch(known, now)
                return True
            if known.node.address[0] != node.address[0] and not self._is_stale(known, now):
                return False
            self._drop(known)
        entry = _Entry(node, bucket_index(self._own_id, node.id), now)
        if entry.bucket == 0 or not self._make_room(entry, now):
            return False
        self._insert(entry)
        return True

    def remove(self, node_id: bytes) -> bool:
        """Forget a node; returns whether it was known."""
        entry = self._entries.get(node_id)
        if entry is None:
            return False
        self._drop(entry)
        return True

    def stale(self, now: float) -> list[NodeInfo]:
        """Return the nodes not heard of for `STALE_AFTER_S`; removing them is up to the caller."""
        return self.unseen_since(now, STALE_AFTER_S)

    def unseen_since(self, now: float, seconds: float) -> list[NodeInfo]:
        """Return the nodes not heard of for at least `seconds` before `now`."""
        return [e.node for e in self._entries.values() if now - e.seen >= seconds]

    def reset(self, own_id: bytes) -> None:
        """Centre the table on a new identifier of ours.

        The known nodes move to their new buckets, the most recently seen ones first; those that
        find no place are forgotten.
        """
        entries = sorted(self._entries.values(), key=lambda entry: entry.seen, reverse=True)
        self._clear(own_id)
        kept: list[_Entry] = []
        for old in entries:
            entry = _Entry(old.node, bucket_index(own_id, old.node.id), old.seen)
            if entry.bucket and self._make_room(entry, entry.seen):
                self._insert(entry)
                kept.append(entry)
        for entry in reversed(kept):  # heads are the nodes seen longest ago
            self._touch(entry, entry.seen)

    def _clear(self, own_id: bytes) -> None:
        self._own_id = own_id
        self.ids.clear_all()
        self._by_slot: dict[int, _Entry] = {}
        self._free_slots = list(range(self._k * _BUCKETS - 1, -1, -1))
        self._entries: dict[bytes, _Entry] = {}
        self._by_address: dict[Address, _Entry] = {}
        self._by_ip: dict[str, _Entry] = {}  # not the exempt ones
        # A bucket's dictionary is in the order of last sight: its first entry is the head.
        self._buckets: list[dict[bytes, _Entry]] = [{} for _ in range(_BUCKETS + 1)]

    def _make_room(self, entry: _Entry, now: float) -> bool:
        """Drop the one node that must yield to `entry`, if any; False if there is no place."""
        yielding = self._by_address.get(entry.node.address)
        if yielding is None and entry.network is not None:
            yielding = self._by_ip.get(entry.node.address[0])
            if yielding is not None and not self._is_stale(yielding, now):
                return False
        if yielding is not None:
            self._drop(yielding)
        bucket = self._buckets[entry.bucket]
        if entry.network is not None:
            neighbours = [e for e in bucket.values() if e.network == entry.network]
            if len(neighbours) >= PER_NETWORK_MAX:
                if not self._is_stale(neighbours[0], now):
                    return False
                self._drop(neighbours[0])
        if len(bucket) < self._k:
            return True
        head = next(iter(bucket.values()))
        if not self._is_stale(head, now):
            return False
        self._drop(head)
        return True

    def _insert(self, entry: _Entry) -> None:
        node = entry.node
        entry.slot = self._free_slots.pop()
        self.ids.set(entry.slot, krpc.pack_nodes((node,)), node.secure)
        self._by_slot[entry.slot] = entry
        self._entries[node.id] = entry
        self._by_address[node.address] = entry
        if entry.network is not None:
            self._by_ip[node.address[0]] = entry
        self._buckets[entry.bucket][node.id] = entry

    def _drop(self, entry: _Entry) -> None:
        node = entry.node
        self.ids.clear(entry.slot)
        self._free_slots.append(entry.slot)
        del self._by_slot[entry.slot]
        del self._entries[node.id]
        del self._by_address[node.address]
        if entry.network is not None:
            del self._by_ip[node.address[0]]
        del self._buckets[entry.bucket][node.id]

    def _touch(self, entry: _Entry, now: float) -> None:
        entry.seen = now
        bucket = self._buckets[entry.bucket]
        bucket[entry.node.id] = bucket.pop(entry.node.id)

    @staticmethod
    def _is_stale(entry: _Entry, now: float) -> bool:
        return now - entry.seen >= STALE_AFTER_S
