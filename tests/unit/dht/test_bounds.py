"""What strangers can make a node remember has a bound each, and what is beyond it goes."""

from __future__ import annotations

from relay.dht.collectors import FOUND_MAX, ItemCollector
from relay.dht.dispatcher import OUTBOX_MAX, Silences
from relay.dht.krpc import Answer, QueryTemplate
from relay.dht.node import DhtNode
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation
from relay.dht.transactions import TransactionTable
from tests.support.chance import seeded


class Asking(Operation):
    """Asks everybody the same."""

    def next_contact(self) -> Contact | None:
        return None

    def query_for(self, contact: Contact) -> QueryTemplate:
        return QueryTemplate(b"ping", {b"id": bytes(20)}, read_only=True)

    def settled(self) -> bool:
        return True


def address(number: int) -> Address:
    return f"93.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 6881


def test_silent_nodes_are_forgotten_oldest_first() -> None:
    silences = Silences()
    for number in range(5000):
        assert silences.note(address(number), 1.0) == 1
    assert len(silences._since) == 4096
    assert not silences.suspect(address(0), 1.0)
    assert silences.suspect(address(4999), 1.0)


def test_kinds_of_transaction_ids_are_forgotten_oldest_first() -> None:
    table = TransactionTable(seeded(1), 2.0)
    for number in range(9000):
        transaction, _ = table.open(Asking(), Contact(address(number)), 1.0)
        assert table.close(address(number), transaction.first_key[1], 1.0) is transaction
    assert len(table._lengths) == 8192
    assert len(table) == len(table._open) == 0


def test_replies_that_nobody_fetches_are_dropped() -> None:
    node = DhtNode(rng=seeded(1), secret=bytes(32), now=0.0, local_address=("10.0.0.1", 6881))
    for number in range(OUTBOX_MAX + 100):
        node._dispatcher.reply(b"reply", address(number))
    assert len(node.datagrams_to_send()) == OUTBOX_MAX
    assert node.counters.dropped_outbox == 100


def test_ever_newer_items_of_a_look_up_push_out_older_ones() -> None:
    """The owner of a key can have each node answer with another item."""
    collector = ItemCollector(bytes(32), None, holds=lambda item: True)
    for seq in range(100):
        answer = Answer(
            *(b"aaaa", bytes(20), None, None, bytes(32), seq, bytes(64)),
            b"1000:" + bytes(1000),
            *(None, None, False),
        )
        assert collector.take(answer) is not None
        assert len(collector.found) <= FOUND_MAX
    assert collector.best is not None
    assert [item.seq for item in collector.found] == list(range(100 - FOUND_MAX, 100))
