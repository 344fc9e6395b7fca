"""Bytes out for each byte in, of queries whose sources are forged: at once, and over time.

Whoever forges a victim's address has a relay send its answers there. The smallest query of each
kind is set against its largest answer: a node with 20 neighbours, stored values of 1000 bytes,
ten torrent peers. Then it is sent a thousand times a second from one address, and from 65,536.
Bytes are counted as UDP payloads and, in brackets, with 28 bytes of IP and UDP headers each.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from relay._kernels import Value, decode, encode
from relay.dht.budget import CREDIT_RATIO, PACE, STRANGERS, UNPROVEN
from relay.dht.responder import PAYLOAD_BYTES_MAX
from tests.floods.floods import ID, Generator, ask, query, values_of
from tests.support import peers
from tests.support.chance import seeded
from tests.support.packets import Author, Packet
from tests.support.relay import RelayProcess, wait_until

SECONDS: Final = float(os.environ.get("RELAY_FLOOD_SECONDS", "30"))
RATE: Final = 1000
HEADERS: Final = 28
VICTIMS: Final = 65_536
HASH: Final = b"h" * 20
VALUE: Final = b"v" * 1000
TARGET: Final = hashlib.sha1(encode(VALUE), usedforsecurity=False).digest()
AUTHOR: Final = Author.numbered(1, "amplification")
EMPTY: Final = b""
QUERIES: Final[dict[str, bytes]] = {
    "ping": query(b"ping", EMPTY),
    "find_node": query(b"find_node", EMPTY, target=ID),
    "get_peers": query(b"get_peers", EMPTY, info_hash=HASH),
    "get, nothing stored": query(b"get", EMPTY, target=ID),
    "get, immutable": query(b"get", EMPTY, target=TARGET),
    "get, mutable": query(b"get", EMPTY, target=AUTHOR.target),
    "put, refused": query(b"put", EMPTY),
    "announce_peer, refused": query(b"announce_peer", EMPTY),
    "unknown method": query(b"x", EMPTY),
}
RATIO_MAX: Final[dict[str, float]] = {
    "ping": 1.6,
    "find_node": 8.0,
    "get_peers": 9.5,
    "get, nothing stored": 9.5,
    "get, immutable": 17.5,
    "get, mutable": 17.5,
    "put, refused": 1.8,
    "announce_peer, refused": 1.8,
    "unknown method": 1.8,
}
"""Of the first answer, in payload bytes. Larger ones are a change of the protocol's weight."""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with (
        peers.own_net(25) as net,
        RelayProcess(tmp_path_factory.mktemp("amplifier"), bootstrap=net.bootstrap) as relay,
    ):
        wait_until(lambda: relay.dht_stats()["table_size"] >= 20, "20 neighbours")
        fill(relay)
        yield relay


def fill(relay: RelayProcess) -> None:
    """Store what makes the largest answers. From an exempt address, which has no budget."""
    packet: Packet = AUTHOR.packet(size=1000)
    token = values_of(ask(relay, query(b"get", target=TARGET)))[b"token"]
    shared: dict[str, Value] = {"token": token}
    mutable: dict[str, Value] = {
        "k": AUTHOR.public_key,
        "seq": packet.timestamp_us,
        "sig": packet.payload[:64],
    }
    for puts in ({"v": VALUE}, {"v": packet.dns, **mutable}):
        assert values_of(ask(relay, query(b"put", **shared, **puts)))
    rng = seeded("peers")
    for number in range(20):
        announced: Value = {
            b"id": rng.randbytes(20),
            b"info_hash": HASH,
            b"port": 1 + number,
            b"token": token,
        }
        message = {b"a": announced, b"q": b"announce_peer", b"t": b"", b"y": b"q"}
        assert values_of(ask(relay, encode(message)))


def ratio(bytes_out: int, packets_out: int, bytes_in: int, packets_in: int) -> str:
    with_headers = (bytes_out + HEADERS * packets_out) / (bytes_in + HEADERS * packets_in)
    return f"{bytes_out / bytes_in:.2f} ({with_headers:.2f})"


