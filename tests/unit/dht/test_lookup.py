"""Look-ups: whom they ask, when they end, and what they believe."""

from __future__ import annotations

from relay.dht import krpc
from relay.dht.collectors import ItemCollector
from relay.dht.krpc import ErrorReply, QueryTemplate, Response, Value, answer_of
from relay.dht.lookup import CANDIDATES_MAX, NODES_PER_ANSWER_MAX, QUERIES_MAX, K, Lookup
from relay.dht.node_id import Address, NodeInfo, secure_id
from relay.dht.operations import Contact, State
from tests.simulation.network import make_item
from tests.support.chance import seeded

TARGET = bytes(20)
OWN_ID = b"\xff" * 20
OWN_ADDRESS: Address = ("10.9.9.9", 6881)


def make_lookup(collector: ItemCollector | None = None) -> Lookup:
    query = QueryTemplate(b"get", {b"id": OWN_ID, b"target": TARGET}, read_only=True)
    return Lookup(TARGET, query, OWN_ID, {OWN_ADDRESS}, collector)


def node(distance: int, ip: str | None = None) -> NodeInfo:
    """A node at a given distance, on an address of its own."""
    host = ip or f"10.{distance >> 16 & 255}.{distance >> 8 & 255}.{distance & 255}"
    return NodeInfo(distance.to_bytes(20, "big"), (host, 6881))


def ask(lookup: Lookup) -> list[Contact]:
    """Send everything the look-up wants to send now."""
    asked = []
    while (contact := lookup.next_contact()) is not None:
        lookup.on_sent(contact, suspect=False)
        asked.append(contact)
    return asked


def respond(
    lookup: Lookup, contact: Contact, nodes: list[NodeInfo] | None = None, **values: Value
) -> None:
    """Let a contact answer under the name it was asked by."""
    contents: dict[bytes, Value] = {key.encode(): value for key, value in values.items()}
    contents[b"nodes"] = krpc.pack_nodes(nodes or [])
    assert contact.id is not None
    lookup.on_response(contact, contact.id, answer_of(Response(b"aaaa", contents)))


def addresses(contacts: list[Contact]) -> list[Address]:
    return [contact.address for contact in contacts]


def addresses_of(nodes: list[NodeInfo]) -> list[Address]:
    return [known.address for known in nodes]


def test_nothing_to_ask_is_the_end() -> None:
    assert make_lookup().settled()


def test_the_twenty_closest_are_asked_at_once_and_no_more() -> None:
    lookup = make_lookup()
    for distance in range(100, 0, -1):
        lookup.add(node(distance))
    assert addresses(ask(lookup)) == [node(distance).address for distance in range(1, K + 1)]


def test_a_crowd_near_the_target_makes_the_front_longer() -> None:
    """Thirty Sybils count for ten: ten nodes beyond are asked, and waited for."""
    lookup = make_lookup()
    lookup.limit_crowd((100).to_bytes(20, "big"))
    for distance in (*range(1, 31), *range(100, 150)):
        lookup.add(node(distance))
    asked = ask(lookup)
    expected = [*range(1, 31), *range(100, 110)]
    assert addresses(asked) == [node(distance).address for distance in expected]
    for contact in asked[:-1]:
        respond(lookup, contact)
    assert not lookup.settled()
    respond(lookup, asked[-1])
    assert lookup.settled()


def test_as_many_near_ones_as_expected_are_no_crowd() -> None:
    lookup = make_lookup()
    lookup.limit_crowd((11).to_bytes(20, "big"))
    for distance in range(1, 100):
        lookup.add(node(distance))
    assert len(ask(lookup)) == K


