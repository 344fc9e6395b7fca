"""What the responder answers: the rules the recorded session does not reach, and hostile queries.

The session itself is in test_krpc_server_vectors.py.
"""

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from relay import _kernels
from relay._kernels import Value
from relay.dht import krpc
from relay.dht.items import ItemStore, MutableItem, PeerStore, immutable_target, mutable_target
from relay.dht.krpc import ErrorReply, Query, Response
from relay.dht.node_id import Address, NodeInfo
from relay.dht.responder import PAYLOAD_BYTES_MAX, Responder
from relay.dht.routing_table import RoutingTable
from relay.dht.tokens import TokenIssuer
from tests.support.chance import seeded

Arguments: TypeAlias = dict[bytes, Value]

OWN_ID = b"\x01" * 20
QUERIER = b"q" * 20
TARGET = b"t" * 20
SOURCE = ("203.0.113.7", 4444)
NOW = 1000.0
SECRET = bytes(range(32))
TOKEN = TokenIssuer(SECRET).issue(SOURCE, NOW)
KEY = SigningKey(bytes(range(32)))
PUBLIC_KEY = bytes(KEY.verify_key)


class Bench:
    """A responder with everything it serves from, and a way to ask it."""

    def __init__(self) -> None:
        self.table = RoutingTable(OWN_ID)
        self.items = ItemStore()
        self.proofs: list[tuple[Address, float]] = []
        self.responder = Responder(
            self.table,
            TokenIssuer(SECRET),
            self.items,
            PeerStore(),
            seeded(1),
            on_proof=lambda source, now: self.proofs.append((source, now)),
        )

    def ask(self, method: bytes, **arguments: Value) -> Response | ErrorReply:
        keys = {b"id": QUERIER} | {key.encode(): value for key, value in arguments.items()}
        return self.responder.answer(Query(b"aaaa", method, keys), SOURCE, NOW)

    def values(self, method: bytes, **arguments: Value) -> Arguments:
        reply = self.ask(method, **arguments)
        assert isinstance(reply, Response), reply
        return dict(reply.values)

    def refusal(self, method: bytes, **arguments: Value) -> tuple[int, bytes]:
        reply = self.ask(method, **arguments)
        assert isinstance(reply, ErrorReply), reply
        return reply.code, reply.message

    def fill_table(self) -> None:
        for number in range(2, 100):
            self.table.add(NodeInfo(bytes([number]) + bytes(19), ("127.0.0.1", number)), 0.0)
        assert len(self.table) > 40


@pytest.fixture
def bench() -> Bench:
    return Bench()


def signed(
    seq: int = 1, value: Value = b"v", salt: bytes | None = None, key: SigningKey = KEY
) -> dict[str, Value]:
    """The arguments of a mutable put, correctly signed."""
    item = MutableItem.from_value(bytes(key.verify_key), seq, value, bytes(64), salt)
    arguments: dict[str, Value] = {
        "token": TOKEN,
        "v": value,
        "k": item.public_key,
        "seq": seq,
        "sig": key.sign(item.signable).signature,
    }
    return arguments if salt is None else arguments | {"salt": salt}


def test_replies_carry_our_current_id_the_transaction_and_the_requester(bench: Bench) -> None:
    reply = bench.responder.answer(Query(b"x" * 32, b"ping", {b"id": QUERIER}), SOURCE, NOW)
    assert reply == Response(b"x" * 32, {b"id": OWN_ID}, requester=SOURCE)
    bench.table.reset(b"\x02" * 20)
    assert bench.responder.own_id == b"\x02" * 20
    assert bench.values(b"ping") == {b"id": b"\x02" * 20}


def test_find_node_names_the_20_closest(bench: Bench) -> None:
    bench.fill_table()
    target = bytes([40]) + bytes(19)
    nodes = bench.values(b"find_node", target=target)[b"nodes"]
    assert isinstance(nodes, bytes)
    assert krpc.unpack_nodes(nodes) == bench.table.closest(target, 20)
    assert len(nodes) == 20 * 26


def test_nodes_are_empty_while_nobody_is_known(bench: Bench) -> None:
    assert bench.values(b"find_node", target=TARGET)[b"nodes"] == b""


NOT_20_BYTES: list[Value | None] = [None, 7, b"", bytes(19), bytes(21), [bytes(20)], {}]
NOT_AN_INTEGER: list[Value | None] = [None, b"1", [1], {}, 2**63, -(2**63) - 1]
NOT_A_STRING: list[Value | None] = [None, 7, [b"x"], {}]

