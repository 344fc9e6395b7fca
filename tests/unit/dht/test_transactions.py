"""Transactions: whose answer belongs where, and how long it is waited for."""

from __future__ import annotations

import pytest

from relay.dht import krpc
from relay.dht.krpc import Query, QueryTemplate
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation
from relay.dht.transactions import RoundTrips, TransactionTable
from tests.support.chance import seeded

A: Address = ("10.0.0.1", 6881)
B: Address = ("10.0.0.2", 6881)


class Asking(Operation):
    """The least that a transaction needs of an operation."""

    def next_contact(self) -> Contact | None:
        return None

    def query_for(self, contact: Contact) -> QueryTemplate:
        return QueryTemplate(b"ping", {b"id": bytes(20)}, read_only=True)

    def settled(self) -> bool:
        return False


def make_table(pending_max: int = 10) -> TransactionTable:
    return TransactionTable(seeded(1), 2.0, pending_max)


def id_of(payload: bytes) -> bytes:
    query = krpc.decode(payload)
    assert isinstance(query, Query)
    return query.transaction_id


def test_only_the_asked_address_may_answer() -> None:
    table = make_table()
    transaction, payload = table.open(Asking(), Contact(A), 0.0)
    sent_id = id_of(payload)
    assert len(sent_id) == 4
    assert table.close(B, sent_id, 0.1) is None
    assert table.close(("10.0.0.1", 6882), sent_id, 0.1) is None
    assert table.close(A, sent_id[::-1], 0.1) is None
    assert table.close(A, sent_id, 0.1) is transaction
    assert transaction.done
    assert table.close(A, sent_id, 0.1) is None, "an answer counts once"
    assert len(table) == 0


def test_a_silent_stranger_is_asked_again_with_two_bytes_and_that_is_remembered() -> None:
    table = make_table()
    transaction, first = table.open(Asking(), Contact(A), 0.0)
    second = table.open_again(transaction, 0.5)
    assert (len(id_of(first)), len(id_of(second))) == (4, 2)
    assert table.close(A, id_of(second), 0.6) is transaction
    assert table.close(A, id_of(first), 0.7) is None, "both ids end together"
    transaction, first = table.open(Asking(), Contact(A), 1.0)
    assert len(id_of(first)) == 2
    assert len(id_of(table.open_again(transaction, 1.5))) == 4, "it may have been replaced"
    _, first = table.open(Asking(), Contact(B), 1.0)
    assert len(id_of(first)) == 4


def test_a_node_known_to_answer_four_bytes_gets_four_again() -> None:
    table = make_table()
    _, payload = table.open(Asking(), Contact(A), 0.0)
    table.close(A, id_of(payload), 0.1)
    transaction, first = table.open(Asking(), Contact(A), 1.0)
    second = table.open_again(transaction, 1.2)
    assert len(id_of(second)) == 4
    assert id_of(first) != id_of(second)
    assert table.close(A, id_of(first), 1.3) is transaction


def test_dropping_forgets_both_ids() -> None:
    table = make_table()
    transaction, first = table.open(Asking(), Contact(A), 0.0)
    second = table.open_again(transaction, 0.5)
    table.drop(transaction)
    assert (len(table), transaction.done) == (0, True)
    assert table.close(A, id_of(first), 0.6) is None
    assert table.close(A, id_of(second), 0.6) is None


def test_the_table_is_full_at_its_limit() -> None:
    table = make_table(pending_max=2)
    first, _ = table.open(Asking(), Contact(A), 0.0)
    assert not table.full
    table.open(Asking(), Contact(A), 0.0)
    assert table.full
    table.drop(first)
    assert not table.full


def test_limits_follow_the_round_trips() -> None:
    trips = RoundTrips(2.0)
    assert (trips.soft_s, trips.patience_s) == (0.5, 1.0)
    for _ in range(50):
        trips.measure(0.0005)
    assert (trips.soft_s, trips.patience_s) == (0.2, 0.5), "never below the floor"
    for _ in range(100):
        trips.measure(0.3)
    assert 0.3 < trips.soft_s < 0.4
    assert trips.patience_s == pytest.approx(2 * trips.soft_s)
    for _ in range(100):
        trips.measure(1.9)
    assert (trips.soft_s, trips.patience_s) == (1.0, 2.0), "never above the time-out"


def test_a_short_time_out_shortens_the_others() -> None:
    """Test networks of the reference use 100 ms."""
    trips = RoundTrips(0.1)
    assert (trips.soft_s, trips.patience_s) == (0.05, 0.1)


def test_a_second_try_is_measured_from_its_own_start() -> None:
    table = make_table()
    transaction, _ = table.open(Asking(), Contact(A), 0.0)
    second = table.open_again(transaction, 0.5)
    table.close(A, id_of(second), 0.52)
    assert table.round_trips.mean_s == pytest.approx(0.02)
