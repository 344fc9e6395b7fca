"""A thousand look-ups at once in a network of liars: each learns of more nodes than it may keep.

Beside them somebody asks for packets that are in the cache. Memory stays within what the table of
bounds in docs/reliability.md says of so many look-ups; figures are printed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

from relay.dht.lookup import CANDIDATES_MAX, NODES_PER_ANSWER_MAX, QUERIES_MAX
from tests.floods.floods import Hot, Peak
from tests.support.packets import Author
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, status_of

LOOKUPS: Final = 1_000
HOT: Final = 100
KNOWN: Final = 300
"""Look-ups before the flood: a node of some standing knows hundreds of others."""
QUIET_S: Final = 15.0
"""Until nobody's address is busy any more."""
LOOKUP_BYTES_MAX: Final = 220_000
"""Of a look-up with as many contacts as it may have."""
SPARE_BYTES: Final = 64 * 1024 * 1024
"""A thousand connections with a task each, datagrams under way, what the allocator keeps."""
PATIENCE_S: Final = 300.0


def test_a_thousand_look_ups_among_liars(tmp_path: Path) -> None:
    sections = {"http": "max_connections = 2000\nmax_connections_per_address = 0"}
    with (
        Peer(sys.executable, "-m", "tests.floods.liars") as liars,
        RelayProcess(tmp_path, bootstrap=liars.bootstrap, sections=sections) as relay,
    ):
        relay.wait_bootstrapped()
        packets = [Author().packet(f"packet {number}") for number in range(HOT)]
        for packet in packets:
            assert relay.put(packet.key, packet.payload).status == 204
        for _ in range(KNOWN):  # liars all over the routing table
            assert relay.get(Author().key).status == 404
        time.sleep(QUIET_S)
        keys = [Author().key for _ in range(LOOKUPS)]
        before, rss_before = relay.dht_stats(), relay.rss_bytes()
        peak, hot = Peak(relay), Hot(relay, packets)
        began = time.monotonic()
        with peak, hot, relay.asked(keys, PATIENCE_S) as socks:
            statuses = [status_of(sock) for sock in socks]
        took_s = time.monotonic() - began
        after = relay.dht_stats()
        lookups = after["lookups"] - before["lookups"]
        queries = after["queries_out"] - before["queries_out"]
        answers = after["responses_in"] - before["responses_in"]
        growth = peak.rss_bytes - rss_before
        print(
            f"\n| {statuses.count(404):,} of {LOOKUPS:,} | {lookups:,} | {queries:,} |"
            f" {answers:,} | {took_s:.0f} |"
            f" {hot.percentile_ms(50):.2f}, {hot.percentile_ms(99):.2f} |"
            f" {growth / 2**20:.1f} MiB |"
        )
        assert set(statuses) <= {404, 503}, "nobody has these packets"
        assert len(statuses) == LOOKUPS
        assert lookups >= LOOKUPS
        assert statuses.count(404) > LOOKUPS / 4
        # They have learnt of more nodes than they may keep, and asked no more than they may.
        assert answers * NODES_PER_ANSWER_MAX > CANDIDATES_MAX * lookups
        assert queries <= lookups * QUERIES_MAX
        assert growth < LOOKUPS * LOOKUP_BYTES_MAX + SPARE_BYTES
        assert relay.health().status == 200
        assert "Traceback" not in relay.log()
