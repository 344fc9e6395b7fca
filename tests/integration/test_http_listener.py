"""Listening sockets: everywhere or where told, and refusals that name the address."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from relay.errors import StartupError
from relay.http import listener
from relay.http.listener import BUFFER_BYTES, open_listeners


@contextmanager
def listening(bind: Sequence[str] | None, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = open_listeners(bind, port)
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def accepts(sock: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, sock.getsockname()[1]), timeout=30).close()
    except OSError:
        return False
    return True


def test_everywhere_is_one_socket_for_both_families() -> None:
    with listening(None) as (sock,):
        assert accepts(sock, "127.0.0.1")
        assert accepts(sock, "::1") is (sock.family == socket.AF_INET6)
        assert not sock.getblocking()


@pytest.mark.parametrize("fault", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    bound = listener._bound

    def refusing(host: str, port: int, *, dual_stack: bool) -> socket.socket:
        if dual_stack:
            raise OSError(fault, "no IPv6 here")
        return bound(host, port, dual_stack=False)

    monkeypatch.setattr(listener, "_bound", refusing)
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    with listening(None) as (sock,):
        assert sock.family == socket.AF_INET


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listening(None) as (sock,):
        assert sock.family == socket.AF_INET


def test_several_addresses_share_a_free_port() -> None:
    with listening(["127.0.0.1", "127.0.0.2"]) as sockets:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert [sock.getsockname()[0] for sock in sockets] == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize("bind", [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
def test_a_port_that_is_taken(bind: list[str]) -> None:
    with listening(["127.0.0.1"]) as (sock,):
        port = sock.getsockname()[1]
        with pytest.raises(StartupError, match=rf"127\.0\.0\.1:{port} \(TCP\): Address already"):
            open_listeners(bind, port)
        # Whatever was opened before the refusal has been closed again.
        with listening(["127.0.0.2"], port):
            pass


def test_everywhere_with_a_port_that_is_taken() -> None:
    with listening(None) as (sock,), pytest.raises(StartupError, match="Address already in use"):
        open_listeners(None, sock.getsockname()[1])


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1"):
        open_listeners(["192.0.2.1"], 0)


def test_what_the_kernel_keeps_for_a_connection_is_bounded() -> None:
    """Whoever is accepted has the listener's buffers; the kernel counts twice what it was told."""
    for sock in open_listeners(None, 0):
        with sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
            sock.setblocking(True)
            accepted, _ = sock.accept()
            with accepted:
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    assert accepted.getsockopt(socket.SOL_SOCKET, option) <= 2 * BUFFER_BYTES
