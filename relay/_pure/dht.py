"""The DHT node's tables in pure Python: the specification of `relay._speedups.dht`.

What strangers can make a node remember, each table with its limit, and the keyed hash under
them. Identifiers, targets and addresses are plain bytes here; what they mean is told where they
are used, in `relay.dht`. Both twins give the same values, the same order and the same error
texts; `now` is in monotonic seconds.

Parity: tests/parity/test_dht.py.
"""

from array import array
from collections import OrderedDict
from functools import cached_property
from heapq import nsmallest
from typing import Final

from relay.gcra import Gcra

RECORD_BYTES_MAX: Final = 1280
"""Longest record of a `RecordTable`."""

_ID_BYTES: Final = 20
_NODE_BYTES: Final = 26
_ADDRESS_BYTES: Final = 4
_KEY_BYTES: Final = 16
_COUNT_LIMIT: Final = 2**30
_BURST_MAX: Final = 2**32 - 1
_INTERVAL_MAX_S: Final = 2**62 / 1e9
_MASK: Final = 2**64 - 1
_ROUNDING: Final = 1e-6
"""Packets and seconds that sums of many fractions may be off; nobody waits for so little."""

_Pace = tuple[float, float, float, float, float, float, float]


def siphash(key: bytes, data: bytes) -> int:
    """Return SipHash-2-4 of `data`: a keyed hash that nobody without the key can predict.

    Args:
        key: 16 bytes.
        data: of any length.

    Returns:
        A number of 64 bits.

    Raises:
        ValueError: `key` has another length.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).

    >>> hex(siphash(bytes(range(16)), bytes(range(15))))
    '0xa129ca6149be45e5'
    """
    k0, k1 = _key_words(key)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = _sip_rounds(2, v0, v1, v2, v3 ^ word)
        v0 ^= word
    v0, v1, v2, v3 = _sip_rounds(4, v0, v1, v2 ^ 0xFF, v3)
    return v0 ^ v1 ^ v2 ^ v3


