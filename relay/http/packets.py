"""GET, HEAD and PUT of a key: parse, call the service, answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay.http.messages import Answer, Request
from relay.http.query import parse_key, parse_policy
from relay.http.responses import Conditions, packet_answer
from relay.pkarr.packet import SignedPacket

if TYPE_CHECKING:
    from relay.service import RelayService, Spend

BODY_BYTES_MAX: Final = 1104
"""The reference's limit, which is that of a packet with its key; packets are judged later."""


class PacketHandlers:
    """Packets over HTTP (protocol.md, 4.2 and 4.3). Errors are raised as the rooms name them."""

    def __init__(self, service: RelayService, wall_clock_us: Callable[[], int]) -> None:
        self._service = service
        self._wall_clock_us = wall_clock_us

    async def get(self, request: Request, segment: bytes, spend: Spend) -> Answer:
        """Answer GET and HEAD: 200, 304, or 404 when nobody has a packet."""
        key = parse_key(segment)
        policy = parse_policy(request.query)
        resolved = await self._service.resolve(key, policy, spend=spend)
        if resolved is None:
            return Answer(404)
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
        packet = SignedPacket.from_relay_payload(key, payload)
        stored = await self._service.publish(packet, spend=spend)
        return Answer(204, ((b"pkarr-dht-stored-nodes", b"%d" % stored),))
