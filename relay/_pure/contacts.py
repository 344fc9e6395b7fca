"""The contacts of one operation in pure Python: the specification of `relay._speedups.contacts`.

A *contact* is a node in the eyes of one operation on the DHT: a look-up, a round of writes, a
sweep of pings. A *progress* counts in which state how many of them are. A *row* is the progress
of a look-up: all contacts in one row, nodes with a secure identifier first, then by distance
(an attacker cannot choose secure identifiers at will). The *front* are the first `K` of the row
that are not silent; every one of them that has not been asked is to be asked. Of those nearer than
the *crowd distance* at most `CROWD_MAX` count: whoever puts more nodes than that next to a target
makes the front longer, and does not have it for himself. Nor do more than `CROWD_MAX` count that
answered and are all about equally far (within a `CROWD_SPREAD`th): whoever has filled a bucket of
ours with nodes in one place far from the target, which name only each other, does not end the
look-up there.

Both twins do the same to the same calls. What a look-up makes of it: `relay.dht.lookup`.

Source: BEP 5, BEP 42; design/protocol.md, section 7.6. Parity: tests/parity/test_contacts.py.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Collection
from enum import IntEnum
from typing import Final, Protocol

from relay._pure.addresses import Address, ip_octets, is_exempt, is_secure, usable_address
from relay._pure.answers import Answer

K: Final = 20
"""Width of the front (Kademlia's k; BEP 5 says 8, the reference node 20)."""
CROWD_MAX: Final = 10
"""Contacts that count of those nearer than the crowd distance, and of those in one place."""
CROWD_SPREAD: Final = 4
"""Contacts are in one place if none is farther by more than such a part of the nearest's distance.
Of honest ones the twentieth is twice as far as the tenth; less than 1.25 times in 1 of 1,000."""
CANDIDATES_MAX: Final = 400
"""Contacts in the row; when it is full the farthest unasked one makes room for nearer ones."""
QUERIES_MAX: Final = 256
"""Nodes asked in one look-up: whoever invents ever closer nodes wins no more than this."""
NODES_PER_ANSWER_MAX: Final = 40
"""Nodes believed from one answer; honest ones send 8 to 20."""

_ID_BYTES: Final = 20
_NODE_BYTES: Final = 26

_INSECURE: Final = 1 << 160
"""Added to the rank of insecure identifiers, beyond every distance."""
_DISTANCE: Final = _INSECURE - 1
"""What of a rank is the distance."""


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


_NEW: Final = State.NEW  # enum members are slow to look up, and these are looked at most
_WAITING: Final = State.WAITING
_SLOW: Final = State.SLOW
_LATE: Final = State.LATE
_RESPONDED: Final = State.RESPONDED


class Refusal(Protocol):
    """What operations read of an error message."""

    @property
    def code(self) -> int:
        """Of BEP 5 or BEP 44: 201 to 302."""

    @property
    def requester(self) -> Address | None:
        """Our address as the sender sees it."""


class Contact:
    """A node in the eyes of one operation.

    `id` is None for an address of which nothing else is known (a bootstrap router); `token` is
    what the node gave us to write with.
    """

    __slots__ = ("_machine", "_rank", "_state", "address", "id", "token")

    def __init__(self, address: Address, node_id: bytes | None = None, token: bytes = b"") -> None:
        self.address = address
        self.id = node_id
        self.token = token
        self._rank = 0
        self._state = State.NEW
        self._machine: tuple[int, int] | None = None  # under which a row knows it

    @property
    def state(self) -> State:
        """How far the operation has come with this contact; a `Progress` changes it."""
        return self._state


class Progress:
    """In which state how many contacts of an operation are.

    `queued` and `done` belong to the dispatcher.
    """

    __slots__ = (
        "__weakref__",
        "_late",
        "_responded",
        "_sent",
        "_slow",
        "_waiting",
        "done",
        "queued",
    )

    def __init__(self) -> None:
        self.queued = False
        self.done = False
        self._sent = 0
        self._responded = 0
        self._waiting = 0
        self._slow = 0
        self._late = 0

    @property
    def sent(self) -> int:
        """Contacts that a query went to."""
        return self._sent

    @property
    def responded(self) -> int:
        """Contacts that answered anything."""
        return self._responded

    @property
    def waiting(self) -> int:
        """Contacts in the states WAITING and SLOW."""
        return self._waiting

    @property
    def slow(self) -> int:
        """Contacts in the state SLOW."""
        return self._slow

    @property
    def late(self) -> int:
        """Contacts in the state LATE."""
        return self._late

    def on_sent(self, contact: Contact, *, suspect: bool) -> None:
        """A query is on its way. Nobody waits for a suspect, which was silent lately."""
        self._enter(contact, State.SLOW if suspect else State.WAITING)
        self._sent += 1

    def on_response(self, contact: Contact, node_id: bytes, answer: Answer) -> None:
        """`contact` answered, naming itself `node_id` (20 bytes)."""
        self._enter(contact, State.RESPONDED)
        self._responded += 1

    def on_refusal(self, contact: Contact, error: Refusal | None) -> None:
        """`contact` answered with an error, or (None) with something that is no use."""
        self._enter(contact, State.REFUSED)
        self._responded += 1

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
        left = contact._state
        if left is _WAITING:
            self._waiting -= 1
        elif left is _SLOW:
            self._waiting -= 1
            self._slow -= 1
        elif left is _LATE:
            self._late -= 1
        if state is _WAITING:
            self._waiting += 1
        elif state is _SLOW:
            self._waiting += 1
            self._slow += 1
        elif state is _LATE:
            self._late += 1
        contact._state = state


class Row(Progress):
    """The contacts of a look-up, in order.

    At most one contact for each address, and for each machine: an IP address, or for secure
    identifiers an IP address with their `r` (BEP 42 gives each address eight secure prefixes,
    and the reference admits one each). Exempt addresses are free of the latter.

    Args:
        target: 20 bytes.
        own_id: our identifier, never entered.
        own_addresses: our addresses, which nobody may name.

    Raises:
        ValueError: `target` is not 20 bytes long.
    """

    __slots__ = (
        "_by_machine",
        "_by_number",
        "_centre",
        "_crowd_distance",
        "_own_addresses",
        "_own_id",
        "_ranks",
        "_row",
        "_seeds",
    )

    def __init__(self, target: bytes, own_id: bytes, own_addresses: Collection[Address]) -> None:
        super().__init__()
        if len(target) != _ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        self._centre = int.from_bytes(target, "big")
        self._crowd_distance = 0
        self._own_id = own_id
        self._own_addresses = own_addresses
        self._row: list[Contact] = []
        self._ranks: list[int] = []  # of the contacts in the row, for bisection
        self._seeds: list[Contact] = []
        self._by_number: dict[int, Contact] = {}  # by IP address and port
        self._by_machine: dict[tuple[int, int], Contact] = {}

    # What goes in.

    def limit_crowd(self, distance: bytes) -> None:
        """Set the crowd distance; zero, which it is at first, is no limit.

        Args:
            distance: from the target, 20 bytes.

        Raises:
            ValueError: it is not 20 bytes long.
        """
        if len(distance) != _ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        self._crowd_distance = int.from_bytes(distance, "big")

    def add(self, node: tuple[bytes, Address]) -> None:
        """Enter a node, unless it is ourselves, known, or a second one on its machine.

        A name with a closer identifier wins while the node has not been asked, unless another
        contact has that identifier: an honest node cannot be hidden behind a false name.

        Args:
            node: 20 bytes of identifier, and the address.

        Raises:
            ValueError: the identifier is not 20 bytes long, or the address no IPv4 address.
        """
        node_id, address = node
        if len(node_id) != _ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        number = _number(address)
        if node_id == self._own_id:
            return
        rank = self._rank(node_id, address[0])
        known = self._by_number.get(number)
        if known is not None:
            if (
                known.id is not None
                and known._state is _NEW
                and rank < known._rank
                and not self._is_taken(rank)
            ):
                self._move(known, node_id, rank)
            return
        machine = None
        if not is_exempt(address[0]):
            machine = number >> 16, -1 if rank & _INSECURE else node_id[-1] & 7
            other = self._by_machine.get(machine)
            if other is not None and other._state is not State.DEAD:
                return
        contact = Contact(address, node_id)
        contact._rank = rank
        contact._machine = machine
        if self._place(contact, number) and machine is not None:
            self._by_machine[machine] = contact

    def add_address(self, address: Address) -> None:
        """Enter an address whose identifier is unknown: it is asked in any case.

        Raises:
            ValueError: it is no IPv4 address.
        """
        number = _number(address)
        if number not in self._by_number:
            seed = Contact(address)
            self._by_number[number] = seed
            self._seeds.append(seed)

    def learn(self, packed: bytes, source: Address) -> None:
        """Enter the nodes that an answer names, `NODES_PER_ANSWER_MAX` at most.

        Args:
            packed: compact node info, 26 bytes each; an incomplete last one is ignored.
            source: who named them; see `addresses.usable_address`.
        """
        end = min(len(packed), NODES_PER_ANSWER_MAX * _NODE_BYTES)
        for at in range(0, end - _NODE_BYTES + 1, _NODE_BYTES):
            node_id = packed[at : at + _ID_BYTES]
            octets = packed[at + _ID_BYTES : at + _NODE_BYTES]
            known = self._by_number.get(int.from_bytes(octets, "big"))
            if known is not None and known.id == node_id:
                continue
            ip = f"{octets[0]}.{octets[1]}.{octets[2]}.{octets[3]}"
            address = ip, octets[4] << 8 | octets[5]
            if usable_address(address, source, self._own_addresses):
                self.add((node_id, address))

    def rename(self, contact: Contact, node_id: bytes) -> None:
        """Give a contact that answered its true identifier, and its place by it.

        Of two contacts with one identifier the first to have answered keeps the place: one of
        the two copied it.

        Raises:
            ValueError: the identifier is not 20 bytes long.
        """
        if len(node_id) != _ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        rank = self._rank(node_id, contact.address[0])
        at = bisect_left(self._ranks, rank)
        if at < len(self._row) and self._ranks[at] == rank:
            rival = self._row[at]
            if rival._state is _RESPONDED:
                self._remove(contact)
                contact.id = node_id
                return
            self._remove(rival)
        self._move(contact, node_id, rank)

    # What comes out.

    def next_contact(self) -> Contact | None:
        """Return whom to ask now: seeds first, then the front from its head."""
        if self._sent >= QUERIES_MAX:
            return None
        for contact in self._seeds:
            if contact._state is _NEW:
                return contact
        front = _Front(self._crowd_distance)
        for contact in self._row:
            state = contact._state
            if state is _NEW:
                return contact
            if (state is _RESPONDED or state is _WAITING) and front.is_full_with(contact):
                break
        return None

    def settled(self) -> bool:
        """Whether the front has answered, or nobody is left to ask or worth waiting for."""
        front = _Front(self._crowd_distance)
        for contact in self._row:
            state = contact._state
            if state is _WAITING or (state is _NEW and self._sent < QUERIES_MAX):
                return False
            if (state is _RESPONDED or state is _NEW) and front.is_full_with(contact):
                return True
        # Few nodes are alive: the slow ones and the seeds are worth waiting for. When nobody at
        # all has answered, even the late ones are all there is to hope for.
        if self._waiting or (self._late and not self._responded):
            return False
        return self._sent >= QUERIES_MAX or all(seed._state is not _NEW for seed in self._seeds)

    def head(self) -> list[Contact]:
        """Return the first `K` contacts of the row, whatever their state; all have identifiers."""
        return self._row[:K]

    def reached(self) -> list[Contact]:
        """Return the contacts as far as the `K`-th that responded; all, if fewer did."""
        responded = 0
        for count, contact in enumerate(self._row, start=1):
            responded += contact._state is _RESPONDED
            if responded == K:
                return self._row[:count]
        return self._row[:]

    def responders(self) -> list[Contact]:
        """Return the contacts that responded, in order; all have identifiers."""
        return [contact for contact in self._row if contact._state is _RESPONDED]

    @property
    def in_row(self) -> int:
        """Contacts in the row, at most `CANDIDATES_MAX`."""
        return len(self._row)

    @property
    def known(self) -> int:
        """Addresses that are recognised, those of seeds included."""
        return len(self._by_number)

    @property
    def machines(self) -> int:
        """Machines that are recognised, at most `CANDIDATES_MAX`."""
        return len(self._by_machine)

    # How it works.

    def _rank(self, node_id: bytes, ip: str) -> int:
        rank = int.from_bytes(node_id, "big") ^ self._centre
        return rank if is_secure(node_id, ip) else rank | _INSECURE

    def _place(self, contact: Contact, number: int) -> bool:
        """Find a place for a new contact; False if there is none."""
        full = len(self._row) >= CANDIDATES_MAX
        if self._is_taken(contact._rank) or (full and not self._make_room(contact._rank)):
            return False
        self._insert(contact)
        self._by_number[number] = contact
        return True

    def _make_room(self, rank: int) -> bool:
        """Forget the last contact behind `rank` that was not asked; False if there is none."""
        for contact in reversed(self._row):
            if contact._rank < rank:
                break
            if contact._state is _NEW:
                self._remove(contact)
                self._enter(contact, State.DEAD)
                del self._by_number[_number(contact.address)]
                if contact._machine is not None:  # which may have another contact now
                    del self._by_machine[contact._machine]
                return True
        return False

    def _is_taken(self, rank: int) -> bool:
        """Whether a contact of the row has that place."""
        at = bisect_left(self._ranks, rank)
        return at < len(self._ranks) and self._ranks[at] == rank

    def _insert(self, contact: Contact) -> None:
        """Put a contact into the row, unless its identifier is there already."""
        if not self._is_taken(contact._rank):
            at = bisect_left(self._ranks, contact._rank)
            self._ranks.insert(at, contact._rank)
            self._row.insert(at, contact)

    def _remove(self, contact: Contact) -> None:
        at = bisect_left(self._ranks, contact._rank)
        if at < len(self._row) and self._row[at] is contact:
            del self._ranks[at]
            del self._row[at]

    def _move(self, contact: Contact, node_id: bytes, rank: int) -> None:
        self._remove(contact)
        contact.id, contact._rank = node_id, rank
        self._insert(contact)


class _Front:
    """A walk along the row that counts the live contacts of the front."""

    __slots__ = ("_crowd_distance", "_last", "_live", "_near")

    def __init__(self, crowd_distance: int) -> None:
        self._crowd_distance = crowd_distance
        self._last: deque[int] = deque(maxlen=CROWD_MAX)  # distances
        self._live = self._near = 0

    def is_full_with(self, contact: Contact) -> bool:
        """Take the next live contact; whether `K` count now."""
        rank = contact._rank
        if rank < self._crowd_distance:
            self._near += 1
            if self._near > CROWD_MAX:
                return False
        distance = rank & _DISTANCE
        if len(self._last) == CROWD_MAX:
            nearest = self._last[0]
            crowded = nearest <= distance <= nearest + nearest // CROWD_SPREAD
        else:
            crowded = False
        self._last.append(distance)
        # One who has yet to answer may name nearer ones: nobody is asked in his place before.
        if not crowded or contact._state is _WAITING:
            self._live += 1
        return self._live == K


def _number(address: Address) -> int:
    """An address as the number that its compact form is."""
    return int.from_bytes(ip_octets(address[0]), "big") << 16 | address[1]