def test_liars_in_one_place_far_from_the_target_do_not_end_it() -> None:
    """Twenty of them name only each other; ten beyond are asked, one of whom knows better."""
    lookup = make_lookup()
    liars = [node(distance) for distance in range(10_000, 10_000 + K)]
    others = [node(20_000 + 1_000 * at) for at in range(2 * K)]
    for known in (*liars, *others):
        lookup.add(known)
    asked = ask(lookup)
    assert addresses(asked) == addresses_of(liars), "at first those ahead are asked, be they near"
    for contact in asked[:-1]:
        respond(lookup, contact, liars)
    assert not lookup.settled()
    respond(lookup, asked[-1], liars)
    assert not lookup.settled()
    beyond = ask(lookup)
    assert addresses(beyond) == addresses_of(others[:10])
    for contact in beyond[:-1]:
        respond(lookup, contact)
    assert not lookup.settled()
    respond(lookup, beyond[-1], [node(100 * distance) for distance in range(1, 1 + K)])
    near = ask(lookup)
    assert addresses(near) == [node(100 * distance).address for distance in range(1, 1 + K)]
    for contact in near:
        assert not lookup.settled()
        respond(lookup, contact)
    assert lookup.settled(), "twenty that are spread as honest ones are"


def test_one_place_is_a_quarter_of_its_distance_wide() -> None:
    for last, expected in ((12_500, 1), (12_501, 0)):
        lookup = make_lookup()
        for distance in (*range(100, 1_000, 100), *range(10_000, 10_010), last):
            lookup.add(node(distance))
        asked = ask(lookup)
        assert len(asked) == K
        for contact in asked:
            respond(lookup, contact)
        lookup.add(node(100_000))
        assert len(ask(lookup)) == expected, last


def test_a_closer_node_is_asked_as_soon_as_it_is_named() -> None:
    lookup = make_lookup()
    lookup.add(node(1000))
    (first,) = ask(lookup)
    assert not lookup.settled()
    respond(lookup, first, [node(7), node(2000)])
    assert addresses(ask(lookup)) == [node(7).address, node(2000).address]


def test_it_ends_when_the_closest_have_answered_though_farther_ones_have_not() -> None:
    lookup = make_lookup()
    for distance in range(1000, 1000 + K):
        lookup.add(node(distance))
    far = ask(lookup)
    respond(lookup, far[0], [node(distance) for distance in range(1, K)])
    close = ask(lookup)
    assert len(close) == K - 1
    for contact in close:
        assert not lookup.settled()
        respond(lookup, contact)
    assert lookup.settled(), "19 close ones and the one that answered first are the 20 closest"
    assert [c.address for c in lookup.responders()] == [*addresses(close), far[0].address]


def test_slow_nodes_lose_their_place_to_the_next_ones() -> None:
    lookup = make_lookup()
    for distance in range(1, K + 6):
        lookup.add(node(distance))
    asked = ask(lookup)
    for contact in asked[:5]:
        lookup.on_slow(contact)
    assert addresses(ask(lookup)) == [node(d).address for d in range(K + 1, K + 6)]


def test_with_few_nodes_slow_ones_are_waited_for_until_they_are_late() -> None:
    lookup = make_lookup()
    for distance in (1, 2, 3):
        lookup.add(node(distance))
    slow, *quick = ask(lookup)
    for contact in quick:
        respond(lookup, contact)
    lookup.on_slow(slow)
    assert not lookup.settled()
    lookup.on_late(slow)
    assert lookup.settled()


def test_while_nobody_has_answered_even_late_ones_are_waited_for() -> None:
    lookup = make_lookup()
    lookup.add(node(1))
    (only,) = ask(lookup)
    lookup.on_slow(only)
    lookup.on_late(only)
    assert not lookup.settled()
    lookup.on_dead(only)
    assert lookup.settled()
    assert (lookup.sent, lookup.responded, lookup.usable) == (1, 0, 0)


def test_a_suspect_does_not_hold_a_place() -> None:
    lookup = make_lookup()
    for distance in range(1, K + 2):
        lookup.add(node(distance))
    suspect = lookup.next_contact()
    assert suspect is not None
    lookup.on_sent(suspect, suspect=True)
    assert len(ask(lookup)) == K


