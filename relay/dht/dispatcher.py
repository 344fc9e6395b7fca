"""Sends the queries of all operations, each at its time, and keeps the clock of each.

Three things hold a query back:

- the *window*: at most so many queries are on the wire at a time, counting those younger than
  the soft time limit. Answers then cannot arrive faster than the receive buffer can hold them
  while we are busy: this is what the reference lacks when many look-ups run at once;
- *pacing* per address (`relay.dht.budget`): libtorrent bans an address for 50 packets in 10 s.
  What has to wait longer than a second is not sent at all, and the operation goes on without that
  node. Before it comes to that, busy nodes are spared: see `Operation.spares_from`;
- the *transaction table*, whose size is fixed.

Operations wait in a queue of first come, first served: finishing one early beats having all
of them half done. Everything is driven by datagrams and deadlines, nothing polls.

Sans-IO: callers pass `now`, fetch the datagrams, and call again at `next_deadline`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Final, Protocol, TypeAlias
from weakref import ref

from relay.dht.budget import LATE_MAX_S
from relay.dht.counters import NodeCounters
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation, State
from relay.dht.traffic import TIMEOUT, Traffic
from relay.dht.transactions import Transaction, TransactionTable

WINDOW: Final = 256
"""Queries on the wire at a time: their answers fit the default receive buffer of Linux."""
PACING_WAIT_MAX_S: Final = 1.0
"""Issue 3, section 4: after this a look-up goes on without the node."""
OUTBOX_MAX: Final = 8192
"""Datagrams waiting for the driver; only replies are ever refused for it."""
OPERATION_S_MAX: Final = 10.0
"""An operation older than this ends with what it has: no stranger can keep it going."""
SUSPECT_S: Final = 60.0
"""How long a silent node is not waited for."""
_SILENCES_MAX: Final = 4096

Action: TypeAlias = Callable[[float], None]


class PacerLike(Protocol):
    """What the dispatcher needs of `relay.dht.budget.SourceBudgets`."""

    def reserve(self, ip: str, wait_max_s: float, now: float) -> float:
        """Return the seconds until a query may go to `ip`; counts it if it is not too long."""

    def busy(self, ip: str, now: float) -> bool:
        """Return whether so much has gone to `ip` lately that it should be spared."""


class Silences:
    """Nodes that lately let a query time out; remembered for `SUSPECT_S`, oldest out first."""

    def __init__(self) -> None:
        self._since: dict[Address, tuple[float, int]] = {}

    def note(self, address: Address, now: float) -> int:
        """Note a time-out; returns how many there were in a row."""
        _, count = self._since.pop(address, (now, 0))
        self._since[address] = (now, count + 1)
        if len(self._since) > _SILENCES_MAX:
            del self._since[next(iter(self._since))]
        return count + 1

    def forget(self, address: Address) -> None:
        """The node answered."""
        self._since.pop(address, None)

    def suspect(self, address: Address, now: float) -> bool:
        """Whether nobody should wait for an answer of this node."""
        entry = self._since.get(address)
        return entry is not None and now - entry[0] < SUSPECT_S


_PATIENCE: Final = 1
_HARD: Final = 2
"""Which time limit of a slow transaction comes next (see `transactions`)."""


class Dispatcher:
    """Pulls queries out of operations and pushes time into them.

    Args:
        rng: for transaction ids.
        pacer: limits per address.
        request_timeout_s: hard time limit of a query, seconds.
        counters: counted into.
        traffic: likewise.
        on_settled: called once for each operation that ends.
        on_silent: called when a contact let the hard limit pass, with the number of
            times in a row; only while others do answer.
        on_starving: called when an operation is about to end without any answer because those
            whom it knows may not be asked now; may give it more contacts.
    """

    def __init__(
        self,
        *,
        rng: Random,
        pacer: PacerLike,
        request_timeout_s: float,
        counters: NodeCounters,
        traffic: Traffic,
        on_settled: Callable[[Operation, float], None],
        on_silent: Callable[[Contact, int], None],
        on_starving: Callable[[Operation], None],
    ) -> None:
        self._pacer = pacer
        self._counters = counters
        self._traffic = traffic
        self._on_settled = on_settled
        self._on_silent = on_silent
        self._on_starving = on_starving
        self._transactions = TransactionTable(rng, request_timeout_s)
        self._silences = Silences()
        self._ready: deque[Operation] = deque()
        self._outbox: list[tuple[bytes, Address]] = []
        self._timers: list[tuple[float, int, int, Transaction | None, Action | None]] = []
        self._timers_set = 0
        # Most queries are answered long before the soft limit, which is the same for all: these
        # wait in the order in which they were sent, and only the slow ones get timers.
        self._young: deque[Transaction] = deque()
        # Weak: a finished look-up is not to stay in memory until its time would have run out.
        self._expiries: deque[tuple[float, ref[Operation]]] = deque()
        self._on_wire = 0
        self._last_answer_at = -inf
        self._pumping = False
        self.window = WINDOW
        """Most queries on the wire; the driver may fit it to its receive buffer."""

    # What goes in.

    def submit(self, operation: Operation, now: float) -> None:
        """Start an operation."""
        self._expiries.append((now + OPERATION_S_MAX, ref(operation)))
        self.advance(operation, now)

    def advance(self, operation: Operation, now: float) -> None:
        """Take note that an operation changed: it may have ended or have more to ask."""
        self._requeue(operation, now)
        self._pump(now)

    def abandon(self, operation: Operation) -> None:
        """Stop an operation that nobody needs; what is on the wire may still be answered."""
        operation.done = True

    def asker(self, source: Address, transaction_id: bytes) -> Operation | None:
        """Return whose query an answer belongs to; None for an answer to nothing."""
        transaction = self._transactions.find(source, transaction_id)
        return None if transaction is None else transaction.operation

    def close(self, source: Address, transaction_id: bytes, now: float) -> Transaction | None:
        """Return the transaction that an answer ends; None for an answer to nothing."""
        transaction = self._transactions.close(source, transaction_id, now)
        if transaction is not None:
            self._last_answer_at = now
            self._silences.forget(source)
            self._uncount(transaction)
        return transaction

    def reply(self, payload: bytes, address: Address) -> None:
        """Send a datagram that nobody waits for the answer of."""
        if len(self._outbox) >= OUTBOX_MAX:
            self._counters.dropped_outbox += 1
            return
        self._outbox.append((payload, address))

    def send_ping(self, payload: bytes, address: Address, now: float) -> bool:
        """Send a query of which no answer is waited for, at its time; False: it may not go."""
        wait_s = self._pacer.reserve(address[0], 0.0, now)
        if wait_s > 0.0:
            self._counters.dropped_pacing += 1
            return False
        self._outbox.append((payload, address))
        return True

    def call_at(self, at: float, action: Action) -> None:
        """Call `action(now)` once, at the first deadline not before `at`."""
        self._timers_set += 1
        heappush(self._timers, (at, self._timers_set, 0, None, action))

    # What comes out.

    @property
    def in_flight(self) -> int:
        """Queries whose outcome is not known yet."""
        return len(self._transactions)

    def take_datagrams(self) -> list[tuple[bytes, Address]]:
        """Return what is to be sent now, in order, and forget it."""
        datagrams, self._outbox = self._outbox, []
        return datagrams

    def next_deadline(self) -> float:
        """Return when `handle_deadline` wants to be called; inf: never."""
        young, timers, expiries = self._young, self._timers, self._expiries
        while young and young[0].done:
            young.popleft()  # answered long ago, as most are
        while timers and (transaction := timers[0][3]) is not None and transaction.done:
            heappop(timers)
        while expiries and ((operation := expiries[0][1]()) is None or operation.done):
            expiries.popleft()
        return min(
            young[0].sent_at + self._transactions.round_trips.soft_s if young else inf,
            timers[0][0] if timers else inf,
            expiries[0][0] if expiries else inf,
        )

    def handle_deadline(self, now: float) -> None:
        """Let everything happen that is due. Calling early or late is harmless."""
        young, timers = self._young, self._timers
        soft_s = self._transactions.round_trips.soft_s
        while young and young[0].sent_at + soft_s <= now:
            transaction = young.popleft()
            if not transaction.done:
                self._grow_old(transaction, now)
        while timers and timers[0][0] <= now:
            _, _, stage, late, action = heappop(timers)
            if action is not None:
                action(now)
            elif late is not None and not late.done:
                self._time_out(late, stage, now)
        while self._expiries and self._expiries[0][0] <= now:
            operation = self._expiries.popleft()[1]()
            if operation is not None and not operation.done:
                operation.done = True
                self._on_settled(operation, now)
        self._pump(now)

    @property
    def round_trip_s(self) -> float | None:
        """Smoothed round-trip time, seconds; None before the first answer."""
        return self._transactions.round_trips.mean_s

    # How it works.

    def _pump(self, now: float) -> None:
        """Send as many queries as the window allows, operation by operation."""
        if self._pumping:  # an operation that ended has started another: the loop goes on below
            return
        self._pumping = True
        ready = self._ready
        while ready and self._on_wire < self.window and not self._transactions.full:
            operation = ready[0]
            contact = None if operation.done else operation.next_contact()
            if contact is not None and not self._spared(operation, contact, now):
                self._ask(operation, contact, now)
                continue
            ready.popleft()
            operation.queued = False
        self._pumping = False

    def _spared(self, operation: Operation, contact: Contact, now: float) -> bool:
        """Whether a busy node is left alone for now, as others may lead past it.

        Slow ones are unlikely to: an operation that has come upon dead nodes goes on at once.
        """
        prompt = operation.waiting - operation.slow
        return prompt >= operation.spares_from and self._pacer.busy(contact.address[0], now)

    def _requeue(self, operation: Operation, now: float) -> None:
        if not self._settle(operation, now) and not operation.queued:
            operation.queued = True
            self._ready.append(operation)

    def _settle(self, operation: Operation, now: float) -> bool:
        if operation.done:
            return True
        if not operation.settled():
            return False
        operation.done = True
        self._on_settled(operation, now)
        return True

    def _ask(self, operation: Operation, contact: Contact, now: float) -> None:
        """Send the first query to a contact, now or when its address allows it."""
        address = contact.address
        suspect = self._silences.suspect(address, now)
        wait_s = self._pacer.reserve(address[0], PACING_WAIT_MAX_S, now)
        if wait_s > PACING_WAIT_MAX_S:
            self._counters.dropped_pacing += 1
            operation.on_busy(contact, suspect=suspect)
            if not operation.responded and operation.settled():
                self._on_starving(operation)
            self._settle(operation, now)
            return
        operation.on_sent(contact, suspect=suspect)
        if not wait_s:
            self._send(operation, contact, now)
            return
        self._counters.paced += 1
        latest = now + wait_s + LATE_MAX_S
        self.call_at(now + wait_s, partial(self._send_paced, operation, contact, latest))

    def _send_paced(
        self, operation: Operation, contact: Contact, latest: float, now: float
    ) -> None:
        if operation.done:
            return
        if self._transactions.full or not self._has_place(contact, latest, now):
            operation.on_busy(contact, suspect=self._silences.suspect(contact.address, now))
            self.advance(operation, now)
        else:
            self._send(operation, contact, now)

    def _has_place(self, contact: Contact, latest: float, now: float) -> bool:
        """Whether what has waited may go; whoever was suspended meanwhile takes a new place."""
        if now <= latest or not self._pacer.reserve(contact.address[0], 0.0, now):
            return True
        self._counters.dropped_pacing += 1
        return False

    def _send(self, operation: Operation, contact: Contact, now: float) -> None:
        transaction, payload = self._transactions.open(operation, contact, now)
        self._on_wire += 1
        self._counters.queries_out += 1
        self._outbox.append((payload, contact.address))
        self._young.append(transaction)

    def _set_timer(self, transaction: Transaction, stage: int, at: float) -> None:
        self._timers_set += 1
        heappush(self._timers, (at, self._timers_set, stage, transaction, None))

    def _uncount(self, transaction: Transaction) -> None:
        if transaction.counted:
            transaction.counted = False
            self._on_wire -= 1

    def _grow_old(self, transaction: Transaction, now: float) -> None:
        """The soft limit has passed."""
        operation, contact = transaction.operation, transaction.contact
        self._uncount(transaction)
        if operation.done:
            self._set_hard_timer(transaction)
            return
        suspect = contact.state is State.SLOW
        operation.on_slow(contact)
        self._ask_again(transaction, now)
        if suspect:
            operation.on_late(contact)
            self._set_hard_timer(transaction)
        else:
            patience_at = transaction.sent_at + self._transactions.round_trips.patience_s
            self._set_timer(transaction, _PATIENCE, patience_at)
        self._requeue(operation, now)

    def _time_out(self, transaction: Transaction, stage: int, now: float) -> None:
        """A slow node's patience limit or hard limit has passed."""
        operation, contact = transaction.operation, transaction.contact
        if stage == _HARD:
            self._transactions.drop(transaction)
            self._counters.timeouts += 1
            self._traffic.note_end(transaction.template.method, TIMEOUT)
            operation.on_dead(contact)
            if self._last_answer_at > transaction.sent_at:  # otherwise we may be the silent one
                self._on_silent(contact, self._silences.note(contact.address, now))
        elif operation.done:
            self._set_hard_timer(transaction)
            return
        else:
            operation.on_late(contact)
            self._set_hard_timer(transaction)
        self._requeue(operation, now)

    def _set_hard_timer(self, transaction: Transaction) -> None:
        hard_at = transaction.sent_at + self._transactions.request_timeout_s
        self._set_timer(transaction, _HARD, hard_at)

    def _ask_again(self, transaction: Transaction, now: float) -> None:
        """Send the second datagram as soon as the address allows it."""
        wait_s = self._pacer.reserve(transaction.contact.address[0], PACING_WAIT_MAX_S, now)
        if wait_s <= 0:
            self._send_again(transaction, now, now)
        elif wait_s <= PACING_WAIT_MAX_S:
            latest = now + wait_s + LATE_MAX_S
            self.call_at(now + wait_s, partial(self._send_again, transaction, latest))

    def _send_again(self, transaction: Transaction, latest: float, now: float) -> None:
        if transaction.done or transaction.operation.done:
            return
        if not self._has_place(transaction.contact, latest, now):
            return
        payload = self._transactions.open_again(transaction, now)
        self._counters.queries_repeated += 1
        self._outbox.append((payload, transaction.contact.address))
