"""One attacker's flood of new keys against a cache that others use, over HTTP.

The relay is the product's but for its DHT (`bench.stub_relay`), which takes each packet at once,
so that a flood comes as fast as the cache can take it: ten times as many new keys as the cache
has room for, each packet signed by its key. Before it half of the cache is filled with a hot set,
each packet asked for once.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.harness import Record, compiled, get, put
from tests.support.packets import Packet
from tests.support.peers import Json, Peer
from tests.support.relay import fetch

CONNECTIONS: Final = 256
"""Many, so that each of the disk's commits takes many."""
HOT_CONNECTIONS: Final = 4
GRACE_S: Final = 2400.0
"""A million PUTs took more than 15 minutes on a machine that other work shared."""
TURN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flood did to a hot set."""

    hot: int
    lost: int
    stored: int
    """Packets of the flood that were acknowledged."""
    rate: float
    """Those per second."""
    asked: int
    """Requests for packets of the hot set during the flood."""
    missed: int
    """Those that were not answered with the packet."""
    hot_p99_ms: float
    """Of the worst turn of `TURN_S`."""
    rss_before: int
    rss_after: int
    stats: Json

    @property
    def lost_percent(self) -> float:
        """Of the hot set."""
        return 100 * self.lost / self.hot


class Attack:
    """A relay with an empty cache of `capacity` packets, and the load generator."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self._folder = folder
        self._program = compiled("load.c", folder)
        (folder / "cache").mkdir()
        self._relay = Peer(
            sys.executable, "-m", "bench.stub_relay", folder / "cache", str(capacity)
        )
        self._port = int(self._relay.url.rstrip("/").rpartition(":")[2])
        self._files = 0

    def run(self, hot: Sequence[Packet], flood: Iterable[Packet], *, keep_hot: bool) -> Outcome:
        """Fill, flood, and count who is left.

        Args:
            hot: asked for once each before the flood.
            flood: packets of as many other keys.
            keep_hot: whether the hot set is asked for during the flood, too, again and again.
        """
        with self._relay:
            gets = self._file(get(packet) for packet in hot)
            filled = self._load(self._file(put(packet) for packet in hot), CONNECTIONS)
            assert filled["ok"] == len(hot), filled
            asked = self._load(gets, CONNECTIONS)
            assert asked["ok"] == len(hot), asked
            rss_before = self._rss_bytes()
            over = threading.Event()
            turns: list[dict[str, float]] = []
            keeper = threading.Thread(target=self._keep_hot, args=(gets, over, turns))
            if keep_hot:
                keeper.start()
            try:
                flooded = self._load(self._file(put(packet) for packet in flood), CONNECTIONS)
            finally:
                over.set()
                if keep_hot:
                    keeper.join()
            assert bool(turns) == keep_hot, "who keeps the set hot must not fail"
            left = self._load(
                self._file(get(packet, "?policy=CacheOnly") for packet in hot), CONNECTIONS
            )
            stats = fetch(f"http://127.0.0.1:{self._port}/stats").json()["cache"]
            assert isinstance(stats, dict)
            return Outcome(
                hot=len(hot),
                lost=len(hot) - int(left["ok"]),
                stored=int(flooded["ok"]),
                rate=flooded["ok"] / flooded["seconds"],
                asked=int(sum(turn["answers"] + turn["broken"] for turn in turns)),
                missed=int(sum(turn["answers"] + turn["broken"] - turn["ok"] for turn in turns)),
                hot_p99_ms=max((turn["p99_us"] / 1000 for turn in turns), default=0.0),
                rss_before=rss_before,
                rss_after=self._rss_bytes(),
                stats=stats,
            )

    def _file(self, records: Iterable[Record]) -> Path:
        self._files += 1
        path = self._folder / f"requests-{self._files}"
        with path.open("wb") as file:
            file.writelines(record.packed() for record in records)
        return path

    def _keep_hot(self, gets: Path, over: threading.Event, turns: list[dict[str, float]]) -> None:
        while not over.is_set():
            turns.append(self._load(gets, HOT_CONNECTIONS, "cycle", TURN_S))

    def _load(
        self, records: Path, connections: int, mode: str = "once", seconds: float = GRACE_S
    ) -> dict[str, float]:
        command = [self._program, self._port, connections, seconds, mode, records]
        done = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=2 * GRACE_S,
        )
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def _rss_bytes(self) -> int:
        pages = Path(f"/proc/{self._relay.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()
