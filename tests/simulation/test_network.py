"""Whole networks of our nodes: what one node stores others find, whatever the faults.

Seeds are parameters; a failure names the seed, and the same seed fails again.
"""

from __future__ import annotations

import pytest

from relay.dht import krpc
from relay.dht.events import PutFailure
from relay.dht.krpc import ErrorReply, Query, Response, Value
from relay.dht.node_id import Address
from tests.simulation.network import Scripted, SimNetwork, make_item


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nodes", [8, 60])
def test_newcomers_find_what_newcomers_stored(seed: int, nodes: int) -> None:
    net = SimNetwork(seed)
    addresses = net.grow(nodes)
    writer, _ = net.add_node(addresses[:2], server=False)
    net.advance(2.0)
    item = make_item(seed, 5)
    outcome = net.put(writer, item)
    assert outcome.failure is None
    assert outcome.stored == outcome.contacted
    assert outcome.stored == nodes if nodes < 20 else outcome.stored >= 20
    net.kill(writer)
    reader, _ = net.add_node([net.rng.choice(addresses)], server=False)
    found = net.get(reader, item.public_key)
    assert found.best == item
    assert found.usable == found.responded == found.queried
    newer = make_item(seed, 6)
    assert net.put(reader, newer).failure is None
    assert net.put(reader, item).failure is PutFailure.NOT_MOST_RECENT
    assert net.put(reader, make_item(seed, 7), cas=5).failure is PutFailure.CAS_FAILED
    assert net.get(addresses[0], item.public_key).best == newer


@pytest.mark.parametrize("seed", range(5))
def test_five_percent_loss_costs_nothing_but_time(seed: int) -> None:
    net = SimNetwork(seed, latency_s=(0.02, 0.3), loss_ratio=0.05)
    addresses = net.grow(40)
    writer, _ = net.add_node(addresses[:3], server=False)
    net.advance(5.0)
    item = make_item(seed)
    started = net.now
    outcome = net.put(writer, item)
    assert outcome.failure is None
    assert outcome.stored >= 18, "a lost write is repeated"
    assert net.now - started < 8.0
    reader, _ = net.add_node(addresses[:3], server=False)
    net.advance(5.0)
    started = net.now
    assert net.get(reader, item.public_key).best == item
    assert net.now - started < 5.0
    first_seen = net.inboxes[reader].item_times[0]
    assert first_seen - started < 2.0, "the first item is told before the look-up ends"


def test_dead_nodes_cost_half_a_second_once_not_two_each_time() -> None:
    """A network of 8 with 2 dead ones; the reference waits 2 s in each look-up and put."""
    net = SimNetwork(7, latency_s=(0.0002, 0.0004))
    addresses = net.grow(8)
    client, node = net.add_node(addresses[:1], server=False)
    net.advance(3.0)
    for address in addresses[6:]:
        net.kill(address)
    durations = []
    for number in range(5):
        started = net.now
        assert net.put(client, make_item(number)).stored == 6
        durations.append(net.now - started)
        net.advance(3.0)
    assert durations[0] < 1.2
    assert max(durations[1:]) < 0.5, (
        "known silent nodes are waited for no longer than a slow answer"
    )
    assert node.table_size == 6


def test_on_loopback_a_look_up_and_a_put_take_a_few_round_trips() -> None:
    net = SimNetwork(8, latency_s=(0.0002, 0.0002))
    addresses = net.grow(20)
    client, _ = net.add_node(addresses[:1], server=False)
    net.advance(3.0)
    item = make_item(1)
    started = net.now
    assert net.put(client, item).stored == 20
    assert net.now - started < 0.003
    started = net.now
    assert net.get(client, item.public_key).best == item
    assert net.now - started < 0.002


def test_a_hundred_look_ups_at_once_get_every_reply() -> None:
    """Issue 3, section 4; here nothing is lost on the way, so nothing may be lost by us."""
    net = SimNetwork(9, latency_s=(0.001, 0.003))
    addresses = net.grow(20)
    writer, _ = net.add_node(addresses[:3], server=False)
    net.advance(3.0)
    items = [make_item(number) for number in range(100)]
    puts = [net.start_put(writer, item) for item in items]
    net.run_until(lambda: all(put in net.inboxes[writer].puts for put in puts))
    assert {outcome.stored for outcome in net.inboxes[writer].puts.values()} == {20}
    reader, node = net.add_node(addresses[:3], server=False)
    net.advance(3.0)
    gets = [net.start_get(reader, item.public_key) for item in items]
    net.run_until(lambda: all(get in net.inboxes[reader].gets for get in gets))
    assert [net.inboxes[reader].gets[get].best for get in gets] == items
    assert node.counters.queries_out == node.counters.responses_in
    assert node.counters.timeouts == 0