BAD_ARGUMENTS: list[tuple[bytes, str, list[Value | None]]] = [
    (b"ping", "id", NOT_20_BYTES),
    (b"find_node", "target", NOT_20_BYTES),
    (b"get_peers", "info_hash", NOT_20_BYTES),
    (b"announce_peer", "info_hash", NOT_20_BYTES),
    (b"announce_peer", "port", [*NOT_AN_INTEGER, 0, -1, 65536]),
    (b"announce_peer", "implied_port", [b"1", [], -1]),
    (b"announce_peer", "token", NOT_A_STRING),
    (b"get", "target", NOT_20_BYTES),
    (b"get", "seq", NOT_AN_INTEGER[1:]),
    (b"put", "token", NOT_A_STRING),
    (b"put", "target", NOT_20_BYTES[1:]),
    (b"put", "v", [None]),
    (b"put", "k", [*NOT_20_BYTES, bytes(31), bytes(33)]),
    (b"put", "seq", NOT_AN_INTEGER),
    (b"put", "sig", [*NOT_20_BYTES, bytes(63), bytes(65)]),
    (b"put", "salt", NOT_A_STRING[1:]),
    (b"put", "cas", NOT_AN_INTEGER[1:]),
]


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [(method, key, value) for method, key, values in BAD_ARGUMENTS for value in values],
)
def test_bad_arguments_are_named(
    bench: Bench, method: bytes, key: str, value: Value | None
) -> None:
    """None stands for a missing one. Among them the put without `sig` that killed Rust nodes."""
    arguments: dict[bytes, Value] = {b"id": QUERIER, b"info_hash": TARGET, b"port": 1}
    arguments |= {name.encode(): content for name, content in signed().items()}
    if method != b"put":
        arguments[b"target"] = TARGET
        del arguments[b"seq"]
    arguments.pop(key.encode(), None)
    if value is not None:
        arguments[key.encode()] = value
    reply = bench.responder.answer(Query(b"aaaa", method, arguments), SOURCE, NOW)
    assert isinstance(reply, ErrorReply)
    assert (reply.code, reply.message) == (203, b"Invalid argument: " + key.encode())
    assert bench.proofs == []


@pytest.mark.parametrize("method", [b"", b"PING", b"vote", b"sample_infohashes", b"x" * 1000])
def test_unknown_methods(bench: Bench, method: bytes) -> None:
    assert bench.refusal(method) == (204, b"Method Unknown")


@pytest.mark.parametrize("keys", [["k"], ["seq"], ["sig"], ["salt"], ["cas"], ["seq", "sig"]])
def test_some_of_the_mutable_keys_make_no_immutable_put(bench: Bench, keys: list[str]) -> None:
    everything = signed(salt=b"s") | {"cas": 1}
    arguments = {key: everything[key] for key in keys}
    code, text = bench.refusal(b"put", token=TOKEN, v=b"v", **arguments)
    assert code == 203
    assert text.startswith(b"Invalid argument: ")
    assert bench.items.immutable(immutable_target(b"1:v")) is None


@pytest.mark.parametrize(
    "token", [b"", bytes(8), TOKEN[:4], TokenIssuer(SECRET).issue(("203.0.113.8", 1), NOW)]
)
def test_a_token_must_be_the_source_s(bench: Bench, token: bytes) -> None:
    assert bench.refusal(b"put", token=token, v=b"v") == (203, b"Bad token")
    refusal = bench.refusal(b"announce_peer", info_hash=TARGET, port=1, token=token)
    assert refusal == (203, b"Bad token")
    assert bench.proofs == []


def test_a_token_we_gave_is_good_for_a_put_and_proves_the_source(bench: Bench) -> None:
    for method, key in ((b"get", "target"), (b"get_peers", "info_hash")):
        token = bench.values(method, **{key: TARGET})[b"token"]
        assert bench.values(b"put", token=token, v=b"v") == {b"id": OWN_ID}
    assert bench.proofs == [(SOURCE, NOW)] * 2


def test_even_a_refused_put_proves_the_source_by_its_token(bench: Bench) -> None:
    assert bench.refusal(b"put", token=TOKEN, v=b"x" * 1001)[0] == 205
    assert bench.proofs == [(SOURCE, NOW)]


