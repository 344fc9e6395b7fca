"""A server that is up to no good: says the same to everybody, fast, slowly or without end."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Act = Callable[[socket.socket], None]
"""What is done with a connection once a request's head has come."""
CLIENT_S = 60.0
"""How long a client may keep a connection; one that stays for ever fails its test."""


@dataclass(slots=True)
class Scripted:
    """A running server."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    """The head of each request."""


def say(answer: bytes) -> Act:
    """Answer and end."""
    return lambda connection: connection.sendall(answer)


def say_for_ever(head: bytes, more: bytes) -> Act:
    """Answer without end, until the client has had enough."""

    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(more)

    return act


def drip(answer: bytes) -> Act:
    """Send a byte every now and then, until the client has had enough."""

    def act(connection: socket.socket) -> None:
        for octet in answer:
            connection.sendall(bytes([octet]))
            if select.select([connection], [], [], 0.1)[0]:  # the client ended it
                return

    return act


def be_silent(connection: socket.socket) -> None:
    """Say nothing until the client goes."""
    while connection.recv(4096):
        pass


@contextmanager
def serving(act: Act, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Serve on loopback, one connection at a time, over TLS if a context is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme = "http" if context is None else "https"
        server = Scripted(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed: the test is over
                    return
                with connection, suppress(OSError):  # among them that the client has gone
                    connection.settimeout(CLIENT_S)
                    stream = connection
                    if context is not None:
                        stream = context.wrap_socket(connection, server_side=True)
                    with stream:
                        head = b""
                        while b"\r\n\r\n" not in head and (data := stream.recv(65536)):
                            head += data
                        server.requests.append(head)
                        act(stream)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close would not
            thread.join()
