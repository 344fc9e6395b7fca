"""What does a DHT query of somebody else cost, and does a busy node lose any?

One node of each kind on the server's core, its routing table filled with up to 500 fake nodes
(``dht_nodes.c``; ours by hand, see ``own_node.py``), and queries with random targets from one
socket, 64 under way (``dht_load.c``): `find_node`; `get` of what nobody stored; `get` of one of 100
stored packets. CPU time per query from /proc. Every reply is checked: transaction id, kind, and
the value where there is one; how many nodes and bytes the replies carry is told beside. Ours and
`mainline` send 20 nodes, libtorrent has buckets of 8 and no setting for more, so ours sends twelve
nodes more than it for each query. Then 50,000 queries a second are offered to ours, in steps of
half a millisecond.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench import anchors
from bench.anchors import LOAD_CORE, SERVER_CORE, pinned
from bench.harness import Loader, Plan, compiled, cpu_time_s, in_turns, progress, tell
from bench.library import Library
from bench.results import OURS, Goal, Row
from relay import _kernels
from tests.support import peers
from tests.support.packets import Packet
from tests.support.peers import Peer
from tests.support.relay import free_port, wait_until

NODES: Final = 500
NODES_ENOUGH: Final = 450
"""A bootstrap asks all nodes at once, and some answers may be lost."""
WINDOW: Final = 64
OFFERED: Final = 50_000
QUERIES: Final = 4096
STORED: Final = 100
MAINLINE: Final = "mainline"
LIBTORRENT: Final = "libtorrent"
K20: Final = (20,)
"""How many nodes fit the first, second ... bucket; the last holds for all that follow."""
EXTENDED: Final = (128, 64, 32, 16, 8)
"""libtorrent's buckets are larger near the root."""
FILL_S: Final = 40.0
ANSWER_S: Final = 2.0
TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Node:
    """A DHT node to be measured."""

    name: str
    build: str
    pid: int
    port: int
    table_size: Callable[[], int]


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure the three kinds of node in turns."""
    folder = loader.folder
    faker, generator = compiled("dht_nodes.c", folder), compiled("dht_load.c", folder)
    packets = Library(STORED)[:]
    with ExitStack() as stack:
        nodes = []
        for start, sizes in ((_ours, K20), (_mainline, K20), (_libtorrent, EXTENDED)):
            fakes = stack.enter_context(_fake_nodes(faker, sizes))
            node = stack.enter_context(start(fakes))
            wait_until(partial(_is_filled, node), f"the table of {node.name}", FILL_S)
            progress(f"{node.name}: {node.table_size()} nodes in its table")
            for packet in packets:
                _store(node, packet)
            nodes.append(node)
        loads = {
            "find_node": _queries(folder / "find_node", _find_node, [(os.urandom(20), b"")]),
            "get, nothing stored": _queries(folder / "get", _get, [(os.urandom(20), b"")]),
            "get, a value stored": _queries(
                folder / "stored", _get, [(_target(packet), _value(packet)) for packet in packets]
            ),
        }
        goals = (
            Goal("cpu_us", "times fewer", 6.0, against=MAINLINE),
            Goal("cpu_us", "times fewer", 1.3, against=LIBTORRENT),
        )
        for what, path in loads.items():
            row = Row("dht", f"DHT server, {what}", goals)
            for node in in_turns(plan, nodes):
                row.add(node.name, node.build, _measure(generator, node, plan.seconds, path))
                tell(row, node.name)
            yield row
        for what, path in loads.items():
            lossless = (Goal("lost", "at most", 0.0),)
            row = Row("dht", f"DHT server, {OFFERED:,} queries/s offered, {what}", lossless)
            for _ in range(plan.rounds):
                figures = _measure(generator, nodes[0], plan.seconds, path, OFFERED)
                row.add(nodes[0].name, nodes[0].build, figures)
                tell(row, nodes[0].name)
            yield row


def _is_filled(node: Node) -> bool:
    return node.table_size() >= NODES_ENOUGH


@contextmanager
def _fake_nodes(program: Path, bucket_sizes: Sequence[int]) -> Iterator[list[str]]:
    """Run fake nodes of their own for one node under test; yield their addresses."""
    port = free_port(socket.SOCK_DGRAM, "127.1.0.1")
    with pinned(LOAD_CORE):
        fakes = Peer(program, NODES, port, *bucket_sizes)
    with fakes:
        yield [f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(NODES)]


@contextmanager
def _ours(bootstrap: list[str]) -> Iterator[Node]:
    port = free_port(socket.SOCK_DGRAM)
    nodes_port = bootstrap[0].rpartition(":")[2]
    with pinned(SERVER_CORE):
        peer = Peer(sys.executable, "-m", "bench.own_node", port, NODES, nodes_port)
    with peer:
        yield Node(OURS, "in place", peer.pid, port, lambda: _number(peer("info")["table"]))


@contextmanager
def _mainline(bootstrap: list[str]) -> Iterator[Node]:
    port = free_port(socket.SOCK_DGRAM)
    with pinned(SERVER_CORE):
        joined = peers.with_bootstrap(bootstrap)
        peer = Peer(anchors.program("bench-node"), "--port", port, *joined)
    with peer:
        yield Node(
            MAINLINE, "8.0.1, release", peer.pid, port, lambda: _number(peer("info")["table"])
        )


@contextmanager
def _libtorrent(bootstrap: list[str]) -> Iterator[Node]:
    with pinned(SERVER_CORE):
        peer = peers.libtorrent_net("--nodes", 1, *peers.with_bootstrap(bootstrap))
    with peer:
        port = int(peer.bootstrap[0].rpartition(":")[2])

        def table_size() -> int:
            routing = peer("info")["routing"]
            assert isinstance(routing, list)
            return _number(routing[0])

        yield Node(LIBTORRENT, "2.1.1, limits relaxed", peer.pid, port, table_size)


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _measure(
    generator: Path, node: Node, seconds: float, queries: Path, rate: int = 0
) -> dict[str, float]:
    """Offer queries and return the figures of a row."""
    command = [generator, node.port, seconds, WINDOW, rate, queries]
    with pinned(LOAD_CORE):
        before_s = cpu_time_s(node.pid)
        done = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            check=True,
            timeout=seconds + 30,
        )
        cpu_s = cpu_time_s(node.pid) - before_s
    sample = json.loads(done.stdout)
    answers = max(sample["good"], 1)
    return {
        "rate": sample["in_time"] / sample["seconds"],
        "cpu_us": cpu_s / answers * 1e6,
        "p50_ms": sample["p50_us"] / 1000,
        "p99_ms": sample["p99_us"] / 1000,
        "failed": 100 * (1 - sample["good"] / max(sample["sent"], 1)),
        "loader_us": sample["loader_s"] / answers * 1e6,
        "nodes": sample["nodes"],
        "reply_bytes": sample["reply_bytes"],
        "lost": sample["sent"] - sample["good"],
        "table": node.table_size(),
    }


def _queries(
    path: Path, make: Callable[[bytes], bytes], wanted: Sequence[tuple[bytes, bytes]]
) -> Path:
    """Write queries for ``dht_load.c``: targets in turn, or random ones where just one is given."""
    with path.open("wb") as file:
        for number in range(QUERIES):
            target, needle = wanted[number % len(wanted)]
            query = make(target if len(wanted) > 1 else os.urandom(20))
            at = query.rindex(b"1:t4:") + 5
            file.write(struct.pack("<I", len(query)) + query)
            file.write(struct.pack("<II", at, len(needle)) + needle)
    return path


def _find_node(target: bytes) -> bytes:
    return _query(b"find_node", {b"target": target})


def _get(target: bytes) -> bytes:
    return _query(b"get", {b"target": target})


OUR_ID: Final = os.urandom(20)


def _query(method: bytes, arguments: dict[bytes, _kernels.Value]) -> bytes:
    """Return a query of a read-only node (BEP 43), which no table takes in."""
    message: dict[bytes, _kernels.Value] = {
        b"a": {b"id": OUR_ID, **arguments},
        b"q": method,
        b"ro": 1,
        b"t": b"benc",
        b"y": b"q",
    }
    return _kernels.encode(message)


def _target(packet: Packet) -> bytes:
    return hashlib.sha1(packet.public_key, usedforsecurity=False).digest()


def _value(packet: Packet) -> bytes:
    return b"1:v%d:%b" % (len(packet.dns), packet.dns)


def _store(node: Node, packet: Packet) -> None:
    """Put a packet on the node itself, as BEP 44 has it: a `get` for the token, then the `put`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(ANSWER_S)
        sock.connect(("127.0.0.1", node.port))
        token = _exchange(sock, _get(_target(packet)))[b"token"]
        arguments: dict[bytes, _kernels.Value] = {
            b"k": packet.public_key,
            b"seq": packet.timestamp_us,
            b"sig": packet.payload[:64],
            b"target": _target(packet),
            b"token": token,
            b"v": packet.dns,
        }
        _exchange(sock, _query(b"put", arguments))


def _exchange(sock: socket.socket, query: bytes) -> dict[bytes, _kernels.Value]:
    for _ in range(TRIES):
        sock.send(query)
        try:
            reply = _kernels.decode(sock.recv(2048))
        except TimeoutError:
            continue
        assert isinstance(reply, dict)
        if reply[b"y"] == b"r":
            values = reply[b"r"]
            assert isinstance(values, dict)
            return values
        raise RuntimeError(f"refused: {reply[b'e']!r}")
    raise TimeoutError("no answer")
