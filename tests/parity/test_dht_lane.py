"""What the lane answers, the node alone would answer with the same bytes and the same counts.

Two nodes of one seed live through the same datagrams. One sees them all itself; the other's
native responder sees them first, and the node only what that does not take. After each datagram
both have sent the same and counted the same. What the lane takes is tested, too: a lane that
takes nothing would agree with everything.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import _kernels
from relay._kernels import Value
from relay.dht import krpc
from relay.dht.budget import QueryLimit
from relay.dht.items import MutableItem, immutable_target
from relay.dht.krpc import Query
from relay.dht.node import GREET_BELOW, DhtNode
from relay.dht.node_id import Address, NodeInfo, secure_id
from tests.support.chance import seeded

pytestmark = pytest.mark.compiled

VECTORS = json.loads(
    (Path(__file__).parents[3] / "shared" / "vectors" / "krpc-server.json").read_text()
)["cases"]
SECRET = bytes(range(32))
FRIEND = ("127.0.0.1", 4000)
"""In every table, under FRIEND_ID."""
FRIEND_ID = b"friend" + bytes(14)
PUBLIC = ("203.0.113.7", 6881)
SOURCES: list[Address] = [
    FRIEND, ("127.0.0.1", 4001), ("10.1.2.3", 1), ("172.31.0.1", 9), ("172.32.0.1", 9),
    ("192.168.0.9", 65535), ("169.254.7.7", 300), PUBLIC, ("203.0.113.8", 1), ("127.0.0.1", 0),
]  # fmt: skip
ID = b"\x55" * 20
ITEM = MutableItem(bytes(range(32)), 7, b"1000:" + b"x" * 1000, bytes(range(64)))
OLD_ITEM = MutableItem(bytes(32), -5, b"d1:ali1e2:xxee", bytes(64), b"salt")
SALTED = MutableItem(bytes(32), 2**63 - 1, b"0:", b"\xff" * 64, b"")
VALUE = b"l3:abci-7ee"
SWARM = b"swarm" + bytes(15)
TARGETS = [
    ID, FRIEND_ID, bytes(20), ITEM.target, OLD_ITEM.target, SALTED.target,
    immutable_target(VALUE), SWARM,
]  # fmt: skip


class Nodes:
    """One node alone, and one behind its native responder."""

    def __init__(
        self,
        *,
        neighbours: int = 500,
        server_mode: bool = True,
        limit: Callable[[], QueryLimit] | None = None,
    ) -> None:
        self.alone, self.behind = (self._make(neighbours, server_mode, limit) for _ in range(2))
        self.taken = 0

    @staticmethod
    def _make(
        neighbours: int, server_mode: bool, limit: Callable[[], QueryLimit] | None
    ) -> DhtNode:
        chance = seeded(1)
        node = DhtNode(
            rng=seeded(2),
            secret=SECRET,
            now=0.0,
            local_address=("192.0.2.1", 6881),
            server_mode=server_mode,
            query_filter=None if limit is None else limit(),
        )
        node._table.add(NodeInfo(FRIEND_ID, FRIEND), 0.0)
        while node.table_size < neighbours:
            ip = f"198.{chance.randrange(200)}.{chance.randrange(256)}.{chance.randrange(256)}"
            near = int.from_bytes(node.node_id, "big") ^ chance.getrandbits(
                160 - chance.randrange(60)
            )
            spread = near.to_bytes(20, "big")
            node_id = secure_id(ip, chance) if chance.random() < 0.1 else spread
            node._table.add(NodeInfo(node_id, (ip, chance.randrange(1, 65536))), 0.0)
        for item in (ITEM, OLD_ITEM, SALTED):
            node._responder._items.put_mutable(item)
        node._responder._items.put_immutable(VALUE)
        node._responder._peers.announce(SWARM, ID, PUBLIC)
        node.datagrams_to_send()
        return node

    def receive(self, payload: bytes, source: Address, now: float) -> list[tuple[bytes, Address]]:
        """Show both a datagram; returns what both sent."""
        self.alone.receive_datagram(payload, source, now)
        expected = self.alone.datagrams_to_send()
        assert self.behind.native_responder is not None
        reply = self.behind.native_responder.answer(payload, krpc.pack_address(source), now)
        if reply is None:
            self.behind.receive_datagram(payload, source, now)
            sent = self.behind.datagrams_to_send()
        else:
            self.taken += 1
            sent = [(reply, source)] if reply else []
        assert sent == expected
        assert asdict(self.behind.counters) == asdict(self.alone.counters)
        assert self.behind.queries_in() == self.alone.queries_in()
        assert self.behind.queries_in().total() == self.behind.counters.queries_in
        return sent

    def takes(self, payload: bytes, source: Address = FRIEND, now: float = 1.0) -> bool:
        before = self.taken
        self.receive(payload, source, now)
        return self.taken > before


def query(method: bytes, read_only: bool = False, **arguments: Value) -> bytes:
    named: dict[bytes, Value] = {key.encode(): value for key, value in arguments.items()}
    return krpc.encode(Query(b"aaaa", method, {b"id": FRIEND_ID} | named, read_only))


def spell(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """A dictionary of keys and spelled values, in the order given, whatever that is."""
    return b"d%be" % b"".join(b"%d:%b%b" % (len(key), key, value) for key, value in pairs)


text = st.binary(max_size=40).map(_kernels.encode)
numbers = st.sampled_from(
    [b"i0e", b"i7e", b"i-5e", b"i1e", b"i-0e", b"i07e", b"ie", b"i%de" % (2**63), b"i%de" % 2**62,
     b"i999999999999999999e", b"i-999999999999999999e", b"i%de" % 10**20]
)  # fmt: skip
wholes = st.sampled_from(TARGETS).map(_kernels.encode)
others = st.recursive(
    text | numbers,
    lambda inner: st.lists(inner, max_size=2).map(lambda members: b"l%be" % b"".join(members)),
    max_leaves=12,
)
arguments = st.lists(
    st.tuples(st.sampled_from([b"target", b"info_hash"]), wholes)
    | st.tuples(st.just(b"seq"), numbers)
    | st.tuples(st.sampled_from([b"id", b"want", b"scrape", b"target", b"seq"]), others),
    max_size=3,
).map(lambda pairs: [(b"id", _kernels.encode(FRIEND_ID)), *pairs])
methods = st.sampled_from(
    [b"ping", b"find_node", b"get_peers", b"get", b"get", b"put", b"announce_peer", b"vote", b""]
)


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Queries, most of them plain; some with keys too many, too few or twice; some spoilt."""
    spelled_arguments = draw(st.permutations(draw(arguments)))
    pairs = [
        (b"a", spell(spelled_arguments)),
        (b"q", _kernels.encode(draw(methods))),
        (b"t", _kernels.encode(draw(st.binary(max_size=4) | st.binary(max_size=40)))),
        (b"y", b"1:q"),
        *draw(
            st.lists(
                st.tuples(st.sampled_from([b"v", b"ro", b"x", b"ip"]), others | numbers)
                | st.tuples(st.sampled_from([b"a", b"q", b"t", b"y"]), others),
                max_size=2 if draw(st.integers(0, 3)) == 0 else 0,
            )
        ),
    ]
    if draw(st.integers(0, 3)) == 0:
        pairs = draw(st.permutations(pairs))
    payload = bytearray(spell(pairs))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(payload) - 1))
        payload[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(payload)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(datagrams(), st.sampled_from(SOURCES), st.sampled_from([0.0, 0.01, 0.3, 100.0])),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([500, 1, 30]),
    st.booleans(),
)
def test_lane_and_node_agree(
    arrivals: list[tuple[bytes, Address, float]], neighbours: int, limited: bool
) -> None:
    nodes = Nodes(neighbours=neighbours, limit=(lambda: QueryLimit(2.0, 3)) if limited else None)
    now = 1000.0
    for payload, source, pause_s in arrivals:
        now += pause_s
        nodes.receive(payload, source, now)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["id"])
