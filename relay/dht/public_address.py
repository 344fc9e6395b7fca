"""What the network sees as our address, and whether strangers can reach us there.

Nodes report in each answer (`ip`) which address our query came from. The responders of every
finished look-up vote; the address with more than half of the votes is taken. A new one is
tried by a ping to it: when our own ping comes in again (through the hairpin of a NAT, or
because there is no NAT), we are reachable, and not firewalled. Until then we are taken to be.

Departures from the reference (design/protocol.md, section 7.3): a majority is needed, not the
largest minority; the ping that comes in must be the very one we sent (transaction id), which
nobody else has seen; a configured public IP is not overruled by votes.
"""

from collections import Counter
from random import Random

from relay.dht import krpc
from relay.dht.krpc import Query
from relay.dht.node_id import Address, is_unicast


class PublicAddress:
    """Our address as others see it.

    Args:
        rng: chooses transaction ids.
        fixed_ip: the IP address by configuration; votes then only tell the port.
    """

    def __init__(self, rng: Random, fixed_ip: str | None = None) -> None:
        self._rng = rng
        self._fixed_ip = fixed_ip
        self._trial: tuple[Address, bytes] | None = None
        self.address: Address | None = None
        self.firewalled = True

    def vote(self, votes: Counter[Address]) -> Address | None:
        """Count the votes of a look-up; return an address that is new and wants trying."""
        ranked = votes.most_common(1)
        if not ranked:
            return None
        address, count = ranked[0]
        if 2 * count <= votes.total() or (address == self.address and not self._untried):
            return None
        if not is_unicast(address[0]) or address[1] == 0:
            return None
        if self._fixed_ip is not None and address[0] != self._fixed_ip:
            return None
        self.address = address
        self.firewalled = True
        return address

    def trial(self, own_id: bytes, *, read_only: bool) -> bytes:
        """Return the ping to send to `address`, once it is known."""
        transaction_id = self._rng.getrandbits(32).to_bytes(4, "big")
        if self.address is not None:
            self._trial = (self.address, transaction_id)
        return krpc.encode(Query(transaction_id, b"ping", {b"id": own_id}, read_only=read_only))

    def postpone(self) -> None:
        """Note that the ping could not be sent: the next votes for the address have it tried."""
        self._trial = None

    @property
    def _untried(self) -> bool:
        return self.firewalled and self._trial is None

    @property
    def trial_source(self) -> bytes:
        """Where a ping of ours is waited for, in compact form; empty: none is."""
        return b"" if self._trial is None else krpc.pack_address(self._trial[0])

    def confirm(self, query: Query, source: Address) -> bool:
        """Whether `query` is our own ping coming in; clears `firewalled` then."""
        if self._trial != (source, query.transaction_id) or query.method != b"ping":
            return False
        self._trial = None
        self.firewalled = False
        return True