@pytest.mark.parametrize("value", [7, [b"a", {b"k": 1}], {}, b"", b"x" * 1000, [b"x" * 993]])
def test_any_value_is_kept_and_given_back(bench: Bench, value: Value) -> None:
    target = immutable_target(_kernels.encode(value))
    assert bench.values(b"put", token=TOKEN, v=value, target=target) == {b"id": OWN_ID}
    got = bench.values(b"get", target=target)
    assert got.keys() == {b"id", b"nodes", b"token", b"v"}
    assert got[b"v"] == value
    assert bench.values(b"put", **signed(value=value)) == {b"id": OWN_ID}
    got = bench.values(b"get", target=mutable_target(PUBLIC_KEY))
    assert got.keys() == {b"id", b"k", b"nodes", b"seq", b"sig", b"token", b"v"}
    assert got[b"v"] == value


@pytest.mark.parametrize("value", [b"x" * 1001, [b"x" * 995], {b"k" * 600: b"x" * 600}])
def test_a_value_of_more_than_1000_bytes_is_too_big(bench: Bench, value: Value) -> None:
    assert bench.refusal(b"put", token=TOKEN, v=value) == (205, b"Message (v field) too big.")
    assert bench.refusal(b"put", **signed(value=value))[0] == 205
    assert bench.refusal(b"put", target=TARGET, **signed(value=value, salt=b"s" * 65))[0] == 205


def test_the_order_of_refusals(bench: Bench) -> None:
    """Each step mends the first fault, and the next one shows."""
    assert bench.values(b"put", **signed(seq=5))
    wrong = signed(seq=4, salt=b"s" * 65) | {"target": TARGET, "cas": 3}
    wrong |= {"sig": bytes(64), "v": b"x" * 1001, "token": b""}
    steps: list[tuple[int, dict[str, Value]]] = [
        (203, {"token": TOKEN}),
        (205, {"v": b"v"}),
        (207, {"salt": b""}),
        (203, {"target": mutable_target(PUBLIC_KEY)}),
        (301, {"cas": 5}),
        (302, {"seq": 5}),
        (206, signed(seq=5, salt=b"")),
    ]
    for code, mended in steps:
        assert bench.refusal(b"put", **wrong)[0] == code
        wrong |= mended
    assert bench.values(b"put", **wrong) == {b"id": OWN_ID}


def test_a_target_is_not_needed_but_checked(bench: Bench) -> None:
    salted = signed(salt=b"salt")
    text = b"Target doesn't match the sha1 hash of k and salt fields"
    assert bench.refusal(b"put", target=mutable_target(PUBLIC_KEY), **salted) == (203, text)
    assert bench.values(b"put", **salted)
    assert b"v" in bench.values(b"get", target=mutable_target(PUBLIC_KEY, b"salt"))
    assert b"v" not in bench.values(b"get", target=mutable_target(PUBLIC_KEY))


def test_equal_seq_replaces_and_lower_does_not(bench: Bench) -> None:
    target = mutable_target(PUBLIC_KEY)
    assert bench.values(b"put", **signed(5, b"one"))
    assert bench.values(b"put", **signed(5, b"two"))
    assert bench.refusal(b"put", **signed(4, b"three"))[0] == 302
    assert bench.values(b"get", target=target)[b"v"] == b"two"


def test_a_forged_item_is_refused_also_over_a_stored_one(bench: Bench) -> None:
    forged = signed(5, b"one") | {"v": b"two"}
    assert bench.refusal(b"put", **forged) == (206, b"Invalid signature")
    assert bench.values(b"put", **signed(5, b"one"))
    assert bench.refusal(b"put", **forged) == (206, b"Invalid signature")
    assert bench.refusal(b"put", **signed(5, b"one") | {"sig": bytes(64)})[0] == 206
    assert bench.refusal(b"put", **signed(5, b"one") | {"salt": b""})[0] == 206
    assert bench.values(b"get", target=mutable_target(PUBLIC_KEY))[b"v"] == b"one"


def test_a_get_with_seq_sends_only_what_is_newer(bench: Bench) -> None:
    target = mutable_target(PUBLIC_KEY)
    assert bench.values(b"put", **signed(-5, b"v"))
    assert bench.values(b"get", target=target, seq=-6)[b"v"] == b"v"
    for known in (-5, 2**63 - 1):
        got = bench.values(b"get", target=target, seq=known)
        assert got.keys() == {b"id", b"nodes", b"seq", b"token"}
        assert got[b"seq"] == -5


def test_a_get_with_seq_does_not_look_at_values(bench: Bench) -> None:
    bench.items.put_immutable(b"1:v")
    target = immutable_target(b"1:v")
    assert bench.values(b"get", target=target)[b"v"] == b"v"
    assert bench.values(b"get", target=target, seq=0).keys() == {b"id", b"nodes", b"token"}


