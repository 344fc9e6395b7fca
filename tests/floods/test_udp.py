"""Floods of datagrams at a relay: queries, junk, answers to nothing; from one address and many.

Beside each flood somebody asks for packets that are in the cache, and somebody pings. All requests
are answered as ever, nobody's address gets more than its budget, every datagram is accounted for,
and memory stays within `GROWTH_MAX`. Figures are printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from relay._kernels import encode
from relay.dht.budget import CREDIT_RATIO, PACE, UNPROVEN
from tests.floods.floods import (
    ID,
    Generator,
    Honest,
    Hot,
    Peak,
    ask,
    query,
    values_of,
)
from tests.support import peers
from tests.support.chance import seeded
from tests.support.packets import Author, Packet
from tests.support.relay import RelayProcess, fetch, free_port, wait_until

SECONDS: Final = float(os.environ.get("RELAY_FLOOD_SECONDS", "10"))
HOT: Final = 100
GROWTH_MAX: Final = 32 * 1024 * 1024
"""The budgets' cells, the receive buffers of driver and node, and what the allocator keeps."""
HONEST: Final = "198.19.255.254"
"""A stranger's address that no flood claims."""
MANY: Final = 65_536
SAMPLES: Final = re.compile(r"^pkarr_relay_(dht_\w+?)(\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


class Watched(RelayProcess):
    """A relay whose metrics are read."""

    def samples(self) -> dict[str, float]:
        """All samples of the DHT, by name and labels."""
        text = fetch(f"http://127.0.0.1:{self.metrics_port}/metrics").body.decode()
        return {name + labels: float(value) for name, labels, value in SAMPLES.findall(text)}

    metrics_port = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A relay, and what it serves."""

    relay: Watched
    packets: list[Packet]
    rss_before: int


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    port = free_port()
    sections = {"metrics": f'bind = "127.0.0.1:{port}"'}
    with (
        peers.own_net(20) as net,
        Watched(
            tmp_path_factory.mktemp("udp"), bootstrap=net.bootstrap, sections=sections
        ) as relay,
    ):
        relay.metrics_port = port
        relay.wait_bootstrapped()
        packets = [Author().packet(f"packet {number}") for number in range(HOT)]
        for packet in packets:
            assert relay.put(packet.key, packet.payload).status == 204
        assert relay.get("").status == 200
        yield Target(relay, packets, relay.rss_bytes())


def queries() -> list[bytes]:
    """Of all kinds, well-formed, with targets of all sorts."""
    rng = seeded("queries")
    made = []
    for _ in range(500):
        target = rng.randbytes(20)
        made += [
            query(b"ping"),
            query(b"find_node", target=target),
            query(b"get", target=target),
            query(b"get_peers", info_hash=target),
            query(b"announce_peer", info_hash=target, port=1, token=rng.randbytes(8)),
            query(b"put", target=target, token=rng.randbytes(8), v=rng.randbytes(1000)),
            query(b"sample_infohashes", target=target),
        ]
    return made


def junk() -> list[bytes]:
    """Noise, cut messages, deep nesting, giant numbers, nothing at all."""
    rng = seeded("junk")
    made = [rng.randbytes(rng.choice([1, 14, 15, 100, 1400])) for _ in range(500)]
    made += [one[: rng.randrange(1, len(one))] for one in queries()[:500]]
    made += [b"", b"d" * 1400, b"l" * 1400, b"d1:a" + b"l" * 1390, b"d1:t4:abcd1:y1:q1:ai"]
    made += [b"i" + b"9" * 1300 + b"e", b"d1:ai" + b"9" * 1300 + b"e1:y1:qe", b"d" + b"1:a" * 400]
    made += [query(b"get", target=ID, seq=10**19), query(b"ping", transaction_id=b"t" * 1200)]
    return made


def answers() -> list[bytes]:
    """Responses and errors that nobody has asked for, full of nodes."""
    rng = seeded("answers")
    return [
        encode(
            {b"t": rng.randbytes(4), b"y": b"r", b"r": {b"id": ID, b"nodes": rng.randbytes(520)}}
        )
        for _ in range(400)
    ] + [encode({b"t": rng.randbytes(4), b"y": b"e", b"e": [201, b"no"]}) for _ in range(100)]


def giants() -> list[bytes]:
    """As large as UDP allows."""
    rng = seeded("giants")
    return [rng.randbytes(65_507), query(b"put", token=bytes(8), v=rng.randbytes(60_000))]


def empty() -> list[bytes]:
    """Nothing at all."""
    return [b""]


FLOODS: Final[dict[str, tuple[Callable[[], Sequence[bytes]], int]]] = {
    "queries, 1 source": (queries, 1),
    f"queries, {MANY:,} sources": (queries, MANY),
    "junk, 1 source": (junk, 1),
    f"junk, {MANY:,} sources": (junk, MANY),
    "answers to nothing": (answers, MANY),
    "65,507 bytes each": (giants, 16),
    "0 bytes each": (empty, 16),
}


def accounted(stats: dict[str, Any]) -> int:
    """Datagrams that came, read or dropped by the kernel."""
    datagrams = stats["datagrams"]
    return int(datagrams["received"] + datagrams["kernel_drops"])


def settled(relay: RelayProcess, before: dict[str, Any]) -> dict[str, Any] | None:
    """Figures from when all that was read has been counted by what it was; None: not yet."""
    stats = relay.dht_stats()
    kinds = ("dropped_malformed", "unsolicited", "queries_in", "responses_in", "errors_in")
    seen = sum(stats[kind] - before[kind] for kind in kinds)
    read = stats["datagrams"]["received"] - before["datagrams"]["received"]
    return stats if seen >= read else None


@pytest.mark.parametrize("name", FLOODS)
def test_flood(target: Target, generator: Generator, name: str) -> None:
    relay = target.relay
    make, sources = FLOODS[name]
    datagrams = make()
    with Hot(relay, target.packets) as before:
        before_stats, before_samples = relay.dht_stats(), relay.samples()
        while len(before.spans_s) < 500:
            assert relay.health().status == 200
    peak = Peak(relay)
    hot, near, far = Hot(relay, target.packets), Honest(relay, "127.0.0.1"), Honest(relay, HONEST)
    with peak, hot, near, far:
        flood = generator.run(relay, datagrams, seconds=SECONDS, sources=sources)
    stats = wait_until(lambda: settled(relay, before_stats), "the flood to have been seen")
    assert values_of(ask(relay, query(b"ping")))
    samples = relay.samples()
    drops = stats["datagrams"]["kernel_drops"] - before_stats["datagrams"]["kernel_drops"]
    growth = peak.rss_bytes - target.rss_before
    print(
        f"\n| {name} | {flood.sent / flood.seconds:,.0f} | {100 * drops / flood.sent:.0f} % |"
        f" {flood.replies:,} | {near.count.answered}/{near.count.asked},"
        f" {far.count.answered}/{far.count.asked} |"
        f" {before.percentile_ms(50):.2f}, {before.percentile_ms(99):.2f} |"
        f" {hot.percentile_ms(50):.2f}, {hot.percentile_ms(99):.2f} | {growth / 2**20:.1f} |"
    )
    assert relay.alive
    assert relay.health().status == 200
    assert "Traceback" not in relay.log()
    assert flood.sent > 0
    # Of the honest pings as large a share is dropped as of the rest, by chance; what is read is
    # answered, a stranger's within its budget. Half of that leaves room for chance.
    share = min(1.0, max(0.0, 1.0 - drops / flood.sent))
    assert near.count.answered >= share * near.count.asked / 2
    allowed = PACE.to_strangers + PACE.packets_per_s * flood.seconds
    assert far.count.answered >= min(share * far.count.asked, allowed) / 2
    assert growth < GROWTH_MAX
    # Nobody gets more than a stranger's budget, and the credit that what was admitted earns.
    span_s = flood.seconds + 1.0
    packets = sources * (PACE.to_strangers + PACE.packets_per_s * span_s)
    credit = CREDIT_RATIO * min(packets * 2048, flood.sent_bytes)
    budget = sources * (UNPROVEN.bytes_burst + UNPROVEN.bytes_per_s * span_s)
    assert flood.replies <= packets
    assert flood.reply_bytes <= budget + credit
    # Every datagram is read, or counted as dropped by the kernel; and every one that was read is
    # counted by what it was (`settled`).
    assert accounted(stats) - accounted(before_stats) >= flood.sent
    reasons = ("dropped_malformed", "dropped_budget", "unsolicited", "replies_out", "queries_in")
    news = {reason: stats[reason] - before_stats[reason] for reason in reasons}
    assert news["queries_in"] >= news["replies_out"] + news["dropped_budget"]
    for metric, figure in {
        'dht_datagrams_dropped_total{reason="malformed"}': "dropped_malformed",
        'dht_datagrams_dropped_total{reason="unsolicited"}': "unsolicited",
    }.items():
        assert samples[metric] - before_samples[metric] >= news[figure]
    over = sum(
        samples[name] - before_samples.get(name, 0.0)
        for name in samples
        if name.startswith("dht_queries_received_total") and "over_budget" in name
    )
    assert over >= news["dropped_budget"]