def test_one_answer(relay: RelayProcess) -> None:
    """Each from a source of its own, which has sent nothing before."""
    for number, (name, datagram) in enumerate(QUERIES.items()):
        reply = ask(relay, datagram, f"198.19.0.{1 + number}")
        print(
            f"| {name} | {len(datagram)} | {len(reply)} |"
            f" {ratio(len(reply), 1, len(datagram), 1)} |"
        )
        assert len(reply) <= PAYLOAD_BYTES_MAX
        assert len(reply) / len(datagram) <= RATIO_MAX[name]
        message = decode(reply)
        assert isinstance(message, dict)
        assert (message[b"y"] == b"e") == ("refused" in name or name == "unknown method")
    assert b"values" in values_of(ask(relay, QUERIES["get_peers"]))
    assert len(values_of(ask(relay, QUERIES["get, mutable"]))[b"v"]) == 1000  # type: ignore[arg-type]


@pytest.mark.parametrize("name", QUERIES)
def test_one_victim(relay: RelayProcess, generator: Generator, name: str) -> None:
    """A thousand queries a second in one victim's name."""
    first = f"198.19.1.{1 + list(QUERIES).index(name)}"
    flood = generator.run(relay, [QUERIES[name]], seconds=SECONDS, rate=RATE, first=first)
    per_s = flood.reply_bytes / flood.seconds
    print(
        f"| {name} | {flood.sent:,} | {flood.sent_bytes:,} | {flood.replies:,} |"
        f" {flood.reply_bytes:,} | {per_s:,.0f} |"
        f" {ratio(flood.reply_bytes, flood.replies, flood.sent_bytes, flood.sent)} |"
    )
    span_s = flood.seconds + 1.0
    packets = PACE.to_strangers + PACE.packets_per_s * span_s
    admitted = min(packets * len(QUERIES[name]), flood.sent_bytes)
    budget = UNPROVEN.bytes_burst + UNPROVEN.bytes_per_s * span_s + CREDIT_RATIO * admitted
    if name == "find_node":  # with pings to a newcomer
        packets = PACE.packets_burst + PACE.packets_per_s * span_s
    assert 0 < flood.replies <= packets
    assert flood.reply_bytes <= budget
    assert flood.reply_bytes < flood.sent_bytes, "over time nothing is amplified"


def test_a_proven_victim(relay: RelayProcess, generator: Generator) -> None:
    """It has shown a token within ten minutes, as a node that stores here does."""
    victim = "198.19.2.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((victim, 0))
        sock.connect(relay.dht_address)
        sock.send(QUERIES["get, immutable"])
        token = values_of(sock.recv(2048))[b"token"]
        sock.send(query(b"put", token=token, v=VALUE))
        assert values_of(sock.recv(2048))
    datagrams = [QUERIES["get, mutable"]]
    flood = generator.run(relay, datagrams, seconds=SECONDS, rate=RATE, first=victim)
    print(
        f"| get, mutable, proven | {flood.sent:,} | {flood.sent_bytes:,} | {flood.replies:,} |"
        f" {flood.reply_bytes:,} | {flood.reply_bytes / flood.seconds:,.0f} |"
        f" {ratio(flood.reply_bytes, flood.replies, flood.sent_bytes, flood.sent)} |"
    )
    span_s = flood.seconds + 1.0
    packets = PACE.packets_burst + PACE.packets_per_s * span_s
    assert 0 < flood.replies <= packets
    assert flood.reply_bytes <= packets * PAYLOAD_BYTES_MAX
    assert flood.reply_bytes < flood.sent_bytes, "over time nothing is amplified"


def test_many_victims(relay: RelayProcess, generator: Generator) -> None:
    """A whole network's addresses are forged in turn: all share what strangers have."""
    datagrams = [QUERIES["get, mutable"]]
    flood = generator.run(relay, datagrams, seconds=SECONDS, rate=20 * RATE, sources=VICTIMS)
    print(
        f"| get, mutable, {VICTIMS:,} victims | {flood.sent:,} | {flood.sent_bytes:,} |"
        f" {flood.replies:,} | {flood.reply_bytes:,} | {flood.reply_bytes / flood.seconds:,.0f} |"
        f" {ratio(flood.reply_bytes, flood.replies, flood.sent_bytes, flood.sent)} |"
    )
    assert flood.replies > 0
    budget = STRANGERS.bytes_burst + STRANGERS.bytes_per_s * (flood.seconds + 1.0)
    assert flood.reply_bytes <= budget
