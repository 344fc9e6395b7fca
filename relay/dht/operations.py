"""What all work on the DHT has in common: contacts to ask, and answers to take in.

An `Operation` (a look-up, a round of puts, a sweep of pings) never sends anything. The
dispatcher *pulls*: whenever there is room on the wire it asks the operation whom to query
next, so that the choice is made with everything learned by then, a burst can never exceed
what the receive buffer holds, and nothing has to queue.
"""

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import Final

from relay.dht.krpc import ErrorReply, QueryTemplate, Response
from relay.dht.node_id import Address


class State(IntEnum):
    """How far one operation has come with one contact.

    NEW → WAITING → RESPONDED or REFUSED. One that is silent goes on over SLOW (others are
    asked in its place, it is asked once more) and LATE (nobody waits for it any longer) to
    DEAD; until then an answer still counts.
    """

    NEW = 0
    WAITING = 1
    SLOW = 2
    LATE = 3
    RESPONDED = 4
    REFUSED = 5
    DEAD = 6


_WAITING: Final = State.WAITING  # enum members are slow to look up
_SLOW: Final = State.SLOW
_LATE: Final = State.LATE


class Contact:
    """A node in the eyes of one operation.

    `id` is None for an address of which nothing else is known (a bootstrap router); `rank`
    orders the contacts of a look-up; `token` is what the node gave us to write with.
    """

    __slots__ = ("address", "id", "rank", "state", "token")

    def __init__(
        self, address: Address, node_id: bytes | None = None, rank: int = 0, token: bytes = b""
    ) -> None:
        self.address = address
        self.id = node_id
        self.rank = rank
        self.state = State.NEW
        self.token = token


class Operation(ABC):
    """Work that asks nodes and ends.

    `queued` and `done` belong to the dispatcher; a contact's state is changed here, in
    answer to the dispatcher's calls, so that subclasses need only look at it and the counts.
    """

    __slots__ = ("__weakref__", "done", "late", "queued", "responded", "sent", "waiting")

    def __init__(self) -> None:
        self.queued = False
        self.done = False
        self.sent = 0
        """Contacts that a query went to."""
        self.responded = 0
        """Contacts that answered anything."""
        self.waiting = 0
        """Contacts in the states WAITING and SLOW."""
        self.late = 0
        """Contacts in the state LATE."""

    @abstractmethod
    def next_contact(self) -> Contact | None:
        """Return whom to ask now, or None while there is nobody (more)."""

    @abstractmethod
    def query_for(self, contact: Contact) -> QueryTemplate:
        """Return what to ask `contact`."""

    @abstractmethod
    def settled(self) -> bool:
        """Whether the operation has ended: nobody to ask, nobody worth waiting for."""

    def on_sent(self, contact: Contact, *, suspect: bool) -> None:
        """A query is on its way. Nobody waits for a suspect, which was silent lately."""
        self._enter(contact, State.SLOW if suspect else State.WAITING)
        self.sent += 1

    def on_response(self, contact: Contact, node_id: bytes, response: Response) -> None:
        """`contact` answered, naming itself `node_id` (20 bytes)."""
        self._enter(contact, State.RESPONDED)
        self.responded += 1

    def on_refusal(self, contact: Contact, error: ErrorReply | None) -> None:
        """`contact` answered with an error, or (None) with something that is no use."""
        self._enter(contact, State.REFUSED)
        self.responded += 1

    def on_slow(self, contact: Contact) -> None:
        """`contact` takes longer than nodes usually do."""
        self._enter(contact, State.SLOW)

    def on_late(self, contact: Contact) -> None:
        """`contact` is no longer worth waiting for."""
        self._enter(contact, State.LATE)

    def on_dead(self, contact: Contact) -> None:
        """`contact` let the request time-out pass, or may not be asked at all now."""
        self._enter(contact, State.DEAD)

    def _enter(self, contact: Contact, state: State) -> None:
        """Change a contact's state, and the counts with it."""
        left = contact.state
        if left is _WAITING or left is _SLOW:
            self.waiting -= 1
        elif left is _LATE:
            self.late -= 1
        if state is _WAITING or state is _SLOW:
            self.waiting += 1
        elif state is _LATE:
            self.late += 1
        contact.state = state