class IdTable:
    """Nodes in numbered slots, and the question which of them are closest to a target.

    The storage under the routing table: a slot holds compact node info, 20 bytes of identifier
    and 6 of address, and one bit, `preferred` (for us: the identifier is secure). What else is
    known about a node stays with the caller, under the same slot number.

    Args:
        capacity: number of slots, at least 1.

    >>> table = IdTable(8)
    >>> for slot in range(8):
    ...     table.set(slot, bytes(19) + bytes([slot]) + b"ADDRES", preferred=slot == 7)
    >>> table.closest(bytes(19) + bytes([5]), 3)
    [7, 5, 4]
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("an identifier table has at least one slot")
        self._capacity = capacity
        self._entries: dict[int, tuple[bool, int, bytes]] = {}

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return len(self._entries)

    def set(self, slot: int, node: bytes, preferred: bool) -> None:
        """Put a node into a slot, over whatever was there.

        Raises:
            IndexError: there is no such slot.
            ValueError: `node` is not 26 bytes long.
        """
        self._check(slot)
        if len(node) != _NODE_BYTES:
            raise ValueError("compact node info has 26 bytes")
        self._entries[slot] = (not preferred, int.from_bytes(node[:_ID_BYTES], "big"), node)

    def clear(self, slot: int) -> None:
        """Empty a slot; one that is empty stays so.

        Raises:
            IndexError: there is no such slot.
        """
        self._check(slot)
        self._entries.pop(slot, None)

    def clear_all(self) -> None:
        """Empty all slots."""
        self._entries.clear()

    def closest(self, target: bytes, count: int) -> list[int]:
        """Return at most `count` slots: preferred ones first, then by distance to `target`.

        Equal identifiers come in the order of their slots.

        Raises:
            ValueError: `target` is not 20 bytes long.
        """
        if len(target) != _ID_BYTES:
            raise ValueError("an identifier has 20 bytes")
        centre = int.from_bytes(target, "big")
        ranked = (
            (late, identifier ^ centre, slot)
            for slot, (late, identifier, _) in self._entries.items()
        )
        return [slot for _, _, slot in nsmallest(count, ranked)]

    def closest_compact(self, target: bytes, count: int) -> bytes:
        """Return the nodes of `closest`, 26 bytes each, in one string."""
        return b"".join(self._entries[slot][2] for slot in self.closest(target, count))

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self._capacity:
            raise IndexError(f"no slot {slot} in a table of {self._capacity}")


class RecordTable:
    """Records under 20-byte targets, least recently used first out.

    Args:
        capacity: most records; memory is theirs, at most `RECORD_BYTES_MAX` each.
    """

    def __init__(self, capacity: int) -> None:
        if not 1 <= capacity < _COUNT_LIMIT:
            raise ValueError("a record table has room for at least one record")
        self._capacity = capacity
        self._records: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, target: bytes) -> bytes | None:
        """Return the record under `target`, which counts as a use of it; None if there is none.

        Raises:
            ValueError: `target` is not 20 bytes long.
        """
        _check_target(target)
        record = self._records.get(target)
        if record is not None:
            self._records.move_to_end(target)
        return record

    def put(self, target: bytes, record: bytes) -> None:
        """Store a record in place of whatever its target held.

        Raises:
            ValueError: `target` is not 20 bytes long, or `record` longer than RECORD_BYTES_MAX.
        """
        if len(record) > RECORD_BYTES_MAX:
            raise ValueError(f"a record has at most {RECORD_BYTES_MAX} bytes")
        _check_target(target)
        self._records[target] = record
        self._records.move_to_end(target)
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def drop_oldest(self) -> None:
        """Forget the record used least recently, if there is one."""
        if self._records:
            self._records.popitem(last=False)


class BudgetCells:
    """What each IPv4 address may still cost us and have of us, in a table of fixed size.

    The rules, and why, are told in `relay.dht.budget`. Addresses that meet in a cell share all of
    it but the proof, which is of the last one there that proved itself.

    Args:
        key: 16 bytes; decides which addresses share a cell.
        cells: size of the table.
        pace: what a `relay.dht.budget.Pace` says, in its order.
        unproven: bytes per second and at once, of answers to a stranger.
        strangers: the same of all strangers together.
        credit_ratio: reply bytes earned by each byte received.
        proof_lasts_s: seconds.
    """

    def __init__(
        self,
        key: bytes,
        cells: int,
        *,
        pace: _Pace,
        unproven: tuple[float, float],
        strangers: tuple[float, float],
        credit_ratio: float,
        proof_lasts_s: float,
    ) -> None:
        _key_words(key)
        if not 1 <= cells < _COUNT_LIMIT:
            raise ValueError("a table of budgets has at least one cell")
        self._key = key
        self._count = cells
        self._per_s, self._burst, self._to_proven, self._to_strangers, *queries = pace
        self._queries_per_s, self._queries_burst, self._queries_spare = queries
        self._unproven = unproven
        self._in_all = strangers
        self._in_all_spent = 0.0
        self._credit_ratio = credit_ratio
        self._proof_lasts_s = proof_lasts_s

    def admit(self, octets: bytes, bytes_in: int, now: float) -> bool:
        """Count the answer to a query of `bytes_in`; False if it is beyond the budget.

        Raises:
            ValueError: `octets` are not 4.
        """
        cell, proven = self._find(octets, now)
        cells = self._cells
        share = self._to_proven if proven else self._to_strangers
        lead = max(cells.packets[cell] - now, 0.0)
        if lead * self._per_s + 1.0 > share + _ROUNDING:
            return False
        cells.packets[cell] = now + lead + 1.0 / self._per_s
        if not proven:
            cells.bytes[cell] -= bytes_in * self._credit_ratio / self._unproven[0]
        return True

    def charge(self, octets: bytes, bytes_out: int, now: float) -> bool:
        """Count the bytes of a reply; False if they are beyond the budget.

        Raises:
            ValueError: `octets` are not 4.
        """
        cell, proven = self._find(octets, now)
        if proven:
            return True
        bytes_per_s, bytes_burst = self._unproven
        lead = max(self._cells.bytes[cell] - now, 0.0)
        if lead * bytes_per_s + bytes_out > bytes_burst:
            return False
        if not self._charge_in_all(bytes_out, now):
            return False
        self._cells.bytes[cell] = now + lead + bytes_out / bytes_per_s
        return True

    def _charge_in_all(self, bytes_out: int, now: float) -> bool:
        bytes_per_s, bytes_burst = self._in_all
        lead = max(self._in_all_spent - now, 0.0)
        if lead * bytes_per_s + bytes_out > bytes_burst:
            return False
        self._in_all_spent = now + lead + bytes_out / bytes_per_s
        return True

    def reserve(self, octets: bytes, wait_max_s: float, now: float) -> float:
        """Count a query of ours; returns the seconds until it may go, 0 for at once.

        If that is more than `wait_max_s`, nothing was counted: it may not go.

        Raises:
            ValueError: `octets` are not 4.
        """
        cell = self._cell(octets)
        cells = self._cells
        lead = max(cells.packets[cell] - now, 0.0)
        queries_lead = max(cells.queries[cell] - now, 0.0)
        spare_s = _wait(lead, self._per_s, self._queries_spare)
        right_s = max(
            _wait(lead, self._per_s, self._burst),
            _wait(queries_lead, self._queries_per_s, self._queries_burst),
        )
        wait_s = min(spare_s, right_s)
        if wait_s > wait_max_s:
            return wait_s
        cells.packets[cell] = now + lead + 1.0 / self._per_s
        if spare_s > right_s:
            cells.queries[cell] = now + queries_lead + 1.0 / self._queries_per_s
        return wait_s

    def busy(self, octets: bytes, now: float) -> bool:
        """Tell whether a query beyond those that go by right would have to wait.

        Raises:
            ValueError: `octets` are not 4.
        """
        lead = max(self._cells.packets[self._cell(octets)] - now, 0.0)
        return _wait(lead, self._per_s, self._queries_spare) > 0.0

    def prove(self, octets: bytes, now: float) -> None:
        """Note that the address receives what is sent to it.

        Raises:
            ValueError: `octets` are not 4.
        """
        cell = self._cell(octets)
        self._cells.proven[cell] = int.from_bytes(octets, "big")
        self._cells.proof_ends[cell] = now + self._proof_lasts_s

    def _cell(self, octets: bytes) -> int:
        if len(octets) != _ADDRESS_BYTES:
            raise ValueError("an IPv4 address has 4 bytes")
        return siphash(self._key, octets) % self._count

    def _find(self, octets: bytes, now: float) -> tuple[int, bool]:
        """The cell of a source, and whether it has proved itself."""
        cell = self._cell(octets)
        cells = self._cells
        proven = now < cells.proof_ends[cell] and cells.proven[cell] == int.from_bytes(
            octets, "big"
        )
        return cell, proven

    @cached_property
    def _cells(self) -> "_Cells":
        """Made on first use: a node on a test network never needs them."""
        return _Cells(self._count)


def _wait(lead: float, per_s: float, burst: float) -> float:
    """Seconds until `burst` leaves room for one more."""
    wait_s = lead - (burst - 1.0) / per_s
    return 0.0 if wait_s < _ROUNDING else wait_s


class _Cells:
    """By cell: the time at which all that was spent will be earned back; and the last proof.

    Times in the past mean an untouched budget. (This is GCRA, with time as the unit.)
    """

    __slots__ = ("bytes", "packets", "proof_ends", "proven", "queries")

    def __init__(self, cells: int) -> None:
        self.packets = _zeros(cells)
        self.queries = _zeros(cells)
        self.bytes = _zeros(cells)
        self.proof_ends = _zeros(cells)
        self.proven: array[int] = array("Q", bytes(8 * cells))


class RateCells:
    """A rate limit by IPv4 address: `relay.gcra.Gcra`, as a table of the node.

    Args:
        interval_s: until one query comes back, seconds.
        burst: queries of an address that has been away, 1 to 2**32 - 1.
        max_keys: addresses remembered, at least 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, interval_s: float, burst: int, max_keys: int) -> None:
        if interval_s > _INTERVAL_MAX_S or burst > _BURST_MAX or max_keys > _COUNT_LIMIT:
            raise ValueError(f"not a rate: {interval_s} s, burst {burst}, {max_keys} keys")
        self._limiter = Gcra(interval_s, burst, max_keys)

    def check(self, octets: bytes, now: float) -> bool:
        """Count one query of an address; False if it is refused, which costs nothing.

        Raises:
            ValueError: `octets` are not 4.
        """
        if len(octets) != _ADDRESS_BYTES:
            raise ValueError("an IPv4 address has 4 bytes")
        return self._limiter.check(octets, now).allowed


def _zeros(cells: int) -> "array[float]":
    """Return `cells` times 0.0, eight bytes each."""
    return array("d", bytes(8 * cells))


def _check_target(target: bytes) -> None:
    if len(target) != _ID_BYTES:
        raise ValueError("a target has 20 bytes")


def _key_words(key: bytes) -> tuple[int, int]:
    if len(key) != _KEY_BYTES:
        raise ValueError("a SipHash key has 16 bytes")
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _sip_rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = v0 + v1 & _MASK
        v2 = v2 + v3 & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v3 = _rotate(v3, 16) ^ v2
        v0 = _rotate(v0, 32)
        v2 = v2 + v1 & _MASK
        v0 = v0 + v3 & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v3 = _rotate(v3, 21) ^ v0
        v2 = _rotate(v2, 32)
    return v0, v1, v2, v3