def test_the_largest_reply_is_trimmed_to_a_datagram(bench: Bench) -> None:
    bench.fill_table()
    arguments = signed(-(2**63), b"x" * 1000)
    assert bench.values(b"put", **arguments)
    query = Query(b"t" * 32, b"get", {b"id": QUERIER, b"target": mutable_target(PUBLIC_KEY)})
    reply = bench.responder.answer(query, ("255.255.255.255", 65535), NOW)
    assert isinstance(reply, Response)
    size = len(krpc.encode(reply))
    assert PAYLOAD_BYTES_MAX - 26 < size <= PAYLOAD_BYTES_MAX == 1452
    nodes = reply.values[b"nodes"]
    assert isinstance(nodes, bytes)
    named = krpc.unpack_nodes(nodes)
    assert len(nodes) % 26 == 0
    assert named == bench.table.closest(mutable_target(PUBLIC_KEY))[: len(named)]
    assert reply.values[b"v"] == b"x" * 1000


def test_a_small_value_leaves_room_for_all_nodes(bench: Bench) -> None:
    bench.fill_table()
    assert bench.values(b"put", **signed(1, b"x" * 300))
    nodes = bench.values(b"get", target=mutable_target(PUBLIC_KEY))[b"nodes"]
    assert isinstance(nodes, bytes)
    assert len(nodes) == 20 * 26


def test_peers_are_announced_at_the_source_s_address(bench: Bench) -> None:
    announce = {"info_hash": TARGET, "token": TOKEN}
    assert bench.values(b"announce_peer", **announce, port=7) == {b"id": OWN_ID}
    assert bench.values(b"announce_peer", **announce, implied_port=1, id=b"r" * 20)
    assert bench.values(b"announce_peer", **announce, implied_port=0, port=9, id=b"s" * 20)
    peers = bench.values(b"get_peers", info_hash=TARGET)[b"values"]
    assert isinstance(peers, list)
    ip = SOURCE[0]
    assert set(peers) == {krpc.pack_address((ip, port)) for port in (7, SOURCE[1], 9)}
    assert b"values" not in bench.values(b"get_peers", info_hash=b"x" * 20)


def test_at_most_ten_peers_are_named(bench: Bench) -> None:
    bench.fill_table()
    for port in range(1, 31):
        node_id = port.to_bytes(20, "big")
        assert bench.values(b"announce_peer", info_hash=TARGET, token=TOKEN, port=port, id=node_id)
    reply = bench.ask(b"get_peers", info_hash=TARGET)
    assert isinstance(reply, Response)
    peers = reply.values[b"values"]
    assert isinstance(peers, list)
    assert len(peers) == 10
    assert len(krpc.encode(reply)) <= PAYLOAD_BYTES_MAX


values = st.recursive(
    st.integers(-(10**20) + 1, 10**20 - 1)
    | st.binary(max_size=70)
    | st.sampled_from([TOKEN, QUERIER, PUBLIC_KEY, signed()["sig"], b"x" * 1001]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=3), inner),
    max_leaves=6,
)
argument_names = st.sampled_from(
    b"id target info_hash port implied_port token v k seq sig salt cas want".split()
)
methods = st.sampled_from([b"ping", b"find_node", b"get_peers", b"announce_peer", b"get", b"put"])


@given(
    methods | st.binary(max_size=10),
    st.dictionaries(argument_names | st.binary(max_size=3), values, max_size=12),
    st.lists(argument_names),
    st.binary(max_size=32),
)
def test_no_query_is_too_strange(
    method: bytes, strange: Arguments, dropped: list[bytes], transaction_id: bytes
) -> None:
    """Any mixture of good and bad arguments gets a reply that fits a datagram."""
    bench = Bench()
    good: Arguments = {b"id": QUERIER, b"info_hash": TARGET, b"port": 1, b"target": TARGET}
    good |= {key.encode(): value for key, value in signed().items()}
    arguments = {k: v for k, v in good.items() if k not in dropped} | strange
    query = krpc.decode(krpc.encode(Query(transaction_id, method, arguments)))
    assert isinstance(query, Query)
    reply = bench.responder.answer(query, SOURCE, NOW)
    assert reply.transaction_id == transaction_id
    assert len(krpc.encode(reply)) <= PAYLOAD_BYTES_MAX
    if isinstance(reply, ErrorReply):
        assert reply.code in {203, 204, 205, 206, 207, 301, 302}
