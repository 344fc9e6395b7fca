# cython: autotestdict=False
"""The contacts of one operation in C. Twin and specification: relay/_pure/contacts.py.

A look-up learns twenty nodes from each answer, nearly all of them known by then: recognising
one is a look at 26 bytes. The front is walked anew for each question; it is 20 contacts long.

Owns nothing but Python objects. Not safe to share between threads.

Parity: tests/parity/test_contacts.py.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp

from relay._pure.contacts import State

cdef extern from "Python.h":
    object PyUnicode_FromFormat(const char *format, ...)

K = 20
CROWD_MAX = 10
CROWD_SPREAD = 4
CANDIDATES_MAX = 400
QUERIES_MAX = 256
NODES_PER_ANSWER_MAX = 40

cdef enum:
    _ID_BYTES = 20
    _NODE_BYTES = 26
    _K = 20
    _CROWD_MAX = 10
    _CROWD_SPREAD_BITS = 2
    _CANDIDATES_MAX = 400
    _QUERIES_MAX = 256
    _NODES_PER_ANSWER_MAX = 40

cdef enum:
    _NEW = 0
    _WAITING = 1
    _SLOW = 2
    _LATE = 3
    _RESPONDED = 4
    _REFUSED = 5
    _DEAD = 6

cdef tuple _STATES = tuple(State)

ctypedef const unsigned char Octet

cdef struct Rank:
    # A place in the row: whether the identifier is insecure, and its distance to the target,
    # most significant word first.
    bint late
    uint64_t high
    uint64_t middle
    uint32_t low


cdef struct Front:
    # A walk along the row: contacts that count, those of them nearer than the crowd distance,
    # all that were taken, and the last of these.
    int live
    int near
    int taken
    const Rank *last[10]    # _CROWD_MAX


@cython.final
@cython.freelist(64)
cdef class Contact:
    """A node in the eyes of one operation."""
    cdef readonly tuple address
    cdef readonly bytes id
    cdef public bytes token
    cdef Rank _rank
    cdef int _state
    cdef object _machine    # under which a row knows it; None: exempt addresses have none

    def __init__(self, tuple address not None, bytes node_id=None, bytes token not None=b""):
        self.address = address
        self.id = node_id
        self.token = token

    @property
    def state(self):
        """How far the operation has come with this contact; a `Progress` changes it."""
        return _STATES[self._state]


cdef class Progress:
    """In which state how many contacts of an operation are."""
    cdef object __weakref__
    cdef public bint queued
    cdef public bint done
    cdef readonly Py_ssize_t sent
    cdef readonly Py_ssize_t responded
    cdef readonly Py_ssize_t waiting
    cdef readonly Py_ssize_t slow
    cdef readonly Py_ssize_t late

    def on_sent(self, Contact contact not None, *, bint suspect):
        """A query is on its way. Nobody waits for a suspect, which was silent lately."""
        self._enter(contact, _SLOW if suspect else _WAITING)
        self.sent += 1

    def on_response(self, Contact contact not None, bytes node_id not None, answer):
        """`contact` answered, naming itself `node_id` (20 bytes)."""
        self._enter(contact, _RESPONDED)
        self.responded += 1

    def on_refusal(self, Contact contact not None, error):
        """`contact` answered with an error, or (None) with something that is no use."""
        self._enter(contact, _REFUSED)
        self.responded += 1

    def on_slow(self, Contact contact not None):
        """`contact` takes longer than nodes usually do."""
        self._enter(contact, _SLOW)

    def on_late(self, Contact contact not None):
        """`contact` is no longer worth waiting for."""
        self._enter(contact, _LATE)

    def on_dead(self, Contact contact not None):
        """`contact` let the request time-out pass, or may not be asked at all now."""
        self._enter(contact, _DEAD)

    cdef void _enter(self, Contact contact, int state) noexcept:
        """Change a contact's state, and the counts with it."""
        if contact._state == _WAITING or contact._state == _SLOW:
            self.waiting -= 1
            self.slow -= contact._state == _SLOW
        elif contact._state == _LATE:
            self.late -= 1
        if state == _WAITING or state == _SLOW:
            self.waiting += 1
            self.slow += state == _SLOW
        elif state == _LATE:
            self.late += 1
        contact._state = state


