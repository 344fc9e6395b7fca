"""An HTTP/1 client for tests that look at every byte, and at when a connection ends."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import trio

_NEXT_ANSWER = re.compile(rb"(?=HTTP/1\.1 [1-5][0-9][0-9] \r\n)")
ENDED_S = 30.0
"""Far above any deadline in these tests; the machine may be busy."""


@dataclass(frozen=True)
class Answer:
    status: int
    fields: tuple[tuple[str, str], ...]
    """Sorted, names in lower case."""
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fields)

    def without(self, *names: str) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        kept = tuple(field for field in self.fields if field[0] not in names)
        return self.status, kept, self.body


def answers(data: bytes) -> list[Answer]:
    """Take apart what a server has sent; no body of ours looks like an answer."""
    found = []
    if data and not data.startswith(b"HTTP/1"):
        return [Answer(0, (), data)]  # HTTP/2 frames
    for piece in _NEXT_ANSWER.split(data):
        if piece:
            head, end, body = piece.partition(b"\r\n\r\n")
            assert end, piece
            status_line, *lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in lines)
            fields = sorted((name.lower(), value) for name, _, value in pairs)
            found.append(Answer(int(status_line.split()[1]), tuple(fields), body))
    return found


async def exchange(port: int, *pieces: bytes, silence_s: float = 10.0) -> list[Answer]:
    """Send pieces, and return all answers until the server ends or says nothing for a while."""
    received = b""
    with suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for piece in pieces:
                await stream.send_all(piece)
            while True:
                data = b""
                with trio.move_on_after(silence_s):
                    data = await stream.receive_some()
                if not data:
                    break
                received += data
    return answers(received)


class Client:
    """A connection that keeps what it receives."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def head(self) -> Answer:
        """Wait for the head of an answer; its body is not read."""
        with trio.fail_after(ENDED_S):
            while b"\r\n\r\n" not in self.received:
                await self._receive()
        head, end, self.received = self.received.partition(b"\r\n\r\n")
        (answer,) = answers(head + end)
        return answer

    async def answer(self) -> Answer:
        """Wait for one more answer. Its body is as long as it says."""
        answer = await self.head()
        length = int(answer.headers.get("content-length", 0))
        with trio.fail_after(ENDED_S):
            while len(self.received) < length:
                await self._receive()
        body, self.received = self.received[:length], self.received[length:]
        return replace(answer, body=body)

    async def answers(self, count: int) -> list[Answer]:
        """Wait for so many more answers; there must be no more than that."""
        found = [await self.answer() for _ in range(count)]
        assert self.received == b""
        return found

    async def status(self) -> int:
        return (await self.answer()).status

    async def ended(self) -> bool:
        """Wait for the server's end; False if it sends something instead."""
        with trio.fail_after(ENDED_S):
            try:
                return not (self.received or await self.stream.receive_some())
            except trio.BrokenResourceError:
                return True

    async def _receive(self) -> None:
        data = await self.stream.receive_some()
        assert data, f"closed after {self.received!r}"
        self.received += data


_ESTABLISHED = 1
"""Of the kernel's states of a connection, the first byte of TCP_INFO."""
_BYTES_RECEIVED = slice(128, 136)
"""Where Linux has `tcpi_bytes_received` in it."""


class ServersEnd:
    """The other end of a connection, which is a socket of this process, too."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._own = stream.socket
        self._address = self._own.getsockname()
        self._descriptor = self._own.fileno()  # until the other one is found

    def has_read(self, count: int) -> bool:
        """Whether the server has taken as much as that from its socket, or has ended."""
        if self._own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED:
            return True
        received = self._received(self._descriptor)
        if received is None:
            for name in os.listdir("/proc/self/fd"):
                received = self._received(int(name))
                if received is not None:
                    self._descriptor = int(name)
                    break
        return received == count and self._waiting() == 0

    def _received(self, descriptor: int) -> int | None:
        """Return what has come on a descriptor; None if it is not the one."""
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:  # of no socket
            return None
        try:
            if sock.family != socket.AF_INET or sock.getpeername() != self._address:
                return None
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
            return int.from_bytes(told[_BYTES_RECEIVED], sys.byteorder)
        except OSError:  # not connected
            return None
        finally:
            sock.detach()

    def _waiting(self) -> int:
        counted = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        return int.from_bytes(counted, sys.byteorder)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Client(stream)


async def until(condition: Callable[[], object]) -> None:
    """Wait for other tasks on real sockets."""
    with trio.fail_after(ENDED_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await trio.sleep(0.005)
