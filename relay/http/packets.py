"""GET, HEAD and PUT of a key: parse, call the service, answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from relay.errors import PacketError
from relay.histogram import SIZES, Histogram
from relay.http.messages import Answer, Request
from relay.http.query import parse_key, parse_policy
from relay.http.responses import Conditions, packet_answer
from relay.pkarr.packet import SignedPacket
from relay.pkarr.policy import ResolvePolicy

if TYPE_CHECKING:
    from relay.pkarr.keys import PublicKey
    from relay.service import RelayService, Spend

BODY_BYTES_MAX: Final = 1104
"""The reference's limit, which is that of a packet with its key; packets are judged later."""
BATCH_MAX: Final = 32
"""Payloads in one batch: about half a millisecond, in which nobody else is served."""


class _Batch:
    """Payloads that are checked together, when the first result is asked for."""

    def __init__(self, sizes: Histogram) -> None:
        self._sizes = sizes
        self.payloads: list[tuple[PublicKey, bytes]] = []
        self._results: list[SignedPacket | PacketError] | None = None

    @property
    def is_open(self) -> bool:
        """Whether one more may join."""
        return self._results is None and len(self.payloads) < BATCH_MAX

    def packet(self, place: int) -> SignedPacket:
        """Return the packet of the payload at `place`, or raise what is wrong with it."""
        if self._results is None:
            self._sizes.observe(len(self.payloads))
            self._results = SignedPacket.from_relay_payloads(self.payloads, random=os.urandom)
        result = self._results[place]
        if isinstance(result, PacketError):
            raise result
        return result


class PayloadChecker:
    """Checks payloads that come in the same round of the event loop as one batch.

    A signature then takes less than half of the time (issue 4, section 2); the answer to each
    is what it would be alone.
    """

    def __init__(self) -> None:
        self.sizes: Final = Histogram(SIZES)
        """Payloads in each batch."""
        self._batch = _Batch(self.sizes)

    async def check(self, key: PublicKey, payload: bytes) -> SignedPacket:
        """Return the packet; see `SignedPacket.from_relay_payload`.

        Raises:
            PacketError: the first failing check.
        """
        if not self._batch.is_open:
            self._batch = _Batch(self.sizes)
        batch = self._batch
        place = len(batch.payloads)
        batch.payloads.append((key, payload))
        await trio.lowlevel.checkpoint()  # others of this round join
        return batch.packet(place)


class PacketHandlers:
    """Packets over HTTP (protocol.md, 4.2 and 4.3). Errors are raised as the rooms name them."""

    def __init__(self, service: RelayService, wall_clock_us: Callable[[], int]) -> None:
        self._service = service
        self._wall_clock_us = wall_clock_us
        self.checker: Final = PayloadChecker()

    async def get(self, request: Request, segment: bytes, spend: Spend) -> Answer:
        """Answer GET and HEAD: 200, 304, or 404 when nobody has a packet."""
        key = parse_key(segment)
        policy = parse_policy(request.query)
        request.cached = "bypass" if policy is ResolvePolicy.NETWORK_ONLY else "miss"
        resolved = await self._service.resolve(key, policy, spend=spend)
        if resolved is None:
            return Answer(404)
        if resolved.cached:
            request.cached = "stale" if resolved.stale else "hit"
        service = self._service
        return packet_answer(
            resolved.seen,
            Conditions.of(request),
            ttl_s=resolved.seen.packet.ttl(service.ttl_min_s, service.ttl_max_s),
            now_us=self._wall_clock_us(),
            stale=resolved.stale,
        )

    async def put(self, request: Request, segment: bytes, spend: Spend) -> Answer:
        """Answer PUT: 204 with the number of DHT nodes that stored the packet."""
        key = parse_key(segment)
        payload = await request.body(BODY_BYTES_MAX)
        packet = await self.checker.check(key, payload)
        stored = await self._service.publish(packet, spend=spend)
        return Answer(204, ((b"pkarr-dht-stored-nodes", b"%d" % stored),))
