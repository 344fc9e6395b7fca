"""A client's TCP connection, as Hypercorn's protocols need it, with bounds of our own.

Reads come in small pieces, so that a limit on a request's head means what it says, and so that
nobody waits long for the one who is at work on a piece: 2 KiB of the smallest HTTP/2 frames or
chunks take some milliseconds. A write that the client does not take within its deadline ends the
connection; and before a connection is closed the client gets a moment to stop sending, because
closing a socket with unread bytes resets it, and a reset may overtake the answer.
"""

from __future__ import annotations

from typing import Final

import trio

RECEIVE_BYTES_MAX: Final = 2 * 1024
LINGER_BYTES_MAX: Final = 256 * 1024
"""Unread request bytes that are thrown away before the connection is reset after all."""


class ClientStream:
    """One accepted socket.

    Args:
        sock: connected; closed by `close`.
        write_timeout_s: one write must be taken by the client's side within this.
        received: what somebody else has read from it already.
    """

    def __init__(
        self, sock: trio.socket.SocketType, *, write_timeout_s: float, received: bytes = b""
    ) -> None:
        self._stream = trio.SocketStream(sock)
        self._write_timeout_s = write_timeout_s
        self._received = received

    async def receive_some(self) -> bytes:
        """Return the next bytes, at most `RECEIVE_BYTES_MAX`; none when the client has ended."""
        if self._received:
            received = self._received[:RECEIVE_BYTES_MAX]
            self._received = self._received[RECEIVE_BYTES_MAX:]
            await trio.lowlevel.checkpoint()
            return received
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES_MAX))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def send_all(self, data: bytes) -> bool:
        """Send everything; False if the client is gone or does not read."""
        try:
            with trio.fail_after(self._write_timeout_s):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return False
        return True

    async def linger(self) -> None:
        """End our side, then throw away what the client still sends, until its end."""
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        left = LINGER_BYTES_MAX
        while left > 0 and (data := await self.receive_some()):
            left -= len(data)

    def close(self) -> None:
        """Close the socket at once."""
        self._stream.socket.close()
