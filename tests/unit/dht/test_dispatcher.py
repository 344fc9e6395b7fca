"""The dispatcher: when queries leave, when silence is noticed, when operations end."""

from __future__ import annotations

from math import inf

from relay.dht import krpc
from relay.dht.counters import NodeCounters
from relay.dht.dispatcher import (
    OPERATION_S_MAX,
    OUTBOX_MAX,
    SUSPECT_S,
    WINDOW,
    Dispatcher,
    Silences,
)
from relay.dht.krpc import Query, QueryTemplate
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation, State
from relay.dht.traffic import Traffic
from tests.support.chance import seeded

PING = QueryTemplate(b"ping", {b"id": bytes(20)}, read_only=True)


class Asking(Operation):
    """Asks each of its contacts once; `patient`: waits for late ones too."""

    def __init__(self, *contacts: Contact, patient: bool = False) -> None:
        super().__init__()
        self.contacts = contacts
        self.patient = patient

    def next_contact(self) -> Contact | None:
        return next((c for c in self.contacts if c.state is State.NEW), None)

    def query_for(self, contact: Contact) -> QueryTemplate:
        return PING

    def settled(self) -> bool:
        if self.patient and self.late:
            return False
        return self.next_contact() is None and not self.waiting


class FixedPacer:
    """Lets packets to some addresses wait; has others spared."""

    def __init__(self, *busy: str, **waits: float) -> None:
        self.spared = set(busy)
        self.waits = waits

    def reserve(self, ip: str, wait_max_s: float, now: float) -> float:
        return self.waits.get(ip.replace(".", "_"), 0.0)

    def busy(self, ip: str, now: float) -> bool:
        return ip in self.spared


class Desk:
    """A dispatcher and what it reports."""

    def __init__(self, pacer: FixedPacer | None = None) -> None:
        self.counters = NodeCounters()
        self.traffic = Traffic()
        self.settled: list[tuple[Operation, float]] = []
        self.silent: list[tuple[Contact, int]] = []
        self.starving: list[Operation] = []
        self.dispatcher = Dispatcher(
            rng=seeded(1),
            pacer=pacer or FixedPacer(),
            request_timeout_s=2.0,
            counters=self.counters,
            traffic=self.traffic,
            on_settled=lambda operation, now: self.settled.append((operation, now)),
            on_silent=lambda contact, times: self.silent.append((contact, times)),
            on_starving=self.starving.append,
        )

    def ids(self) -> list[tuple[bytes, Address]]:
        """Transaction ids and addresses of what is to be sent now."""
        sent = []
        for payload, address in self.dispatcher.take_datagrams():
            query = krpc.decode(payload)
            assert isinstance(query, Query)
            sent.append((query.transaction_id, address))
        return sent

    def answer(self, transaction_id: bytes, address: Address, now: float) -> None:
        transaction = self.dispatcher.close(address, transaction_id, now)
        assert transaction is not None
        transaction.operation.on_refusal(transaction.contact, None)
        self.dispatcher.advance(transaction.operation, now)

    def run_to(self, until: float) -> None:
        while (at := self.dispatcher.next_deadline()) <= until:
            self.dispatcher.handle_deadline(at)


def contact(number: int) -> Contact:
    return Contact((f"10.0.{number >> 8}.{number & 255}", 6881), bytes(20))


def test_an_operation_ends_with_its_last_answer() -> None:
    desk = Desk()
    operation = Asking(contact(1), contact(2))
    desk.dispatcher.submit(operation, 0.0)
    (first, a), (second, b) = desk.ids()
    desk.answer(first, a, 0.1)
    assert desk.settled == []
    desk.answer(second, b, 0.2)
    assert desk.settled == [(operation, 0.2)]
    assert desk.dispatcher.next_deadline() == inf, "nothing is left to wait for"


