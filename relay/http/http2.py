"""HTTP/2 with prior knowledge: Hypercorn's protocol on h2, made safe against its clients.

What is added to Hypercorn's, and why:

* frames and header blocks are measured as they come: h2 buffers a frame whole, up to
  16 MiB, before it finds it too large;
* the header list is limited from the first request on, not only once the client has
  acknowledged our settings;
* a client that opens and resets streams again and again (CVE-2023-44487) is sent away;
* so is one that sends frame after frame which ask for nothing: PING, SETTINGS, PRIORITY,
  WINDOW_UPDATE, empty DATA (CVE-2019-9511 to 9518), each of which takes as long as a hot answer;
* of a client's settings only the known ones are kept, and the table that its answers' fields are
  compressed with stays small, whatever it says: both would grow by what it sends;
* answers that a client does not take wait outside the connection's buffers once those are full;
* body bytes of a stream that has already been answered are ignored, instead of ending the
  connection in a `KeyError`;
* CONNECT and paths outside visible ASCII are refused before Hypercorn reads them;
* priorities are ignored (RFC 9113, section 5.3, deprecates them), so there is no tree to
  grow;
* `drain`: a GOAWAY that lets open streams finish, which h2's own does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PriorityUpdated,
    RequestReceived,
    StreamReset,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Encoder
from hypercorn.events import Closed, RawData
from hypercorn.events import Event as WireEvent
from hypercorn.protocol.events import Body
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame

if TYPE_CHECKING:
    from relay.http.requests import Requests

STREAMS_MAX: Final = 100
HEADER_LIST_BYTES_MAX: Final = 16 * 1024
RESETS_MAX: Final = 200
"""Streams that a client may reset, or have reset, beyond half of all its requests."""
FRAME_BYTES_MAX: Final = 16 * 1024
"""The least that a server must take, and what we announce (RFC 9113, section 4.2)."""
HEADER_BLOCK_BYTES_MAX: Final = 2 * HEADER_LIST_BYTES_MAX
"""A compressed header list is rarely larger than what it stands for."""
IDLE_FRAMES_MAX: Final = 2000
"""Frames that ask for nothing, beyond those that go with requests."""
IDLE_FRAMES_PER_REQUEST: Final = 50
SETTINGS_BYTES_MAX: Final = 600
"""Of one frame: a hundred settings, of which there are a dozen. h2 takes 5 us for each, at once."""
SMALL_DATA_BYTES: Final = 64
"""DATA below that is hardly worth its frame; a whole packet in single bytes is still taken."""
BUFFERED_BYTES_MAX: Final = 64 * 1024
"""Of answers that a client has not taken yet, all its streams together; then one more is added."""
ENCODER_TABLE_BYTES: Final = 4096
"""What RFC 7541 begins with. hpack looks through all of its table for each field of an answer."""
CLOSED_STREAMS_MAX: Final = 1024
"""How the last streams of a connection ended, for frames that come late. h2 would keep 65,536."""
_PREFACE_BYTES: Final = 24
_FRAME_HEADER_BYTES: Final = 9
_DATA, _HEADERS, _SETTINGS, _CONTINUATION = 0, 1, 4, 9
_END_HEADERS: Final = 4
_KNOWN_SETTINGS: Final = frozenset(SettingCodes)
_PATH: Final = re.compile(rb"[\x21-\x7e]+")
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class FrameMeter:
    """Reads frame headers off the bytes of a client, before anything is buffered."""

    def __init__(self) -> None:
        self._skip = _PREFACE_BYTES
        self._header = bytearray()
        self._block = 0
        self._idle_left = IDLE_FRAMES_MAX

    def measure(self, data: bytes) -> ErrorCodes | None:
        """Take the next bytes; return what is wrong with a frame that begins in them."""
        at = 0
        while at < len(data):
            step = min(self._skip, len(data) - at)
            self._skip -= step
            at += step
            piece = data[at : at + _FRAME_HEADER_BYTES - len(self._header)]
            self._header += piece
            at += len(piece)
            if len(self._header) == _FRAME_HEADER_BYTES:
                fault = self._judge()
                if fault is not None:
                    return fault
        return None

    def _judge(self) -> ErrorCodes | None:
        length, kind, flags = int.from_bytes(self._header[:3]), self._header[3], self._header[4]
        self._header.clear()
        self._skip = length
        if length > FRAME_BYTES_MAX:
            return ErrorCodes.FRAME_SIZE_ERROR
        if kind == _SETTINGS and length > SETTINGS_BYTES_MAX:
            return ErrorCodes.ENHANCE_YOUR_CALM
        if kind in (_HEADERS, _CONTINUATION):
            self._block = length if kind == _HEADERS else self._block + length
            if self._block > HEADER_BLOCK_BYTES_MAX and not flags & _END_HEADERS:
                return ErrorCodes.ENHANCE_YOUR_CALM
        if kind == _HEADERS:
            self._idle_left += IDLE_FRAMES_PER_REQUEST
        elif kind != _DATA or length < SMALL_DATA_BYTES:
            self._idle_left -= 1
            if self._idle_left < 0:
                return ErrorCodes.ENHANCE_YOUR_CALM
        return None


class PeerSettings(Settings):
    """A client's settings: those that we know. h2 would keep any of 65,536, 0.8 kB each."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key in _KNOWN_SETTINGS:
            super().__setitem__(key, value)


