"""Queries awaiting their answers, and how long that is worth waiting.

An answer belongs to a transaction when it comes from the asked address and carries the
transaction id; ids are random, so that an off-path forger has to guess them.

Two generations of Rust nodes are deaf to each other's ids: `mainline` from 6 answers only ids
of 4 bytes, up to 5 only those of 2; everybody else echoes any. So a first try uses 4 bytes, a
second one 2, and what a node answered to is remembered (design/protocol.md, section 7.1).

Three time limits apply to a query:

- *soft* (smoothed round trip + 4 deviations, as TCP's RFC 6298): the node is slow, others are
  asked in its place and it is asked a second time;
- *patience* (twice that, at least half a second): nobody waits for it any longer;
- *hard* (the configured request time-out): an answer is no longer accepted.

Sans-IO: callers pass `now`; randomness is an argument.
"""

from random import Random
from typing import Final, TypeAlias

from relay.dht.krpc import QueryTemplate
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation

PENDING_MAX: Final = 8192
"""Transactions open at a time. Refusing new work beats forgetting old: an evicted transaction
would turn an honest late answer into an unsolicited one."""

ID_BYTES_FIRST: Final = 4
ID_BYTES_OLD: Final = 2

_RANDOM_BYTES: Final = 1024
"""Drawn at a time: asking the system for each transaction id costs more than all the rest of it."""

_LENGTHS_MAX: Final = 8192
"""Nodes whose kind of transaction id is remembered, oldest forgotten first."""

_SOFT_MIN_S: Final = 0.2
"""Rust nodes poll every 50 ms and a busy machine adds to that: a breath is no silence."""
_SOFT_MAX_S: Final = 1.0
_SOFT_FIRST_S: Final = 0.5
"""Before anything was measured."""
_PATIENCE_MIN_S: Final = 0.5


_Key: TypeAlias = tuple[Address, bytes]
"""The asked address and the transaction id."""


class RoundTrips:
    """Smoothed round-trip time over all nodes, and the limits that follow from it.

    Args:
        request_timeout_s: the hard limit; the others never exceed it.
    """

    __slots__ = ("_deviation_s", "_mean_s", "_timeout_s")

    def __init__(self, request_timeout_s: float) -> None:
        self._timeout_s = request_timeout_s
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    @property
    def mean_s(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first answer."""
        return self._mean_s

    def measure(self, sample_s: float) -> None:
        """Take in one round trip, in seconds (RFC 6298, section 2)."""
        mean_s = self._mean_s
        if mean_s is None:
            self._mean_s = sample_s
            self._deviation_s = sample_s / 2
        else:
            error_s = sample_s - mean_s
            self._deviation_s += (abs(error_s) - self._deviation_s) / 4
            self._mean_s = mean_s + error_s / 8

    @property
    def soft_s(self) -> float:
        """How long nodes usually take at most, seconds."""
        soft_s = _SOFT_FIRST_S if self._mean_s is None else self._mean_s + 4 * self._deviation_s
        # At most half the time-out, so that a second try has as long as the first.
        return min(max(soft_s, _SOFT_MIN_S), _SOFT_MAX_S, self._timeout_s / 2)

    @property
    def patience_s(self) -> float:
        """How long a node is waited for, seconds."""
        return min(max(2 * self.soft_s, _PATIENCE_MIN_S), self._timeout_s)


class Transaction:
    """One query to one contact: one datagram, or two when the first stays unanswered."""

    __slots__ = (
        "contact",
        "counted",
        "done",
        "first_key",
        "operation",
        "second_key",
        "second_sent_at",
        "sent_at",
        "template",
    )

    def __init__(
        self,
        operation: Operation,
        contact: Contact,
        template: QueryTemplate,
        sent_at: float,
        first_key: _Key,
    ) -> None:
        self.operation = operation
        self.contact = contact
        self.template = template
        self.sent_at = sent_at
        self.second_sent_at = sent_at
        self.first_key = first_key
        self.second_key: _Key | None = None
        self.counted = True
        """Whether the transaction takes up room on the wire (see `Dispatcher`)."""
        self.done = False


class TransactionTable:
    """Open transactions by (asked address, transaction id).

    Args:
        rng: chooses transaction ids.
        request_timeout_s: hard limit, seconds.
        pending_max: open transactions at a time.
    """

    def __init__(
        self, rng: Random, request_timeout_s: float, pending_max: int = PENDING_MAX
    ) -> None:
        self._rng = rng
        self._pending_max = pending_max
        self._open: dict[_Key, Transaction] = {}
        self._random = b""
        self._random_at = 0
        self._lengths: dict[Address, int] = {}
        self._count = 0
        self.request_timeout_s = request_timeout_s
        self.round_trips = RoundTrips(request_timeout_s)

    def __len__(self) -> int:
        """Return the number of open transactions."""
        return self._count

    @property
    def full(self) -> bool:
        """Whether `pending_max` transactions are open; `open` must not be called then."""
        return self._count >= self._pending_max

    def open(self, operation: Operation, contact: Contact, now: float) -> tuple[Transaction, bytes]:
        """Register a query; return it and its first datagram."""
        address = contact.address
        template = operation.query_for(contact)
        key = self._unused_key(address, self._lengths.get(address, ID_BYTES_FIRST))
        transaction = self._open[key] = Transaction(operation, contact, template, now, key)
        self._count += 1
        return transaction, template.fill(key[1])

    def open_again(self, transaction: Transaction, now: float) -> bytes:
        """Return the second datagram of a transaction whose first one stays unanswered.

        A node known to answer 4-byte ids gets another of those: the datagram may be lost.
        """
        address = transaction.contact.address
        known = self._lengths.get(address)
        key = self._unused_key(address, ID_BYTES_OLD if known is None else ID_BYTES_FIRST)
        transaction.second_key = key
        transaction.second_sent_at = now
        self._open[key] = transaction
        return transaction.template.fill(key[1])

    def find(self, source: Address, transaction_id: bytes) -> Transaction | None:
        """Return the transaction that an answer belongs to; None for an unsolicited one."""
        return self._open.get((source, transaction_id))

    def close(self, source: Address, transaction_id: bytes, now: float) -> Transaction | None:
        """Take out the transaction that an answer belongs to; None for an unsolicited one."""
        transaction = self._open.get((source, transaction_id))
        if transaction is None:
            return None
        first = transaction.first_key[1] == transaction_id
        self.round_trips.measure(
            now - (transaction.sent_at if first else transaction.second_sent_at)
        )
        self.drop(transaction)
        if self._lengths.get(source) != len(transaction_id):
            self._lengths.pop(source, None)
            self._lengths[source] = len(transaction_id)
            if len(self._lengths) > _LENGTHS_MAX:
                del self._lengths[next(iter(self._lengths))]
        return transaction

    def drop(self, transaction: Transaction) -> None:
        """Take out a transaction that ended without an answer."""
        transaction.done = True
        self._count -= 1
        del self._open[transaction.first_key]
        if transaction.second_key is not None:
            del self._open[transaction.second_key]

    def _unused_key(self, address: Address, length: int) -> _Key:
        while True:
            begin = self._random_at
            end = begin + length
            if end > len(self._random):
                self._random = self._rng.randbytes(_RANDOM_BYTES)
                begin, end = 0, length
            self._random_at = end
            key = (address, self._random[begin:end])
            if key not in self._open:
                return key
