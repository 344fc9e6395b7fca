"""Liars, by kind. Each has an address and an identifier and answers as suits it.

A liar is as plausible as it can be: it knows the whole network (`World.closest`) and all that
owners ever signed (`authors`), so that nothing but proofs can tell it from an honest node.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from relay import _kernels
from relay.dht import krpc
from relay.dht.events import Event
from relay.dht.items import MutableItem
from relay.dht.krpc import ErrorReply, KrpcDecodeError, Query, Response, Value
from relay.dht.node_id import Address, NodeInfo
from tests.simulation.authors import Author
from tests.simulation.world import World

KINDS: Final = (
    "silent",
    "mute",
    "wrong token",
    "forged signature",
    "rollback",
    "invented",
    "oversize",
    "malformed",
    "eclipse",
    "never forwards",
    "forgetful",
    "misnames us",
    "changes its id",
)
"""Those that wait to be asked."""

ACTIVE: Final = ("token thief", "flooder", "spoofer", "reflector")
"""Those that begin by themselves."""


class Ring:
    """What liars share: the world, what was ever signed, and each other.

    Args:
        world: where they live.
        authors: whose packets they know; the last one's they try to store with forged tokens.
    """

    def __init__(self, world: World, authors: list[Author], forged: Author) -> None:
        self.world = world
        self.by_target = {author.target: author for author in authors}
        self.forged = forged
        self.members: list[NodeInfo] = []
        self.tokens: dict[Address, bytes] = {}
        """What honest nodes gave to some member, by who gave it."""
        self.accepted = 0
        """Writes with a forged token that were acknowledged."""


class Liar:
    """A hostile machine; `kind` is one of `KINDS` or `ACTIVE`, or "sybil".

    Args:
        ring: its friends.
        kind: what it does.
        address: where it is.
        node_id: what it calls itself.
        pace_s: how often an active one does something.
    """

    def __init__(
        self, ring: Ring, kind: str, address: Address, node_id: bytes, pace_s: float = 8.0
    ) -> None:
        self.ring = ring
        self.kind = kind
        self.address = address
        self.node_id = node_id
        self.rng = ring.world.rng
        self._pace_s = pace_s if kind in ACTIVE else inf
        self._next = self._pace_s
        self._outbox: list[tuple[bytes, Address]] = []
        self._forged_writes: set[bytes] = set()
        self._shared: dict[bytes, int] = {}
        ring.members.append(NodeInfo(node_id, address))

    # A machine.

    def receive_datagram(self, payload: bytes, source: Address, now: float) -> None:
        if self._next == self._pace_s:
            self._next = now + self.rng.random() * self._pace_s
        try:
            message = krpc.decode(payload)
        except KrpcDecodeError:
            return
        if isinstance(message, Query):
            for reply in self._answers(message, source):
                self._outbox.append((reply, source))
        elif isinstance(message, Response):
            if message.transaction_id in self._forged_writes:
                self.ring.accepted += 1
            token = message.values.get(b"token")
            if isinstance(token, bytes):
                self.ring.tokens[source] = token

    def handle_deadline(self, now: float) -> None:
        if now >= self._next:
            self._next = now + self.rng.uniform(0.2, 1.8) * self._pace_s
            self._act()

    def next_deadline(self) -> float:
        return self._next

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def take_events(self) -> list[Event]:
        return []

    # Answers.

    def _answers(self, query: Query, source: Address) -> list[bytes]:
        kind, method = self.kind, query.method
        if kind == "silent" or (kind == "mute" and method in (b"get", b"put")):
            return []
        if kind == "malformed" and method != b"ping":
            return self._malformed(query)
        values: dict[bytes, Value] = {b"id": self.node_id}
        if kind == "changes its id":
            values[b"id"] = self.rng.randbytes(20)
        requester = source
        if kind == "misnames us":
            requester = ("93.184.216.34", 6881)
        if method in (b"put", b"announce_peer"):
            if kind in ("wrong token", "rollback"):
                return [krpc.encode(ErrorReply(query.transaction_id, 203, b"Bad token"))]
            if kind == "invented":
                text = b"Sequence number less than current."
                return [krpc.encode(ErrorReply(query.transaction_id, 302, text))]
        target = query.arguments.get(b"target", query.arguments.get(b"info_hash"))
        if isinstance(target, bytes) and len(target) == 20 and method != b"put":
            values[b"nodes"] = self._nodes(target)
            if method != b"find_node":
                values[b"token"] = self.rng.randbytes(900 if kind == "oversize" else 8)
            if method == b"get":
                values |= self._lie(target)
        return [krpc.encode(Response(query.transaction_id, values, requester))]

    def _nodes(self, target: bytes) -> bytes:
        if self.kind in ("never forwards", "sybil"):
            return b""
        if self.kind == "eclipse":
            friends = self.rng.sample(self.ring.members, min(8, len(self.ring.members)))
            # Their true addresses, under names ever closer to the target; and some without anybody.
            names = (NodeInfo(target[:4] + self.rng.randbytes(16), it.address) for it in friends)
            nobody = NodeInfo(target[:8] + self.rng.randbytes(12), self._nowhere())
            return krpc.pack_nodes([*names, nobody])
        packed = self.ring.world.closest(target)
        if self.kind == "oversize":
            return packed * 20
        return packed

    def _nowhere(self) -> Address:
        return (f"{self.rng.randrange(20, 200)}.7.7.{self.rng.randrange(256)}", 6881)

    def _lie(self, target: bytes) -> Mapping[bytes, Value]:
        author = self.ring.by_target.get(target)
        if author is None:
            return {}
        item = author.items[-1]
        if self.kind == "rollback":
            return _as_values(author.items[0])
        if self.kind == "forged signature":
            return _as_values(item) | {b"sig": self.rng.randbytes(64)}
        if self.kind == "invented":
            return _as_values(item) | {b"seq": item.seq + self.rng.randrange(1, 2**40)}
        if self.kind == "oversize":
            return _as_values(item) | {b"v": bytes(self.rng.choice((1001, 1400, 60_000)))}
        return {}

    def _malformed(self, query: Query) -> list[bytes]:
        rng, t = self.rng, query.transaction_id
        choice = rng.randrange(8)
        if choice == 0:
            return [rng.randbytes(rng.randrange(1, 200))]
        if choice == 1:
            return [b"d1:rd2:id20:%be1:t%d:%b1:y1:r" % (self.node_id, len(t), t)]
        if choice == 2:
            return [b"d1:rd2:id" + b"l" * 1500]
        if choice == 3:
            odd: Value = {b"id": self.node_id, b"nodes": [1, [2], {}], b"token": 5, b"values": {}}
            return [_kernels.encode({b"r": odd, b"t": t, b"y": b"r", b"ip": b"123"})]
        if choice == 4:
            return [krpc.encode(ErrorReply(t, rng.choice((-1, 0, 2**40)), rng.randbytes(900)))]
        if choice == 5:
            values: dict[bytes, Value] = {b"id": self.node_id, b"k": b"", b"seq": 2**64, b"v": []}
            return [krpc.encode(Response(t, values, ("0.0.0.0", 0)))]  # noqa: S104
        if choice == 6:
            return [krpc.encode(Query(t, b"get", {b"id": self.node_id}))]
        good = krpc.encode(Response(t, {b"id": self.node_id, b"nodes": rng.randbytes(77)}))
        return [good[: rng.randrange(len(good))], good, good, good]

    # What active ones do.

    def _act(self) -> None:
        world, rng = self.ring.world, self.rng
        victims = [host for host in world.hosts.values() if host.honest]
        if not victims:
            return
        me = world.hosts.get(self.address)
        if me is None:
            return
        if self.kind == "token thief":
            self._steal([host.address for host in rng.choices(victims, k=4)])
        elif self.kind == "flooder":
            victim = rng.choice(victims).address
            for _ in range(rng.randrange(5, 40)):
                self._outbox.append((self._random_query(), victim))
        elif self.kind == "reflector":  # so that one honest node bans another
            via, other = rng.choice(victims), rng.choice(victims).address
            for _ in range(rng.randrange(20, 80)):
                world.transmit(me, self._random_query(), via.address, source=other)
        else:  # in the names of honest nodes, which the victim may know
            victim, other = rng.choice(victims), rng.choice(victims).address
            token = self.ring.tokens.get(victim.address, b"")
            for query in (self._random_query(), self._forged_put(token)):
                world.transmit(me, query, victim.address, source=other)

    def _steal(self, victims: list[Address]) -> None:
        rng = self.rng
        for victim in victims:
            # An own token of another node, one bit off, cut, lengthened; none; a guess.
            tokens = [token for giver, token in self.ring.tokens.items() if giver != victim]
            other = rng.choice(tokens) if tokens else rng.randbytes(8)
            own = self.ring.tokens.get(victim)
            forged = [other, b"", rng.randbytes(8), rng.randbytes(4), other[:-1], other + b"\0"]
            if own is not None:
                at = rng.randrange(len(own)) if own else 0
                forged += [own[:at] + bytes([own[at] ^ 1 << rng.randrange(8)]) + own[at + 1 :]]
            for token in forged:
                self._outbox.append((self._forged_put(token), victim))
            arguments: dict[bytes, Value] = {b"id": self.node_id, b"target": rng.randbytes(20)}
            self._outbox.append((krpc.encode(Query(b"tokn", b"get", arguments)), victim))

    def _forged_put(self, token: bytes) -> bytes:
        item = self.ring.forged.items[0]
        transaction_id = self.rng.randbytes(4)
        self._forged_writes.add(transaction_id)
        if len(self._forged_writes) > 1000:
            self._forged_writes.pop()
        arguments = {b"id": self.node_id, b"target": item.target, b"token": token}
        return krpc.encode(Query(transaction_id, b"put", arguments | _as_values(item)))

    def _random_query(self) -> bytes:
        rng = self.rng
        arguments: dict[bytes, Value] = {b"id": rng.randbytes(20), b"target": rng.randbytes(20)}
        arguments[b"info_hash"] = rng.randbytes(20)
        method = rng.choice((b"ping", b"find_node", b"get", b"get_peers", b"vote"))
        return krpc.encode(Query(rng.randbytes(2), method, arguments))


def _as_values(item: MutableItem) -> dict[bytes, Value]:
    return {
        b"k": item.public_key,
        b"seq": item.seq,
        b"sig": item.signature,
        b"v": _kernels.decode(item.v_encoded),
    }