def test_silence_is_slow_then_late_then_dead() -> None:
    desk = Desk()
    silent = contact(1)
    desk.dispatcher.submit(Asking(silent, patient=True), 0.0)
    assert [len(i) for i, _ in desk.ids()] == [4]
    desk.run_to(0.49)
    assert silent.state is State.WAITING
    desk.run_to(0.5)
    assert silent.state is State.SLOW
    assert [len(i) for i, _ in desk.ids()] == [2], "asked once more, as old nodes like it"
    desk.run_to(1.0)
    assert silent.state is State.LATE
    desk.run_to(1.99)
    assert desk.settled == []
    desk.run_to(2.0)
    assert silent.state is State.DEAD
    assert [at for _, at in desk.settled] == [2.0]
    assert desk.ids() == []
    counters = desk.counters
    assert (counters.queries_out, counters.queries_repeated, counters.timeouts) == (1, 1, 1)


def test_an_answer_to_the_second_try_counts() -> None:
    desk = Desk()
    operation = Asking(contact(1))
    desk.dispatcher.submit(operation, 0.0)
    desk.ids()
    desk.run_to(0.5)
    ((second, address),) = desk.ids()
    desk.answer(second, address, 0.6)
    assert desk.settled == [(operation, 0.6)]
    assert desk.counters.queries_repeated == 1


def test_the_window_bounds_what_is_on_the_wire() -> None:
    desk = Desk()
    contacts = [contact(number) for number in range(WINDOW + 50)]
    desk.dispatcher.submit(Asking(*contacts), 0.0)
    sent = desk.ids()
    assert len(sent) == WINDOW
    for transaction_id, address in sent[:20]:
        desk.answer(transaction_id, address, 0.1)
    assert len(desk.ids()) == 20
    desk.run_to(0.5)  # those that stay silent make room: they are slow now
    assert len({address for _, address in desk.ids()}) >= 30
    assert all(c.state is not State.NEW for c in contacts)


def test_first_come_first_served() -> None:
    desk = Desk()
    desk.dispatcher.window = 2
    first = Asking(contact(1), contact(2), contact(3))
    second = Asking(contact(4))
    desk.dispatcher.submit(first, 0.0)
    desk.dispatcher.submit(second, 0.0)
    order = []
    while sent := desk.ids():
        order += [address[0] for _, address in sent]
        for transaction_id, address in sent:
            desk.answer(transaction_id, address, 0.0)
    assert order == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert [operation for operation, _ in desk.settled] == [first, second]


def test_pacing_delays_a_query_and_its_clock() -> None:
    desk = Desk(FixedPacer(**{"10_0_0_1": 0.3}))
    waiting = contact(1)
    desk.dispatcher.submit(Asking(waiting), 0.0)
    assert desk.ids() == []
    desk.run_to(0.29)
    assert desk.ids() == []
    desk.run_to(0.3)
    assert [address for _, address in desk.ids()] == [waiting.address]
    desk.run_to(0.79)
    assert waiting.state is State.WAITING
    desk.run_to(0.8)
    assert waiting.state is State.SLOW
    assert desk.counters.paced == 1


def test_a_place_that_was_missed_is_not_used() -> None:
    """A suspended machine would else send at once what was to go one by one."""
    for called_at, free, sent in ((1.3, False, 1), (1.4, False, 0), (1.4, True, 1)):
        pacer = FixedPacer(**{"10_0_0_1": 0.3})
        desk = Desk(pacer)
        waiting = contact(1)
        operation = Asking(waiting)
        desk.dispatcher.submit(operation, 0.0)
        if free:
            pacer.waits.clear()
        desk.dispatcher.handle_deadline(called_at)
        assert len(desk.ids()) == sent
        assert (waiting.state is State.DEAD) == (not sent)
        assert desk.counters.dropped_pacing == 1 - sent
        assert len(desk.settled) == 1 - sent


