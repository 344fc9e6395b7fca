"""What all work on the DHT has in common: contacts to ask, and answers to take in.

An `Operation` (a look-up, a round of puts, a sweep of pings) never sends anything. The
dispatcher *pulls*: whenever there is room on the wire it asks the operation whom to query
next, so that the choice is made with everything learned by then, a burst can never exceed
what the receive buffer holds, and nothing has to queue.
"""

from abc import ABC, abstractmethod
from math import inf
from typing import ClassVar

from relay._kernels import Contact, Progress, Refusal, State
from relay.dht.krpc import QueryTemplate

__all__ = ["Contact", "Operation", "Refusal", "State"]


class Operation(Progress, ABC):
    """Work that asks nodes and ends.

    The dispatcher tells what becomes of a contact by the `on_` methods of `Progress`, so that
    subclasses need only look at the states and the counts.
    """

    __slots__ = ()

    spares_from: ClassVar[float] = inf
    """While it waits for so many, slow ones aside, it does not ask nodes asked much lately."""

    def on_busy(self, contact: Contact, *, suspect: bool) -> None:
        """`contact` may not be asked now: too much has gone to its address.

        Args:
            contact: who.
            suspect: it did not answer lately.
        """
        self.on_dead(contact)

    @abstractmethod
    def next_contact(self) -> Contact | None:
        """Return whom to ask now, or None while there is nobody (more)."""

    @abstractmethod
    def query_for(self, contact: Contact) -> QueryTemplate:
        """Return what to ask `contact`."""

    @abstractmethod
    def settled(self) -> bool:
        """Whether the operation has ended: nobody to ask, nobody worth waiting for."""
