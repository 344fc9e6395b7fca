"""The DHT as the relay's service sees it: resolve and publish signed packets.

Between the two worlds: a Pkarr packet is a BEP 44 mutable item without salt, its timestamp the
sequence number, its DNS message the value. The node verifies signatures; what is checked here
is whether a value is a DNS message at all.

Source: protocol.md, sections 4.2, 4.3 and 7.6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from relay.dht.events import GetOutcome, PutFailure
from relay.dht.items import SEQ_MAX, MutableItem
from relay.errors import (
    InvalidItemError,
    NoClosestNodesError,
    NodesBusyError,
    NoNodesQueriedError,
    NoNodesRespondedError,
    NotMostRecentError,
    NoUsableResponseError,
    PacketError,
    PublishOverloadedError,
    PublishTimedOutError,
    RelayError,
    TimestampRangeError,
)
from relay.logs import fields
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SignedPacket

if TYPE_CHECKING:
    from relay.net.udp import DhtDriver

_log: Final = logging.getLogger("relay.net")

_ERROR_OF: Final[dict[PutFailure, type[RelayError]]] = {
    PutFailure.NO_CLOSEST_NODES: NoClosestNodesError,
    PutFailure.TIMED_OUT: PublishTimedOutError,
    PutFailure.NOT_MOST_RECENT: NotMostRecentError,
    PutFailure.CAS_FAILED: NotMostRecentError,
    PutFailure.OVERLOADED: PublishOverloadedError,
}

Accept = Callable[[SignedPacket], bool]


class PkarrDht:
    """Resolves and publishes packets through a driver; see `relay.service.Dht`.

    Args:
        driver: must be running.
        request_timeout_s: how long a call that comes before the first answer of any node waits
            for it.
    """

    def __init__(self, driver: DhtDriver, request_timeout_s: float) -> None:
        self._driver = driver
        self._request_timeout_s = request_timeout_s
        self._last_item: MutableItem | None = None
        self._last_packet: SignedPacket | None = None
        self.on_packet: Callable[[SignedPacket], None] | None = None
        """Called for each valid packet that any look-up sees, also after its caller has left."""

    async def resolve(
        self,
        key: PublicKey,
        *,
        newer_than_us: int | None = None,
        accept: Accept | None = None,
    ) -> SignedPacket | None:
        """Look a key up. Look-ups of one key that run at the same time are one.

        Args:
            key: whose packet.
            newer_than_us: nodes need not send what is not newer than this timestamp.
            accept: given, the first packet it accepts is returned at once, while the look-up
                goes on and later packets reach `on_packet`. None: wait for the end, return
                the most recent packet.

        Returns:
            A packet, or None: nodes responded, and nobody has an acceptable one.

        Raises:
            InvalidItemError: the newest signed item of this key is no packet, and no older
                one was accepted before that was known.
            LookupFailedError: which one, says how far the look-up came.
        """
        began = perf_counter()
        await self._wait_bootstrapped()
        search = _Search(accept, self._packet_of)
        handle = self._driver.start_get(
            key.octets,
            seq=None if newer_than_us is None else min(newer_than_us, SEQ_MAX),
            on_item=search.see,
            on_finished=search.finish,
        )
        try:
            await search.settled.wait()
        finally:
            if not search.settled.is_set():  # nobody waits any more; the node decides how to end
                self._driver.release(handle)
        if _log.isEnabledFor(logging.DEBUG):
            facts = fields(key=str(key), ms=_ms(began), **search.facts())
            _log.debug("look-up", extra=facts)
        return search.result()

    async def publish(
        self, packet: SignedPacket, *, on_assured: Callable[[], None] | None = None
    ) -> int:
        """Store a packet on the nodes closest to its key.

        Args:
            packet: what to store.
            on_assured: called, at most once, when it can no longer fail but is still waiting
                for slow nodes. May not raise.

        Returns:
            How many nodes acknowledged it, at least 1.

        Raises:
            TimestampRangeError: its timestamp is no sequence number.
            NotMostRecentError: most of those nodes hold a more recent one.
            NoClosestNodesError: no node could be found to store it on.
            PublishTimedOutError: none of them acknowledged it.
            PublishOverloadedError: it was sent to nobody, so much is under way.
        """
        if packet.timestamp_us > SEQ_MAX:
            raise TimestampRangeError
        began = perf_counter()
        try:
            await self._wait_bootstrapped()
        except (NoNodesQueriedError, NoNodesRespondedError):
            raise NoClosestNodesError from None
        outcome = await self._driver.put(
            MutableItem.from_value(
                packet.public_key.octets, packet.timestamp_us, packet.dns, packet.signature
            ),
            on_assured=on_assured,
        )
        if _log.isEnabledFor(logging.DEBUG):
            key, failure = str(packet.public_key), outcome.failure and outcome.failure.value
            facts = fields(key=key, ms=_ms(began), stored=outcome.stored, failure=failure)
            _log.debug("store", extra=facts)
        if outcome.failure is not None:
            raise _ERROR_OF[outcome.failure]
        return outcome.stored

    async def _wait_bootstrapped(self) -> None:
        """Let a call that came too early wait; one that came to a dead network fails here."""
        if await self._driver.wait_bootstrapped(self._request_timeout_s):
            return
        node = self._driver.node
        if node.table_size:  # others found us first
            return
        if node.counters.queries_out == 0:
            raise NoNodesQueriedError
        raise NoNodesRespondedError

    def _packet_of(self, item: MutableItem) -> SignedPacket | None:
        """Convert an item and tell `on_packet`.

        The events of those who share a look-up come one after the other: told once for all.
        """
        if item is not self._last_item:
            self._last_item = item
            self._last_packet = _convert(item)
            if self._last_packet is not None and self.on_packet is not None:
                self.on_packet(self._last_packet)
        return self._last_packet


def _convert(item: MutableItem) -> SignedPacket | None:
    """Return the packet that a verified item is, None if it is none."""
    value = item.value
    if value is None:
        return None
    try:
        return SignedPacket.from_item(PublicKey(item.public_key), item.seq, item.signature, value)
    except PacketError:
        return None


def _ms(began: float) -> float:
    return round(1000 * (perf_counter() - began), 3)


class _Search:
    """One caller of `resolve`: sees items as they come, until it is settled."""

    def __init__(
        self,
        accept: Accept | None,
        packet_of: Callable[[MutableItem], SignedPacket | None],
    ) -> None:
        self.settled = trio.Event()
        self._accept = accept
        self._packet_of = packet_of
        self._accepted: SignedPacket | None = None
        self._outcome: GetOutcome | None = None

    def see(self, item: MutableItem) -> None:
        packet = self._packet_of(item)
        if self._accept is None or packet is None or self.settled.is_set():
            return
        if self._accept(packet):
            self._accepted = packet
            self.settled.set()

    def finish(self, outcome: GetOutcome) -> None:
        if outcome.best is not None:
            self.see(outcome.best)
        self._outcome = outcome
        self.settled.set()

    def facts(self) -> dict[str, object]:
        """Return what there is to say of a settled one."""
        if self._accepted is not None or self._outcome is None:
            return {"found": self._accepted is not None}
        outcome = self._outcome
        return {
            "found": outcome.best is not None,
            "queried": outcome.queried,
            "responded": outcome.responded,
        }

    def result(self) -> SignedPacket | None:
        if self._accepted is not None or self._outcome is None:
            return self._accepted
        outcome = self._outcome
        if outcome.best is not None:
            packet = self._packet_of(outcome.best)
            if packet is None:
                raise InvalidItemError(outcome.best.seq)
            if self._accept is None:
                return packet
            if outcome.overloaded:  # a better one may be where nobody was asked
                raise NodesBusyError
            return None
        if outcome.queried == 0:
            raise NoNodesQueriedError
        if outcome.responded == 0:
            raise NoNodesRespondedError
        if outcome.usable == 0:
            raise NoUsableResponseError
        if outcome.overloaded:
            raise NodesBusyError
        return None