def test_a_second_try_that_missed_its_place_is_not_made() -> None:
    for called_at, sent in ((1.8, 1), (1.9, 0)):
        pacer = FixedPacer()
        desk = Desk(pacer)
        desk.dispatcher.submit(Asking(contact(1), patient=True), 0.0)
        desk.ids()
        pacer.waits["10_0_0_1"] = 0.3
        desk.dispatcher.handle_deadline(0.5)
        desk.dispatcher.handle_deadline(called_at)
        assert desk.counters.queries_repeated == sent
        assert desk.counters.dropped_pacing == 1 - sent


def test_a_ping_that_nobody_waits_for_is_paced_too() -> None:
    desk = Desk(FixedPacer(**{"10_0_0_1": 0.3}))
    assert not desk.dispatcher.send_ping(b"ping", ("10.0.0.1", 1), 0.0)
    assert desk.dispatcher.send_ping(b"ping", ("10.0.0.2", 1), 0.0)
    assert desk.dispatcher.take_datagrams() == [(b"ping", ("10.0.0.2", 1))]
    assert desk.counters.dropped_pacing == 1


def test_what_would_wait_longer_than_a_second_is_left_out() -> None:
    desk = Desk(FixedPacer(**{"10_0_0_1": 1.1}))
    left_out, asked = contact(1), contact(2)
    operation = Asking(left_out, asked)
    desk.dispatcher.submit(operation, 0.0)
    ((transaction_id, address),) = desk.ids()
    assert (left_out.state, address) == (State.DEAD, asked.address)
    desk.answer(transaction_id, address, 0.1)
    assert desk.settled == [(operation, 0.1)]
    assert (operation.sent, desk.counters.dropped_pacing) == (1, 1)


def test_a_busy_node_is_spared_while_enough_others_are_waited_for() -> None:
    class Sparing(Asking):
        spares_from = 2

    desk = Desk(FixedPacer("10.0.0.2", "10.0.0.3", "10.0.0.4"))
    contacts = [contact(number) for number in range(1, 6)]
    operation = Sparing(*contacts)
    desk.dispatcher.submit(operation, 0.0)
    (first, a), (second, b) = desk.ids()
    assert (a, b) == (contacts[0].address, contacts[1].address)
    desk.answer(first, a, 0.1)
    ((third, c),) = desk.ids()
    assert c == contacts[2].address
    desk.answer(second, b, 0.2)
    fourth, fifth = desk.ids()
    assert (fourth[1], fifth[1]) == (contacts[3].address, contacts[4].address), "one is not busy"
    for transaction_id, address in ((third, c), fourth, fifth):
        desk.answer(transaction_id, address, 0.3)
    assert desk.settled == [(operation, 0.3)]
    assert all(contact.state is State.REFUSED for contact in contacts)


def test_a_silent_node_holds_up_those_that_are_spared_no_longer_than_it_is_slow() -> None:
    """Whoever names dead nodes gains the soft limit, not their patience, nor a second."""

    class Sparing(Asking):
        spares_from = 1

    desk = Desk(FixedPacer("10.0.0.1", "10.0.0.2", "10.0.0.3"))
    silent, second, third = contacts = contact(1), contact(2), contact(3)
    operation = Sparing(*contacts)
    desk.dispatcher.submit(operation, 0.0)
    assert [address for _, address in desk.ids()] == [silent.address]
    slow_at = desk.dispatcher.next_deadline()
    desk.dispatcher.handle_deadline(slow_at)
    assert silent.state is State.SLOW
    assert [address for _, address in desk.ids()] == [silent.address, second.address]
    assert third.state is State.NEW, "the second one is waited for"
    assert (operation.waiting, operation.slow) == (2, 1)


def test_who_is_about_to_end_without_an_answer_may_get_more_contacts() -> None:
    desk = Desk(FixedPacer(**{"10_0_0_1": 1.1}))
    more = contact(2)
    operation = Asking(contact(1))

    def add(starving: Operation) -> None:
        desk.starving.append(starving)
        operation.contacts = (*operation.contacts, more)

    desk.dispatcher._on_starving = add
    desk.dispatcher.submit(operation, 0.0)
    assert desk.starving == [operation]
    ((transaction_id, address),) = desk.ids()
    assert address == more.address
    desk.answer(transaction_id, address, 0.1)
    assert desk.settled == [(operation, 0.1)]