def test_recorded_queries(case: dict[str, str]) -> None:
    nodes = Nodes()
    for source in (FRIEND, PUBLIC):
        nodes.receive(bytes.fromhex(case["request_hex"]), source, 1.0)


@pytest.mark.parametrize(
    "payload",
    [
        query(b"ping"),
        query(b"find_node", target=ID),
        query(b"find_node", read_only=True, target=ID, want=[b"n4", b"n6"]),
        query(b"get_peers", info_hash=ID),
        query(b"get", target=ID),
        query(b"get", target=ITEM.target),
        query(b"get", target=ITEM.target, seq=6),
        query(b"get", target=ITEM.target, seq=7),
        query(b"get", target=OLD_ITEM.target),
        query(b"get", target=OLD_ITEM.target, seq=-6),
        query(b"get", target=SALTED.target),
        query(b"get", target=immutable_target(VALUE)),
        query(b"get", target=immutable_target(VALUE), seq=1),
    ],
)
@pytest.mark.parametrize("source", SOURCES[:-1], ids=str)
def test_plain_queries_are_taken(payload: bytes, source: Address) -> None:
    assert Nodes().takes(payload, source)


@pytest.mark.parametrize(
    "payload",
    [
        query(b"get_peers", info_hash=SWARM),  # peers are picked by the node
        query(b"find_node"),
        query(b"find_node", target=bytes(19)),
        query(b"get", target=ID, seq=b"1"),
        query(b"get", target=ID, seq=2**63),
        query(b"put", target=ID, v=b"x", token=b"12345678"),
        query(b"announce_peer", info_hash=ID, port=1, token=b"12345678"),
        query(b"sample_infohashes", target=ID),
        query(b"ping") + b"x",
        query(b"ping").replace(b"4:aaaa", b"33:" + b"a" * 33),
        query(b"ping").replace(b"4:ping", b"4:pong"),
        b"",
        b"d",
        b"d1:ad2:id20:",
    ],
)
def test_whatever_else_is_left_to_the_node(payload: bytes) -> None:
    assert not Nodes().takes(payload)


