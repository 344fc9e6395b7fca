"""Every address of 198.18.0.0/15 as a node of a hostile network that looks like one without end.

    python -m tests.floods.liars

Whoever is asked names 40 others whose identifiers share their first 17 bytes with the target, so
each look-up learns of thousands of nodes that nobody else knows. All have one port and answer at
once; a node's identifier depends on its address and on what is looked for. Prints one JSON line
with some addresses, then runs until its stdin ends.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
from collections.abc import Sequence
from itertools import cycle
from typing import Final

from relay._kernels import NODES_PER_ANSWER_MAX, decode, encode
from tests.support.chance import seeded

NODES: Final = 1 << 17
FIRST: Final = int.from_bytes(socket.inet_aton("198.18.0.0"), "big")
COMMON_BYTES: Final = 17
"""What a node's identifier has of the target; the rest is from its address."""
ANSWERS: Final = 5_000
"""Answers that differ in whom they name, given in turn."""
IP_PKTINFO: Final = 8  # linux/in.h; the socket module does not have it
_PACKET_INFO: Final = struct.Struct("=i4s4s")
"""Interface, our address, the datagram's destination: ip(7)."""
BUFFER_BYTES: Final = 8 * 1024 * 1024


def tails(port: int) -> list[list[bytes]]:
    """Return for each answer the ends of its compact node infos, that is all but the target's."""
    rng, end = seeded("liars"), port.to_bytes(2, "big")

    def tail() -> bytes:
        address = (FIRST + rng.randrange(NODES)).to_bytes(4, "big")
        return address[1:] + address + end

    return [[tail() for _ in range(NODES_PER_ANSWER_MAX)] for _ in range(ANSWERS)]


def answer(datagram: bytes, address: bytes, named: Sequence[bytes]) -> bytes | None:
    """Return what the node at `address` (4 bytes) answers; None: nothing, it was no query."""
    try:
        query = decode(datagram)
        assert isinstance(query, dict)
        arguments = query[b"a"]
        assert isinstance(arguments, dict)
    except (ValueError, KeyError, AssertionError):
        return None
    target = arguments.get(b"target", bytes(20))
    assert isinstance(target, bytes)
    begin = target[:COMMON_BYTES]
    nodes = b"".join(begin + tail for tail in named)
    values = {b"id": begin + address[1:], b"nodes": nodes, b"token": b"liar"}
    return encode({b"r": values, b"t": query[b"t"], b"y": b"r"})


def main() -> None:
    """Answer all that comes until stdin ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        sock.bind(("0.0.0.0", 0))  # noqa: S104 -- in a namespace without a way out
        sock.setblocking(False)
        port = sock.getsockname()[1]
        named = cycle(tails(port))
        some = [f"198.18.{number}.1:{port}" for number in range(10)]
        print(json.dumps({"event": "ready", "impl": "liars", "bootstrap": some}), flush=True)
        room = socket.CMSG_SPACE(_PACKET_INFO.size)
        while True:
            readable, _, _ = select.select([sock, sys.stdin], [], [])
            if sys.stdin in readable:
                return
            try:
                datagram, [(_, _, info)], _, asker = sock.recvmsg(2048, room)
            except BlockingIOError:
                continue
            _, _, address = _PACKET_INFO.unpack(info)
            reply = answer(datagram, address, next(named))
            if reply is not None:
                own = (socket.IPPROTO_IP, IP_PKTINFO, _PACKET_INFO.pack(0, address, bytes(4)))
                try:
                    sock.sendmsg([reply], [own], 0, asker)
                except BlockingIOError:
                    continue


if __name__ == "__main__":
    main()
