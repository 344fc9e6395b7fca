"""Iterative search: ask the nodes closest to a target for closer ones until there are none.

All known contacts stand in one row, nodes with a secure identifier first, then by distance
(an attacker cannot choose secure identifiers at will). The *front* are the first 20 of the
row that are not silent; every one of them that has not been asked is asked. When all of them
have answered the look-up is over. Each answer, and each node that turns out slow, moves the
front at once: there are no rounds and nothing polls.

Where this differs from the reference node (design/protocol.md, section 7.6):

- A silent node does not hold a place in the front, and a look-up whose 20 closest have
  answered waits for nobody else. With fewer than 20 live nodes it waits for slow ones until
  their patience limit (see `transactions`).
- No ping accompanies the query: an answer is sign of life enough.
- An address named with a false identifier is put in its true place once it answers, and a
  name with a closer identifier wins: an honest node cannot be hidden behind a false name.

Sans-IO; the dispatcher calls (see `operations`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from relay.dht import krpc
from relay.dht.collectors import Collector, InvalidValueError
from relay.dht.krpc import ErrorReply, QueryTemplate, Response
from relay.dht.node_id import ID_BYTES, Address, NodeInfo, is_exempt, is_secure, usable_address
from relay.dht.operations import Contact, Operation, State

K: Final = 20
"""Width of the front (Kademlia's k; BEP 5 says 8, the reference node 20)."""
CANDIDATES_MAX: Final = 400
"""Contacts in the row; the farthest unasked ones are forgotten first."""
QUERIES_MAX: Final = 256
"""Nodes asked in one look-up: whoever invents ever closer nodes wins no more than this."""
NODES_PER_ANSWER_MAX: Final = 40
"""Nodes believed from one answer; honest ones send 8 to 20."""
TOKEN_BYTES_MAX: Final = 64
"""Longer tokens are not kept: they would be an amplifier in our puts."""

_SEEN_MAX: Final = 2048
"""Named nodes that are recognised at a glance; others are looked at again, no harm done."""
_WORTH_HAVING: Final = (b"nodes", b"token", b"v", b"values")
"""An answer with none of these is of no use to any look-up."""
_NEW: Final = State.NEW  # enum members are slow to look up, and these are looked at most
_WAITING: Final = State.WAITING
_RESPONDED: Final = State.RESPONDED

_INSECURE: Final = 1 << 160
"""Added to the rank of insecure identifiers, beyond every distance."""


class Lookup(Operation):
    """One search for the nodes closest to a target.

    Args:
        target: 20 bytes.
        query: what every node is asked.
        own_id: our identifier: who answers with it is ourselves.
        own_addresses: our addresses, never asked.
        collector: reads values out of the answers; None: only nodes are looked for.
    """

    __slots__ = (
        "_by_address",
        "_by_machine",
        "_centre",
        "_own_addresses",
        "_own_id",
        "_query",
        "_ranks",
        "_row",
        "_seeds",
        "_seen",
        "_stirred",
        "collector",
        "invalid",
        "on_found",
        "target",
        "usable",
        "votes",
    )

    def __init__(
        self,
        target: bytes,
        query: QueryTemplate,
        own_id: bytes,
        own_addresses: Collection[Address],
        collector: Collector | None = None,
    ) -> None:
        super().__init__()
        self.target = target
        self.collector = collector
        self.on_found: Callable[[Lookup, object], None] | None = None
        """Told of everything that the collector takes."""
        self.invalid = 0
        """Contacts whose answer carries a value that does not hold."""
        self.usable = 0
        """Contacts that gave an answer worth having."""
        self.votes: Counter[Address] = Counter()
        """How often which address was reported to be ours."""
        self._query = query
        self._own_id = own_id
        self._own_addresses = own_addresses
        self._centre = int.from_bytes(target, "big")
        self._row: list[Contact] = []
        self._ranks: list[int] = []  # of the contacts in the row, for bisection
        self._seeds: list[Contact] = []
        self._stirred = False  # whether there may be somebody new to ask
        self._by_address: dict[Address, Contact] = {}
        self._by_machine: dict[tuple[str, int], Contact] = {}
        self._seen: set[bytes] = set()  # compact node infos that need no second look

    # What goes in.

    def add(self, node: NodeInfo) -> None:
        """Enter a node, unless it is ourselves, known, or a second one on its machine."""
        if node.id == self._own_id:
            return
        rank = self._rank(node)
        known = self._by_address.get(node.address)
        if known is not None:
            if known.id is not None and known.state is State.NEW and rank < known.rank:
                self._move(known, node.id, rank)
            return
        machine = self._machine(node)
        if machine is not None:
            other = self._by_machine.get(machine)
            if other is not None and other.state is not State.DEAD:
                return
        self._place(Contact(node.address, node.id, rank), machine)

    def add_address(self, address: Address) -> None:
        """Enter an address whose identifier is unknown: it is asked in any case."""
        if address not in self._by_address:
            seed = Contact(address)
            self._by_address[address] = seed
            self._seeds.append(seed)
            self._stirred = True

    def _learn(self, packed: bytes, source: Address) -> None:
        """Enter the nodes that `source` named."""
        seen = self._seen
        end = min(len(packed), NODES_PER_ANSWER_MAX * krpc.NODE_BYTES)
        for at in range(0, end - krpc.NODE_BYTES + 1, krpc.NODE_BYTES):
            entry = packed[at : at + krpc.NODE_BYTES]
            if entry in seen:
                continue
            if len(seen) < _SEEN_MAX:
                seen.add(entry)
            address = krpc.unpack_address(entry[ID_BYTES:])
            if usable_address(address, source, self._own_addresses):
                self.add(NodeInfo(entry[:ID_BYTES], address))

    # What the dispatcher asks.

    def next_contact(self) -> Contact | None:
        """See `Operation`."""
        if not self._stirred or self.sent >= QUERIES_MAX:
            return None
        for contact in self._seeds:
            if contact.state is _NEW:
                return contact
        live = 0
        for contact in self._row:
            state = contact.state
            if state is _NEW:
                return contact
            if state is _RESPONDED or state is _WAITING:
                live += 1
                if live == K:
                    break
        self._stirred = False
        return None

    def query_for(self, contact: Contact) -> QueryTemplate:
        """See `Operation`."""
        return self._query

    def settled(self) -> bool:
        """See `Operation`."""
        live = 0
        for contact in self._row:
            state = contact.state
            if state is _WAITING or (state is _NEW and self.sent < QUERIES_MAX):
                return False
            if state is _RESPONDED or state is _NEW:
                live += 1
                if live == K:
                    return True
        # Few nodes are alive: the slow ones and the seeds are worth waiting for. When nobody at
        # all has answered, even the late ones are all there is to hope for.
        if self.waiting or (self.late and not self.responded):
            return False
        return self.sent >= QUERIES_MAX or all(seed.state is not State.NEW for seed in self._seeds)

    # What the dispatcher tells.

    def on_response(self, contact: Contact, node_id: bytes, response: Response) -> None:
        """See `Operation`."""
        if node_id == self._own_id:
            self.on_refusal(contact, None)
            return
        if contact.id != node_id:
            self._rename(contact, node_id)
        super().on_response(contact, node_id, response)
        token = response.values.get(b"token")
        if isinstance(token, bytes) and len(token) <= TOKEN_BYTES_MAX:
            contact.token = token
        if response.requester is not None:
            self.votes[response.requester] += 1
        nodes = response.values.get(b"nodes")
        if isinstance(nodes, bytes):
            self._learn(nodes, contact.address)
        self._collect(response)

    def on_refusal(self, contact: Contact, error: ErrorReply | None) -> None:
        """See `Operation`."""
        super().on_refusal(contact, error)
        if error is not None and error.requester is not None:
            self.votes[error.requester] += 1

    def _collect(self, response: Response) -> None:
        if not any(key in response.values for key in _WORTH_HAVING):
            return
        found = None
        if self.collector is not None:
            try:
                found = self.collector.take(response)
            except InvalidValueError:
                self.invalid += 1
                return
        self.usable += 1
        if found is not None and self.on_found is not None:
            self.on_found(self, found)

    # What comes out.

    @property
    def starved(self) -> bool:
        """Whether it ended before its turn came to ask any of the nodes it knew."""
        return self.sent == 0 and bool(self._by_address)

    def candidates(self) -> list[NodeInfo]:
        """Return the first `K` nodes that were heard of, alive or not, closest first."""
        return [
            NodeInfo(contact.id, contact.address)
            for contact in self._row[:K]
            if contact.id is not None
        ]

    def responders(self) -> list[Contact]:
        """Return the nodes that gave a usable answer, closest first."""
        return [contact for contact in self._row if contact.state is State.RESPONDED]

    # How it works.

    def _enter(self, contact: Contact, state: State) -> None:
        super()._enter(contact, state)
        if state is not _WAITING and state is not _RESPONDED:
            self._stirred = True  # the contact has left the front: another one moves up

    def _rank(self, node: NodeInfo) -> int:
        rank = int.from_bytes(node.id, "big") ^ self._centre
        return rank if is_secure(node.id, node.address[0]) else rank | _INSECURE

    @staticmethod
    def _machine(node: NodeInfo) -> tuple[str, int] | None:
        """What only one contact may have: the IP address, for secure identifiers with their r.

        BEP 42 gives each address eight secure prefixes, and the reference admits one each.
        """
        ip = node.address[0]
        if is_exempt(ip):
            return None
        return ip, node.id[-1] & 7 if is_secure(node.id, ip) else -1

    def _place(self, contact: Contact, machine: tuple[str, int] | None) -> None:
        if len(self._row) >= CANDIDATES_MAX:
            last = self._row[-1]
            if contact.rank > last.rank or last.state is not State.NEW:
                return
            self._remove(last)
            self._enter(last, State.DEAD)  # its machine may have another contact now
            del self._by_address[last.address]
        if not self._insert(contact):
            return
        self._by_address[contact.address] = contact
        if machine is not None:
            self._by_machine[machine] = contact

    def _insert(self, contact: Contact) -> bool:
        """Put a contact into the row; False if its identifier is there already."""
        at = bisect_left(self._ranks, contact.rank)
        if at < len(self._ranks) and self._ranks[at] == contact.rank:
            return False
        self._ranks.insert(at, contact.rank)
        self._row.insert(at, contact)
        self._stirred = True
        return True

    def _remove(self, contact: Contact) -> None:
        at = bisect_left(self._ranks, contact.rank)
        if at < len(self._row) and self._row[at] is contact:
            del self._ranks[at]
            del self._row[at]
            self._stirred = True

    def _move(self, contact: Contact, node_id: bytes, rank: int) -> None:
        self._remove(contact)
        contact.id, contact.rank = node_id, rank
        self._insert(contact)

    def _rename(self, contact: Contact, node_id: bytes) -> None:
        """Give a contact that answered its true identifier, and its place by it."""
        rank = self._rank(NodeInfo(node_id, contact.address))
        at = bisect_left(self._ranks, rank)
        if at < len(self._row) and self._ranks[at] == rank:
            rival = self._row[at]
            if rival.state is State.RESPONDED:
                # First come, first served: one of the two copied the identifier.
                self._remove(contact)
                contact.id = node_id
                return
            self._remove(rival)
        self._move(contact, node_id, rank)