def test_who_gets_no_more_contacts_ends() -> None:
    desk = Desk(FixedPacer(**{"10_0_0_1": 1.1}))
    operation = Asking(contact(1))
    desk.dispatcher.submit(operation, 0.0)
    assert desk.starving == [operation]
    assert desk.settled == [(operation, 0.0)]


def test_an_operation_does_not_outlive_its_time() -> None:
    """Each contact that goes dead is replaced by another one: without an end."""

    class Endless(Asking):
        def next_contact(self) -> Contact | None:
            if self.waiting:
                return None
            self.contacts = (contact(self.sent),)
            return self.contacts[0]

    desk = Desk()
    operation = Endless()
    desk.dispatcher.submit(operation, 0.0)
    desk.run_to(OPERATION_S_MAX - 0.01)
    assert desk.settled == []
    desk.run_to(OPERATION_S_MAX)
    assert desk.settled == [(operation, OPERATION_S_MAX)]
    desk.run_to(OPERATION_S_MAX + 5)
    assert len(desk.settled) == 1


def test_an_abandoned_operation_asks_nobody_any_more() -> None:
    desk = Desk()
    desk.dispatcher.window = 1
    operation = Asking(contact(1), contact(2))
    desk.dispatcher.submit(operation, 0.0)
    ((transaction_id, address),) = desk.ids()
    desk.dispatcher.abandon(operation)
    transaction = desk.dispatcher.close(address, transaction_id, 0.1)
    assert transaction is not None
    desk.dispatcher.advance(operation, 0.1)
    assert desk.ids() == []
    assert desk.settled == []


def test_repeated_silence_is_reported_while_others_answer() -> None:
    desk = Desk()
    silent = contact(1)
    for start in (0.0, 10.0):
        desk.dispatcher.submit(Asking(Contact(silent.address), contact(2)), start)
        for transaction_id, address in desk.ids():
            if address != silent.address:
                desk.answer(transaction_id, address, start + 0.1)
        desk.run_to(start + 2.0)
        desk.ids()
    assert [(c.address, times) for c, times in desk.silent] == [
        (silent.address, 1),
        (silent.address, 2),
    ]


def test_silence_all_around_says_nothing_about_a_node() -> None:
    desk = Desk()
    desk.dispatcher.submit(Asking(contact(1), contact(2)), 0.0)
    desk.run_to(2.0)
    assert desk.counters.timeouts == 2
    assert desk.silent == []


def test_suspects_are_forgiven_when_they_answer_and_with_time() -> None:
    silences = Silences()
    address = ("10.0.0.1", 6881)
    assert silences.note(address, 100.0) == 1
    assert silences.suspect(address, 100.0 + SUSPECT_S - 1)
    assert not silences.suspect(address, 100.0 + SUSPECT_S)
    assert silences.note(address, 200.0) == 2
    silences.forget(address)
    assert not silences.suspect(address, 200.0)
    for port in range(1, 6000):
        silences.note(("10.0.0.2", port), 300.0)
    assert len(silences._since) == 4096


def test_timers_fire_once_and_in_order() -> None:
    desk = Desk()
    fired: list[float] = []
    desk.dispatcher.call_at(2.0, fired.append)
    desk.dispatcher.call_at(1.0, fired.append)
    assert desk.dispatcher.next_deadline() == 1.0
    desk.dispatcher.handle_deadline(0.5)
    assert fired == []
    desk.dispatcher.handle_deadline(1.5)
    desk.dispatcher.handle_deadline(3.0)
    assert fired == [1.5, 3.0]


def test_replies_do_not_pile_up() -> None:
    desk = Desk()
    for _ in range(OUTBOX_MAX + 5):
        desk.dispatcher.reply(b"reply", ("10.0.0.1", 6881))
    assert len(desk.dispatcher.take_datagrams()) == OUTBOX_MAX
    assert desk.counters.dropped_outbox == 5
