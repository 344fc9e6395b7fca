"""The packet store as the relay sees it: a table in memory, written to disk behind its back.

All state belongs to the Trio thread. SQLite is called in threads, one call at a time for writing
and one for reading, and is handed nothing that changes. Three tasks run in the store's nursery:
writing (`relay.store.writer`), reading (`relay.store.loading`), and evicting, which keeps the
table at its capacity; for a moment it may be `SLACK_PACKETS` above.

When the disk fails the table goes on alone; nothing that is damaged or not ours is changed.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Literal

import trio

from relay.histogram import SIZES, SPANS_S, Histogram
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket
from relay.store.bell import Bell
from relay.store.loading import Loader
from relay.store.memory import Memory
from relay.store.packets import Node
from relay.store.upkeep import Upkeep
from relay.store.writer import Writer

_log = logging.getLogger("relay.store")

_EVICT_AT_ONCE: Final = 64
_FLUSH_S: Final = 1.5
"""How long closing may write; what is left then is lost, and the log says how much it was."""


class NotLoaded(Enum):
    """The answer of `PacketStore.lookup` when only `get`, which may wait, can tell."""

    NOT_LOADED = "not loaded"


NOT_LOADED: Final = NotLoaded.NOT_LOADED


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Whether packets are durable and, if not, why, for an operator to read."""

    ok: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """Figures of a store; counts are since the start."""

    packets: int
    capacity: int
    hits: int
    misses: int
    evictions: int
    pending: int
    """Packets that are not on the disk yet."""
    bad_rows: int
    """Rows of the database left out because their checksum was wrong."""
    commits: int
    """Groups written."""
    loading: bool
    """Whether the start-up load is still under way."""