def test_bootstrap_addresses_are_asked_and_find_their_place_by_their_answer() -> None:
    lookup = make_lookup()
    lookup.add_address(("10.0.0.7", 1))
    lookup.add_address(("10.0.0.7", 1))
    assert not lookup.settled()
    (router,) = ask(lookup)
    lookup.on_response(router, node(5).id, answer_of(Response(b"aaaa", {b"token": b"t"})))
    assert lookup.settled()
    (responder,) = lookup.responders()
    assert (responder.id, responder.address, responder.token) == (node(5).id, ("10.0.0.7", 1), b"t")


def test_errors_and_read_only_answers_count_but_are_no_responders() -> None:
    lookup = make_lookup()
    lookup.add(node(1))
    lookup.add(node(2))
    refusing, silly = ask(lookup)
    voted = ("93.0.0.1", 5)
    lookup.on_refusal(refusing, ErrorReply(b"aaaa", 201, b"", requester=voted))
    lookup.on_refusal(silly, None)
    assert lookup.settled()
    assert (lookup.sent, lookup.responded, lookup.usable) == (2, 2, 0)
    assert lookup.responders() == []
    assert list(lookup.votes.values()) == [krpc.pack_address(voted)]


def test_one_network_has_one_vote_about_our_address() -> None:
    """A /24, that is; in a local network each node has one."""
    first, second = krpc.pack_address(("93.0.0.1", 5)), krpc.pack_address(("93.0.0.2", 5))
    for hosts, expected in (
        (("20.0.0.1", "20.0.0.2", "20.0.1.1"), [first, second]),
        (("10.0.0.1", "10.0.0.2", "10.0.1.1"), [first, second, second]),
    ):
        lookup = make_lookup()
        for distance, ip in enumerate(hosts, start=1):
            lookup.add(node(distance, ip))
        for contact in ask(lookup):
            said = first if contact.address[0] == hosts[0] else second
            answer = Response(b"aaaa", {b"nodes": b""}, requester=krpc.unpack_address(said))
            assert contact.id is not None
            lookup.on_response(contact, contact.id, answer_of(answer))
        assert list(lookup.votes.values()) == expected


def test_only_the_nearest_that_answered_vote_about_our_address() -> None:
    """A crowd that a look-up comes by, far from its target, may be larger than that."""
    ours, theirs = ("93.0.0.1", 5), ("93.0.0.2", 5)
    lookup = make_lookup()
    for number in range(30):
        lookup.add(node(1000 + number, f"20.0.{number}.1"))
    for contact in ask(lookup):
        answer = Response(b"aaaa", {b"nodes": b""}, requester=theirs)
        assert contact.id is not None
        lookup.on_response(contact, contact.id, answer_of(answer))
    for number in range(K):
        lookup.add(node(1 + number, f"30.0.{number}.1"))
    for contact in ask(lookup):
        answer = Response(b"aaaa", {b"nodes": b""}, requester=ours)
        assert contact.id is not None
        lookup.on_response(contact, contact.id, answer_of(answer))
    assert list(lookup.votes.values()) == [krpc.pack_address(ours)] * K


def test_an_answer_without_anything_in_it_is_of_no_use() -> None:
    lookup = make_lookup()
    lookup.add(node(1))
    (contact,) = ask(lookup)
    lookup.on_response(contact, node(1).id, answer_of(Response(b"aaaa", {b"id": node(1).id})))
    assert (lookup.responded, lookup.usable) == (1, 0)


def test_ourselves_is_never_asked_nor_believed() -> None:
    lookup = make_lookup()
    lookup.add(NodeInfo(OWN_ID, ("10.0.0.1", 6881)))
    lookup.add(node(1))
    (contact,) = ask(lookup)
    respond(lookup, contact, [NodeInfo(node(2).id, OWN_ADDRESS), NodeInfo(OWN_ID, ("10.0.0.9", 1))])
    assert ask(lookup) == []
    lookup = make_lookup()
    lookup.add(node(1))
    (mirror,) = ask(lookup)
    lookup.on_response(mirror, OWN_ID, answer_of(Response(b"aaaa", {b"nodes": b""})))
    assert (mirror.state, lookup.usable) == (State.REFUSED, 0)