def test_every_length_of_a_plain_query_is_safe_to_read() -> None:
    """Cut off anywhere, it is not taken, and nothing beyond its end is looked at."""
    nodes = Nodes()
    whole = query(b"get", read_only=True, target=ID, seq=12, want=[b"n4", {b"a": 1}])
    for size in range(len(whole)):
        assert not nodes.takes(whole[:size])
    assert nodes.takes(whole)


def test_a_node_that_does_not_serve_has_no_lane() -> None:
    assert not Nodes(server_mode=False).takes(query(b"ping"))


def test_serving_begins_with_the_next_datagram() -> None:
    nodes = Nodes(server_mode=False)
    for node in (nodes.alone, nodes.behind):
        node._identity.server_mode = True
    assert nodes.takes(query(b"ping"))


def test_a_new_identifier_is_answered_with_at_once() -> None:
    nodes = Nodes()
    for node in (nodes.alone, nodes.behind):
        node._check_id("198.51.100.1", 1.0)
        node.datagrams_to_send()
    assert nodes.takes(query(b"ping"))
    [(reply, _)] = nodes.receive(query(b"find_node", read_only=True, target=ID), PUBLIC, 2.0)
    answer = krpc.decode(reply)
    assert isinstance(answer, krpc.Response)
    assert answer.values[b"id"] == nodes.behind.node_id != bytes(20)


def test_our_own_ping_reaches_the_node() -> None:
    nodes = Nodes()
    ours = ("198.51.100.1", 6881)
    pings = []
    for node in (nodes.alone, nodes.behind):
        node._public.address = ours
        pings.append(node._public.trial(node.node_id, read_only=False))
        assert node.firewalled
    assert not nodes.takes(query(b"ping"), ours)
    assert nodes.takes(query(b"ping"))
    assert nodes.takes(query(b"find_node", target=ID), ours)
    assert pings[0] == pings[1]
    assert not nodes.takes(pings[0], ours)
    assert not nodes.behind.firewalled
    assert nodes.takes(query(b"ping"), ours)


def test_newcomers_are_shown_to_a_node_that_knows_few() -> None:
    few, enough = Nodes(neighbours=GREET_BELOW - 1), Nodes(neighbours=GREET_BELOW)
    stranger = ("127.0.0.1", 4001)
    find_node = query(b"find_node", target=ID)
    assert few.takes(find_node, FRIEND)
    assert not few.takes(find_node, stranger)
    assert few.takes(query(b"find_node", read_only=True, target=ID), stranger)
    assert few.takes(query(b"get", target=ID), stranger)
    assert enough.takes(find_node, stranger)


