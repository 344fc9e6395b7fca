"""How much one address may cost us, and how much we may send to one address.

The source of a datagram is easily forged. Three things must not follow from that: that our
replies, larger than the queries, flood somebody who never asked; that somebody whom we need bans
us for what others made us send to it; and that our bookkeeping grows with the number of addresses
a liar can think of.

libtorrent hears nothing for five minutes of whoever sends it more than 50 packets in 10 s. So
there is one account for each IP address, of all packets that we send there, queries and answers:
`PACE`, 25 at once and 2 a second, 45 in any 10 s. Whoever forges an address could use that up and
keep us from asking there, and we by asking could use it up and answer nobody. Therefore:

- an answer goes to a stranger only while fewer than 10 packets are in the account, and to a source
  that has proved it receives what we send (it showed a token, or answered us) while fewer than 20:
  above that all room is for queries, 25 of them in the first 10 s whatever comes in;
- of our queries 15 at once and 1 a second go by right, while the account has room. Those beyond go
  only while fewer than 5 packets are in the account: two nodes that have much to ask each other
  then still answer each other, once a second, instead of asking only. An address is *busy* while 5
  or more are in its account: look-ups then ask there only what they must.

Answers to strangers are bounded in bytes, too, for each and for all together: that serves a few
look-ups at once, and is then worth little more than what they sent. A proof counts for
`PROOF_LASTS_S`.

All is in one table of fixed size. An address is hashed, with a secret, to one of its cells, and
addresses that meet in a cell share its account: then some honest one may wait, our queries for no
longer than if it were one address, but nothing grows, and nobody can choose whom to meet. A proof
counts for the very address only. Exempt addresses (`node_id.is_exempt`) are free of everything.

Source: issue 3, section 4. Sans-IO: callers pass `now`, in monotonic seconds, not below 0.
"""

from dataclasses import astuple, dataclass
from typing import Final

from relay._kernels import BudgetCells, RateCells
from relay.dht.node_id import Address, ip_octets, is_exempt
from relay.dht.tokens import derive_key
from relay.gcra import KEYS_MAX

CELLS: Final = 65_536
"""Cells of the table, which takes 2.6 MB once public addresses appear."""

PROOF_LASTS_S: Final = 600.0
"""As long as a token is good for."""

LATE_MAX_S: Final = 1.0
"""How much later than reserved a query may go: less than any part of the account takes to empty, so
that even those of a machine that was suspended keep the bound."""

CREDIT_RATIO: Final = 2.0
"""Reply bytes earned by each byte received, beside what time earns."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many packets we send to one address, queries and answers together.

    Over any t seconds these are at most ``packets_burst + packets_per_s * t``.
    """

    packets_per_s: float
    packets_burst: float
    to_proven: float
    """The part of `packets_burst` that answers to a proven source may fill."""
    to_strangers: float
    """The same of answers to a stranger."""
    queries_per_s: float
    """What our queries have by right, as long as the account has room."""
    queries_burst: float
    queries_spare: float
    """The part of `packets_burst` that may be filled by queries beyond those."""


PACE: Final = Pace(
    packets_per_s=2.0,
    packets_burst=25.0,
    to_proven=20.0,
    to_strangers=10.0,
    queries_per_s=1.0,
    queries_burst=15.0,
    queries_spare=5.0,
)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Bytes of answers: over any t seconds ``bytes_burst + bytes_per_s * t``, and the credit."""

    bytes_per_s: float
    bytes_burst: float


UNPROVEN: Final = Allowance(bytes_per_s=512.0, bytes_burst=8192.0)
"""A stranger's: five of the largest replies or ten lists of nodes at once, then one list a second.

Whoever forges a victim's address makes us send it 4 kbit/s, and beyond that twice what the
forger itself sends: worth nobody's while."""

STRANGERS: Final = Allowance(bytes_per_s=4 * 1024.0 * 1024.0, bytes_burst=16 * 1024.0 * 1024.0)
"""Reply bytes per second and at once of all strangers together: 6,900 lists of nodes a second, far
more than a node is asked for. Whoever forges the addresses of a whole network, for a burst at each,
gets 34 Mbit/s and no more; until it ends, strangers share that. Proven sources do not."""


class SourceBudgets:
    """Decides which queries are read, which replies are sent, and when our queries are.

    For each query of others: `admit` it or drop it; make the reply; `charge_reply` or keep it
    unsent. For each of ours: `reserve` a place.

    Args:
        secret: at most 32 random bytes, so that nobody can tell which addresses share a cell.
        cells: size of the table, which never changes.
    """

    def __init__(self, secret: bytes, cells: int = CELLS) -> None:
        self.cells: Final = BudgetCells(
            derive_key(secret, b"budget"),
            cells,
            pace=astuple(PACE),
            unproven=astuple(UNPROVEN),
            strangers=astuple(STRANGERS),
            credit_ratio=CREDIT_RATIO,
            proof_lasts_s=PROOF_LASTS_S,
        )
        """The table, which the datagram lane counts in, too; it knows of no exemptions."""

    def admit(self, source: Address, bytes_in: int, now: float) -> bool:
        """Count the answer to a query of `source`; False if it is beyond the budget: drop it.

        Answers to our own queries need no budget: we asked for them.

        Args:
            source: where it claims to come from; the port does not matter.
            bytes_in: its payload.
            now: monotonic seconds.
        """
        ip = source[0]
        return is_exempt(ip) or self.cells.admit(ip_octets(ip), bytes_in, now)

    def charge_reply(self, source: Address, bytes_out: int, now: float) -> bool:
        """Count the bytes of a reply to `source`; False if beyond the budget: do not send it.

        Args:
            source: whom it would go to.
            bytes_out: its payload.
            now: monotonic seconds.
        """
        ip = source[0]
        return is_exempt(ip) or self.cells.charge(ip_octets(ip), bytes_out, now)

    def reserve(self, ip: str, wait_max_s: float, now: float) -> float:
        """Take the next place for a query of ours to `ip`.

        It may go up to `LATE_MAX_S` later than it was told; then the place is lost.

        Args:
            ip: where it shall go.
            wait_max_s: a longer wait is not offered: the caller does without.
            now: monotonic seconds.

        Returns:
            Seconds until it may be sent, 0 for at once. If that is more than `wait_max_s`, no
            place was taken: do not send it.
        """
        return 0.0 if is_exempt(ip) else self.cells.reserve(ip_octets(ip), wait_max_s, now)

    def busy(self, ip: str, now: float) -> bool:
        """Tell whether so much has gone to `ip` lately that queries go there by right alone."""
        return not is_exempt(ip) and self.cells.busy(ip_octets(ip), now)

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