cdef class Row(Progress):
    """The contacts of a look-up, in order."""
    cdef bytes _own_id
    cdef object _own_addresses
    cdef list _row
    cdef list _seeds
    cdef dict _by_number        # by IP address and port
    cdef dict _by_machine       # by IP address and r, see `_machine`
    cdef Rank _centre         # the target
    cdef Rank _crowd_distance

    def __init__(self, bytes target not None, bytes own_id not None, own_addresses):
        self._centre = _load(_octets(target))
        self._crowd_distance = _load(_octets(bytes(_ID_BYTES)))
        self._own_id = own_id
        self._own_addresses = own_addresses
        self._row = []
        self._seeds = []
        self._by_number = {}
        self._by_machine = {}

    def limit_crowd(self, bytes distance not None):
        """Set the crowd distance; zero, which it is at first, is no limit."""
        self._crowd_distance = _load(_octets(distance))

    def add(self, node):
        """Enter a node, unless it is ourselves, known, or a second one on its machine."""
        cdef bytes node_id
        cdef tuple address
        node_id, address = node
        _octets(node_id)
        self._add(node_id, address, _number(address))

    def add_address(self, tuple address not None):
        """Enter an address whose identifier is unknown: it is asked in any case."""
        cdef object number = _number(address)
        if number not in self._by_number:
            seed = Contact(address)
            self._by_number[number] = seed
            self._seeds.append(seed)

    def learn(self, bytes packed not None, tuple source not None):
        """Enter the nodes that an answer names, `NODES_PER_ANSWER_MAX` at most."""
        cdef Octet *at = <Octet *> PyBytes_AS_STRING(packed)
        cdef Py_ssize_t count = min(PyBytes_GET_SIZE(packed) // _NODE_BYTES, _NODES_PER_ANSWER_MAX)
        cdef bint inside = _is_exempt(<uint32_t> (<uint64_t> _number(source) >> 16))
        cdef uint64_t number
        cdef object key
        cdef PyObject *known
        cdef tuple address
        for _ in range(count):
            number = _big_endian(at + _ID_BYTES)
            key = number
            known = PyDict_GetItem(self._by_number, key)
            if known is NULL or not _same_id(<Contact> known, at):
                if _is_usable(number, inside):
                    address = _address(number)
                    if address not in self._own_addresses:
                        self._add(PyBytes_FromStringAndSize(<char *> at, _ID_BYTES), address, key)
            at += _NODE_BYTES

    def rename(self, Contact contact not None, bytes node_id not None):
        """Give a contact that answered its true identifier, and its place by it."""
        cdef Rank rank
        cdef Py_ssize_t at
        cdef Contact rival
        cdef uint64_t number = _number(contact.address)
        rank = self._rank_of(_octets(node_id), <uint32_t> (number >> 16))
        at = self._place_of(&rank)
        if at < PyList_GET_SIZE(self._row):
            rival = self._contact(at)
            if _equal(&rival._rank, &rank):
                if rival._state == _RESPONDED:
                    self._remove(contact)
                    contact.id = node_id
                    return
                self._remove(rival)
        self._move(contact, node_id, rank)

    def next_contact(self):
        """Return whom to ask now: seeds first, then the front from its head."""
        cdef Contact contact
        cdef Py_ssize_t at
        cdef Front front
        if self.sent >= _QUERIES_MAX:
            return None
        front.live = front.near = front.taken = 0
        for contact in self._seeds:
            if contact._state == _NEW:
                return contact
        for at in range(PyList_GET_SIZE(self._row)):
            contact = self._contact(at)
            if contact._state == _NEW:
                return contact
            if contact._state == _RESPONDED or contact._state == _WAITING:
                if self._is_full_with(&front, contact):
                    break
        return None

    def settled(self):
        """Whether the front has answered, or nobody is left to ask or worth waiting for."""
        cdef Contact contact
        cdef Py_ssize_t at
        cdef Front front
        cdef bint asking = self.sent < _QUERIES_MAX
        front.live = front.near = front.taken = 0
        for at in range(PyList_GET_SIZE(self._row)):
            contact = self._contact(at)
            if contact._state == _WAITING or (asking and contact._state == _NEW):
                return False
            if contact._state == _RESPONDED or contact._state == _NEW:
                if self._is_full_with(&front, contact):
                    return True
        if self.waiting or (self.late and not self.responded):
            return False
        if asking:
            for contact in self._seeds:
                if contact._state == _NEW:
                    return False
        return True

    def head(self):
        """Return the first `K` contacts of the row, whatever their state."""
        return self._row[:_K]

    def reached(self):
        """Return the contacts as far as the `K`-th that responded; all, if fewer did."""
        cdef Contact contact
        cdef Py_ssize_t at
        cdef Py_ssize_t responded = 0
        for at in range(PyList_GET_SIZE(self._row)):
            contact = self._contact(at)
            responded += contact._state == _RESPONDED
            if responded == _K:
                return self._row[:at + 1]
        return self._row[:]

    def responders(self):
        """Return the contacts that responded, in order."""
        cdef list found = []
        cdef Contact contact
        for contact in self._row:
            if contact._state == _RESPONDED:
                found.append(contact)
        return found

    @property
    def in_row(self):
        """Contacts in the row, at most `CANDIDATES_MAX`."""
        return PyList_GET_SIZE(self._row)

    @property
    def known(self):
        """Addresses that are recognised, those of seeds included."""
        return len(self._by_number)

    @property
    def machines(self):
        """Machines that are recognised, at most `CANDIDATES_MAX`."""
        return len(self._by_machine)

    cdef inline Contact _contact(self, Py_ssize_t at):
        return <Contact> PyList_GET_ITEM(self._row, at)

    cdef bint _is_full_with(self, Front *front, Contact contact) noexcept:
        """Take the next live contact; whether `K` count now."""
        cdef int place = front.taken % _CROWD_MAX
        cdef bint crowded = False
        if _before(&contact._rank, &self._crowd_distance):
            front.near += 1
            if front.near > _CROWD_MAX:
                return False
        if front.taken >= _CROWD_MAX:
            crowded = _is_one_place(front.last[place], &contact._rank)
        front.last[place] = &contact._rank
        front.taken += 1
        if not crowded or contact._state == _WAITING:
            front.live += 1
        return front.live == _K

    cdef int _add(self, bytes node_id, tuple address, object key) except -1:
        """Do what `add` does, with `key` the number of the address."""
        cdef uint64_t number = key
        cdef uint32_t ip = <uint32_t> (number >> 16)
        cdef Rank rank
        cdef PyObject *known
        cdef object machine = None
        cdef Contact contact
        if node_id == self._own_id:
            return 0
        rank = self._rank_of(<Octet *> PyBytes_AS_STRING(node_id), ip)
        known = PyDict_GetItem(self._by_number, key)
        if known is not NULL:
            contact = <Contact> known
            if (
                contact.id is not None and contact._state == _NEW
                and _before(&rank, &contact._rank) and not self._is_taken(&rank)
            ):
                self._move(contact, node_id, rank)
            return 0
        if not _is_exempt(ip):
            machine = _machine(ip, node_id, rank.late)
            known = PyDict_GetItem(self._by_machine, machine)
            if known is not NULL and (<Contact> known)._state != _DEAD:
                return 0
        contact = Contact.__new__(Contact)
        contact.address = address
        contact.id = node_id
        contact.token = b""
        contact._rank = rank
        contact._machine = machine
        if self._place(contact, key) and machine is not None:
            self._by_machine[machine] = contact
        return 0

    cdef Rank _rank_of(self, Octet *node_id, uint32_t ip) noexcept:
        cdef Rank rank = _load(node_id)
        rank.high ^= self._centre.high
        rank.middle ^= self._centre.middle
        rank.low ^= self._centre.low
        rank.late = not _is_secure(node_id, ip)
        return rank

    cdef bint _place(self, Contact contact, object key) except -1:
        """Find a place for a new contact; False if there is none."""
        cdef bint full = PyList_GET_SIZE(self._row) >= _CANDIDATES_MAX
        if self._is_taken(&contact._rank) or (full and not self._make_room(&contact._rank)):
            return False
        self._insert(contact)
        self._by_number[key] = contact
        return True

    cdef bint _make_room(self, const Rank *rank) except -1:
        """Forget the last contact behind `rank` that was not asked; False if there is none."""
        cdef Contact contact
        cdef Py_ssize_t at
        for at in range(PyList_GET_SIZE(self._row) - 1, -1, -1):
            contact = self._contact(at)
            if _before(&contact._rank, rank):
                break
            if contact._state == _NEW:
                del self._row[at]
                self._enter(contact, _DEAD)
                del self._by_number[_number(contact.address)]
                if contact._machine is not None:    # which may have another contact now
                    del self._by_machine[contact._machine]
                return True
        return False

    cdef Py_ssize_t _place_of(self, const Rank *rank) noexcept:
        """The first place in the row whose contact is not before `rank`."""
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = PyList_GET_SIZE(self._row)
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            if _before(&self._contact(middle)._rank, rank):
                low = middle + 1
            else:
                high = middle
        return low

    cdef bint _is_taken(self, const Rank *rank) noexcept:
        """Whether a contact of the row has that place."""
        cdef Py_ssize_t at = self._place_of(rank)
        return at < PyList_GET_SIZE(self._row) and _equal(&self._contact(at)._rank, rank)

    cdef int _insert(self, Contact contact) except -1:
        """Put a contact into the row, unless its identifier is there already."""
        if not self._is_taken(&contact._rank):
            self._row.insert(self._place_of(&contact._rank), contact)
        return 0

    cdef int _remove(self, Contact contact) except -1:
        cdef Py_ssize_t at = self._place_of(&contact._rank)
        if at < PyList_GET_SIZE(self._row) and self._contact(at) is contact:
            del self._row[at]
        return 0

    cdef int _move(self, Contact contact, bytes node_id, Rank rank) except -1:
        self._remove(contact)
        contact.id = node_id
        contact._rank = rank
        self._insert(contact)
        return 0


cdef Rank _load(Octet *octets) noexcept:
    """The rank of a secure identifier at the target of zeros."""
    cdef Rank rank
    cdef int at
    rank.late = False
    rank.high = 0
    rank.middle = 0
    rank.low = 0
    for at in range(8):
        rank.high = rank.high << 8 | octets[at]
    for at in range(8, 16):
        rank.middle = rank.middle << 8 | octets[at]
    for at in range(16, 20):
        rank.low = rank.low << 8 | octets[at]
    return rank


cdef bint _before(const Rank *left, const Rank *right) noexcept:
    """Whether `left` belongs strictly in front of `right`."""
    if left.late != right.late:
        return right.late
    if left.high != right.high:
        return left.high < right.high
    if left.middle != right.middle:
        return left.middle < right.middle
    return left.low < right.low


cdef bint _is_one_place(const Rank *nearest, const Rank *rank) noexcept:
    """Whether `rank` is no nearer, and farther by no more than a `CROWD_SPREAD`th."""
    cdef Rank left = nearest[0]
    cdef Rank right = rank[0]
    cdef uint64_t high = left.high >> _CROWD_SPREAD_BITS
    cdef uint64_t middle = (
        left.middle >> _CROWD_SPREAD_BITS | left.high << (64 - _CROWD_SPREAD_BITS)
    )
    cdef uint32_t low = <uint32_t> (
        left.low >> _CROWD_SPREAD_BITS | left.middle << (32 - _CROWD_SPREAD_BITS)
    )
    cdef uint32_t carry
    left.late = right.late = False
    if _before(&right, &left):
        return False
    left.low += low
    carry = left.low < low
    left.middle += middle
    high += left.middle < middle
    left.middle += carry
    high += carry and left.middle == 0
    left.high += high
    return left.high < high or not _before(&left, &right)


cdef inline bint _equal(const Rank *left, const Rank *right) noexcept:
    return not _before(left, right) and not _before(right, left)


cdef inline bint _same_id(Contact contact, Octet *octets) noexcept:
    return contact.id is not None and memcmp(
        PyBytes_AS_STRING(contact.id), octets, _ID_BYTES
    ) == 0


cdef Octet *_octets(bytes identifier) except NULL:
    """The bytes of an identifier, owned by it."""
    if identifier is None or PyBytes_GET_SIZE(identifier) != _ID_BYTES:
        raise ValueError("an identifier has 20 bytes")
    return <Octet *> PyBytes_AS_STRING(identifier)


cdef uint64_t _big_endian(Octet *octets) noexcept:
    """Six bytes, an address in compact form, as a number."""
    cdef uint64_t number = 0
    cdef int at
    for at in range(6):
        number = number << 8 | octets[at]
    return number


cdef object _number(tuple address):
    """An address as the number that its compact form is; ValueError if it is no IPv4 address."""
    cdef Py_ssize_t size
    cdef str ip
    cdef const char *text
    cdef uint64_t number = 0
    cdef unsigned int octet = 0
    cdef int digits = 0
    cdef int parts = 1
    cdef Py_ssize_t at
    cdef uint64_t port
    ip, port = address
    text = PyUnicode_AsUTF8AndSize(ip, &size)
    for at in range(size):
        if c"0" <= text[at] <= c"9" and digits < 3:
            octet = octet * 10 + <unsigned char> (text[at] - c"0")
            digits += 1
        elif text[at] == c"." and digits and octet < 256 and parts < 4:
            number = number << 8 | octet
            octet = 0
            digits = 0
            parts += 1
        else:
            digits = 0
            break
    if parts != 4 or not digits or octet > 255:
        raise ValueError(f"not an IPv4 address: {ip!r}")
    return (number << 8 | octet) << 16 | port


cdef tuple _address(uint64_t number):
    """The address whose compact form is `number`."""
    cdef uint32_t ip = <uint32_t> (number >> 16)
    return (
        PyUnicode_FromFormat(
            "%u.%u.%u.%u", ip >> 24, ip >> 16 & 0xFF, ip >> 8 & 0xFF, ip & 0xFF
        ),
        <int> (number & 0xFFFF),
    )


cdef object _machine(uint32_t ip, bytes node_id, bint insecure):
    """What only one contact may have: the IP address, for secure identifiers with their r."""
    cdef uint64_t r = 8
    if not insecure:
        r = (<Octet *> PyBytes_AS_STRING(node_id))[_ID_BYTES - 1] & 7
    return <uint64_t> ip << 4 | r


cdef bint _is_usable(uint64_t number, bint inside) noexcept:
    """Whether an address may be named, `inside`: by an exempt one; our own are not known here."""
    cdef uint32_t ip = <uint32_t> (number >> 16)
    cdef unsigned int first = ip >> 24
    if number & 0xFFFF == 0 or first < 1 or first > 223:
        return False
    return inside or not _is_exempt(ip)


cdef bint _is_exempt(uint32_t ip) noexcept:
    """Whether an address is loopback, private or link-local."""
    cdef unsigned int first = ip >> 24
    cdef unsigned int second = ip >> 16 & 0xFF
    return (
        first == 10
        or first == 127
        or (first == 172 and 16 <= second <= 31)
        or (first == 192 and second == 168)
        or (first == 169 and second == 254)
    )


cdef bint _is_secure(Octet *node_id, uint32_t ip) noexcept:
    """Whether the first 21 bits of an identifier are those that BEP 42 derives from `ip`."""
    cdef uint32_t masked, crc, prefix
    cdef int shift
    if _is_exempt(ip):
        return True
    masked = (ip & <uint32_t> 0x030F3FFF) | <uint32_t> (node_id[_ID_BYTES - 1] & 7) << 29
    crc = <uint32_t> 0xFFFFFFFF
    for shift in (24, 16, 8, 0):
        crc ^= masked >> shift & 0xFF
        for _ in range(8):
            crc = crc >> 1 ^ (<uint32_t> 0x82F63B78 if crc & 1 else 0)
    crc ^= <uint32_t> 0xFFFFFFFF
    prefix = <uint32_t> node_id[0] << 16 | <uint32_t> node_id[1] << 8 | node_id[2]
    return (crc >> 8 ^ prefix) >> 3 == 0
