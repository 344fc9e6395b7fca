"""The node as a whole, through its six verbs; other nodes are scripted or of our own kind."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from relay.dht import krpc
from relay.dht.budget import UNPROVEN, QueryLimit
from relay.dht.dispatcher import PACING_WAIT_MAX_S
from relay.dht.estimate import REUSE_S
from relay.dht.events import (
    Bootstrapped,
    GetFinished,
    PeersReceived,
    PutAssured,
    PutFailure,
    PutFinished,
    PutOutcome,
    TablePoor,
    ValueReceived,
)
from relay.dht.items import MutableItem, immutable_target
from relay.dht.krpc import ErrorReply, Query, Response, Value
from relay.dht.maintenance import REFRESH_INTERVAL_S, SWEEP_INTERVAL_S
from relay.dht.node import GREETINGS_MAX, DhtNode
from relay.dht.node_id import Address, NodeInfo, is_secure, secure_id
from relay.dht.requests import SEARCHES_MAX, STALLED_S
from tests.simulation.network import Scripted, SimNetwork, make_item
from tests.support.chance import seeded

OTHER: Address = ("10.0.0.9", 6881)
OTHER_ID = bytes(range(20))


def make_node(**options: object) -> DhtNode:
    settings: dict[str, object] = {
        "rng": seeded(1),
        "secret": bytes(32),
        "now": 0.0,
        "local_address": ("10.0.0.1", 6881),
        "server_mode": False,
        **options,
    }
    return DhtNode(**settings)  # type: ignore[arg-type]


def queries(node: DhtNode) -> list[tuple[Query, Address]]:
    """What the node wants to ask now."""
    asked = []
    for payload, address in node.datagrams_to_send():
        query = krpc.decode(payload)
        assert isinstance(query, Query)
        asked.append((query, address))
    return asked


def respond(node: DhtNode, query: Query, source: Address, now: float, **values: Value) -> None:
    contents: dict[bytes, Value] = {b"id": OTHER_ID}
    contents |= {key.encode(): value for key, value in values.items()}
    node.receive_datagram(krpc.encode(Response(query.transaction_id, contents)), source, now)


def bootstrapped_node(**options: object) -> DhtNode:
    """A node that knows one other, OTHER."""
    node = make_node(bootstrap=[OTHER], **options)
    ((query, _),) = queries(node)
    respond(node, query, OTHER, 0.1, nodes=b"")
    assert node.take_events() == [Bootstrapped()]
    assert node.nodes() == [NodeInfo(OTHER_ID, OTHER)]
    return node


# Answers.


def test_a_node_enters_the_table_only_by_answering() -> None:
    node = make_node(bootstrap=[OTHER])
    ((query, _),) = queries(node)
    named = NodeInfo(bytes(20), ("10.0.0.5", 6881))
    respond(node, query, OTHER, 0.1, nodes=krpc.pack_nodes([named]))
    assert node.nodes() == [NodeInfo(OTHER_ID, OTHER)]
    ((query, address),) = queries(node)
    assert address == named.address
    node.receive_datagram(krpc.encode(Query(b"aaaa", b"ping", {b"id": named.id})), address, 0.1)
    assert node.table_size == 1


def test_answers_from_elsewhere_too_late_or_twice_are_unsolicited() -> None:
    node = make_node(bootstrap=[OTHER])
    ((query, _),) = queries(node)
    respond(node, query, ("10.0.0.8", 6881), 0.1)
    respond(node, query, ("10.0.0.9", 6882), 0.1)
    assert (node.counters.unsolicited, node.bootstrapped) == (2, False)
    while node.next_deadline() <= 2.0:
        node.handle_deadline(node.next_deadline())
    respond(node, query, OTHER, 2.5)
    assert (node.counters.unsolicited, node.counters.timeouts) == (3, 1)


@pytest.mark.parametrize("node_id", [b"", b"x" * 19, 7, b"own"])
def test_responders_without_a_proper_identifier_are_ignored(node_id: Value) -> None:
    node = make_node(bootstrap=[OTHER])
    ((query, _),) = queries(node)
    respond(node, query, OTHER, 0.1, id=node.node_id if node_id == b"own" else node_id)
    assert (node.table_size, node.bootstrapped) == (0, False)


def test_read_only_responders_are_ignored() -> None:
    node = make_node(bootstrap=[OTHER])
    ((query, _),) = queries(node)
    reply = Response(query.transaction_id, {b"id": OTHER_ID}, read_only=True)
    node.receive_datagram(krpc.encode(reply), OTHER, 0.1)
    assert (node.table_size, node.bootstrapped) == (0, False)


@pytest.mark.parametrize(
    "payload", [b"", b"hello hello hello hello", b"d1:y1:qe", b"d" * 3000, b"\xff" * 100]
)
def test_garbage_is_counted_and_dropped(payload: bytes) -> None:
    node = make_node(server_mode=True)
    node.receive_datagram(payload, OTHER, 1.0)
    assert node.counters.dropped_malformed == 1
    assert node.datagrams_to_send() == []


def test_source_port_zero_is_dropped() -> None:
    node = make_node(server_mode=True)
    node.receive_datagram(
        krpc.encode(Query(b"aaaa", b"ping", {b"id": OTHER_ID})), ("10.0.0.9", 0), 1.0
    )
    assert (node.counters.dropped_malformed, node.datagrams_to_send()) == (1, [])


# Serving.


def ping_from(node: DhtNode, source: Address, now: float = 1.0, **options: object) -> bytes | None:
    query = Query(b"ab", b"ping", {b"id": OTHER_ID}, **options)  # type: ignore[arg-type]
    node.receive_datagram(krpc.encode(query), source, now)
    replies = [payload for payload, address in node.datagrams_to_send() if address == source]
    return replies[0] if replies else None


def test_a_client_ignores_queries_and_says_that_it_is_read_only() -> None:
    node = make_node(bootstrap=[OTHER])
    ((query, _),) = queries(node)
    assert query.read_only
    assert ping_from(node, ("10.0.0.7", 1)) is None
    assert (node.counters.queries_in, node.counters.replies_out) == (1, 0)


def test_a_server_answers_and_echoes_any_transaction_id() -> None:
    node = make_node(server_mode=True, bootstrap=[OTHER])
    ((query, _),) = queries(node)
    assert not query.read_only
    reply = ping_from(node, ("10.0.0.7", 1))
    assert reply is not None
    assert krpc.decode(reply) == Response(
        b"ab", {b"id": node.node_id}, ("10.0.0.7", 1), version=krpc.VERSION
    )


def test_a_limit_on_queries_can_be_changed() -> None:
    node = make_node(server_mode=True)
    for limit, served in ((QueryLimit(1.0, 2), 2), (None, 4), (QueryLimit(1.0, 1), 1)):
        node.limit_queries(limit)
        replies = [ping_from(node, ("93.184.216.34", 6881)) for _ in range(4)]
        assert len([reply for reply in replies if reply is not None]) == served


def test_the_query_filter_and_the_budget_silence_a_source() -> None:
    node = make_node(server_mode=True, query_filter=lambda ip, _: ip != "10.0.0.7")
    assert ping_from(node, ("10.0.0.7", 1)) is None
    assert ping_from(node, ("10.0.0.8", 1)) is not None
    assert node.counters.dropped_filter == 1
    public = ("93.184.216.34", 6881)
    answered = sum(ping_from(node, public) is not None for _ in range(100))
    assert 5 <= answered < 50
    assert node.counters.dropped_budget == 100 - answered


def test_a_server_that_knows_few_nodes_greets_newcomers() -> None:
    """It may have nobody to hear of them from; still they enter only by answering."""
    node = make_node(server_mode=True)
    newcomer = ("10.0.0.7", 1)
    find = krpc.encode(Query(b"aaaa", b"find_node", {b"id": OTHER_ID, b"target": OTHER_ID}))
    node.receive_datagram(find, newcomer, 1.0)
    node.receive_datagram(find, newcomer, 1.1)
    messages = [krpc.decode(payload) for payload, _ in node.datagrams_to_send()]
    (ping,) = (message for message in messages if isinstance(message, Query))
    assert (ping.method, len(messages)) == (b"ping", 3)
    assert node.table_size == 0
    respond(node, ping, newcomer, 1.2)
    assert node.nodes() == [NodeInfo(OTHER_ID, newcomer)]
    node.receive_datagram(find, newcomer, 1.3)
    assert len(node.datagrams_to_send()) == 1, "a known node is not greeted again"


def test_read_only_newcomers_and_other_queries_are_not_greeted() -> None:
    node = make_node(server_mode=True)
    arguments: dict[bytes, Value] = {b"id": OTHER_ID, b"target": OTHER_ID}
    for query in (
        Query(b"aaaa", b"find_node", arguments, read_only=True),
        Query(b"aaaa", b"get", arguments),
        Query(b"aaaa", b"find_node", {b"target": OTHER_ID}),
    ):
        node.receive_datagram(krpc.encode(query), ("10.0.0.7", 1), 1.0)
        ((payload, _),) = node.datagrams_to_send()
        assert not isinstance(krpc.decode(payload), Query)


def test_greetings_count_against_the_budget_of_whom_they_go_to() -> None:
    """Its address may be forged: where it may have a reply and no more, no ping follows.

    What the query itself earns is enough for the reply.
    """
    node = make_node(server_mode=True)
    find = krpc.encode(Query(b"aa", b"find_node", {b"id": OTHER_ID, b"target": OTHER_ID}))
    for source, spent, pings in (
        (("93.0.0.7", 1), UNPROVEN.bytes_burst, 0),
        (("93.0.0.8", 1), 0, 1),
    ):
        assert node._budgets.charge_reply(source, int(spent), 1.0)
        node.receive_datagram(find, source, 1.0)
        messages = [krpc.decode(payload) for payload, _ in node.datagrams_to_send()]
        assert sum(isinstance(message, Query) for message in messages) == pings
        assert sum(isinstance(message, Response) for message in messages) == 1


def test_greetings_are_bounded() -> None:
    node = make_node(server_mode=True)
    for port in range(1, 101):
        find = Query(b"aaaa", b"find_node", {b"id": OTHER_ID, b"target": OTHER_ID})
        node.receive_datagram(krpc.encode(find), ("10.0.0.7", port), 1.0)
    messages = [krpc.decode(payload) for payload, _ in node.datagrams_to_send()]
    assert sum(isinstance(message, Query) for message in messages) == GREETINGS_MAX
    run_to(node, 4.0)
    assert node._greeted == set()


# Look-ups and puts.


def test_a_get_without_anybody_to_ask_ends_at_once() -> None:
    node = make_node()
    handle = node.start_get(bytes(32), now=1.0)
    (finished,) = (event for event in node.take_events() if isinstance(event, GetFinished))
    assert finished.handle is handle
    assert (finished.outcome.queried, finished.outcome.best) == (0, None)


def test_concurrent_gets_of_one_key_share_a_look_up_and_late_ones_hear_it_all() -> None:
    node = bootstrapped_node()
    item = make_item(1, 5)
    first = node.start_get(item.public_key, now=1.0)
    ((query, _),) = queries(node)
    second = node.start_get(item.public_key, seq=3, now=1.0)
    third = node.start_get(item.public_key, seq=5, now=1.0)
    assert queries(node) == []
    assert node.counters.lookups == 2, "the bootstrap and one get"
    hearing = make_node_hear(node, query)
    assert hearing(first) == ([item], item)
    assert hearing(second) == ([item], item)
    assert hearing(third) == ([], None), "it asked for something newer than that"


def make_node_hear(node: DhtNode, query: Query) -> Callable[[object], tuple[list[object], object]]:
    """Let OTHER answer with an item; return what each handle heard, and its best item."""
    item = make_item(1, 5)
    respond(
        node, query, OTHER, 1.1, k=item.public_key, seq=5, sig=item.signature, v=b"hello", nodes=b""
    )
    events = node.take_events()

    def heard(handle: object) -> tuple[list[object], object]:
        mine = [event for event in events if getattr(event, "handle", None) is handle]
        *items, finished = mine
        assert isinstance(finished, GetFinished)
        return [event.item for event in items], finished.outcome.best  # type: ignore[union-attr]

    return heard


def test_a_get_that_wants_older_items_too_is_not_shared() -> None:
    node = bootstrapped_node()
    node.start_get(bytes(32), seq=5, now=1.0)
    node.start_get(bytes(32), seq=6, now=1.0)
    node.start_get(bytes(32), seq=4, now=1.0)
    assert [query.arguments[b"seq"] for query, _ in queries(node)] == [5, 4]


@pytest.mark.parametrize("answered", [False, True])
def test_a_look_up_that_has_heard_nothing_is_joined_only_at_first(answered: bool) -> None:
    node = bootstrapped_node()
    node.start_get(bytes(32), now=1.0)
    ((query, _),) = queries(node)
    node.start_get(bytes(32), now=1.0 + STALLED_S - 0.01)
    assert queries(node) == []
    if answered:
        silent = krpc.pack_nodes([NodeInfo(bytes(20), ("10.0.0.5", 1))])
        respond(node, query, OTHER, 1.1, nodes=silent)
        queries(node)
    node.start_get(bytes(32), now=1.0 + STALLED_S)
    assert len(queries(node)) == (0 if answered else 1)


def test_who_joins_late_is_told_what_was_found() -> None:
    net = SimNetwork(1, latency_s=(0.01, 0.01))
    addresses = net.grow(3)
    item = make_item(1, 5)
    net.put(addresses[0], item)
    reader, node = net.add_node([addresses[0]], server=False)
    net.advance(2)
    net.add_machine(slow := net.new_address(), Scripted(lambda payload, source: []))
    first = net.start_get(reader, item.public_key)
    node._requests._by_handle[first].lookup.add(NodeInfo(bytes(20), slow))
    net.run_until(lambda: bool(net.inboxes[reader].items))
    second = net.start_get(reader, item.public_key, seq=4)
    assert second not in net.inboxes[reader].gets
    assert [(e.handle, e.item) for e in net.inboxes[reader].items] == [
        (first, item),
        (second, item),
    ]


def test_a_released_look_up_stops_when_nobody_else_wants_it() -> None:
    node = bootstrapped_node()
    first = node.start_get(bytes(32), now=1.0)
    second = node.start_get(bytes(32), now=1.0)
    ((query, _),) = queries(node)
    node.release(first, 1.0)
    respond(node, query, OTHER, 1.1, nodes=krpc.pack_nodes([NodeInfo(bytes(20), ("10.0.0.5", 1))]))
    ((query, address),) = queries(node)
    assert address == ("10.0.0.5", 1)
    node.release(second, 1.1)
    node.release(second, 1.1)
    respond(node, query, address, 1.2, nodes=krpc.pack_nodes([NodeInfo(OTHER_ID, ("10.0.0.6", 1))]))
    assert (queries(node), node.take_events()) == ([], [])


def test_too_many_look_ups_are_refused_with_a_clear_outcome() -> None:
    node = bootstrapped_node()
    for number in range(SEARCHES_MAX):
        node.start_get(number.to_bytes(32, "big"), now=1.0)
    assert node.take_events() == []
    get = node.start_get(b"x" * 32, now=1.0)
    put = node.start_put(make_item(1), now=1.0)
    refused_get, refused_put = node.take_events()
    assert isinstance(refused_get, GetFinished)
    assert isinstance(refused_put, PutFinished)
    assert (refused_get.handle, refused_get.outcome.overloaded) == (get, True)
    assert (refused_put.handle, refused_put.outcome.failure) == (put, PutFailure.OVERLOADED)
    assert node.counters.lookups_refused == 2


def test_a_look_up_whose_turn_never_comes_says_so() -> None:
    node = bootstrapped_node()
    node.window = 1
    node.start_get(bytes(32), now=1.0)
    late = node.start_get(b"x" * 32, now=1.0)
    node._dispatcher.window = 0
    run_to(node, 11.0)
    (outcome,) = (
        event.outcome
        for event in node.take_events()
        if isinstance(event, GetFinished) and event.handle is late
    )
    assert (outcome.overloaded, outcome.queried) == (True, 0)


def acquainted_node() -> tuple[SimNetwork, DhtNode, Address, list[Address]]:
    """Return a network, a node of it that knows the others, its address, and theirs."""
    net = SimNetwork(3, public=True)
    addresses = net.grow(30)
    ours, node = net.add_node(addresses[:3])
    net.advance(30.0)
    return net, node, ours, addresses


def use_up(node: DhtNode, addresses: list[Address], now: float) -> None:
    """Have so much sent to those addresses that they may not be asked now."""
    for ip, _ in addresses:
        while node._budgets.reserve(ip, PACING_WAIT_MAX_S, now) <= PACING_WAIT_MAX_S:
            pass


def test_where_most_of_the_nearest_are_busy_nothing_is_told_and_nothing_stored() -> None:
    """Else what is there would be denied, and stored where nobody looks for it."""
    net, node, ours, addresses = acquainted_node()
    item = make_item(1)
    assert net.put(ours, item).failure is None
    assert net.get(ours, item.public_key).best == item
    net.advance(REUSE_S)
    use_up(node, addresses[2:], net.now)
    outcome = net.get(ours, bytes(range(32)))
    assert (outcome.best, outcome.overloaded) == (None, True)
    assert 0 < outcome.responded <= 2
    newer = make_item(2)
    assert net.put(ours, newer) == PutOutcome(0, 0, PutFailure.OVERLOADED)
    net.advance(30.0)
    outcome = net.get(ours, bytes(range(32)))
    assert (outcome.best, outcome.overloaded) == (None, False)
    assert net.put(ours, newer).failure is None
    assert net.get(ours, newer.public_key).best == newer


def test_a_put_that_may_be_sent_to_nobody_says_so() -> None:
    net, node, ours, addresses = acquainted_node()
    node._requests._on_lookup = lambda *_: use_up(node, addresses, net.now)
    outcome = net.put(ours, make_item(1))
    assert (outcome.stored, outcome.failure) == (0, PutFailure.OVERLOADED)
    assert outcome.contacted >= 20


@pytest.mark.parametrize("still_busy", [False, True])
def test_a_put_that_waited_for_anothers_look_up_has_one_of_its_own(still_busy: bool) -> None:
    """Nodes that were busy when that one began may be so no longer. Two puts share it."""
    net, node, ours, addresses = acquainted_node()
    free = {ip for ip, _ in addresses[:2]}
    if still_busy:
        use_up(node, addresses[2:], net.now)
    items = [make_item(1, 1), make_item(1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node._budgets, "reserve", lambda ip, *_: 0.0 if ip in free else 9.0)
        get = net.start_get(ours, items[0].public_key)
        puts = [net.start_put(ours, item) for item in items]
    started, inbox = node.counters.lookups, net.inboxes[ours]
    net.run_until(lambda: all(put in inbox.puts for put in puts))
    assert inbox.gets[get].overloaded
    assert node.counters.lookups == started + 1
    outcomes = [inbox.puts[put] for put in puts]
    if still_busy:
        assert outcomes == [PutOutcome(0, 0, PutFailure.OVERLOADED)] * 2
    else:
        assert [outcome.failure for outcome in outcomes] == [None, None]
        assert outcomes[-1].stored >= 20, "the newer one; it has overtaken the other at some"


def forgetful_store_set(item: MutableItem) -> tuple[SimNetwork, DhtNode, Address]:
    """Return a network most of whose nodes refuse the tokens that a node of it has for an item."""
    net, node, ours, _ = acquainted_node()
    assert net.put(ours, item).failure is None
    net.advance(20.0)
    store_set = node._history.store_set(item.target, net.now)
    for one in store_set[: len(store_set) * 6 // 10]:
        net.node(one.address)._responder._tokens.key = bytes(16)
    return net, node, ours


def test_what_a_first_round_has_stored_counts_though_the_second_cannot_look_anybody_up() -> None:
    """Be it for busy nodes or for too many look-ups: it is there."""
    newer = make_item(1, 2)
    for busy in (True, False):
        net, node, ours = forgetful_store_set(make_item(1))
        handle = node.start_put(newer, now=net.now)
        net.flush(ours)
        if busy:
            use_up(node, list(net.machines), net.now)
        else:
            for number in range(SEARCHES_MAX):
                node.start_get(number.to_bytes(32, "big"), now=net.now)
        net.advance(15.0)
        outcome = net.inboxes[ours].puts[handle]
        held = sum(
            net.node(address)._responder._items.mutable(newer.target) == newer
            for address in net.machines
            if address != ours
        )
        assert (outcome.stored, outcome.failure) == (held, None)
        assert 5 < held < 20


def test_look_ups_at_once_begin_with_other_nodes_when_the_nearest_are_busy() -> None:
    net = SimNetwork(3, public=True)
    node = net.node(net.grow(200)[0])
    target = bytes(range(20))
    nearest = node._table.closest(target, 40)
    assert len(node._table) > len(nearest)
    for near in nearest:
        ip, _ = near.address
        while node._budgets.reserve(ip, PACING_WAIT_MAX_S, net.now) <= PACING_WAIT_MAX_S:
            pass
    node.start_find_node(target, now=net.now)
    asked = {address for _, address in queries(node)}
    assert asked
    assert asked.isdisjoint(near.address for near in nearest)


def put_rounds(replies: list[bytes | int], puts: int = 1) -> tuple[list[bytes], list[PutFinished]]:
    """Put several items of one key; OTHER acknowledges (bytes) or refuses (int) each write."""
    node = bootstrapped_node()
    asked, finished = [], []
    for number in range(puts):
        node.start_put(make_item(1, number), now=1.0 + number)
        while todo := queries(node):
            for query, _ in todo:
                asked.append(query.method)
                if query.method == b"get":
                    respond(node, query, OTHER, 1.0 + number, nodes=b"", token=b"t")
                elif isinstance(reply := replies.pop(0), int):
                    error = ErrorReply(query.transaction_id, reply, b"no")
                    node.receive_datagram(krpc.encode(error), OTHER, 1.0 + number)
                else:
                    respond(node, query, OTHER, 1.0 + number)
        finished += [event for event in node.take_events() if isinstance(event, PutFinished)]
    return asked, finished


def test_a_second_put_within_five_minutes_skips_the_look_up() -> None:
    asked, finished = put_rounds([b"", b""], puts=2)
    assert asked == [b"get", b"put", b"put"]
    assert [event.outcome.stored for event in finished] == [1, 1]


def test_a_lapsed_token_leads_to_one_fresh_look_up() -> None:
    asked, finished = put_rounds([b"", 203, b""], puts=2)
    assert asked == [b"get", b"put", b"put", b"get", b"put"]
    assert [event.outcome.stored for event in finished] == [1, 1]
    asked, finished = put_rounds([203])
    assert asked == [b"get", b"put"]
    assert finished[0].outcome.failure is PutFailure.TIMED_OUT


def test_identical_puts_share_one() -> None:
    node = bootstrapped_node()
    item = make_item(1)
    handles = [node.start_put(item, now=1.0), node.start_put(item, now=1.0)]
    other = node.start_put(item, cas=7, now=1.0)
    ((get, _),) = queries(node)
    respond(node, get, OTHER, 1.1, nodes=b"", token=b"t")
    todo = queries(node)
    assert [query.arguments.get(b"cas") for query, _ in todo] == [None, 7]
    for query, _ in todo:
        respond(node, query, OTHER, 1.2)
    finished = [event for event in node.take_events() if isinstance(event, PutFinished)]
    assert [event.handle for event in finished] == [*handles, other]
    assert {event.outcome.stored for event in finished} == {1}


def test_everybody_who_waits_is_told_that_a_put_is_assured() -> None:
    node = bootstrapped_node()
    item = make_item(1)
    ids = {OTHER: OTHER_ID, ("10.0.0.8", 6881): bytes(20)}
    named = krpc.pack_nodes(NodeInfo(node_id, address) for address, node_id in ids.items())
    handles = [node.start_put(item, now=1.0), node.start_put(item, now=1.0)]
    for _ in ids:  # the second is asked because the first names it
        ((get, address),) = queries(node)
        respond(node, get, address, 1.1, id=ids[address], nodes=named, token=b"t")
    (first, first_address), (second, second_address) = queries(node)
    assert node.take_events() == []
    respond(node, first, first_address, 1.2, id=ids[first_address])
    assert node.take_events() == [PutAssured(handle) for handle in handles]
    respond(node, second, second_address, 1.3, id=ids[second_address])
    outcome = PutOutcome(2, 2, None)
    assert node.take_events() == [PutFinished(handle, outcome) for handle in handles]


def test_a_released_put_goes_on() -> None:
    node = bootstrapped_node()
    handle = node.start_put(make_item(1), now=1.0)
    node.release(handle, 1.0)
    ((get, _),) = queries(node)
    respond(node, get, OTHER, 1.1, nodes=b"", token=b"t")
    ((put, _),) = queries(node)
    assert put.method == b"put"
    respond(node, put, OTHER, 1.2)
    assert not any(isinstance(event, PutFinished) for event in node.take_events())


def test_immutable_values_and_peers_are_found() -> None:
    node = bootstrapped_node()
    target = immutable_target(b"5:hello")
    value = node.start_get_immutable(target, now=1.0)
    peers = node.start_get_peers(OTHER_ID, now=1.0)
    closest = node.start_find_node(OTHER_ID, now=1.0)
    for query, _ in queries(node):
        if query.method == b"get":
            respond(node, query, OTHER, 1.1, v=b"hello", nodes=b"")
        elif query.method == b"get_peers":
            assert query.arguments[b"info_hash"] == OTHER_ID
            respond(node, query, OTHER, 1.1, values=[bytes([93, 0, 0, 1, 0, 80]), b"odd"])
        else:
            respond(node, query, OTHER, 1.1, nodes=b"")
    events = node.take_events()
    assert ValueReceived(value, b"5:hello") in events
    assert PeersReceived(peers, (("93.0.0.1", 80),)) in events
    (found,) = (e for e in events if isinstance(e, GetFinished) and e.handle is closest)
    assert found.outcome.closest == (NodeInfo(OTHER_ID, OTHER),)


def test_a_value_with_another_hash_is_not_used() -> None:
    node = bootstrapped_node()
    node.start_get_immutable(immutable_target(b"5:hello"), now=1.0)
    ((query, _),) = queries(node)
    respond(node, query, OTHER, 1.1, v=b"hullo", nodes=b"")
    (finished,) = node.take_events()
    assert isinstance(finished, GetFinished)
    assert (finished.outcome.responded, finished.outcome.usable) == (1, 0)
    assert node.counters.items_invalid == 1


# Upkeep.


def run_to(node: DhtNode, until: float) -> None:
    while (at := node.next_deadline()) <= until:
        node.handle_deadline(at)


def test_bootstrap_is_tried_again_and_again_while_nobody_answers() -> None:
    node = make_node(bootstrap=[OTHER])
    tries, started = [], 0.0
    for _ in range(4):
        assert {address for _, address in queries(node)} == {OTHER}
        run_to(node, started + 2.0)
        queries(node)
        assert node.take_events() == [TablePoor()]
        tries.append(started)
        started = node.next_deadline()
        run_to(node, started)
    assert [
        later - earlier for earlier, later in zip(tries, [*tries[1:], started], strict=True)
    ] == [2.0 + pause for pause in (1, 2, 4, 8)]


def test_a_look_up_with_an_empty_table_tries_to_bootstrap_at_once() -> None:
    node = make_node(bootstrap=[OTHER])
    run_to(node, 2.5)
    queries(node)
    node.start_get(bytes(32), now=2.5)
    assert [query.method for query, _ in queries(node)] == [b"find_node", b"get"]


def test_new_bootstrap_addresses_are_used_when_the_table_is_poor() -> None:
    node = make_node()
    assert node.take_events() == [TablePoor()]
    node.add_bootstrap([OTHER], 5.0)
    ((query, address),) = queries(node)
    assert (query.method, address) == (b"find_node", OTHER)
    node.add_bootstrap([OTHER, ("10.0.0.5", 1)], 5.1)
    ((_, address),) = queries(node)
    assert address == ("10.0.0.5", 1)
    respond(node, query, OTHER, 5.2, nodes=b"")
    run_to(node, 10.0)
    queries(node)
    node.add_bootstrap([("10.0.0.6", 1)], 10.0)
    asked = {address for _, address in queries(node)}
    assert asked == {OTHER, ("10.0.0.5", 1), ("10.0.0.6", 1)}, "one node for three is poor"


def test_saved_nodes_are_used_before_the_bootstrap_addresses() -> None:
    saved = NodeInfo(bytes(20), ("10.0.0.5", 1))
    node = make_node(bootstrap=[OTHER], nodes=[saved])
    ((query, address),) = queries(node)
    assert address == saved.address
    assert node.nodes() == [], "not before they answer"
    respond(node, query, address, 0.1, id=saved.id, nodes=b"")
    run_to(node, 5.0)
    assert node.nodes() == [saved]
    assert queries(node) == []


def test_saved_nodes_that_are_silent_get_half_a_second() -> None:
    node = make_node(bootstrap=[OTHER], nodes=[NodeInfo(bytes(20), ("10.0.0.5", 1))])
    queries(node)
    run_to(node, 0.49)
    assert queries(node) == []
    run_to(node, 0.5)
    assert OTHER in {address for _, address in queries(node)}


def test_the_table_is_swept_every_five_minutes() -> None:
    node = bootstrapped_node()
    run_to(node, SWEEP_INTERVAL_S)
    ((ping, address),) = queries(node)
    assert (ping.method, address) == (b"ping", OTHER)
    respond(node, ping, OTHER, SWEEP_INTERVAL_S + 0.1)
    run_to(node, 2 * SWEEP_INTERVAL_S)
    assert [query.method for query, _ in queries(node)] == [b"ping"]
    now = 2 * SWEEP_INTERVAL_S
    while node.table_size and now < 3000:  # silent from now on
        now = node.next_deadline()
        node.handle_deadline(now)
        queries(node)
    assert now == 5 * SWEEP_INTERVAL_S, "15 minutes after it was last heard of"
    assert TablePoor() in node.take_events()


def test_a_node_that_is_silent_twice_while_others_answer_leaves_the_table() -> None:
    node = bootstrapped_node()
    lively = ("10.0.0.5", 1)
    now = 1.0
    for _ in range(2):
        assert OTHER_ID in [known.id for known in node.nodes()]
        handle = node.start_find_node(bytes(20), now=now)
        node._requests._by_handle[handle].lookup.add_address(lively)
        node._dispatcher.advance(node._requests._by_handle[handle].lookup, now)
        for query, address in queries(node):
            if address == lively:
                respond(node, query, lively, now + 0.1, id=bytes(20), nodes=b"")
        run_to(node, now + 2.0)
        queries(node)
        now += 5.0
    assert [known.id for known in node.nodes()] == [bytes(20)]


# Our own address (BEP 42) and server mode.


def test_the_public_address_gives_a_secure_identifier_and_server_mode() -> None:
    net = SimNetwork(3, public=True)
    addresses = net.grow(12)
    ours, node = net.add_node(addresses[:2], server="auto", knows_ip=False)
    before = node.node_id
    assert not is_secure(before, ours[0])
    net.advance(10.0)
    assert node.public_address == ours
    assert not node.firewalled, "our ping came back in"
    assert node.node_id != before
    assert is_secure(node.node_id, ours[0])
    assert not node.server_mode
    assert node.table_size > 5
    net.advance(REFRESH_INTERVAL_S)
    assert node.server_mode


def test_the_ping_to_our_own_address_waits_until_it_may_have_one() -> None:
    """Liars name somebody else's address as ours: it gets no more packets than any other."""
    net = SimNetwork(3, public=True)
    addresses = net.grow(12)
    ours, node = net.add_node(addresses[:2], server="auto", knows_ip=False)
    while node._budgets.reserve(ours[0], 0.0, net.now) == 0.0:
        pass
    net.get(ours, bytes(32))
    assert node.public_address == ours
    assert node.firewalled
    assert node.counters.dropped_pacing > 0
    net.advance(20.0)
    net.get(ours, bytes(32))
    net.advance(1.0)
    assert not node.firewalled, "our ping came back in"


