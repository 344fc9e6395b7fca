"""`kill -9` in the middle of writing, fifty times: nothing that was acknowledged is lost.

A child process stores ever newer packets, and evicts old ones, as fast as it can; for each that
was acknowledged it writes a line to a pipe. Some milliseconds after so many of them, each time
another number, it is killed, and the next child goes on with the same folder.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import trio

from relay.errors import NotMostRecentError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store.worker import PacketStore
from tests.support.chance import seeded

KILLS = 50
KEYS = 300
WRITERS = 16
LINES_MAX = 160
"""A child is killed after so many lines at most: so enough is written, however slow the disk."""
STALLED_S = 30
CAPACITY = 1000
CAPACITY_OF_HALF_THE_KEYS = KEYS // 2


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def packet(number: int, timestamp_us: int) -> SeenPacket:
    dns = timestamp_us.to_bytes(8, "big") * (number % 100)
    return SeenPacket(SignedPacket(key(number), bytes(64), timestamp_us, dns), timestamp_us)


def clock() -> int:
    return time.time_ns() // 1000


def write_until_killed(folder: Path, capacity: int, round_number: int, pipe: Connection) -> None:
    """Run in the child. Timestamps grow from round to round and within each."""

    async def write(store: PacketStore, writer: int) -> None:
        chance = seeded((round_number, writer))
        timestamp_us = round_number * 1_000_000 + 1
        while True:
            # Each key belongs to one writer, so that what it was told last is what it must find.
            number = chance.randrange(writer, KEYS, WRITERS)
            timestamp_us += 1
            await store.put_if_newer(packet(number, timestamp_us))
            os.write(pipe.fileno(), b"%d %d\n" % (number, timestamp_us))

    async def main() -> None:
        store = PacketStore(folder, capacity, clock)
        store.open()
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for writer in range(WRITERS):
                nursery.start_soon(write, store, writer)

    trio.run(main)


def read_lines(pipe: Connection, count: int) -> bytes:
    """Read what a child writes until it is so many lines."""
    text = b""
    while text.count(b"\n") < count:
        assert pipe.poll(STALLED_S), "it writes on"
        piece = os.read(pipe.fileno(), 65536)
        assert piece, "it has ended by itself"
        text += piece
    return text


def acknowledged(text: bytes) -> dict[int, int]:
    """Read what a child wrote; a last line cut short was not acknowledged."""
    whole = text[: text.rfind(b"\n") + 1].decode().splitlines()
    return {int(number): int(timestamp) for number, timestamp in map(str.split, whole)}


class Killer:
    """Starts children and kills them; remembers what they were told to be stored."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder, self.capacity = folder, capacity
        self.stored: dict[int, int] = {}
        self.rounds = 0
        # Children come from a server that has imported everything: one is there in no time.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["relay.store.worker", "trio"])
        self._chance = seeded("moments of death")

    def kill_one(self) -> int:
        """Let a child write for a moment; return how many packets it was acknowledged."""
        self.rounds += 1
        ours, theirs = self._context.Pipe(duplex=False)
        child = self._context.Process(
            target=write_until_killed, args=(self.folder, self.capacity, self.rounds, theirs)
        )
        child.start()
        theirs.close()
        text = read_lines(ours, self._chance.randint(1, LINES_MAX))
        # In time, not by event: any moment between two commits will do, and each another one.
        time.sleep(self._chance.uniform(0.0, 0.01))
        child.kill()
        with open(ours.fileno(), "rb", closefd=False) as rest:
            told = acknowledged(text + rest.read())
        child.join()
        ours.close()
        child.close()
        self.stored.update(told)
        return len(told)


async def check(killer: Killer) -> None:
    """Open the folder as the next relay does, and look for everything."""
    store = PacketStore(killer.folder, killer.capacity, clock)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for number, timestamp_us in killer.stored.items():
            await check_one(store, number, timestamp_us)
        assert store.health().ok
        assert store.stats().bad_rows == 0
        await store.close()


async def check_one(store: PacketStore, number: int, acknowledged_us: int) -> None:
    seen = await store.get(key(number))
    if seen is None:  # evicted: then an older packet is refused
        floor_us = store.floor_us(key(number))
        assert floor_us is not None, f"packet {number} of {acknowledged_us} is lost"
        assert floor_us >= acknowledged_us
    else:
        # Newer than acknowledged if the kill came between commit and acknowledgement.
        assert seen.packet.timestamp_us >= acknowledged_us, f"an older packet of {number}"
        assert seen == packet(number, seen.packet.timestamp_us), "whole, as it was written"


@pytest.mark.slow
async def test_fifty_kills_lose_no_acknowledged_packet(tmp_path):
    killer = Killer(tmp_path, CAPACITY)
    written = 0
    for _ in range(KILLS):
        written += await trio.to_thread.run_sync(killer.kill_one)
        await check(killer)
    assert len(killer.stored) == KEYS, "enough was written to mean something"
    assert written > KILLS * WRITERS


@pytest.mark.slow
async def test_kills_while_evicting_lose_nothing_either(tmp_path):
    killer = Killer(tmp_path, CAPACITY_OF_HALF_THE_KEYS)
    for _ in range(10):
        await trio.to_thread.run_sync(killer.kill_one)
        await check(killer)
    assert len(killer.stored) > CAPACITY_OF_HALF_THE_KEYS, "enough to evict some"
    store = PacketStore(killer.folder, killer.capacity, clock)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await refuses_what_is_older(store, killer)
        await store.close()


async def refuses_what_is_older(store: PacketStore, killer: Killer) -> None:
    refused = 0
    for number in killer.stored:
        try:
            winner = await store.put_if_newer(packet(number, 1))
        except NotMostRecentError:
            refused += 1
        else:
            assert winner.packet.timestamp_us >= killer.stored[number]
    assert refused >= len(killer.stored) - CAPACITY_OF_HALF_THE_KEYS