def test_unusable_addresses_are_not_asked() -> None:
    """Issue 3, section 4: an outsider may not send us into private networks, nor to nowhere."""
    lookup = make_lookup()
    lookup.add(node(1 << 100, "93.184.216.34"))
    (outsider,) = ask(lookup)
    named = [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "0.1.2.3",
        "224.0.0.1",
        "250.1.1.1",
    ]
    bad = [node(distance, ip) for distance, ip in enumerate(named, start=1)]
    bad.append(NodeInfo(node(50).id, ("93.184.216.35", 0)))
    good = node(60, "93.184.216.36")
    respond(lookup, outsider, [*bad, good])
    assert addresses(ask(lookup)) == [good.address]


def test_one_contact_per_public_address_until_it_is_dead() -> None:
    lookup = make_lookup()
    first, second = node(5, "93.0.0.1"), NodeInfo(node(3).id, ("93.0.0.1", 7000))
    lookup.add(first)
    lookup.add(second)
    (contact,) = ask(lookup)
    assert contact.address == first.address
    lookup.on_dead(contact)
    lookup.add(second)
    assert addresses(ask(lookup)) == [second.address]


def test_secure_identifiers_come_first_and_one_address_has_several() -> None:
    rng = seeded(1)
    ip = "21.75.31.124"
    lookup = make_lookup()
    lookup.add(node(1, "93.0.0.1"))  # closest, but insecure
    by_r: dict[int, bytes] = {}
    while len(by_r) < 8:
        identifier = secure_id(ip, rng)
        by_r.setdefault(identifier[-1] & 7, identifier)
    for port, identifier in enumerate(by_r.values(), start=1):
        lookup.add(NodeInfo(identifier, (ip, port)))
    lookup.add(NodeInfo(secure_id(ip, rng), (ip, 99)))
    asked = ask(lookup)
    assert len(asked) == 9, "eight secure prefixes of one address, and the other node"
    assert asked[-1].address == ("93.0.0.1", 6881)


def test_a_false_name_cannot_hide_a_node() -> None:
    """A liar names an honest node's address with a far identifier; others name it truly."""
    lookup = make_lookup()
    honest = node(9)
    for distance in range(1000, 1000 + K + 1):
        lookup.add(node(distance))
    lookup.add(NodeInfo(node(1 << 150).id, honest.address))
    asked = ask(lookup)
    assert honest.address not in addresses(asked)
    respond(lookup, asked[0], [honest])
    (contact,) = ask(lookup)
    assert (contact.address, contact.id) == (honest.address, honest.id)


def test_a_name_that_another_has_cannot_hide_a_node() -> None:
    """A liar gives all honest nodes one identifier, closer than theirs: they stay in the row."""
    lookup = make_lookup()
    honest = [node(distance) for distance in range(100, 110)]
    lookup.add(node(200))
    (liar,) = ask(lookup)
    lie = node(1).id
    false = [NodeInfo(lie, known.address) for known in honest]
    respond(lookup, liar, [*honest, NodeInfo(lie, ("10.66.0.1", 6881)), *false])
    asked = ask(lookup)
    assert set(addresses(asked)) >= {known.address for known in honest}
    assert lookup.in_row == lookup.known == 2 + len(honest)


def test_what_a_liar_names_is_forgotten_with_its_place() -> None:
    """Ever closer nodes push one another out of the row; their machines go with them."""
    lookup = make_lookup()
    distance = 1 << 40
    for _ in range(CANDIDATES_MAX * 3):
        distance -= 1
        octets = distance.to_bytes(20, "big")
        lookup.add(NodeInfo(octets, (f"93.{octets[-3]}.{octets[-2]}.{octets[-1]}", 6881)))
    assert lookup.in_row == lookup.known == lookup.machines == CANDIDATES_MAX


def test_a_node_under_a_false_name_gets_its_true_place() -> None:
    lookup = make_lookup()
    lookup.add(NodeInfo(node(1).id, node(77).address))
    lookup.add(node(5))
    false, other = ask(lookup)
    respond(lookup, other)
    lookup.on_response(false, node(77).id, answer_of(Response(b"aaaa", {b"nodes": b""})))
    assert [contact.id for contact in lookup.responders()] == [node(5).id, node(77).id]