def liar(net: SimNetwork, kind: str, victims: list[Address]) -> Scripted:
    """A node that answers everything, but falsely."""
    node_id = net.rng.randbytes(20)
    forged = make_item(99, 2**62)

    def answer(payload: bytes, source: Address) -> list[bytes]:
        query = krpc.decode(payload)
        if not isinstance(query, Query) or kind == "silent":
            return []
        if kind == "garbage":
            return [net.rng.randbytes(60), payload, b"d1:rd2:id3:abce1:t4:aaaa1:y1:re"]
        values: dict[bytes, Value] = {b"id": node_id}
        if query.method in (b"get", b"find_node"):
            values |= {b"nodes": b"", b"token": b"useless"}
        if query.method == b"put":
            return [krpc.encode(ErrorReply(query.transaction_id, 203, b"Bad token"))]
        if query.method == b"get" and kind == "forger":
            target = query.arguments[b"target"]
            assert isinstance(target, bytes)
            values |= {b"k": forged.public_key, b"seq": 2**62, b"sig": bytes(64), b"v": b"lie"}
        if query.method == b"get" and kind == "mapmaker":
            # Ever closer nodes that do not exist.
            target = query.arguments[b"target"]
            assert isinstance(target, bytes)
            closer = target[:10] + net.rng.randbytes(10)
            values[b"nodes"] = closer + krpc.pack_address(net.rng.choice(victims))
        return [krpc.encode(Response(query.transaction_id, values, requester=("1.2.3.4", 5)))]

    return Scripted(answer)


@pytest.mark.parametrize("kind", ["silent", "garbage", "forger", "mapmaker"])
def test_liars_among_the_nodes_do_not_keep_an_item_from_being_found(kind: str) -> None:
    net = SimNetwork(11)
    addresses = net.grow(25)
    ghosts = [("10.200.0.1", port) for port in range(1, 200)]
    liars = []
    for _ in range(8):
        address = net.new_address()
        net.add_machine(address, liar(net, kind, ghosts))
        liars.append(address)
    writer, node = net.add_node([*addresses[:2], *liars], server=False)
    net.advance(5.0)
    item = make_item(99, 7)
    outcome = net.put(writer, item)
    assert outcome.failure is None
    assert 15 <= outcome.stored <= 25
    reader, _ = net.add_node([*liars, addresses[3]], server=False)
    net.advance(5.0)
    found = net.get(reader, item.public_key)
    assert found.best == item
    assert [event.item for event in net.inboxes[reader].items] == [item]
    assert node.public_address != ("1.2.3.4", 5), "a minority does not tell us who we are"


def test_nodes_of_the_old_generation_take_part() -> None:
    """mainline 5 answers nothing but ids of 2 bytes, mainline 6 nothing but 4."""
    net = SimNetwork(12)
    addresses = net.grow(6)
    inner = {address: net.machines[address] for address in addresses}

    def selective(address: Address, length: int) -> None:
        receive = inner[address].receive_datagram

        def receive_some(payload: bytes, source: Address, now: float) -> None:
            message = krpc.decode(payload)
            if len(message.transaction_id) == length:
                receive(payload, source, now)

        inner[address].receive_datagram = receive_some  # type: ignore[method-assign]

    for address in addresses[:3]:
        selective(address, 2)
    for address in addresses[3:]:
        selective(address, 4)
    client, node = net.add_node(addresses, server=False)
    net.advance(5.0)
    assert node.table_size == 6
    repeated = node.counters.queries_repeated
    started = net.now
    assert net.put(client, make_item(1)).stored == 6
    assert net.now - started < 0.3, "what a node answers to is remembered"
    assert node.counters.queries_repeated == repeated


def test_a_network_on_public_addresses() -> None:
    """BEP 42, limits per address, and the estimate of how many there are."""
    net = SimNetwork(18, public=True, latency_s=(0.02, 0.2))
    addresses = net.grow(120)
    client, node = net.add_node(addresses[:4], server="auto", knows_ip=False)
    net.advance(10.0)
    for number in range(12):
        item = make_item(number)
        outcome = net.put(net.rng.choice(addresses), item)
        assert outcome.failure is None
        assert 20 <= outcome.stored <= 40
        assert net.get(client, item.public_key).best == item
        net.advance(5.0)
    size, deviation = node.size_estimate
    assert 80 < size < 180
    assert 0.0 < deviation < 0.15
    assert node.public_address == client


def test_items_survive_half_of_the_nodes() -> None:
    net = SimNetwork(13)
    addresses = net.grow(50)
    item = make_item(1)
    assert net.put(addresses[0], item).stored >= 20
    for address in net.rng.sample(addresses[1:], 25):
        net.kill(address)
    assert net.get(addresses[0], item.public_key).best == item


