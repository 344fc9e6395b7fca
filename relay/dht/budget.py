"""How much one address may cost us, and how much we may send to one address.

The source of a datagram is easily forged. Two things must not follow from that: that our
replies, larger than the queries, flood somebody who never asked; and that our bookkeeping
grows with the number of addresses a liar can think of.

`SourceBudgets` gives each source IP address packets per second and reply bytes per second. A
stranger's budget serves a few look-ups at once and is then worth little more than what it
sent, and all strangers together have no more than `STRANGERS`. A source that has proved it
receives what we send (it showed a token, or answered us) has a larger one, for `PROOF_LASTS_S`.
Even that is bounded, since others can forge an address that proved itself.

`Pacer` spaces our own queries to one address: libtorrent bans an address after 50 packets in
10 s, and 15 + 3 * 10 stays below.

Both are tables of fixed size. An address is hashed, with a secret, to one of their cells, and
strangers that meet in a cell share its budget: then some honest one may wait, but nothing
grows, and nobody can choose whom to meet. A proof counts for the very address only. Exempt
addresses (`node_id.is_exempt`) are free of everything.

Source: issue 3, section 4. Sans-IO: callers pass `now`, in monotonic seconds, not below 0.
"""

from array import array
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Final

from relay._kernels import BudgetCells, RateCells, siphash
from relay.dht.node_id import Address, ip_octets, is_exempt
from relay.dht.tokens import derive_key
from relay.gcra import KEYS_MAX

CELLS: Final = 65_536
"""Cells of a table; the three tables of a node take 3.5 MB once public addresses appear."""

PROOF_LASTS_S: Final = 600.0
"""As long as a token is good for."""

CREDIT_RATIO: Final = 2.0
"""Reply bytes earned by each byte received, beside what time earns."""

_ROUNDING: Final = 1e-6
"""Seconds that sums of many fractions may be off; nobody waits for so little."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one source address may have.

    Over any t seconds it is admitted at most ``packets_burst + packets_per_s * t`` packets, and
    gets at most ``bytes_burst + bytes_per_s * t + CREDIT_RATIO * received`` bytes of replies.
    """

    packets_per_s: float
    packets_burst: float
    bytes_per_s: float
    bytes_burst: float


UNPROVEN: Final = Allowance(
    packets_per_s=5.0, packets_burst=10.0, bytes_per_s=512.0, bytes_burst=8192.0
)
"""A stranger's: five of the largest replies or ten lists of nodes at once, then one list a second.

Whoever forges a victim's address makes us send it 4 kbit/s, and beyond that twice what the
forger itself sends: worth nobody's while."""

PROVEN: Final = Allowance(
    packets_per_s=200.0, packets_burst=400.0, bytes_per_s=65_536.0, bytes_burst=262_144.0
)
"""Enough for another busy relay. Half a megabit per second is the most that forging the
address of a node we know brings upon it."""

STRANGERS: Final = (4 * 1024.0 * 1024.0, 16 * 1024.0 * 1024.0)
"""Reply bytes per second and at once of all strangers together: 6,900 lists of nodes a second, far
more than a node is asked for. Whoever forges the addresses of a whole network, for a burst at each,
gets 34 Mbit/s and no more; until it ends, strangers share that. Proven sources do not."""


