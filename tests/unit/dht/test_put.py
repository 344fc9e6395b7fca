"""Puts: when they end, and what they report."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relay._kernels import Answer
from relay.dht import krpc
from relay.dht.estimate import StoreNode
from relay.dht.events import PutFailure, PutOutcome
from relay.dht.krpc import ErrorReply, Query
from relay.dht.operations import Contact
from relay.dht.put import BAD_TOKEN, STORE_NODES_MAX, Put, StoreRound, Write

TARGET = bytes(20)
OWN_ID = b"\xff" * 20


def make_put(on_assured: Callable[[Put], None] = lambda put: None) -> Put:
    write = Write(TARGET, b"put", {b"target": TARGET, b"v": b"hello"}, ("identity",))
    return Put(write, ("value", TARGET), None, on_assured)


def store_node(number: int) -> StoreNode:
    return StoreNode(number.to_bytes(20, "big"), (f"10.0.0.{number}", 6881), b"token%d" % number)


def begin(nodes: int, *, put: Put | None = None, cached: bool = False) -> StoreRound:
    put = put or make_put()
    named = [store_node(number) for number in range(1, nodes + 1)]
    return put.round(named, OWN_ID, read_only=True, cached=cached)


def ask(writes: StoreRound) -> list[Contact]:
    asked = []
    while (contact := writes.next_contact()) is not None:
        writes.on_sent(contact, suspect=False)
        asked.append(contact)
    return asked


def acknowledge(writes: StoreRound, contact: Contact) -> None:
    assert contact.id is not None
    writes.on_response(contact, contact.id, Answer(b"aaaa", contact.id))


def refuse(writes: StoreRound, contact: Contact, code: int) -> None:
    writes.on_refusal(contact, ErrorReply(b"aaaa", code, b""))


def test_every_node_gets_its_own_token() -> None:
    writes = begin(3)
    for number, contact in enumerate(ask(writes), start=1):
        query = krpc.decode(writes.query_for(contact).fill(b"aaaa"))
        assert query == Query(
            b"aaaa",
            b"put",
            {b"id": OWN_ID, b"target": TARGET, b"token": b"token%d" % number, b"v": b"hello"},
            read_only=True,
            version=krpc.VERSION,
        )


def test_success_counts_the_acknowledgements() -> None:
    writes = begin(3)
    first, second, third = ask(writes)
    acknowledge(writes, first)
    refuse(writes, second, 302)
    assert not writes.settled()
    acknowledge(writes, third)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(2, 3, None)


@pytest.mark.parametrize(
    ("code", "failure"), [(302, PutFailure.NOT_MOST_RECENT), (301, PutFailure.CAS_FAILED)]
)
def test_more_than_half_end_it_early_and_overrule_success(code: int, failure: PutFailure) -> None:
    writes = begin(4)
    contacts = ask(writes)
    acknowledge(writes, contacts[0])
    refuse(writes, contacts[1], code)
    refuse(writes, contacts[2], code)
    assert not writes.settled(), "exactly half is not more than half"
    refuse(writes, contacts[3], code)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(1, 4, failure)
    early = begin(5)
    for contact in ask(early)[:3]:
        refuse(early, contact, code)
    assert early.settled()


@pytest.mark.parametrize("code", [201, 203, 205, 206, 207])
def test_other_errors_count_as_silence(code: int) -> None:
    writes = begin(2)
    for contact in ask(writes):
        refuse(writes, contact, code)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(0, 2, PutFailure.TIMED_OUT)


def test_without_acknowledgement_the_most_frequent_error_is_told() -> None:
    writes = begin(4)
    contacts = ask(writes)
    refuse(writes, contacts[0], 302)
    refuse(writes, contacts[1], 302)
    refuse(writes, contacts[2], 206)
    writes.on_slow(contacts[3])
    writes.on_late(contacts[3])
    assert not writes.settled(), "nobody has stored: the late one is the last hope"
    writes.on_dead(contacts[3])
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(0, 4, PutFailure.NOT_MOST_RECENT)


def test_dead_nodes_do_not_delay_a_put_that_others_have_stored() -> None:
    writes = begin(3)
    first, second, dead = ask(writes)
    acknowledge(writes, first)
    acknowledge(writes, second)
    writes.on_slow(dead)
    assert not writes.settled(), "it is asked a second time"
    writes.on_late(dead)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(2, 3, None)


def test_nobody_to_write_to() -> None:
    writes = begin(0)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(0, 0, PutFailure.NO_CLOSEST_NODES)


def test_what_was_sent_to_nobody_has_not_timed_out() -> None:
    """Be it that no turn came, that all were busy, or that the time to send was missed."""
    for asked, missed in ((0, 0), (0, 3), (3, 3), (2, 3)):
        writes = begin(3)
        contacts = []
        while len(contacts) < 3 and (contact := writes.next_contact()) is not None:
            if len(contacts) < asked:
                writes.on_sent(contact, suspect=False)
            elif missed:
                writes.on_busy(contact, suspect=False)
            else:
                break
            contacts.append(contact)
        for contact in contacts[:asked]:
            writes.on_busy(contact, suspect=False)
        assert writes.settled() == (len(contacts) == 3)
        assert writes.put.outcome(writes) == PutOutcome(0, 3, PutFailure.OVERLOADED)


def test_what_was_sent_to_one_and_not_answered_has_timed_out() -> None:
    writes = begin(3)
    first = writes.next_contact()
    assert first is not None
    writes.on_sent(first, suspect=False)
    while (contact := writes.next_contact()) is not None:
        writes.on_busy(contact, suspect=False)
    assert not writes.settled()
    writes.on_dead(first)
    assert writes.settled()
    assert writes.put.outcome(writes) == PutOutcome(0, 3, PutFailure.TIMED_OUT)


def test_refused_tokens_of_an_earlier_look_up_ask_for_a_new_one() -> None:
    writes = begin(2, cached=True)
    for contact in ask(writes):
        refuse(writes, contact, 203)
    assert writes.settled()
    assert writes.lapsed()
    fresh = begin(2)
    for contact in ask(fresh):
        refuse(fresh, contact, 203)
    assert not fresh.lapsed(), "fresh tokens that are refused stay refused"


def test_a_store_set_that_is_gone_asks_for_a_new_one() -> None:
    writes = begin(1, cached=True)
    (gone,) = ask(writes)
    writes.on_slow(gone)
    writes.on_late(gone)
    writes.on_dead(gone)
    assert writes.settled()
    assert writes.lapsed()


def test_a_majority_about_recency_needs_no_new_look_up() -> None:
    writes = begin(1, cached=True)
    (contact,) = ask(writes)
    refuse(writes, contact, 302)
    assert not writes.lapsed()


def test_a_second_round_leaves_out_who_has_stored_and_counts_them() -> None:
    put = make_put()
    first = begin(3, put=put, cached=True)
    contacts = ask(first)
    acknowledge(first, contacts[0])
    refuse(first, contacts[1], 203)
    refuse(first, contacts[2], 203)
    assert first.lapsed()
    second = begin(4, put=put)
    again = ask(second)
    assert [contact.address for contact in again] == [store_node(n).address for n in (2, 3, 4)]
    for contact in again:
        acknowledge(second, contact)
    assert second.settled()
    assert put.outcome(second) == PutOutcome(4, 4, None)


def test_the_store_set_is_bounded() -> None:
    put = make_put()
    nodes = [StoreNode(bytes(20), ("10.0.1.1", port), b"t") for port in range(1, 400)]
    writes = put.round(nodes, OWN_ID, read_only=True, cached=False)
    assert len(ask(writes)) == len(put.contacted) == STORE_NODES_MAX


@pytest.mark.parametrize("nodes", [2, 5, 20])
def test_it_is_assured_once_half_of_the_nodes_have_acknowledged(nodes: int) -> None:
    assured: list[Put] = []
    put = make_put(assured.append)
    writes = begin(nodes, put=put)
    contacts = ask(writes)
    half = -(-nodes // 2)
    for contact in contacts[: half - 1]:
        acknowledge(writes, contact)
    assert assured == []
    acknowledge(writes, contacts[half - 1])
    assert assured == [put]
    for contact in contacts[half:]:
        refuse(writes, contact, 302)
    assert assured == [put]
    assert writes.put.outcome(writes) == PutOutcome(half, nodes, None)


def test_the_last_acknowledgement_assures_nothing() -> None:
    """It ends the put."""
    assured: list[Put] = []
    writes = begin(1, put=make_put(assured.append))
    (contact,) = ask(writes)
    acknowledge(writes, contact)
    assert assured == []
    assert writes.settled()


def test_refusals_assure_nothing() -> None:
    assured: list[Put] = []
    writes = begin(4, put=make_put(assured.append))
    first, *others = ask(writes)
    acknowledge(writes, first)
    for contact in others:
        refuse(writes, contact, 301)
    assert assured == []
    assert writes.put.outcome(writes).failure is PutFailure.CAS_FAILED


def test_a_second_round_does_not_assure_again() -> None:
    """Half of the first round holds for good: the other half cannot make it lapse."""
    assured: list[Put] = []
    writes = begin(4, put=make_put(assured.append), cached=True)
    contacts = ask(writes)
    for contact in contacts[:2]:
        acknowledge(writes, contact)
    for contact in contacts[2:]:
        refuse(writes, contact, BAD_TOKEN)
    assert len(assured) == 1
    assert not writes.lapsed()
    late = begin(6, put=writes.put)
    for contact in ask(late):
        acknowledge(late, contact)
    assert len(assured) == 1
