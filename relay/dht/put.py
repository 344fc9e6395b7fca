"""Storing something on the nodes closest to its target.

First the store set: from a look-up of the last minutes if there was one, else from a new one.
Then one write per node, with the token that node gave. When that ends, and how:

- more than half of the contacted nodes say 302 (or 301): at once, as the reference;
- everybody has answered or timed out;
- somebody has stored and nobody else is worth waiting for: silent nodes have passed their
  patience limit (twice the usual slow round trip, at least half a second; see
  `transactions`). The reference waits for the full time-out instead, 2 seconds for each put
  in a network with one dead node. An acknowledgement later than that is not counted.

A store set from an earlier look-up may be out of date: nodes restart and forget their tokens,
or are gone. If more than half refuse their tokens, or nobody has stored and some do or nobody
answers at all, one fresh look-up and one more round follow; nodes that have stored are not
asked again, and count.

Source: BEP 44, BEP 5 (`announce_peer`); design/protocol.md, section 7.6.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay._kernels import Answer, Value
from relay.dht.collectors import Collector
from relay.dht.estimate import StoreNode
from relay.dht.events import PutFailure, PutHandle, PutOutcome
from relay.dht.krpc import QueryTemplate, WriteTemplate
from relay.dht.node_id import Address
from relay.dht.operations import Contact, Operation, Refusal, State

STORE_NODES_MAX: Final = 255
"""Nodes written to in one put, as in the reference."""

BAD_TOKEN: Final = 203
_CONCURRENCY: Final[Mapping[int, PutFailure]] = {
    302: PutFailure.NOT_MOST_RECENT,
    301: PutFailure.CAS_FAILED,
}


@dataclass(frozen=True, slots=True)
class Write:
    """What is written, but for the token.

    `identity` tells whether two puts want the same: they then share one.
    """

    target: bytes
    method: bytes
    arguments: Mapping[bytes, Value]
    identity: tuple[object, ...]


class StoreRound(Operation):
    """One write to each node of a store set.

    Args:
        put: what is written; it collects the nodes that acknowledge.
        nodes: where to write; the first `STORE_NODES_MAX` count.
        own_id: our identifier.
        read_only: whether queries carry `ro` = 1.
        cached: whether the nodes are from an earlier look-up.
    """

    __slots__ = (
        "_acknowledged",
        "_contacts",
        "_errors",
        "_next",
        "_query",
        "_unsent",
        "cached",
        "put",
    )

    def __init__(
        self,
        put: "Put",
        nodes: Sequence[StoreNode],
        own_id: bytes,
        *,
        read_only: bool,
        cached: bool,
    ) -> None:
        super().__init__()
        self.put = put
        self.cached = cached
        """Whether the nodes are from an earlier look-up, whose tokens may have lapsed."""
        write = put.write
        arguments = {**write.arguments, b"id": own_id}
        self._query = WriteTemplate(write.method, arguments, read_only)
        self._contacts = [
            Contact(node.address, node.id, token=node.token) for node in nodes[:STORE_NODES_MAX]
        ]
        self._next = 0
        self._acknowledged = 0
        self._unsent = 0
        self._errors: Counter[int] = Counter()

    def next_contact(self) -> Contact | None:
        """See `Operation`."""
        while self._next < len(self._contacts):
            contact = self._contacts[self._next]
            if contact.state is State.NEW:
                return contact
            self._next += 1
        return None

    def query_for(self, contact: Contact) -> QueryTemplate:
        """See `Operation`."""
        return self._query.with_token(contact.token)

    def settled(self) -> bool:
        """See `Operation`."""
        if self.majority() is not None:
            return True
        if self.waiting or self.next_contact() is not None:
            return False
        return self.late == 0 or bool(self.put.stored_at)

    def on_response(self, contact: Contact, node_id: bytes, answer: Answer) -> None:
        """See `Operation`."""
        super().on_response(contact, node_id, answer)
        put = self.put
        put.stored_at.add(contact.address)
        self._acknowledged += 1
        half = 2 * self._acknowledged >= len(self._contacts)
        if half and self.waiting and not put.assured:
            # Too few are left to report a failure that overrules success, or lapsed tokens.
            put.assured = True
            put.on_assured(put)

    def on_refusal(self, contact: Contact, error: Refusal | None) -> None:
        """See `Operation`."""
        super().on_refusal(contact, error)
        if error is not None:
            self._errors[error.code] += 1

    def on_busy(self, contact: Contact, *, suspect: bool) -> None:
        """See `Operation`."""
        if contact.state is not State.NEW:  # its write waited for its time, which was missed
            self._unsent += 1
        super().on_busy(contact, suspect=suspect)

    def majority(self) -> PutFailure | None:
        """The failure that more than half of the nodes report, if it is about recency."""
        if not self._errors:
            return None
        return next(
            (
                failure
                for code, failure in _CONCURRENCY.items()
                if 2 * self._errors[code] > len(self._contacts)
            ),
            None,
        )

    def failure(self) -> PutFailure:
        """Why nobody has stored: the most frequent error; all but 301 and 302 count as silence.

        Of a round that was not sent to anybody, as all were busy, there is none to tell.
        """
        if not self._contacts:
            return PutFailure.NO_CLOSEST_NODES
        if self.sent == self._unsent:
            return PutFailure.OVERLOADED
        ranked = self._errors.most_common(1)
        return _CONCURRENCY.get(ranked[0][0] if ranked else 0, PutFailure.TIMED_OUT)

    def lapsed(self) -> bool:
        """Whether the nodes are out of date, so that others should be looked for."""
        if not self.cached or self.majority() is not None:
            return False
        refused = self._errors[BAD_TOKEN]
        if self.put.stored_at:
            return 2 * refused > len(self._contacts)
        return refused > 0 or self.responded == 0


class Put:
    """One value on its way to its store set, in one round or two; see the module."""

    __slots__ = (
        "assured",
        "collector",
        "contacted",
        "handles",
        "key",
        "looked_up",
        "on_assured",
        "refreshed",
        "stored_at",
        "write",
    )

    def __init__(
        self,
        write: Write,
        key: tuple[str, bytes],
        collector: Collector | None,
        on_assured: "Callable[[Put], None]",
    ) -> None:
        self.write = write
        self.on_assured = on_assured
        """Told, at most once, when it can no longer fail and still waits for somebody."""
        self.assured = False
        self.key = key
        """Under which look-ups for the target are shared (see `requests`)."""
        self.collector = collector
        """Reads what a look-up for the target finds on the way."""
        self.handles: list[PutHandle] = []
        self.stored_at: set[Address] = set()
        """Nodes that acknowledged."""
        self.contacted: set[Address] = set()
        """Nodes that a write was meant for, in both rounds."""
        self.refreshed = False
        """Whether a second round was made."""
        self.looked_up = False
        """Whether a look-up was begun since the put was; before that it waits for another's."""

    def round(
        self, nodes: Sequence[StoreNode], own_id: bytes, *, read_only: bool, cached: bool
    ) -> StoreRound:
        """Return a round of writes to `nodes`, but not where it is stored already."""
        missing = [node for node in nodes if node.address not in self.stored_at]
        self.contacted.update(node.address for node in missing[:STORE_NODES_MAX])
        return StoreRound(self, missing, own_id, read_only=read_only, cached=cached)

    def outcome(self, last: StoreRound) -> PutOutcome:
        """Return how the put ended, `last` being its last round."""
        failure = last.majority()
        if failure is None and not self.stored_at:
            failure = last.failure()
        return PutOutcome(len(self.stored_at), len(self.contacted), failure)
