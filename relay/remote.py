"""A relay as its clients see it: publish and resolve over HTTP.

What the reference's client sends, and how it reads the answers: a resolve policy in every
query, ``If-Modified-Since`` one second before the packet already known (so that the same packet
comes back whole, with the time it was last seen), one more try past all caches when an answer
makes no sense.

Source: protocol.md, section 8.1.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

import trio

from relay._http_request import Answer, BaseUrl, RequestFailedError, request
from relay.errors import (
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PacketError,
    PublishFailedError,
)
from relay.http.httpdate import format_http_date, parse_http_date
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import CANONICAL_BYTES_MAX, SeenPacket, SignedPacket
from relay.pkarr.policy import ResolvePolicy

BODY_BYTES_MAX: Final = CANONICAL_BYTES_MAX
"""1104, as the reference: a packet has at most 1072, and no error text is worth more."""
PUBLISH_PATIENCE: Final = 3.0
"""A relay needs a look-up and then a put of its own: it gets this many times the time-out."""
_US_PER_S: Final = 1_000_000
_PAST_CACHES: Final = ("cache-control", "no-cache, no-store, must-revalidate")
_SUCCESS: Final = range(200, 300)
_REDIRECTS: Final = (301, 302, 303, 307, 308)


class RemoteRelay:
    """One relay.

    Args:
        url: where it is; a path is kept.
        timeout_s: how long it may take to answer, connecting included.
        wall_clock_us: microseconds since 1970.
        ssl_context: for ``https``; None is the system's trust.

    Raises:
        ValueError: the URL is no relay's.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        wall_clock_us: Callable[[], int],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.base = BaseUrl.parse(url)
        self._timeout_s = timeout_s
        self._wall_clock_us = wall_clock_us
        self._ssl_context = ssl_context

    async def resolve(
        self, key: PublicKey, policy: ResolvePolicy, known: SignedPacket | None
    ) -> SeenPacket | None:
        """Ask for a packet.

        Args:
            key: whose.
            policy: passed on.
            known: the relay need not send one that is older.

        Returns:
            The packet and when the relay last saw it; None: it has none, or none as new.

        Raises:
            InvalidItemError: the owner's newest DHT item is no packet.
            LookupFailedError: no answer, or none that says either.
        """
        headers = []
        if policy is ResolvePolicy.NETWORK_ONLY:
            headers.append(_PAST_CACHES)
        elif known is not None and known.timestamp_us >= _US_PER_S:
            since = format_http_date(known.timestamp_us - _US_PER_S)
            headers.append(("if-modified-since", since))
        answer = await self._get(key, policy, headers)
        unasked = answer.status == 304 and not any(
            name == "if-modified-since" for name, _ in headers
        )
        if unasked or (answer.status in _SUCCESS and not answer.body):
            answer = await self._get(key, policy, [_PAST_CACHES])
        return self._read(key, answer)

    async def _get(
        self, key: PublicKey, policy: ResolvePolicy, headers: list[tuple[str, str]]
    ) -> Answer:
        try:
            return await self._request(
                "GET", f"/{key}?policy={policy.value}", headers, b"", self._timeout_s
            )
        except RequestFailedError as error:
            raise LookupFailedError(str(error)) from error

    def _read(self, key: PublicKey, answer: Answer) -> SeenPacket | None:
        if answer.status in _SUCCESS:
            try:
                packet = SignedPacket.from_relay_payload(key, answer.body)
            except PacketError as error:
                raise LookupFailedError(f"{self.base} sent no valid packet: {error}") from error
            return SeenPacket(packet, self._last_seen_us(answer))
        if answer.status == 304:
            return None
        if answer.status == 404:
            seq = _decimal(answer.header(b"pkarr-invalid-signed-packet-seq"))
            if seq is not None:
                raise InvalidItemError(seq)
            return None
        raise LookupFailedError(self._told(answer.status))

    def _last_seen_us(self, answer: Answer) -> int:
        """When the relay saw the packet; now, if it does not say or cannot be believed."""
        now_us = self._wall_clock_us()
        memento = answer.header(b"memento-datetime")
        seen_us = None if memento is None else parse_http_date(memento)
        return now_us if seen_us is None or seen_us > now_us else seen_us

    async def publish(self, packet: SignedPacket) -> int:
        """Hand a packet over.

        Returns:
            How many DHT nodes stored it; 1 from a relay that does not say.

        Raises:
            NotMostRecentError: the relay, or the DHT, has a more recent one.
            PublishFailedError: no answer, or a refusal.
        """
        try:
            answer = await self._request(
                "PUT",
                f"/{packet.public_key}",
                [],
                packet.to_relay_payload(),
                self._timeout_s * PUBLISH_PATIENCE,
            )
        except RequestFailedError as error:
            raise PublishFailedError(str(error)) from error
        if answer.status in (409, 428):
            raise NotMostRecentError
        if answer.status not in _SUCCESS:
            raise PublishFailedError(self._told(answer.status))
        count = answer.header(b"pkarr-dht-stored-nodes")
        stored = 1 if count is None else _decimal(count)
        if stored is None:
            raise PublishFailedError(f"{self.base} sent no number of nodes")
        return stored

    def _told(self, status: int) -> str:
        where = "; redirects are not followed" if status in _REDIRECTS else ""
        return f"{self.base} answered with status {status}{where}"

    async def _request(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout_s: float,
    ) -> Answer:
        with trio.move_on_after(timeout_s):
            return await request(
                method,
                self.base,
                path,
                headers=headers,
                body=body,
                body_bytes_max=BODY_BYTES_MAX,
                ssl_context=self._ssl_context,
            )
        raise RequestFailedError(f"{self.base} did not answer within {timeout_s:g} s")


def _decimal(text: bytes | None) -> int | None:
    """Read a number of at most 20 digits, which unsigned 64 bits need; None for all else."""
    if text is None or not text.isdigit() or len(text) > 20:
        return None
    return int(text)
