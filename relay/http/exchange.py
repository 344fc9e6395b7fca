"""One request and its answer, between a Hypercorn protocol and the application.

Hypercorn hands body bytes to the application through a bounded channel and waits when it
is full, so an application that answers without reading can stop a whole connection. Here
handing over never waits: what the application has not read is kept up to a bound beyond
which no packet can reach, and dropped after that.
"""

from __future__ import annotations

from typing import Final

import trio

from relay.http.messages import BodyBrokenError, Message, Send

UNREAD_BYTES_MAX: Final = 4096
"""Well above the body limit: whoever reads this far has refused the body long before."""


class Exchange:
    """The channels of one request; the application's end is `receive` and `send`.

    `scope` surrounds the application. It is cancelled when the client is gone, so that
    nothing is looked up for nobody; once the answer is complete there is nothing to cancel.
    """

    def __init__(self, send: Send) -> None:
        self.scope = trio.CancelScope()
        self.answering_since: float | None = None
        """When the first byte of the answer was sent, monotonic seconds; None: not yet."""
        self.complete = False
        self.client_gone = False
        self._send = send
        self._unread = bytearray()
        self._body_ended = False
        self._body_delivered = False
        self._body_broken = False
        self._news = trio.Event()

    async def put(self, message: Message) -> None:
        """Take what the client sent; called by the protocol, never waits."""
        if message["type"] == "http.disconnect":
            self.abandon()
        else:
            room = UNREAD_BYTES_MAX - len(self._unread)
            self._unread += message["body"][:room]
            self._body_ended = not message["more_body"]
        self._news.set()

    def break_body(self) -> None:
        """Note that no more of the body can be understood: whoever reads on is told."""
        self._body_broken = True
        self._news.set()

    def abandon(self) -> None:
        """Nobody can be answered any more: cancel what has not been."""
        self.client_gone = True
        if not self.complete:
            self.scope.cancel()
        self._news.set()

    async def receive(self) -> Message:
        """Return the next ASGI message; the application's `receive`.

        Raises:
            BodyBrokenError: the body does not go on as it says.
        """
        await trio.lowlevel.checkpoint()
        while not (self._unread or self.client_gone or self._end_is_news):
            if self._body_broken:
                raise BodyBrokenError
            self._news = trio.Event()
            await self._news.wait()
        if not self._unread and not self._end_is_news:
            return {"type": "http.disconnect"}
        body = bytes(self._unread)
        self._unread.clear()
        self._body_delivered = self._body_ended
        return {"type": "http.request", "body": body, "more_body": not self._body_ended}

    @property
    def _end_is_news(self) -> bool:
        return self._body_ended and not self._body_delivered

    async def send(self, message: Message) -> None:
        """Send a part of the answer; the application's `send`."""
        if self.answering_since is None:
            self.answering_since = trio.current_time()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)
