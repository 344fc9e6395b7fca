"""Binding: which port, what is said when it cannot be had."""

import socket

import pytest

from relay.errors import StartupError
from relay.net import udp_socket
from relay.net.udp_socket import (
    DatagramCounters,
    bind_udp,
    datagrams_held,
    kernel_drops,
    open_datagrams,
)


def test_any_port():
    with bind_udp(0, "127.0.0.1") as sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert port > 0
        assert not sock.getblocking()


def test_receive_buffer_is_enlarged():
    with bind_udp(0, "127.0.0.1") as sock, socket.socket(type=socket.SOCK_DGRAM) as plain:
        ours = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert ours >= plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def test_as_many_datagrams_as_promised_are_held():
    with bind_udp(0, "127.0.0.1") as sock, socket.socket(type=socket.SOCK_DGRAM) as sender:
        count = datagrams_held(sock)
        assert count >= 32
        for _ in range(count):
            sender.sendto(bytes(1452), sock.getsockname())
        received = open_datagrams(sock, DatagramCounters(), None).receive(count + 1, 1.0, 0.0)[0]
        assert (len(received), kernel_drops(sock)) == (count, 0)


def test_a_given_port_that_is_taken_is_an_error():
    with bind_udp(0, "127.0.0.1") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError) as caught:
            bind_udp(port, "127.0.0.1")
    assert f"UDP 127.0.0.1 port {port}: Address already in use" in str(caught.value)


def test_an_address_that_is_not_ours_is_an_error():
    with pytest.raises(StartupError, match=r"192\.0\.2\.1 port 0"):
        bind_udp(0, "192.0.2.1")


def test_without_a_port_the_customary_one_is_tried_first(monkeypatch):
    with bind_udp(0, "127.0.0.1") as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(udp_socket, "DHT_PORT", port)
    with bind_udp(None, "127.0.0.1") as first, bind_udp(None, "127.0.0.1") as second:
        assert first.getsockname()[1] == port
        assert second.getsockname()[1] not in (0, port)


def test_drops_of_something_else_than_a_socket_of_ours_are_unknown():
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.close()
    assert kernel_drops(sock) is None
