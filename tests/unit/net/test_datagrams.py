"""Both movers of datagrams on real sockets; the lane with a scripted answerer, too."""

import ctypes
import socket
from collections.abc import Callable, Iterator

import pytest

from relay.net.udp_socket import (
    DATAGRAM_BYTES_MAX,
    Address,
    DatagramCounters,
    DatagramMover,
    SocketDatagrams,
    bind_udp,
    open_datagrams,
)

Open = Callable[[socket.socket, DatagramCounters], DatagramMover]
BOTH = pytest.mark.parametrize(
    "open_mover",
    [lambda sock, counters: open_datagrams(sock, counters, None), SocketDatagrams],
    ids=["chosen", "pure"],
)
BATCH = 32
"""Of the lane (`DL_BATCH`)."""
MUCH = 60.0
"""Seconds that no test takes."""


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with bind_udp(0, "127.0.0.1") as sock:
        yield sock


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with bind_udp(0, "127.0.0.1") as peer:
        peer.setblocking(True)
        peer.settimeout(5)
        yield peer


@BOTH
def test_what_arrives_is_handed_on_in_order(
    open_mover: Open, sock: socket.socket, peer: socket.socket
) -> None:
    counters = DatagramCounters()
    mover = open_mover(sock, counters)
    assert mover.receive(10, MUCH, 0.0) == ([], [], 0, False, True)
    count = 3 * BATCH + 5
    for number in range(count):
        peer.sendto(b"%d" % number, sock.getsockname())
    source = peer.getsockname()
    first, unsent, answered, more, healthy = mover.receive(40, MUCH, 0.0)
    assert first == [(b"%d" % number, source) for number in range(40)]
    assert (unsent, answered, more, healthy) == ([], 0, True, True)
    rest, _, _, more, _ = mover.receive(count, MUCH, 0.0)
    assert rest == [(b"%d" % number, source) for number in range(40, count)]
    assert not more
    assert counters == DatagramCounters(received=count)
    assert mover.receive(0, MUCH, 0.0)[:3] == ([], [], 0)


@BOTH
def test_datagrams_of_every_size(
    open_mover: Open, sock: socket.socket, peer: socket.socket
) -> None:
    mover = open_mover(sock, DatagramCounters())
    sizes = [0, 1, 1452, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MAX + 1, 60_000]
    for size in sizes:
        peer.sendto(b"x" * size, sock.getsockname())
    received = mover.receive(10, MUCH, 0.0)[0]
    assert [len(payload) for payload, _ in received] == [
        min(size, DATAGRAM_BYTES_MAX) for size in sizes
    ]


@BOTH
def test_sources_are_told_apart(open_mover: Open) -> None:
    """Two thousand of them, each several times: more than the lane remembers."""
    with bind_udp(0) as sock:
        mover = open_mover(sock, DatagramCounters())
        port = sock.getsockname()[1]
        for number in range(1000):
            hosts = [f"127.{number % 256}.{number // 256}.{host}" for host in (7, 250)]
            senders = [socket.socket(type=socket.SOCK_DGRAM) for _ in hosts]
            try:
                for sender, host in zip(senders, hosts, strict=True):
                    sender.bind((host, 0))
                for sender in (*senders, *senders):
                    sender.sendto(b"x", ("127.0.0.1", port))
                sources = [source for _, source in mover.receive(9, MUCH, 0.0)[0]]
                assert sources == 2 * [sender.getsockname() for sender in senders]
            finally:
                for sender in senders:
                    sender.close()


@BOTH
def test_what_is_sent_arrives_in_order(
    open_mover: Open, sock: socket.socket, peer: socket.socket
) -> None:
    counters = DatagramCounters()
    mover = open_mover(sock, counters)
    count = 2 * BATCH + 1
    target = peer.getsockname()
    assert mover.send([(b"%d" % number, target) for number in range(count)]) == count
    assert [peer.recv(10) for _ in range(count)] == [b"%d" % number for number in range(count)]
    assert mover.send([]) == 0
    assert counters == DatagramCounters(sent=count)


@BOTH
def test_what_cannot_be_sent_is_counted_and_passed_over(
    open_mover: Open, sock: socket.socket, peer: socket.socket
) -> None:
    """Broadcast without permission, impossible ports, no address at all, beyond any MTU."""
    counters = DatagramCounters()
    mover = open_mover(sock, counters)
    target = peer.getsockname()
    good = (b"good", target)
    bad: list[tuple[bytes, Address]] = [
        (b"x", ("255.255.255.255", 1)),
        (b"x", ("127.0.0.1", 0)),
        (bytes(70_000), target),
    ]
    datagrams = [good, *bad, good, *bad, *bad, good]
    assert mover.send(datagrams) == len(datagrams)
    assert [peer.recv(10) for _ in range(3)] == [b"good"] * 3
    assert (counters.sent, counters.send_errors) == (3, 9)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "ip", ["", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.", ".1.2.3", "a.b.c.d", "1.2.3.4444"]
)
def test_the_lane_looks_no_names_up(ip: str, sock: socket.socket, peer: socket.socket) -> None:
    counters = DatagramCounters()
    mover = open_datagrams(sock, counters, None)
    good = (b"good", peer.getsockname())
    assert mover.send([good, (b"x", (ip, 1)), (b"x", ("127.0.0.1", 65536)), good]) == 4
    assert [peer.recv(10) for _ in range(2)] == [b"good"] * 2
    assert (counters.sent, counters.send_errors) == (2, 2)