def test_a_limit_that_the_lane_cannot_keep_leaves_all_to_the_node() -> None:
    node = DhtNode(
        rng=seeded(1),
        secret=SECRET,
        now=0.0,
        local_address=("192.0.2.1", 6881),
        server_mode=True,
        query_filter=lambda ip, now: False,
    )
    assert node.native_responder is None


def test_budgets_and_limits_are_those_of_the_node() -> None:
    """A flood, half of it plain and half of it for the node: one budget for both."""
    for limit in (None, lambda: QueryLimit(1.0, 5)):
        nodes = Nodes(limit=limit)
        for number in range(300):
            target = ITEM.target if number % 3 else ID
            payload = query(b"get", target=target) + b"x" * (number % 2)
            nodes.receive(payload, PUBLIC, 50.0 + number / 100)
        counters = nodes.behind.counters
        assert 100 < nodes.taken < 300
        assert counters.dropped_budget > 50
        assert (counters.dropped_filter > 0) == (limit is not None)
        assert 5 <= counters.replies_out < 100


def test_another_limit_holds_from_the_next_query_on() -> None:
    nodes = Nodes(limit=lambda: QueryLimit(1.0, 3))
    now = 1000.0
    for limit, served in ((QueryLimit, 3), (None, 5), (QueryLimit, 2), (None, 5)):
        now += 1000.0
        if now > 2000.0:
            for node in (nodes.alone, nodes.behind):
                node.limit_queries(None if limit is None else limit(1.0, served))
        before = nodes.behind.counters.replies_out
        for number in range(5):
            nodes.receive(query(b"get", target=ITEM.target), PUBLIC, now + number / 1000)
        assert nodes.behind.counters.replies_out - before == served
        assert nodes.alone.counters == nodes.behind.counters


def test_use_keeps_what_is_stored_whoever_answers() -> None:
    """A value that the lane was asked for outlives those that nobody asked for."""
    nodes = Nodes()
    for number in range(1500):
        for node in (nodes.alone, nodes.behind):
            node._responder._items.put_immutable(b"i%de" % number)
        nodes.receive(query(b"get", target=immutable_target(VALUE)), FRIEND, 1.0)
    target = immutable_target(VALUE)
    [(reply, _)] = nodes.receive(query(b"get", target=target), FRIEND, 1.0)
    assert VALUE in reply
    assert nodes.taken == 1501
    assert nodes.behind._responder._items.immutable(immutable_target(b"i0e")) is None


def test_a_token_of_the_lane_opens_the_node() -> None:
    nodes = Nodes()
    item = MutableItem(b"\x09" * 32, 1, b"1:v", bytes(64))
    for now in (0.0, 299.99, 300.0, 899.999999, 1e6 + 0.1):
        [(reply, _)] = nodes.receive(query(b"get", target=ID), FRIEND, now)
        answer = krpc.decode(reply)
        assert isinstance(answer, krpc.Response)
        put = query(b"put", token=answer.values[b"token"], v=b"v", k=item.public_key,
                    seq=item.seq, sig=item.signature, target=item.target)  # fmt: skip
        [(refusal, _)] = nodes.receive(put, FRIEND, now + 1.0)
        assert b"Invalid signature" in refusal  # the token was good
    assert nodes.taken == 5


def test_what_is_sent_fits_a_datagram() -> None:
    nodes = Nodes()
    [(reply, _)] = nodes.receive(query(b"get", target=ITEM.target), FRIEND, 1.0)
    assert 1452 - 26 < len(reply) <= 1452


def test_a_capsule_keeps_the_responder_alive() -> None:
    node = Nodes().behind
    assert node.native_responder is not None
    capsule = node.native_responder.capsule
    assert "relay._speedups.answerer" in repr(capsule)


def test_a_source_has_6_bytes() -> None:
    node = Nodes().behind
    assert node.native_responder is not None
    with pytest.raises(ValueError, match=r"^compact peer info has 6 bytes$"):
        node.native_responder.answer(b"", bytes(5), 0.0)