class BriefConnection(H2Connection):
    """Remembers no more than `CLOSED_STREAMS_MAX` streams that have ended."""

    MAX_CLOSED_STREAMS = CLOSED_STREAMS_MAX


class SmallEncoder(Encoder):
    """Compresses fields with a table of `ENCODER_TABLE_BYTES`, or smaller if the client wants."""

    @property
    def header_table_size(self) -> int:
        """The table's size, in bytes as RFC 7541 counts them."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, ENCODER_TABLE_BYTES)
        self.header_table.maxsize = size
        if self.header_table.resized:
            self.table_size_changes.append(size)


class Http2(H2Protocol):
    """One HTTP/2 connection; after `drain` it takes no new stream and ends with the last."""

    draining = False

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401  # H2Protocol's
        super().__init__(*arguments)
        self._meter = FrameMeter()
        self._requests = 0
        self._resets = 0
        self._sent = trio.Event()
        self.connection = BriefConnection(self.connection.config)
        self.connection.encoder = SmallEncoder()
        self.connection.remote_settings = PeerSettings(client=True)
        self.connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES_MAX,
            },
        )
        self.connection.decoder.max_header_list_size = HEADER_LIST_BYTES_MAX

    def take_apart(self) -> None:
        """Let go of what the ended connection has kept.

        h2's connection refers to itself, so it would stay until garbage is looked for, and one
        that was there when that was told not to look (`gc.freeze`) for ever.
        """
        vars(self.connection).clear()

    async def drain(self) -> None:
        """Tell the client to go on elsewhere; streams already open are still answered."""
        self.draining = True
        # Not close_connection(): after that h2 refuses to send what is still owed.
        goaway = GoAwayFrame(0, last_stream_id=self.connection.highest_inbound_stream_id)
        await self.send(RawData(goaway.serialize()))
        await self._close_when_done()

    async def handle(self, event: WireEvent) -> None:
        """Take bytes from the client, or the news that it has gone."""
        if isinstance(event, RawData):
            fault = self._meter.measure(event.data)
            if fault is not None:
                await self._send_away(fault)
                return
        await super().handle(event)

    async def _send_away(self, reason: ErrorCodes) -> None:
        with suppress(ProtocolError):  # it may have been closed in the meantime
            self.connection.close_connection(reason)
        await self._flush()
        await self.send(Closed())

    async def _handle_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._resets += isinstance(event, StreamReset)
            if self._is_welcome(event):
                # One at a time: a stream may be answered and forgotten between two events.
                await super()._handle_events([event])
                await trio.lowlevel.checkpoint()
            if self._resets > RESETS_MAX + self._requests // 2:
                await self._send_away(ErrorCodes.ENHANCE_YOUR_CALM)
                return
        await self._flush()

    def _is_welcome(self, event: Event) -> bool:
        match event:
            case PriorityUpdated():
                return False
            case RequestReceived(stream_id=int(stream_id)):
                return self._is_good_request(event, stream_id)
            case DataReceived(stream_id=int(stream_id)) if stream_id not in self.streams:
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length or 0, stream_id
                )
                return False
            case _:
                return True

    def _is_good_request(self, event: RequestReceived, stream_id: int) -> bool:
        if self.draining:
            return self._refuse(stream_id, ErrorCodes.REFUSED_STREAM)
        fields = dict(event.headers or ())
        path, method = fields.get(b":path", b""), fields.get(b":method", b"")
        if method == b"CONNECT" or not (_METHOD.fullmatch(method) and _PATH.fullmatch(path)):
            return self._refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
        self._requests += 1
        cast("Requests", self.task_group).method = method.decode("ascii")
        return True

    def _refuse(self, stream_id: int, code: ErrorCodes) -> bool:
        self._resets += 1
        with suppress(ProtocolError):  # the client may have reset it already
            self.connection.reset_stream(stream_id, code)
        return False

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of an answer; Hypercorn's streams call this."""
        if isinstance(event, Body):
            while self._buffered_bytes >= BUFFERED_BYTES_MAX and event.stream_id in self.streams:
                await self._sent.wait()
        await super().stream_send(event)

    @property
    def _buffered_bytes(self) -> int:
        return sum(len(buffer.buffer) for buffer in self.stream_buffers.values())

    async def _send_data(self, stream_id: int) -> None:
        await super()._send_data(stream_id)
        self._sent.set()
        self._sent = trio.Event()
        await self._close_when_done()

    async def _close_when_done(self) -> None:
        if self.draining and not self.streams and not self.stream_buffers:
            await self.send(Closed())
