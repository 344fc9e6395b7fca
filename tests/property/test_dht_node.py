"""Hostile bytes at the node's door: it never raises, and what it remembers stays bounded.

Datagrams are random, or real messages mutated: bits flipped, keys dropped, values replaced by
others of any type. Answers use transaction ids that are really open, so that they reach the
look-ups and puts behind them.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from relay import _kernels
from relay.dht import krpc
from relay.dht.dispatcher import OUTBOX_MAX, WINDOW
from relay.dht.events import Bootstrapped, GetFinished, PutFinished
from relay.dht.items import MutableItem
from relay.dht.krpc import ErrorReply, Query, Response, Value
from relay.dht.lookup import CANDIDATES_MAX
from relay.dht.node import GREETINGS_MAX, DhtNode
from relay.dht.node_id import Address
from tests.support.chance import seeded

KEY = SigningKey(bytes(32))
PUBLIC_KEY = KEY.verify_key.encode()
ID = bytes(range(20))

addresses = st.tuples(
    st.sampled_from(["10.0.0.2", "10.0.0.3", "93.184.216.34", "127.0.0.1"]),
    st.sampled_from([0, 1, 6881, 65535]),
)
scalars = st.integers(-(10**19), 10**19) | st.binary(max_size=40) | st.sampled_from([0, 1, b"", ID])
values: st.SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
contents = st.fixed_dictionaries(
    {},
    optional={
        b"id": st.just(ID) | values,
        b"target": st.binary(min_size=20, max_size=20) | values,
        b"nodes": st.binary(max_size=26 * 8) | values,
        b"token": st.binary(max_size=100) | values,
        b"k": st.just(PUBLIC_KEY) | values,
        b"seq": st.integers(-(2**64), 2**64) | values,
        b"sig": st.binary(min_size=64, max_size=64) | values,
        b"v": st.binary(max_size=1010) | values,
        b"values": st.lists(st.binary(min_size=6, max_size=6) | scalars, max_size=4) | values,
    },
)
methods = st.sampled_from(
    [b"ping", b"find_node", b"get_peers", b"announce_peer", b"get", b"put", b"vote", b""]
)


def make_node(*, server: bool) -> DhtNode:
    return DhtNode(
        rng=seeded(1),
        secret=bytes(32),
        now=0.0,
        local_address=("10.0.0.1", 6881),
        server_mode=server,
        bootstrap=[("10.0.0.2", 6881), ("93.184.216.34", 6881)],
    )


@st.composite
def datagrams(draw: st.DrawFn, open_ids: list[tuple[bytes, Address]]) -> tuple[bytes, Address]:
    """A datagram and its source; answers mostly belong to queries that are open."""
    source = draw(addresses)
    transaction_id = draw(st.binary(max_size=40))
    if open_ids and draw(st.booleans()):
        transaction_id, source = draw(st.sampled_from(open_ids))
    kind = draw(st.sampled_from("qrrrexm"))
    if kind == "x":
        return draw(st.binary(max_size=200)), source
    if kind == "m":
        envelope = draw(
            st.dictionaries(
                st.sampled_from([b"t", b"y", b"q", b"a", b"r", b"e", b"ip", b"ro", b"v"]), values
            )
        )
        return _kernels.encode(envelope), source
    message: krpc.Message
    if kind == "q":
        message = Query(transaction_id, draw(methods), draw(contents), draw(st.booleans()))
    elif kind == "r":
        own = draw(st.sampled_from([None, ("10.0.0.1", 6881), ("93.184.216.34", 1)]))
        message = Response(transaction_id, draw(contents), own, draw(st.integers(0, 9)) == 0)
    else:
        message = ErrorReply(
            transaction_id, draw(st.integers(-5, 400)), draw(st.binary(max_size=9))
        )
    payload = bytearray(krpc.encode(message))
    for _ in range(draw(st.integers(0, 2))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload), source


def open_queries(sent: list[tuple[bytes, Address]]) -> list[tuple[bytes, Address]]:
    queries = []
    for payload, address in sent:
        message = krpc.decode(payload)
        if isinstance(message, Query):
            queries.append((message.transaction_id, address))
    return queries


@settings(max_examples=60)
@given(st.data(), st.booleans())
def test_no_datagram_harms_a_node_at_work(data: st.DataObject, server: bool) -> None:
    node = make_node(server=server)
    now = 0.0
    item = signed(5, b"hello")
    handles = {
        node.start_get(PUBLIC_KEY, now=now),
        node.start_put(item, now=now),
        node.start_get_immutable(ID, now=now),
        node.start_get_peers(ID, now=now),
        node.start_announce_peer(ID, now=now),
    }
    open_ids: list[tuple[bytes, Address]] = []
    finished = set()
    for _ in range(data.draw(st.integers(1, 25))):
        sent = node.datagrams_to_send()
        open_ids = (open_ids + open_queries(sent))[-50:]
        payload, source = data.draw(datagrams(open_ids))
        node.receive_datagram(payload, source, now)
        now += data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
        node.handle_deadline(now)
        assert len(sent) <= OUTBOX_MAX + WINDOW
        for lookup in node._requests._by_lookup:
            assert lookup.in_row <= CANDIDATES_MAX
        finished |= ended(node)
    while not handles <= finished:  # whatever was received, everything comes to an end
        now = node.next_deadline()
        assert now < 100.0
        node.handle_deadline(now)
        node.datagrams_to_send()
        finished |= ended(node)
    assert all(search.done for search in node._requests._by_lookup.values()), "only upkeep is left"
    assert not node._requests._puts


def ended(node: DhtNode) -> set[object]:
    events = node.take_events()
    assert sum(isinstance(event, Bootstrapped) for event in events) <= 1
    return {event.handle for event in events if isinstance(event, GetFinished | PutFinished)}


def signed(seq: int, value: bytes) -> MutableItem:
    unsigned = MutableItem.from_value(PUBLIC_KEY, seq, value, bytes(64))
    return MutableItem.from_value(PUBLIC_KEY, seq, value, KEY.sign(unsigned.signable).signature)


@settings(max_examples=200)
@given(st.binary(max_size=1500), addresses, st.booleans())
def test_random_bytes_get_no_reply(payload: bytes, source: Address, server: bool) -> None:
    node = make_node(server=server)
    before = len(node.datagrams_to_send())
    node.receive_datagram(payload, source, 1.0)
    assert before == 2
    assert node.datagrams_to_send() == []


def test_the_put_that_killed_rust_nodes_is_refused_and_forgotten() -> None:
    """A mutable put with `k` but without `seq` or `sig` (protocol.md, section 7.2)."""
    node = make_node(server=True)
    node.datagrams_to_send()
    source = ("10.0.0.3", 6881)

    def ask(method: bytes, arguments: dict[bytes, Value]) -> krpc.Message:
        query = Query(b"aaaa", method, {b"id": ID, **arguments})
        node.receive_datagram(krpc.encode(query), source, 1.0)
        ((payload, address),) = node.datagrams_to_send()
        assert address == source
        return krpc.decode(payload)

    offer = ask(b"get", {b"target": ID})
    assert isinstance(offer, Response)
    item = signed(50, b"Hello World!")
    whole: dict[bytes, Value] = {
        b"k": item.public_key,
        b"seq": item.seq,
        b"sig": item.signature,
        b"target": item.target,
        b"token": offer.values[b"token"],
        b"v": b"Hello World!",
    }
    for missing in ({b"sig"}, {b"seq"}, {b"seq", b"sig"}):
        reply = ask(b"put", {key: whole[key] for key in whole.keys() - missing})
        assert isinstance(reply, ErrorReply)
        assert reply.code == 203
    assert isinstance(ask(b"ping", {}), Response), "it is alive"
    assert isinstance(ask(b"put", whole), Response), "the whole item is welcome"


def test_forged_sources_do_not_make_a_server_grow() -> None:
    """Ten thousand addresses: fixed tables, and a fixed number of greetings on the way."""
    node = make_node(server=True)
    node.datagrams_to_send()
    rng = seeded(2)
    replies = 0
    for number in range(10_000):
        ip = ".".join(map(str, [20 + number % 100, *rng.randbytes(3)]))
        arguments: dict[bytes, Value] = {b"id": rng.randbytes(20), b"target": rng.randbytes(20)}
        node.receive_datagram(krpc.encode(Query(b"aaaa", b"find_node", arguments)), (ip, 6881), 1.0)
        replies += len(node.datagrams_to_send())
    assert replies > 9_000
    assert node.table_size == 0
    assert len(node._greeted) <= GREETINGS_MAX
    assert len(node._dispatcher._transactions) <= GREETINGS_MAX + 2