class PacketStore:
    """Signed packets by key, least wanted out first, durable unless the disk fails.

    `open` it, keep `run` running, and use it from the same Trio thread; `close` it or cancel
    `run` to end. Without a folder it works without `run` too, but for eviction.

    Args:
        folder: where the database lives; made if it is missing. None: memory only.
        capacity: how many packets to keep; 0 keeps none, but the floors of what it is given.
        wall_clock_us: microseconds since 1970.
    """

    def __init__(
        self, folder: Path | None, capacity: int, wall_clock_us: Callable[[], int]
    ) -> None:
        self._eviction_bell = Bell()
        self._memory = Memory(capacity, wall_clock_us, self._on_change)
        self._writer: Writer | None = None
        self._loader: Loader | None = None
        if folder is not None:
            self._writer = Writer(folder, self._memory, wall_clock_us)
            self._loader = Loader(self._memory, self._writer)
            self._writer.on_commit.append(self._on_commit)
        self._nodes: Sequence[Node] = ()
        self._hits = 0
        self._misses = 0
        self._running = False
        self._closing = trio.Event()
        self._closed = trio.Event()

    def open(self) -> None:
        """Take the folder's lock and open the database; blocks for some milliseconds.

        A database that cannot be used is no error: the log says what is wrong, `health`
        repeats it, and packets are kept in memory.

        Raises:
            StoreError: another relay uses the folder.
        """
        if self._writer is not None and self._loader is not None:
            self._writer.open()
            self._nodes = self._loader.open()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load, write and evict until cancelled or `close` is called; then flush and close."""
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._evict)
                if self._writer is not None and self._loader is not None:
                    nursery.start_soon(self._writer.run)
                    nursery.start_soon(self._loader.run)
                task_status.started()
                await self._closing.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._finish()

    async def close(self) -> None:
        """Write what waits, and the order of use; close the file; under 2 seconds."""
        self._closing.set()
        if not self._running:
            await self._finish()
        await self._closed.wait()

    @property
    def table_capsule(self) -> object | None:
        """The packet table for native readers (`packet_table.h`); None: it is not in C."""
        return getattr(self._memory.table, "capsule", None)

    @property
    def upkeep(self) -> Upkeep | None:
        """What an operator may do; None: there is no cache folder, or it is not ours."""
        if self._writer is None or self._loader is None or not self._writer.locked:
            return None
        return Upkeep(self._memory, self._loader, self._writer)

    async def get(self, key: PublicKey) -> SeenPacket | None:
        """Return the packet of `key`, expired or not, and mark it as used.

        Does not let other tasks run when the packet is in memory; waits for the disk, a
        fraction of a millisecond, when only that can tell. Afterwards `floor_us` knows too.
        """
        seen = self._memory.get(key)
        if seen is None and self._loader is not None and self._loader.may_have(key.octets):
            await self._loader.read(key.octets)
            seen = self._memory.get(key)
        if seen is None:
            self._misses += 1
        else:
            self._hits += 1
        return seen

    def lookup(self, key: PublicKey) -> SeenPacket | Literal[NotLoaded.NOT_LOADED] | None:
        """Return what `get` would, or `NOT_LOADED` if `get` would have to wait for the disk."""
        seen = self._memory.get(key)
        if seen is not None:
            self._hits += 1
        elif self._loader is not None and self._loader.may_have(key.octets):
            return NOT_LOADED
        else:
            self._misses += 1
        return seen

    async def put_if_newer(self, seen: SeenPacket) -> SeenPacket:
        """Apply the cache update rule and wait until the disk has the winner, or its floor.

        While the disk fails it returns without it, and the winner is written later.

        Returns:
            The winner: `seen`, or what was there if that is more recent.

        Raises:
            NotMostRecentError: a more recent packet of the key was here and was evicted.
        """
        key = seen.packet.public_key.octets
        if self._loader is not None and self._loader.may_have(key):
            await self._loader.read(key)
        winner = self._memory.merge(seen)
        if self._writer is not None and self._writer.fault is None:
            written = self._memory.written(key)
            if written is not None:
                await written.wait()
                winner = self._memory.judged(winner)
        return winner

    def resize(self, capacity: int) -> None:
        """Keep another number of packets from now on.

        Those that are too many go a few at a time, as fast as the disk can forget them; the
        memory they took is used again, but not given back.
        """
        self._memory.resize(capacity)
        self._eviction_bell.ring()

    def put_soon(self, seen: SeenPacket) -> None:
        """Apply the cache update rule, write later; what is below its floor is dropped."""
        if self._loader is not None and self._loader.may_have(seen.packet.public_key.octets):
            self._loader.merge_soon(seen)
        else:
            self._memory.merge_unless_below_floor(seen)

    def floor_us(self, key: PublicKey) -> int | None:
        """Return the timestamp below which packets of an evicted `key` are refused.

        Microseconds since 1970. Knows what memory knows: `get` of the same key, right before,
        brings a floor from the disk.
        """
        return self._memory.floor_us(key.octets)

    def health(self) -> StoreHealth:
        """Tell whether packets are durable just now."""
        faults = (part.fault for part in (self._writer, self._loader) if part is not None)
        fault = next((fault for fault in faults if fault is not None), None)
        slow = None if self._writer is None else self._writer.slow
        reason = slow if fault is None else str(fault)
        return StoreHealth(reason is None, reason)

    def stats(self) -> StoreStats:
        """Return the store's figures."""
        loader, writer = self._loader, self._writer
        return StoreStats(
            packets=len(self._memory.table),
            capacity=self._memory.table.capacity,
            hits=self._hits,
            misses=self._misses,
            evictions=self._memory.evictions,
            pending=len(self._memory.backlog),
            bad_rows=0 if loader is None else loader.bad_rows,
            commits=0 if writer is None else writer.commits,
            loading=loader is not None and loader.loading,
        )

    @property
    def commits(self) -> tuple[Histogram, Histogram]:
        """How many seconds commits took, and how many packets were in each."""
        if self._writer is None:
            return Histogram(SPANS_S), Histogram(SIZES)
        return self._writer.commits_s, self._writer.groups

    def load_nodes(self) -> list[Node]:
        """Return the DHT nodes last saved, by this process or the one before."""
        return list(self._nodes)

    def save_nodes(self, nodes: Sequence[Node]) -> None:
        """Replace the saved DHT nodes; written with the next group."""
        self._nodes = tuple(nodes)
        if self._writer is not None:
            self._writer.save_nodes(self._nodes)

    def _on_commit(self) -> None:
        if self._memory.crowded:
            self._eviction_bell.ring()

    def _on_change(self) -> None:
        if self._memory.crowded:
            self._eviction_bell.ring()
        if self._writer is not None:
            self._writer.bell.ring()

    async def _evict(self) -> None:
        while True:
            await self._eviction_bell.heard()
            while self._memory.crowded and self._memory.may_evict:
                self._memory.evict(_EVICT_AT_ONCE)
                await trio.lowlevel.checkpoint()
            while self._memory.table.spread():
                await trio.lowlevel.checkpoint()

    async def _finish(self) -> None:
        if self._closed.is_set():
            return
        if self._writer is not None and self._loader is not None:
            with trio.move_on_after(_FLUSH_S):
                await self._writer.flush()
            waiting = self._memory.backlog.waiting
            if waiting:
                _log.error("%d packets could not be written to %s", waiting, self._writer.path)
            # The last connection to close folds the log into the file, but the reader's cannot:
            # so it comes last where nothing may be changed any more.
            if self._writer.file_is_lost:
                await self._writer.close()
                await self._loader.close()
            else:
                await self._loader.close()
                await self._writer.close()
        self._closed.set()
