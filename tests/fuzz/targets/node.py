"""The DHT node as a state machine: datagrams, time and commands, in any order.

Two nodes go through the same history: one with the kernels in use, behind its native responder
if there is one, and one with the others. All they send, tell and count is equal, and
whatever happened, everything that was begun comes to an end.

An input is a byte of settings, then steps: a byte that says which, then what it needs. Whatever is
missing at the end is zero.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from nacl.signing import SigningKey

from tests.fuzz import vectors
from tests.fuzz.twins import other_kernels
from tests.support.chance import seeded


def _world() -> SimpleNamespace:
    """The modules of the relay that are used here, as they are imported just now."""
    rooms = ("budget", "dispatcher", "items", "krpc", "node", "node_id")
    return SimpleNamespace(
        kernels=import_module("relay._kernels"),
        **{room: import_module(f"relay.dht.{room}") for room in rooms},
    )


ours = _world()
with other_kernels():
    theirs = _world()
assert {ours.kernels.IMPLEMENTATION, theirs.kernels.IMPLEMENTATION} == {"pure", "compiled"}

RAW, RESPONSE, ANSWER, ERROR, QUERY, WAIT, DEADLINE, COMMAND, BATCH = range(9)
STEPS_MAX = 60
CELLS = 64
COUNTERS = fields(import_module("relay.dht.counters").NodeCounters)
INPUT_BYTES_MAX = 1500
PAUSES_S = (0.0, 0.001, 0.05, 0.3, 1.0, 2.5, 10.0, 70.0, 301.0, 901.0)
PACKETS_TO_ONE_MAX = 45
"""In 10 seconds to a public address, answers too; libtorrent bans who sends more than 50."""
DICTIONARY = (b"5:nodes26:", b"5:token8:", b"6:valuesl6:", b"1:v5:", b"3:seqi1e", b"1:k32:",
              b"3:sig64:", b"d1:rd2:id20:", b"e1:t2:aa1:y1:re", b"2:ip6:", b"2:roi1e")  # fmt: skip

Address = tuple[str, int]


class _Input:
    """Hands out an input, piece by piece; zeros when it is at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        octets = self._data[self._at : self._at + size]
        self._at += size
        return octets

    def byte(self) -> int:
        return (self.take(1) or b"\0")[0]

    def text(self) -> bytes:
        return self.take(self.byte())


# ---------------------------------------------------------------------------- who is there

SOURCES: list[Address] = [
    ("203.0.113.2", 6881), ("198.51.100.3", 6881), ("198.51.100.3", 7000), ("10.0.0.2", 6881),
    ("127.0.0.1", 4000), ("93.184.216.34", 1), ("203.0.113.2", 0), ("192.0.2.1", 6881),
]  # fmt: skip
_CHANCE = seeded("nodes")
POOL = [
    ours.node_id.NodeInfo(
        ours.node_id.secure_id(ip, _CHANCE) if number % 3 else _CHANCE.randbytes(20),
        (ip, 1 + number % 7 * 1000),
    )
    for number in range(64)
    for ip in [f"198.18.{number % 9}.{number % 23}" if number % 8 else f"10.0.1.{number}"]
]
KEYS = [SigningKey(bytes([number]) * 32) for number in (1, 2)]


def _item(number: int) -> tuple[bytes, int, bytes, bytes, bytes | None]:
    """Key, sequence number, value, signature, salt; every fourth one is forged."""
    key, seq = KEYS[number & 1], (number >> 1) % 4 - 1
    salt = (None, b"salt", b"", None)[number >> 3 & 3]
    value = b"%d:%b" % (number % 5 * 200, b"x" * (number % 5 * 200))
    unsigned = ours.items.MutableItem(key.verify_key.encode(), seq, value, bytes(64), salt)
    signature = key.sign(unsigned.signable).signature
    if number >> 5 & 1:
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    return key.verify_key.encode(), seq, value, signature, salt


ITEMS = [_item(number) for number in range(64)]
TARGETS = [ours.items.MutableItem(*item).target for item in ITEMS[:4]] + [
    *(bytes(20), b"\xff" * 20, POOL[0].id, ours.items.immutable_target(b"5:hello")),
]
METHODS = [b"ping", b"find_node", b"get_peers", b"announce_peer", b"get", b"put", b"vote", b""]