def echo(payload: bytes, source: Address) -> list[bytes]:
    """Send a ping back as it came, as our own address does."""
    message = krpc.decode(payload)
    return [payload] if isinstance(message, Query) and message.method == b"ping" else []


def crowd(net: SimNetwork, prefix: int, claimed: Address) -> list[NodeInfo]:
    """Add sixty liars, each in a network of its own, whose identifiers begin with six given bits.

    They name each other, and `claimed` as the address of whoever asks.
    """
    liars: list[NodeInfo] = []

    def answer(node_id: bytes, payload: bytes) -> list[bytes]:
        message = krpc.decode(payload)
        if not isinstance(message, Query):
            return []
        values: dict[bytes, Value] = {b"id": node_id, b"token": b"t"}
        values[b"nodes"] = krpc.pack_nodes(net.rng.sample(liars, 20))
        return [krpc.encode(Response(message.transaction_id, values, requester=claimed))]

    while len(liars) < 60:
        address = (f"200.{net.rng.randrange(256)}.{net.rng.randrange(256)}.1", 6881)
        node_id = secure_id(address[0], net.rng)
        if node_id[0] >> 2 == prefix and address not in net.machines:
            liars.append(NodeInfo(node_id, address))
            net.add_machine(address, Scripted(lambda payload, _, own=node_id: answer(own, payload)))  # type: ignore[misc]
    return liars


