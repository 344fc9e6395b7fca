"""What the network sees as our address, and whether strangers can reach us there.

Nodes report in each answer (`ip`) which address our query came from. The responders of every
finished look-up that are nearest to its target vote, one vote for each of their networks (/24),
and more than half of the votes make a majority. The first address that has one is taken.

Our identifier depends on the address (BEP 42), and whoever has a crowd of nodes next to a key, and
asks us for it, has the majority of that look-up. So a majority for another address than the one
we have only begins a *check*: the node looks for `CHECK_LOOKUPS` random identifiers, one after the
other. If each of these look-ups has a majority for the same other address, whichever began the
check, of `NETWORKS_MIN` networks in all, that one is taken. A NAT's new address is so noticed after
four look-ups, three of which we make at once.

An address that was taken is tried by a ping to it: when our own ping comes in again (through the
hairpin of a NAT, or because there is no NAT), we are reachable, and not firewalled. Until then we
are taken to be.

Departures from the reference (design/protocol.md, section 7.3): a majority is needed, not the
largest minority, and networks vote, not nodes; an address that we have is not changed without a
check; the ping that comes in must be the very one we sent (transaction id), which nobody else has
seen; a configured public IP is not overruled by votes.
"""

from collections import Counter
from collections.abc import Mapping
from math import inf
from random import Random
from typing import Final

from relay.dht import krpc
from relay.dht.krpc import Query
from relay.dht.node_id import Address, is_unicast, random_id

CHECK_LOOKUPS: Final = 3
"""Look-ups for random identifiers that have to agree on a new address."""
CHECK_INTERVAL_S: Final = 60.0
"""From the beginning of one check to that of the next: whoever provokes them costs us little."""
NETWORKS_MIN: Final = 5
"""Networks that have to be heard in a check: so that it is no single operator whom we believe."""


class _Check:
    """Which address is to take the place of ours, and what has been heard of it."""

    __slots__ = ("address", "networks", "targets")

    def __init__(self) -> None:
        self.address: Address | None = None
        """The majority of the first look-up, once that has ended."""
        self.targets: list[bytes] = []
        """What was looked for so far; the last one's look-up has not ended."""
        self.networks: set[bytes] = set()


class PublicAddress:
    """Our address as others see it.

    Args:
        rng: chooses transaction ids, and the identifiers that a check looks for.
        fixed_ip: the IP address by configuration; votes then only tell the port.
    """

    def __init__(self, rng: Random, fixed_ip: str | None = None) -> None:
        self._rng = rng
        self._fixed_ip = fixed_ip
        self._trial: tuple[Address, bytes] | None = None
        self._check: _Check | None = None
        self._checked_at = -inf
        self._wanted: bytes | None = None
        self.check_targets: list[bytes] = []
        """What the latest check looked for, `CHECK_LOOKUPS` at most."""
        self.address: Address | None = None
        self.firewalled = True

    def vote(self, target: bytes, votes: Mapping[bytes, bytes], now: float) -> Address | None:
        """Count the votes of a look-up.

        Args:
            target: what it was for.
            votes: by network, the address that it reported, in compact form.
            now: monotonic seconds.

        Returns:
            An address that is new, or not tried yet, and is to be tried; None: there is none.
        """
        address = self._elected(votes)
        if self.address is None and address is not None:
            return self._take(address)
        check = self._check
        if check is None:
            if address is not None and address != self.address:
                self._begin_check(now)
        elif target == check.targets[-1]:
            check.networks.update(votes)
            if len(check.targets) == 1:  # what began the check may have been a liar's choice
                check.address = address
            if address in (None, self.address) or address != check.address:
                self._check = None
            elif len(check.targets) < CHECK_LOOKUPS:
                self._look_again(check)
            else:
                self._check = None
                if len(check.networks) >= NETWORKS_MIN:
                    return self._take(address)
        return address if address == self.address and self._untried else None

    def take_target(self) -> bytes | None:
        """Return what a check wants to be looked for now, once; None: nothing."""
        target, self._wanted = self._wanted, None
        return target

    def _elected(self, votes: Mapping[bytes, bytes]) -> Address | None:
        """Return the address that has the majority, if it may be ours."""
        ranked = Counter(votes.values()).most_common(1)
        if not ranked:
            return None
        packed, count = ranked[0]
        address = krpc.unpack_address(packed)
        if 2 * count <= len(votes) or not is_unicast(address[0]) or address[1] == 0:
            return None
        if self._fixed_ip is not None and address[0] != self._fixed_ip:
            return None
        return address

    def _take(self, address: Address) -> Address:
        self.address = address
        self.firewalled = True
        return address

    def _begin_check(self, now: float) -> None:
        if now - self._checked_at < CHECK_INTERVAL_S:
            return
        self._checked_at = now
        self._check = _Check()
        self.check_targets = self._check.targets
        self._look_again(self._check)

    def _look_again(self, check: _Check) -> None:
        self._wanted = random_id(self._rng)
        check.targets.append(self._wanted)

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