# ---------------------------------------------------------------------------- the two nodes


def _limit(world: SimpleNamespace, interval_s: float, burst: int) -> Any:
    with patch.object(world.budget, "KEYS_MAX", CELLS):
        return world.budget.QueryLimit(interval_s, burst)


def _counts(node: Any) -> list[int]:
    return [getattr(node.counters, field.name) for field in COUNTERS]


class _Twins:
    """Two nodes with one history."""

    def __init__(self, settings: int) -> None:
        self.now = 1000.0
        self.open: deque[tuple[bytes, Address]] = deque(maxlen=64)
        self.tokens: dict[str, bytes] = {}
        self.handles: list[tuple[Any, Any]] = []
        self.unfinished = [0, 0]
        self.sent_at: dict[str, deque[float]] = defaultdict(deque)
        self.nodes = [self._make(world, settings) for world in (ours, theirs)]
        self.settle()

    def _make(self, world: SimpleNamespace, settings: int) -> Any:
        budget = world.budget
        smaller = partial(budget.SourceBudgets, cells=CELLS)  # made a hundred times faster
        with patch.object(world.node, "SourceBudgets", smaller):
            return world.node.DhtNode(
                rng=seeded(1),
                secret=bytes(range(32)),
                now=self.now,
                local_address=("192.0.2.1", 6881),
                server_mode=(True, True, "auto", False)[settings & 3],
                public_ip="192.0.2.1" if settings & 4 else None,
                bootstrap=[SOURCES[0], SOURCES[3]] if settings & 16 else [],
                nodes=POOL[: 40 if settings & 32 else 0],
                query_filter=_limit(world, 0.5, 3) if settings & 8 else None,
            )

    def do(self, *actions: Any) -> None:
        """Do the same to both; an action takes a node and its world."""
        for action in actions:
            for node, world in zip(self.nodes, (ours, theirs), strict=True):
                action(node, world)
        self.settle()

    def receive(self, payload: bytes, source: Address) -> None:
        for node in self.nodes:
            reply = None
            if node.native_responder is not None and source[1]:
                packed = ours.krpc.pack_address(source)
                reply = node.native_responder.answer(payload, packed, self.now)
            if reply is None:
                node.receive_datagram(payload, source, self.now)
            elif reply:
                node._dispatcher.reply(reply, source)
        self.settle()

    def receive_together(self, batch: list[tuple[bytes, Address]]) -> None:
        """One node gets them one by one, the other together: it makes no difference."""
        for payload, source in batch:
            self.nodes[0].receive_datagram(payload, source, self.now)
        self.nodes[1].receive_datagrams(batch, self.now)
        self.settle()

    def wait(self, until: float) -> None:
        self.now = max(self.now, until)
        self.do(lambda node, world: node.handle_deadline(self.now))

    def settle(self) -> None:
        """Both have the same to send and to tell."""
        sent, theirs_sent = (node.datagrams_to_send() for node in self.nodes)
        assert sent == theirs_sent
        assert len(sent) <= ours.dispatcher.OUTBOX_MAX
        told = [[repr(event) for event in node.take_events()] for node in self.nodes]
        assert told[0] == told[1]
        for event in told[0]:
            self.unfinished[0] -= event.startswith("GetFinished")
            self.unfinished[1] -= event.startswith("PutFinished")
        assert min(self.unfinished) >= 0
        first, second = self.nodes
        assert _counts(first) == _counts(second)
        assert first.queries_in() == second.queries_in()
        assert first.nodes() == second.nodes()
        assert first.next_deadline() == second.next_deadline()
        assert first.in_flight == second.in_flight <= 8192
        for payload, address in sent:
            self._look_at(payload, address)

    def _look_at(self, payload: bytes, address: Address) -> None:
        """What we send is well-formed and not too much; remember what may be answered."""
        assert len(payload) <= 1452
        if not ours.node_id.is_exempt(address[0]):
            times = self.sent_at[address[0]]
            times.append(self.now)
            while times[0] <= self.now - 10.0:
                times.popleft()
            assert len(times) <= PACKETS_TO_ONE_MAX, address
        message = ours.krpc.decode(payload)
        if isinstance(message, ours.krpc.Query):
            self.open.append((message.transaction_id, address))
        elif isinstance(message, ours.krpc.Response):
            token = message.values.get(b"token")
            if isinstance(token, bytes):
                self.tokens[address[0]] = token