def test_a_copied_identifier_counts_once() -> None:
    lookup = make_lookup()
    lookup.add(node(1))
    lookup.add(node(2))
    honest, thief = ask(lookup)
    respond(lookup, honest)
    lookup.on_response(thief, node(1).id, answer_of(Response(b"aaaa", {b"nodes": b""})))
    assert [contact.address for contact in lookup.responders()] == [node(1).address]
    assert lookup.settled()


def test_whoever_invents_closer_nodes_without_end_is_given_up() -> None:
    """Each answer names a closer node: the look-up ends after QUERIES_MAX of them."""
    lookup = make_lookup()
    distance = 1 << 159
    lookup.add(node(distance, "10.200.0.1"))
    asked = 0
    while not lookup.settled():
        contacts = ask(lookup)
        asked += len(contacts)
        for contact in contacts:
            distance -= 1
            ip = f"10.{distance >> 16 & 255}.{distance >> 8 & 255}.{distance & 255}"
            respond(lookup, contact, [node(distance, ip)])
    assert asked == QUERIES_MAX


def test_who_ended_before_nearer_ones_were_asked_cannot_tell() -> None:
    """By time, or by the number of queries: who was not asked may have what is looked for."""
    lookup = make_lookup()
    assert not lookup.cut_short
    for distance in range(30):
        lookup.add(node(2 * distance + 1))
    for contact in ask(lookup):
        respond(lookup, contact)
    assert lookup.settled()
    assert not lookup.cut_short
    lookup.add(node(50))
    assert not lookup.cut_short, "farther than the twentieth"
    lookup.add(node(2))
    assert lookup.cut_short
    (last,) = ask(lookup)
    assert lookup.cut_short, "it may answer yet"
    respond(lookup, last)
    assert not lookup.cut_short


def test_silent_nodes_that_are_busy_hide_nothing() -> None:
    lookup = make_lookup()
    for distance in range(1, 6):
        lookup.add(node(distance))
    first, *others = ask(lookup)
    for contact in others:
        lookup.on_busy(contact, suspect=True)
    respond(lookup, first)
    assert not lookup.starved


def test_who_passed_over_most_of_the_nearest_cannot_tell() -> None:
    """Busy nodes far from the target, with which each look-up begins, make no difference."""
    lookup = make_lookup()
    assert not lookup.starved
    for distance in range(1, 6):
        lookup.add(node(distance))
    assert lookup.starved, "nobody was asked"
    contacts = ask(lookup)
    for contact in contacts[:3]:
        lookup.on_busy(contact, suspect=False)
    assert contacts[0].state is State.DEAD
    respond(lookup, contacts[3])
    respond(lookup, contacts[4])
    assert lookup.starved
    lookup.add(node(6))
    (last,) = ask(lookup)
    respond(lookup, last)
    assert not lookup.starved
    for distance in range(100, 130):
        lookup.add(node(distance << 100, f"10.1.0.{distance}"))
    for contact in ask(lookup):
        lookup.on_busy(contact, suspect=False)
    assert lookup.starved
    for distance in range(10, 40):
        lookup.add(node(distance))
    for contact in ask(lookup):
        respond(lookup, contact)
    assert not lookup.starved, "those that were passed over are not among the nearest"


def test_the_row_is_bounded() -> None:
    lookup = make_lookup()
    for distance in range(CANDIDATES_MAX * 2, 0, -1):
        lookup.add(node(distance))
    for distance in range(CANDIDATES_MAX * 2, CANDIDATES_MAX * 3):
        lookup.add(node(distance))
    assert lookup.in_row == lookup.known == CANDIDATES_MAX
    assert [n.id for n in lookup.candidates()] == [node(d).id for d in range(1, K + 1)]


