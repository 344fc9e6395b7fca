"""Iterative search: ask the nodes closest to a target for closer ones until there are none.

All known contacts stand in one row, nodes with a secure identifier first, then by distance
(an attacker cannot choose secure identifiers at will). The *front* are the first 20 of the
row that are not silent; every one of them that has not been asked is asked. When all of them
have answered the look-up is over. Each answer, and each node that turns out slow, moves the
front at once: there are no rounds and nothing polls. Nodes that have been asked much lately are
the exception: of those a look-up asks no more while it waits for three answers (`SPARES_FROM`), as
all look-ups of a kind begin with the same few nodes of the routing table, and what may be sent to
each is little (`budget`).

Where this differs from the reference node (design/protocol.md, section 7.6):

- A silent node does not hold a place in the front, and a look-up whose 20 closest have
  answered waits for nobody else. With fewer than 20 live nodes it waits for slow ones until
  their patience limit (see `transactions`).
- Where there are more nodes near the target than the size of the network explains, ten of them
  count towards the 20 (`estimate`, crowd distance): the look-up goes on to nodes that did not come
  for the target's sake.
- Of nodes that have answered from about the same distance ten count as well: a look-up does not end
  among liars who have filled a bucket of ours and name only each other.
- No ping accompanies the query: an answer is sign of life enough.
- An address named with a false identifier is put in its true place once it answers, and a
  name with a closer identifier wins: an honest node cannot be hidden behind a false name.

Sans-IO; the dispatcher calls (see `operations`).
"""

from collections.abc import Callable, Collection
from typing import Final

from relay._kernels import (
    CANDIDATES_MAX,
    NODES_PER_ANSWER_MAX,
    QUERIES_MAX,
    Answer,
    Contact,
    K,
    Row,
)
from relay.dht import krpc
from relay.dht.collectors import Collector, InvalidValueError, ItemCollector
from relay.dht.items import MutableItem
from relay.dht.krpc import QueryTemplate
from relay.dht.node_id import Address, NodeInfo, ip_octets, is_exempt
from relay.dht.operations import Operation, Refusal, State

__all__ = ["CANDIDATES_MAX", "NODES_PER_ANSWER_MAX", "QUERIES_MAX", "K", "Lookup"]

SPARES_FROM: Final = 3
"""While a look-up waits for so many answers (Kademlia's alpha), of nodes that are not slow yet, it
asks no busy node."""
TOKEN_BYTES_MAX: Final = 64
"""Longer tokens are not kept: they would be an amplifier in our puts."""


class Lookup(Row, Operation):
    """One search for the nodes closest to a target.

    Args:
        target: 20 bytes.
        query: what every node is asked.
        own_id: our identifier: who answers with it is ourselves.
        own_addresses: our addresses, never asked.
        collector: reads values out of the answers; None: only nodes are looked for.
    """

    __slots__ = (
        "_busy",
        "_own_id",
        "_query",
        "_votes",
        "collector",
        "invalid",
        "on_found",
        "target",
        "usable",
    )

    spares_from = SPARES_FROM

    def __init__(
        self,
        target: bytes,
        query: QueryTemplate,
        own_id: bytes,
        own_addresses: Collection[Address],
        collector: Collector | None = None,
    ) -> None:
        super().__init__(target, own_id, own_addresses)
        self.target = target
        self.collector = collector
        self.on_found: Callable[[Lookup, object], None] | None = None
        """Told of everything that the collector takes."""
        self.invalid = 0
        """Contacts whose answer carries a value that does not hold."""
        self.usable = 0
        """Contacts that gave an answer worth having."""
        self._votes: dict[Address, bytes] = {}
        self._busy: set[Contact] = set()
        self._query = query
        self._own_id = own_id

    # What the dispatcher asks.

    def query_for(self, contact: Contact) -> QueryTemplate:
        """See `Operation`."""
        return self._query

    # What the dispatcher tells.

    def on_response(self, contact: Contact, node_id: bytes, answer: Answer) -> None:
        """`contact` answered, naming itself `node_id` (20 bytes)."""
        if node_id == self._own_id:
            self.on_refusal(contact, None)
            return
        if contact.id != node_id:
            self.rename(contact, node_id)
        super().on_response(contact, node_id, answer)
        token = answer.token
        if token is not None and len(token) <= TOKEN_BYTES_MAX:
            contact.token = token
        requester = answer.requester
        if requester is not None:
            self._votes[contact.address] = requester
        if answer.nodes is not None:
            self.learn(answer.nodes, contact.address)
        elif token is None and answer.v_encoded is None and answer.peers is None:
            return  # of no use to any look-up
        found = None
        if self.collector is not None:
            try:
                found = self.collector.take(answer)
            except InvalidValueError:
                self.invalid += 1
                return
        self.usable += 1
        if found is not None and self.on_found is not None:
            self.on_found(self, found)

    def on_busy(self, contact: Contact, *, suspect: bool) -> None:
        """See `Operation`. Nothing is missed of one that is silent as well."""
        if not suspect:
            self._busy.add(contact)
        super().on_busy(contact, suspect=suspect)

    def on_refusal(self, contact: Contact, error: Refusal | None) -> None:
        """`contact` answered with an error, or (None) with something that is no use."""
        super().on_refusal(contact, error)
        if error is not None and error.requester is not None:
            self._votes[contact.address] = krpc.pack_address(error.requester)

    def wanted(self, answer: Answer) -> MutableItem | None:
        """Return the item of an answer whose proof it will come down to; None if to nothing."""
        if self.done or not isinstance(self.collector, ItemCollector):
            return None
        try:
            return self.collector.wanted(answer)
        except InvalidValueError:
            return None

    # What comes out.

    @property
    def votes(self) -> dict[bytes, bytes]:
        """Which address was reported to be ours, in compact form, by network of who reported it.

        That is a /24; exempt addresses vote each for itself, and of others the nearest. Nobody
        beyond the `K`-th that answered votes: where a look-up comes by is not chance, only where
        it ends, and a crowd that it comes by names itself.
        """
        votes: dict[bytes, bytes] = {}
        for contact in self.reached():
            address = contact.address
            reported = self._votes.get(address)
            if reported is not None:
                ip = address[0]
                network = krpc.pack_address(address) if is_exempt(ip) else ip_octets(ip)[:3]
                votes.setdefault(network, reported)
        return votes

    @property
    def starved(self) -> bool:
        """Whether it asked too few to tell what there is.

        Its turn came to ask none of the nodes that it knew, or of those nearest to the target it
        had to pass over more, because they were busy, than have answered.
        """
        if self.sent == 0:
            return self.known > 0
        if not self._busy:
            return False
        head = self.head()
        answered = sum(contact.state is State.RESPONDED for contact in head)
        return sum(contact in self._busy for contact in head) > answered

    @property
    def cut_short(self) -> bool:
        """Whether it ended, by time or number of queries, before it had asked whom it was to ask.

        Then somebody nearer than the `K`-th that answered was not asked, or only just now.
        """
        return any(contact.state in (State.NEW, State.WAITING) for contact in self.reached())

    def candidates(self) -> list[NodeInfo]:
        """Return the first `K` nodes that were heard of, alive or not, closest first."""
        return [
            NodeInfo(contact.id, contact.address)
            for contact in self.head()
            if contact.id is not None
        ]