# ---------------------------------------------------------------------------- what happens


def seeds() -> Iterable[bytes]:
    """A stranger's queries; a look-up that is answered; a put; and what the vectors have."""
    server = bytes([16 | 1])
    for request in vectors.octets("krpc-server", "request_hex"):
        if len(request) < 256:
            yield server + bytes([RAW, 0, len(request)]) + request
    queries = b"".join(
        bytes([QUERY, source, method, 2, 0, number])
        for number, (source, method) in enumerate((s, m) for m in (4, 5, 2, 3, 1) for s in (0, 3))
    )
    yield server + queries
    lookup = bytes([COMMAND, 0, 0]) + bytes([ANSWER, 0, 8, 0, 0]) * 4 + bytes([ANSWER, 0, 9, 1, 3])
    for settings in (0, 3, 16, 32, 63):
        yield bytes([settings]) + lookup + bytes([DEADLINE] * 4)
        yield bytes([settings, COMMAND, 1, 2]) + bytes([ANSWER, 0, 11, 0, 0]) * 8
        yield bytes([settings, COMMAND, 7, 9, COMMAND, 2, 1, COMMAND, 3, 1, COMMAND, 4, 1]) + (
            bytes([ANSWER, 1, 15, 2, 9, WAIT, 3]) * 6
        )
        yield bytes([settings]) + bytes([BATCH, 5]) + bytes([QUERY, 1, 4, 0, 0, 1]) * 5
    for kind in range(9):
        yield server + bytes([kind]) + bytes(range(60))


def target(data: bytes) -> None:
    """Live through a history."""
    rest = _Input(data)
    twins = _Twins(rest.byte())
    for _ in range(STEPS_MAX):
        if not rest:
            break
        _step(twins, rest)
    _finish(twins)


def _step(twins: _Twins, rest: _Input) -> None:
    kind = rest.byte() % 9
    if kind == WAIT:
        twins.wait(twins.now + PAUSES_S[rest.byte() % len(PAUSES_S)])
    elif kind == DEADLINE:
        twins.wait(min(twins.nodes[0].next_deadline(), twins.now + 1000.0))
    elif kind == COMMAND:
        _command(twins, rest.byte(), rest.byte())
    elif kind == BATCH:
        count = rest.byte() % 8
        twins.receive_together(
            [_datagram(twins, rest, rest.byte() % (QUERY + 1)) for _ in range(count)]
        )
    else:
        twins.receive(*_datagram(twins, rest, kind))


def _datagram(twins: _Twins, rest: _Input, kind: int) -> tuple[bytes, Address]:
    if kind == RAW:
        source = SOURCES[rest.byte() % len(SOURCES)]
        return rest.text(), source
    if kind == QUERY:
        return _query(twins, rest)
    if not twins.open:
        return b"", SOURCES[0]
    transaction_id, source = twins.open[rest.byte() % len(twins.open)]
    tail = b"1:t%d:%b1:y1:%b" % (
        len(transaction_id),
        transaction_id,
        b"e" if kind == ERROR else b"r",
    )
    if kind == ERROR:
        return b"d1:eli%de%d:%be%be" % (rest.byte() + 100, 1, b"x", tail), source
    if kind == RESPONSE:
        return b"d1:rd2:id20:%b%be%be" % (POOL[rest.byte() % 64].id, rest.text(), tail), source
    parts, number = rest.byte(), rest.byte()
    return b"d1:rd%be%be" % (_values(parts, number), tail), source


def _values(parts: int, number: int) -> bytes:
    """What an honest answer holds, and a liar's: keys sorted."""
    public_key, seq, value, signature, _ = ITEMS[number % 64]
    nodes = b"".join(
        ours.krpc.pack_nodes([POOL[(number + at * (parts >> 5)) % 64]]) for at in range(8)
    )
    spelled = b"2:id20:" + POOL[(number * 5 + (parts >> 4)) % 64].id
    if parts & 1:
        spelled += b"1:k32:" + public_key
    if parts & 8:
        spelled += b"5:nodes%d:%b" % (len(nodes), nodes)
    if parts & 1:
        spelled += b"3:seqi%de3:sig64:%b" % (seq, signature)
    if parts & 2:
        spelled += b"5:token%d:%b" % (number % 70, b"t" * (number % 70))
    if parts & 1:
        spelled += b"1:v" + value
    elif parts & 4:
        spelled += b"1:v5:hello" if number & 1 else b"6:valuesl6:abcdef6:\x7f\x00\x00\x01\x1a\xe1e"
    return spelled