def test_a_full_row_takes_in_nearer_nodes_though_its_last_contact_was_asked() -> None:
    """What was asked keeps its place; the farthest of the others make room for nearer ones."""
    lookup = make_lookup()
    lookup.add(node(10_000))
    (last,) = ask(lookup)
    for distance in range(1_000, 1_000 + CANDIDATES_MAX - 1):
        lookup.add(node(distance))
    asked = ask(lookup)
    assert lookup.in_row == CANDIDATES_MAX
    lookup.add(node(2_000))
    assert lookup.known == CANDIDATES_MAX
    respond(lookup, last, [node(distance) for distance in (1, 3, 2)])
    assert addresses(ask(lookup)) == [node(distance).address for distance in (1, 2, 3)]
    assert lookup.in_row == lookup.known == CANDIDATES_MAX
    assert [contact.state for contact in asked] == [State.WAITING] * len(asked)
    for distance in range(1_000 + CANDIDATES_MAX - 4, 1_000 + CANDIDATES_MAX - 1):
        lookup.add(NodeInfo(node(4).id, node(distance).address))
    assert lookup.known == CANDIDATES_MAX, "the three farthest were forgotten, and may come again"
    assert addresses(ask(lookup)) == [node(1_000 + CANDIDATES_MAX - 4).address]


def test_whoever_copies_the_identifier_of_the_last_does_not_push_it_out() -> None:
    lookup = make_lookup()
    for distance in range(1, CANDIDATES_MAX + 1):
        lookup.add(node(distance))
    lookup.add(NodeInfo(node(CANDIDATES_MAX).id, node(CANDIDATES_MAX + 1).address))
    assert lookup.in_row == lookup.known == CANDIDATES_MAX
    assert lookup.reached()[-1].address == node(CANDIDATES_MAX).address


def test_only_so_many_nodes_are_believed_from_one_answer() -> None:
    lookup = make_lookup()
    lookup.add(node(1 << 100, "10.200.0.1"))
    (contact,) = ask(lookup)
    respond(lookup, contact, [node(distance) for distance in range(1, 100)])
    assert lookup.in_row == 1 + NODES_PER_ANSWER_MAX


def item_values(seed: int, seq: int, value: bytes = b"hello") -> dict[str, Value]:
    item = make_item(seed, seq, value)
    return {"k": item.public_key, "seq": seq, "sig": item.signature, "v": value}


def test_items_are_reported_when_they_are_new_and_proven() -> None:
    item = make_item(1, 5)
    lookup = make_lookup(ItemCollector(item.public_key, None))
    found: list[object] = []
    lookup.on_found = lambda _, thing: found.append(thing)
    for distance in range(1, 8):
        lookup.add(node(distance))
    contacts = ask(lookup)
    forged = {**item_values(1, 9), "sig": bytes(64)}
    respond(lookup, contacts[0], **item_values(1, 5))
    respond(lookup, contacts[1], **item_values(1, 5))
    respond(lookup, contacts[2], **item_values(1, 4))
    respond(lookup, contacts[3], **forged)
    respond(lookup, contacts[4], **item_values(2, 9))  # another key's
    respond(lookup, contacts[5], **item_values(1, 5, b"hellp"))  # same seq, larger value
    respond(lookup, contacts[6], **item_values(1, 6))
    assert found == [item, make_item(1, 5, b"hellp"), make_item(1, 6)]
    assert (lookup.responded, lookup.usable, lookup.invalid) == (7, 5, 2)
    assert isinstance(lookup.collector, ItemCollector)
    assert lookup.collector.best == make_item(1, 6)


def test_values_beyond_a_thousand_bytes_are_never_used() -> None:
    """Even when their owner signed them (issue 3, section 4)."""
    item = make_item(1, 1, b"x" * 1001)
    lookup = make_lookup(ItemCollector(item.public_key, None))
    lookup.add(node(1))
    lookup.add(node(2))
    first, second = ask(lookup)
    respond(lookup, first, **item_values(1, 1, b"x" * 1001))
    respond(lookup, second, **item_values(1, 0, b"x" * 1000))
    assert isinstance(lookup.collector, ItemCollector)
    assert lookup.collector.best == make_item(1, 0, b"x" * 1000)
    assert lookup.invalid == 1