class SourceBudgets:
    """Decides which queries are read and which replies are sent.

    For each query: `admit` it or drop it; make the reply; `charge_reply` or keep it unsent.

    Args:
        secret: at most 32 random bytes, so that nobody can tell which addresses share a cell.
        cells: size of the table, which never changes.
    """

    def __init__(self, secret: bytes, cells: int = CELLS) -> None:
        self.cells: Final = BudgetCells(
            derive_key(secret, b"budget"),
            cells,
            unproven=astuple(UNPROVEN),
            proven=astuple(PROVEN),
            strangers=STRANGERS,
            credit_ratio=CREDIT_RATIO,
            proof_lasts_s=PROOF_LASTS_S,
        )
        """The table, which the datagram lane counts in, too; it knows of no exemptions."""

    def admit(self, source: Address, bytes_in: int, now: float) -> bool:
        """Count a query that came from `source`; False if it is beyond the budget: drop it.

        Answers to our own queries need no budget: we asked for them.

        Args:
            source: where it claims to come from; the port does not matter.
            bytes_in: its payload.
            now: monotonic seconds.
        """
        ip = source[0]
        return is_exempt(ip) or self.cells.admit(ip_octets(ip), bytes_in, now)

    def charge_reply(self, source: Address, bytes_out: int, now: float) -> bool:
        """Count a reply to `source`; False if it is beyond the budget: do not send it.

        Args:
            source: whom it would go to.
            bytes_out: its payload.
            now: monotonic seconds.
        """
        ip = source[0]
        return is_exempt(ip) or self.cells.charge(ip_octets(ip), bytes_out, now)

    def prove(self, source: Address, now: float) -> None:
        """Note that `source` receives what we send it: it showed a token or answered a query.

        Of two addresses in one cell the later proof counts.
        """
        if not is_exempt(source[0]):
            self.cells.prove(ip_octets(source[0]), now)


class QueryLimit:
    """The configured limit on queries by source address; exempt ones are free of it.

    Called with a source's IP address and `now`, it counts a query and tells whether to serve it.

    Args:
        interval_s: until one query comes back, seconds (see `relay.gcra`).
        burst: queries of an address that has been away, 1 to 2**32 - 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, interval_s: float, burst: int) -> None:
        self.cells: Final = RateCells(interval_s, burst, KEYS_MAX)
        """The table, which the datagram lane counts in, too; it knows of no exemptions."""

    def __call__(self, ip: str, now: float) -> bool:
        """Count a query from `ip`; False: do not answer it."""
        return is_exempt(ip) or self.cells.check(ip_octets(ip), now)


class Pacer:
    """Spaces the packets we send to one IP address.

    Args:
        secret: as for `SourceBudgets`.
        cells: likewise.
        rate_per_s: packets per second in the long run.
        burst: packets that may go at once after a pause.
        wait_max_s: a longer wait is not offered: the caller does without.
    """

    def __init__(
        self,
        secret: bytes,
        cells: int = CELLS,
        rate_per_s: float = 3.0,
        burst: int = 15,
        wait_max_s: float = 1.0,
    ) -> None:
        self._cell_of = _CellHash(secret, b"pacer", cells)
        self._cells = cells
        self._interval_s = 1.0 / rate_per_s
        self._tolerance_s = (burst - 1) * self._interval_s
        self._wait_max_s = wait_max_s

    def reserve(self, ip: str, now: float) -> float:
        """Take the next place for a packet to `ip`.

        Args:
            ip: where the packet shall go.
            now: monotonic seconds.

        Returns:
            Seconds until it may be sent, 0 for at once. If that is more than `wait_max_s`, no
            place was taken: do not send it.
        """
        if is_exempt(ip):
            return 0.0
        cell = self._cell_of(ip)
        due = max(self._due[cell], now)
        wait_s = due - now - self._tolerance_s
        if wait_s < _ROUNDING:
            wait_s = 0.0
        if wait_s <= self._wait_max_s:
            self._due[cell] = due + self._interval_s
        return wait_s

    @cached_property
    def _due(self) -> "array[float]":
        """By cell: when the next packet would be due if there were no burst."""
        return array("d", bytes(8 * self._cells))


class _CellHash:
    """Hashes addresses to cells; remembers the last one, which is usually asked for again."""

    def __init__(self, secret: bytes, purpose: bytes, cells: int) -> None:
        self._key = derive_key(secret, purpose)
        self._cells = cells
        self._last = ("", 0)

    def __call__(self, ip: str) -> int:
        last_ip, cell = self._last
        if ip == last_ip:
            return cell
        cell = siphash(self._key, ip_octets(ip)) % self._cells
        self._last = (ip, cell)
        return cell