def _query(twins: _Twins, rest: _Input) -> tuple[bytes, Address]:
    source = SOURCES[rest.byte() % len(SOURCES)]
    method = METHODS[rest.byte() % len(METHODS)]
    flags, where, number = rest.byte(), rest.byte(), rest.byte()
    arguments: dict[bytes, Any] = {b"id": POOL[number % 64].id}
    token = twins.tokens.get(source[0], b"12345678") if not flags & 1 else b"87654321"
    public_key, seq, value, signature, salt = ITEMS[number % 64]
    if method in (b"find_node", b"get"):
        arguments[b"target"] = TARGETS[where % len(TARGETS)]
        if flags & 4:
            arguments[b"seq"] = number % 5 - 1
    elif method in (b"get_peers", b"announce_peer"):
        arguments[b"info_hash"] = TARGETS[where % len(TARGETS)]
        arguments |= {b"port": where, b"token": token} if method == b"announce_peer" else {}
    elif method == b"put":
        arguments |= {b"token": token, b"v": ours.kernels.decode(value)}
        if not flags & 8:
            arguments |= {b"k": public_key, b"seq": seq, b"sig": signature}
            arguments |= {} if salt is None else {b"salt": salt}
            arguments |= {b"cas": where % 4} if flags & 16 else {}
    query = ours.krpc.Query(bytes([number]) * 2, method, arguments, bool(flags & 2))
    return ours.krpc.encode(query), source


def _command(twins: _Twins, which: int, number: int) -> None:
    now, item = twins.now, ITEMS[number % 64]
    place = TARGETS[number % len(TARGETS)]
    which %= 12
    starts = {
        0: lambda node, world: node.start_get(
            item[0], salt=item[4] or b"", seq=number >> 6 or None, now=now
        ),
        1: lambda node, world: node.start_put(
            world.items.MutableItem(*item), cas=number >> 6 or None, now=now
        ),
        2: lambda node, world: node.start_get_immutable(place, now=now),
        3: lambda node, world: node.start_get_peers(place, now=now),
        4: lambda node, world: node.start_find_node(place, now=now),
        5: lambda node, world: node.start_put_immutable(b"hello", now=now),
        6: lambda node, world: node.start_announce_peer(place, port=number or None, now=now),
    }
    if which in starts:
        pair = tuple(
            starts[which](node, world)
            for node, world in zip(twins.nodes, (ours, theirs), strict=True)
        )
        twins.handles.append((pair[0], pair[1]))
        twins.unfinished[which in (1, 5, 6)] += 1
        twins.settle()
    elif which == 7:
        twins.do(lambda node, world: node.add_bootstrap([SOURCES[number % 8], SOURCES[1]], now))
    elif which == 8:
        twins.do(
            lambda node, world: node.limit_queries(_limit(world, 0.1, number) if number else None)
        )
    elif which == 9:
        twins.do(lambda node, world: setattr(node, "window", number))
    elif which == 10 and twins.handles:
        twins.wait(now + 0.001)
        for node, handle in zip(
            twins.nodes, twins.handles[number % len(twins.handles)], strict=True
        ):
            node.release(handle, twins.now)
        # A look-up that was released tells no end any more; so the count is not exact from here.
        twins.unfinished = [1 << 30, 1 << 30]
        twins.settle()


def _finish(twins: _Twins) -> None:
    """Nobody answers any more: everything that was begun comes to an end, in bounded time."""
    begun = twins.now
    while twins.now < begun + 40.0 and 0 < max(twins.unfinished) < 1 << 29:
        deadline = twins.nodes[0].next_deadline()
        assert deadline < begun + 100.0
        twins.wait(deadline)
    assert max(twins.unfinished) == 0 or max(twins.unfinished) > 1 << 29, twins.unfinished