def test_whoever_has_a_region_of_the_identifiers_does_not_choose_our_address() -> None:
    """Nor our identifier with it, by which others know us; look-ups there are all that he has."""
    net = SimNetwork(3, public=True)
    addresses = net.grow(40)
    ours, node = net.add_node(addresses[:2], server="auto", knows_ip=False)
    net.advance(10.0)
    assert (node.public_address, node.firewalled) == (ours, False)
    known, claimed = node.node_id, ("199.1.2.3", 6881)
    net.add_machine(claimed, Scripted(echo))
    prefix = node.node_id[0] >> 2 ^ 0b100000
    for liar in crowd(net, prefix, claimed):
        node._table.add(liar, net.now)
    for number in range(8):
        target = bytes([prefix << 2]) + bytes([number]) * 19
        handle = node.start_find_node(target, now=net.now)
        net.flush(ours)
        net.advance(15.0)
        responders = net.inboxes[ours].gets[handle].closest
        assert sum(it.address[0].startswith("200.") for it in responders) > len(responders) / 2
    assert (node.public_address, node.firewalled) == (ours, False)
    assert node.node_id == known


def test_a_new_address_is_noticed_with_the_next_look_up() -> None:
    net = SimNetwork(3, public=True)
    addresses = net.grow(40)
    old, node = net.add_node(addresses[:2], server="auto", knows_ip=False)
    net.advance(10.0)
    assert (node.public_address, node.firewalled) == (old, False)
    new = net.move(old)
    net.get(new, bytes(32))
    net.advance(5.0)
    assert (node.public_address, node.firewalled) == (new, False)
    assert is_secure(node.node_id, new[0])
    assert new in node._identity.addresses
    assert old not in node._identity.addresses
    newest = net.move(new)
    net.advance(REFRESH_INTERVAL_S + 10.0)
    assert (node.public_address, node.firewalled) == (newest, False), "also without a request"


def test_a_configured_public_ip_gives_a_secure_identifier_at_once() -> None:
    node = make_node(public_ip="93.184.216.34")
    assert is_secure(node.node_id, "93.184.216.34")


def test_a_forced_client_stays_one() -> None:
    net = SimNetwork(3)
    addresses = net.grow(4)
    _, node = net.add_node(addresses[:1], server=False)
    net.advance(REFRESH_INTERVAL_S + 10)
    assert (node.firewalled, node.server_mode) == (False, False)


def test_nothing_to_do_means_no_deadline_but_the_regular_ones() -> None:
    node = bootstrapped_node()
    assert node.next_deadline() == SWEEP_INTERVAL_S
    assert node.next_deadline() < inf


def test_the_window_can_be_fitted_to_the_receive_buffer() -> None:
    node = bootstrapped_node()
    node.window = 0
    assert node.window == 1
    node.start_get(bytes(32), now=1.0)
    node.start_get(OTHER_ID + bytes(12), now=1.0)
    assert len(queries(node)) == 1