@BOTH
def test_our_own_mistakes_are_not_hidden(open_mover: Open, peer: socket.socket) -> None:
    sock = bind_udp(0, "127.0.0.1")
    mover = open_mover(sock, DatagramCounters())
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        mover.receive(1, MUCH, 0.0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mover.send([(b"x", peer.getsockname())])


# ---- Answering ----


class _Answerer(ctypes.Structure):
    """`la_answerer` of datagram_answerer.h."""

    _fields_ = [
        ("state", ctypes.c_void_p),
        ("begin", ctypes.c_void_p),
        ("answer", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
    ]


_Around = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_Answer = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_char),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_char),
    ctypes.c_double,
    ctypes.POINTER(ctypes.c_char),
    ctypes.POINTER(ctypes.c_size_t),
)
NOT_MINE, SILENT, REPLY = range(3)


class Scripted:
    """Answers what begins with a, is silent about what begins with s, leaves the rest."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        around = _Around(lambda state: self.calls.append("around") or 0)
        answer = _Answer(self._answer)
        as_pointer = lambda function: ctypes.cast(function, ctypes.c_void_p)  # noqa: E731
        self._answerer = _Answerer(None, as_pointer(around), as_pointer(answer), as_pointer(around))
        self._kept = (around, answer)
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._name = ctypes.create_string_buffer(b"relay._speedups.answerer")
        self.capsule = make(ctypes.addressof(self._answerer), self._name, None)

    def _answer(self, _state, payload, size, source, now, reply, reply_bytes):  # type: ignore[no-untyped-def]
        text = payload[:size]
        self.calls.append((text, source[:6], now))
        if text[:1] == b"s":
            return SILENT
        if text[:1] != b"a":
            return NOT_MINE
        answer = text.upper()
        ctypes.memmove(reply, answer, len(answer))
        reply_bytes[0] = len(answer)
        return REPLY


@pytest.mark.compiled
def test_the_lane_asks_the_answerer_first(sock: socket.socket, peer: socket.socket) -> None:
    counters, scripted = DatagramCounters(), Scripted()
    mover = open_datagrams(sock, counters, scripted)  # type: ignore[arg-type]
    for payload in (b"a1", b"node 1", b"silence", b"a2", b"node 2"):
        peer.sendto(payload, sock.getsockname())
    source = peer.getsockname()
    others = [(b"node 1", source), (b"node 2", source)]
    assert mover.receive(9, MUCH, 7.5) == (others, [], 3, False, True)
    assert [peer.recv(10), peer.recv(10)] == [b"A1", b"A2"]
    assert counters == DatagramCounters(received=5, sent=2)
    compact = bytes([127, 0, 0, 1]) + source[1].to_bytes(2, "big")
    assert scripted.calls[1] == (b"a1", compact, 7.5)
    assert (scripted.calls[0], scripted.calls[-1], len(scripted.calls)) == ("around", "around", 7)


@pytest.mark.compiled
def test_answering_ends_when_its_time_is_over(sock: socket.socket, peer: socket.socket) -> None:
    mover = open_datagrams(sock, DatagramCounters(), Scripted())  # type: ignore[arg-type]
    for _ in range(3 * BATCH):
        peer.sendto(b"a", sock.getsockname())
    assert mover.receive(9 * BATCH, 0.0, 0.0) == ([], [], BATCH, True, True)
    assert mover.receive(9 * BATCH, MUCH, 0.0) == ([], [], 2 * BATCH, False, True)


@pytest.mark.compiled
def test_answers_do_not_use_up_the_room_for_others(
    sock: socket.socket, peer: socket.socket
) -> None:
    mover = open_datagrams(sock, DatagramCounters(), Scripted())  # type: ignore[arg-type]
    for number in range(BATCH):
        peer.sendto(b"a" if number % 2 else b"n", sock.getsockname())
    others, _, answered, _, _ = mover.receive(3, MUCH, 0.0)
    assert len(others) == 3
    assert answered >= 2
    others, _, answered, _, _ = mover.receive(BATCH, MUCH, 0.0)
    assert len(others) == BATCH // 2 - 3


@BOTH
def test_a_full_socket_leaves_the_rest(open_mover: Open) -> None:
    """A TCP socket: unlike UDP on the loopback interface it is full at some time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        near.setblocking(False)
        counters = DatagramCounters()
        mover = open_mover(near, counters)
        payload = bytes(65_536)
        datagrams = [(payload, far.getsockname())] * 200
        done = mover.send(datagrams)
        assert 0 < done < 200
        assert (counters.sent, counters.send_errors) == (done, 0)
        assert mover.send(datagrams) == 0


@pytest.mark.compiled
def test_answers_that_a_full_socket_does_not_take_are_handed_on() -> None:
    """The same with answers; what TCP delivers at once counts as one datagram from nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        near.setblocking(False)
        counters = DatagramCounters()
        mover = open_datagrams(near, counters, Scripted())  # type: ignore[arg-type]
        far.sendall(b"answer me")
        while mover.send([(bytes(65_536), ("127.0.0.1", 1))]) or _has_room(near):
            pass
        others, unsent, answered, _, healthy = mover.receive(1, MUCH, 0.0)
        assert (others, unsent) == ([], [(b"ANSWER ME", ("0.0.0.0", 0))])  # noqa: S104
        assert (answered, healthy) == (1, True)
        assert counters.send_errors == 0


def _has_room(sock: socket.socket) -> bool:
    try:
        return sock.send(b"x") > 0
    except BlockingIOError:
        return False