def test_the_first_node_may_go() -> None:
    """Nodes that joined later are found without it."""
    net = SimNetwork(19)
    first, *others = net.grow(10)
    net.kill(first)
    client, _ = net.add_node(others[:1], server=False)
    net.advance(5.0)
    assert net.put(client, make_item(1)).stored == 9


def test_a_network_that_heals_is_found_within_a_minute() -> None:
    net = SimNetwork(14)
    addresses = net.grow(5)
    net.loss_ratio = 1.0
    client, node = net.add_node(addresses[:2], server=False)
    net.advance(300.0)
    assert not node.bootstrapped
    net.loss_ratio = 0.0
    net.advance(63.0)
    assert node.bootstrapped
    assert net.put(client, make_item(1)).stored == 5


def test_what_is_begun_after_an_outage_does_not_share_the_fate_of_what_was_begun_before() -> None:
    """A get and a put of a key that was asked for in vain; all that was sent for that is lost."""
    net = SimNetwork(20)
    addresses = net.grow(10)
    item, newer = make_item(1, 1), make_item(1, 2)
    net.put(addresses[0], item)
    client, _ = net.add_node(addresses[:2], server=False)
    net.advance(10.0)
    net.loss_ratio = 1.0
    net.start_get(client, item.public_key)
    net.advance(1.0)  # its second tries are lost, too
    net.loss_ratio = 0.0
    healed = net.now
    assert net.put(client, newer).stored == 10
    assert net.get(client, item.public_key).best == newer
    assert net.now - healed < 1.0


def test_a_node_that_slept_for_an_hour_works_as_soon_as_it_is_asked() -> None:
    """All that it knows is out of date by then, but for its bootstrap addresses."""
    net = SimNetwork(21)
    addresses = net.grow(10)
    client, node = net.add_node(addresses[:2], server=False)
    net.advance(10.0)
    del net.machines[client]
    net.advance(3600.0)
    net.add_machine(client, node)
    woken = net.now
    item = make_item(1)
    assert net.put(client, item).stored == 10
    assert net.get(client, item.public_key).best == item
    assert net.now - woken < 1.0


def test_public_addresses_are_paced() -> None:
    """No more than 45 in 10 s to one IP address, whatever is asked of the node."""
    net = SimNetwork(15, public=True)
    addresses = net.grow(6)
    client, node = net.add_node(addresses[:1], server=False)
    net.advance(10.0)
    arrivals: dict[str, list[float]] = {}
    for address in addresses:
        receive = net.machines[address].receive_datagram

        def noting(
            payload: bytes, source: Address, now: float, *, receive=receive, ip: str = address[0]
        ) -> None:
            if source == client:
                arrivals.setdefault(ip, []).append(now)
            receive(payload, source, now)

        net.machines[address].receive_datagram = noting  # type: ignore[method-assign]
    started = net.now
    gets = [net.start_get(client, make_item(number).public_key) for number in range(60)]
    net.run_until(lambda: all(get in net.inboxes[client].gets for get in gets))
    net.advance(10.0)
    for times in arrivals.values():
        assert max(sum(t <= other <= t + 10.0 for other in times) for t in times) <= 45
        assert sum(other < started + 1.0 for other in times) <= 25 + 3
    assert node.counters.dropped_pacing > 0


def test_nodes_that_all_ask_more_than_there_is_room_for_are_answered() -> None:
    """Each has room for two packets a second to another: half are answers, not all queries."""
    net = SimNetwork(30, public=True)
    addresses = net.grow(6)
    nodes = [net.machines[address] for address in addresses]
    net.advance(20.0)
    before = [node.counters.responses_in for node in nodes]  # type: ignore[attr-defined]
    for number in range(60):
        for at, address in enumerate(addresses):
            net.start_get(address, bytes([number, at]) * 16)
        net.advance(0.5)
    for node, had in zip(nodes, before, strict=True):
        answers = node.counters.responses_in - had  # type: ignore[attr-defined]
        assert answers >= 5 * 30, "of each of five nodes one a second"


def test_the_same_seed_gives_the_same_bytes() -> None:
    digests = set()
    for _ in range(2):
        net = SimNetwork(16, loss_ratio=0.1)
        addresses = net.grow(12)
        client, _ = net.add_node(addresses[:2], server="auto")
        net.put(client, make_item(1))
        net.get(addresses[3], make_item(1).public_key)
        net.advance(1000.0)
        digests.add((net.sent, net.log.hexdigest()))
    assert len(digests) == 1
    other = SimNetwork(17, loss_ratio=0.1)
    other.grow(12)
    assert other.log.hexdigest() not in {digest for _, digest in digests}
