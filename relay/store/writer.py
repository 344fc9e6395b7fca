"""The writing task: takes what waits, commits it as one group, lets waiters go, starts anew.

While a group is at the disk the next one gathers, so a group is as large as the load demands.
When there is nothing else to do it writes the order of use, every ten minutes, and after the
start gives the file's free pages back.

When the disk fails the backlog stays and is tried again every second. For a file that is damaged
or not ours there is no again: it is left as it is. When another one, or none, takes its place, also
while it was in use, all that memory holds is written there.
"""

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from relay.errors import StoreError
from relay.histogram import SIZES, SPANS_S, Histogram
from relay.store.bell import Bell
from relay.store.database import DATABASE_FILE
from relay.store.disk_thread import DiskThread
from relay.store.faults import DatabaseFaultError, FilesLostError, as_faults
from relay.store.floors import floors_kept
from relay.store.in_use import Number, number_of, state_of
from relay.store.lock import LOCK_FILE, FolderLock
from relay.store.memory import Memory
from relay.store.packets import RECENCY_PIECE_KEYS, Changes, Node, PacketCache
from relay.store.records import KEY_BYTES

_log = logging.getLogger("relay.store")

RETRY_S: Final = 1.0
"""How often a disk that fails is tried again: health tells the truth soon after it heals."""
LOOK_S: Final = 1.0
"""How often it is made sure that the files are still there: a few calls that touch no disk."""
RECENCY_INTERVAL_S: Final = 600.0
"""A crash costs the order of use of this time; no packet."""
_KEYS_AT_ONCE: Final = 1024
"""Keys taken from the table before others get their turn: about 0.1 ms."""
_EVICTED_IN_GROUP: Final = 256
"""Rows deleted by one commit: about 10 ms. More only if more are waited for."""


class Writer:
    """Keeps the disk behind the memory, and holds the folder's lock.

    `fault` is what is wrong with writing, None while all is well.
    """

    def __init__(self, folder: Path, memory: Memory, wall_clock_us: Callable[[], int]) -> None:
        self.path: Final = folder / DATABASE_FILE
        self.fault: DatabaseFaultError | None = None
        self.commits = 0
        self.commits_s: Final = Histogram(SPANS_S)
        """How long they took."""
        self.groups: Final = Histogram(SIZES)
        """Packets in each."""
        self.on_reopened: Callable[[bool], None] = lambda other: None
        """Called when the file was opened again after a fault; may it be another one?"""
        self.on_lost: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        """Awaited when the files in use have gone: by then nobody may have them open."""
        self.on_commit: Final[list[Callable[[], None]]] = []
        self.bell: Final = Bell()
        self.floors_saved = False
        """Whether floors were written since the start."""
        self._folder = folder
        self._memory = memory
        self._wall_clock_us = wall_clock_us
        self._lock: FolderLock | None = None
        self._cache: PacketCache | None = None
        self._nodes: Sequence[Node] | None = None
        self._recency: list[list[bytes]] = []  # runs of keys still to be written, the first last
        self._recency_generation = 0
        self._recency_due = float("-inf")
        self._recency_changes: int | None = None  # the table's, for the order last written
        # Until all is loaded the disk may hold packets newer than those in memory, and the
        # order of use is not known.
        self._loaded = False
        self._shrinking = False
        self.in_doubt = False
        """Whether memory took in what could not be compared with the disk, and is not written."""
        self._doubt_ends = False  # nothing more of that kind comes in
        self._doubts = 0  # how often it began
        self._look_due = float("-inf")
        self._rewrite = False  # the next file that is opened may be another one
        self._refused: object = None  # what stood in the file's place when it was of no use
        self._used: Number = None  # the file that was opened last
        self._told = ""  # the last fault for which there was no again
        self._disk = DiskThread(self.path)

    @property
    def locked(self) -> bool:
        """Whether the folder is ours."""
        return self._lock is not None

    @property
    def slow(self) -> str | None:
        """What is wrong, if the disk does not answer."""
        return self._disk.slow

    @property
    def file_is_lost(self) -> bool:
        """Whether the file is damaged, not ours, or taken: nothing may be changed any more."""
        return self.fault is not None and (
            not self.fault.heals or isinstance(self.fault, FilesLostError)
        )

    def open(self) -> None:
        """Take the lock and open the file; what is wrong with the file becomes `fault`.

        Raises:
            StoreError: another relay holds the folder.
        """
        self._memory.durable = True
        try:
            self._cache = self._open_files()
        except DatabaseFaultError as fault:
            self._note(fault)

    def save_nodes(self, nodes: Sequence[Node]) -> None:
        """Write the DHT routing table with the next group."""
        if self._memory.durable:
            self._nodes = nodes
            self.bell.ring()

    def load_is_over(self) -> None:
        """Note that memory knows all that is on the disk; the file may have got emptier by it."""
        self._loaded = self._shrinking = self._doubt_ends = True
        self.bell.ring()

    def doubt(self) -> None:
        """Note that the disk cannot be read: until it is loaded anew commits have to compare."""
        self.in_doubt, self._doubt_ends = True, False
        self._doubts += 1

    def condemn(self, fault: DatabaseFaultError) -> None:
        """Write no more: the reader found the file damaged."""
        self._note(fault)
        self.bell.ring()

    async def run(self) -> None:
        """Write until cancelled; where the file turns out to be of no use, wait for another one."""
        self._recency_due = trio.current_time() + RECENCY_INTERVAL_S
        while True:
            await self._write_on()
            await self._close_file()
            await self._another_file()

    async def _write_on(self) -> None:
        """Write until the file is of no use any more."""
        while self._memory.durable:
            step = self._next_step()
            if step is None:
                with trio.move_on_at(min(self._recency_due, self._look_due)):
                    await self.bell.heard()
                continue
            try:
                await step()
            except FilesLostError as fault:
                self._note(fault)
                await self._leave_files()  # and try at once: mostly the folder is all right
            except DatabaseFaultError as fault:
                self._note(fault)
                if fault.heals:
                    await self._close_file()
                    await trio.sleep(RETRY_S)

    async def _another_file(self) -> None:
        """Wait until something has been done about a file that is of no use."""
        look = partial(state_of, self.path)
        before = self._refused or await self._state(self._state_of_used)
        while await self._state(look) == before:  # noqa: ASYNC110 -- no event tells of the folder
            await trio.sleep(RETRY_S)
        await self.on_lost()
        self._memory.durable = self._rewrite = True
        self.fault = DatabaseFaultError(str(self.fault), heals=True)

    def _state_of_used(self) -> object:
        """Return the state of the file that was in use; None if that is there no more.

        Who hears of the fault may have moved it away before we look.
        """
        used, self._used = self._used, None
        return state_of(self.path) if used in (None, number_of(self.path)) else None

    async def _state(self, look: Callable[[], object]) -> object:
        try:
            return await self._disk.run(look)
        except DatabaseFaultError:
            return None

    async def flush(self) -> None:
        """Write all that waits, then the order of use; gives up at the first fault."""
        self._shrinking = False
        self._recency_due = float("-inf")
        try:
            try:
                await self._write_all()
            except FilesLostError as fault:  # then there is time for another one
                self._note(fault)
                await self._leave_files()
                await self._write_all()
        except DatabaseFaultError as fault:
            self._note(fault)

    async def _write_all(self) -> None:
        while self._memory.durable and (step := self._next_step()) is not None:
            await step()

    async def close(self) -> None:
        """Close the file and give the folder up; what was not flushed is memory's alone."""
        self._memory.forsake_disk()
        await self._close_file()
        if self._lock is not None:
            self._lock.release()

    @property
    def _group_waits(self) -> bool:
        memory = self._memory
        return bool(memory.backlog.waiting or memory.floors.unsaved or self._nodes is not None)

    def _next_step(self) -> Callable[[], Awaitable[None]] | None:
        cache = self._cache
        if cache is None:
            return self._reopen
        if trio.current_time() >= self._look_due:
            return partial(self._look, cache)
        if self._group_waits:
            return partial(self._write_group, cache)
        if self._recency:
            return partial(self._write_recency, cache)
        if self._loaded and trio.current_time() >= self._recency_due:
            return partial(self._begin_recency, cache)
        if self._shrinking:
            return partial(self._shrink, cache)
        return None

    def _open_files(self) -> PacketCache:
        with as_faults(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = FolderLock.take(self._folder)
        capacity = self._memory.table.capacity
        self._refused = state_of(self.path)
        cache = PacketCache(self.path, floors_max=floors_kept(capacity))
        self._refused = None
        self._used = number_of(self.path)
        return cache

    async def _reopen(self) -> None:
        try:
            cache = self._cache = await self._disk.run(self._open_files)
        except DatabaseFaultError:
            raise
        except StoreError as error:  # somebody took the folder meanwhile
            raise DatabaseFaultError(str(error), heals=False) from error
        other = cache.created or self._rewrite
        self._rewrite = False
        self._look_due = trio.current_time() + LOOK_S
        if other:  # the packets that were on the disk may have gone with the old file
            self._loaded = False
            self.doubt()
            async for run in self._runs():
                for at in range(0, len(run), KEY_BYTES):
                    self._memory.write_again(run[at : at + KEY_BYTES])
        self.on_reopened(other)
        if not self._group_waits:
            self._note_healed()

    async def _look(self, cache: PacketCache) -> None:
        """Make sure that what is written is where others will look for it."""
        self._look_due = trio.current_time() + LOOK_S
        await self._disk.run(cache.look)
        await self._disk.run(self._check_lock)

    def _check_lock(self) -> None:
        with as_faults(self._folder):
            if self._lock is not None and not self._lock.holds:
                self._lock.release()
                self._lock = None
                raise FilesLostError(f"{self._folder / LOCK_FILE} was removed while it was in use")

    async def _leave_files(self) -> None:
        """Close files that are no longer those in the folder, and spoil nothing there."""
        self._rewrite = True
        cache, self._cache = self._cache, None
        with trio.CancelScope(shield=True), contextlib.suppress(DatabaseFaultError):
            if cache is None:
                await self.on_lost()
                return
            # The last to close folds the log into the file, which saves what is in a log without
            # a name, and removes what has the log's name, which must not be another file's.
            if await self._disk.run(lambda: cache.replaced):
                await self._disk.run(cache.close)
                await self.on_lost()
            else:
                await self.on_lost()
                await self._disk.run(cache.close)
            await self._disk.run(cache.remove_leftovers)
            await self._disk.run(self._check_lock)

    async def _write_group(self, cache: PacketCache) -> None:
        memory = self._memory
        group = memory.backlog.take(memory.floors.to_save(_EVICTED_IN_GROUP))
        changes = Changes(
            records=group.records,
            evicted=group.evicted,
            nodes=self._nodes,
            floors_max=floors_kept(memory.table.capacity),
            unsure=not self._loaded or self.in_doubt or memory.lost_evictions,
        )
        ends_doubt = (
            self._doubt_ends
            and not memory.backlog.waiting
            and memory.floors.unsaved <= len(group.evicted)
        )
        doubts = self._doubts
        began = trio.current_time()
        try:
            found = await self._disk.run(cache.commit, changes, self._wall_clock_us())
        except BaseException:
            memory.backlog.fail(group)
            raise
        memory.floors.saved(changes.evicted.items())
        self.floors_saved = self.floors_saved or bool(changes.evicted)
        if self._nodes is changes.nodes:
            self._nodes = None
        if ends_doubt and doubts == self._doubts:
            self.in_doubt = False
        memory.adopt(found)
        memory.backlog.finish(group)
        self.commits += 1
        self.commits_s.observe(trio.current_time() - began)
        self.groups.observe(len(group.records))
        self._note_healed()
        for tell in self.on_commit:
            tell()

    async def _begin_recency(self, cache: PacketCache) -> None:
        self._recency_due = trio.current_time() + RECENCY_INTERVAL_S
        if self._memory.table.changes == self._recency_changes:
            return  # nobody used anything: an idle relay leaves its disk asleep
        self._recency_generation = await self._disk.run(cache.next_generation)
        changes = self._memory.table.changes  # what comes during the walk may be missed by it
        self._recency = await self._order_of_use()
        self._recency_changes = changes

    async def _order_of_use(self) -> list[list[bytes]]:
        """Return runs of keys in pieces, the least wanted ones in the first piece."""
        pieces: list[list[bytes]] = [[]]
        async for run in self._runs():
            if len(pieces[-1]) == RECENCY_PIECE_KEYS // _KEYS_AT_ONCE:
                pieces.append([])
            pieces[-1].insert(0, run)
        return pieces

    async def _runs(self) -> AsyncGenerator[bytes, None]:
        """Walk over the keys of the table, in runs as `PacketTable.walk` gives them.

        Others go on meanwhile, so what they use comes once more, and later. By then all keys
        have come, so the end may be taken without a pause, lest it run away.
        """
        table = self._memory.table
        walks = -(-len(table) // _KEYS_AT_ONCE)
        table.begin_walk()
        while run := table.walk(_KEYS_AT_ONCE):
            yield run
            walks -= 1
            if walks > 0:
                await trio.lowlevel.checkpoint()

    async def _write_recency(self, cache: PacketCache) -> None:
        piece = self._recency.pop()
        write = partial(
            cache.write_recency, piece, self._recency_generation, last=not self._recency
        )
        await self._disk.run(write)

    async def _shrink(self, cache: PacketCache) -> None:
        self._shrinking = await self._disk.run(cache.shrink)

    async def _close_file(self) -> None:
        if self._cache is not None:
            cache, self._cache = self._cache, None
            # The fault for which it is closed has been told; another in closing adds nothing.
            with trio.CancelScope(shield=True), contextlib.suppress(DatabaseFaultError):
                await self._disk.run(cache.close)

    def _note(self, fault: DatabaseFaultError) -> None:
        """Say what is wrong, and let everybody go who waits for the disk."""
        news = self.fault is None or self.fault.heals != fault.heals
        self.fault = fault
        self._recency.clear()
        self._recency_changes = None
        if fault.heals:
            self._memory.backlog.release()
            if news:
                _log.error("%s; going on from memory and trying again to write", fault)
            return
        self._memory.forsake_disk()
        self._nodes = None
        if str(fault) != self._told:
            self._told = str(fault)
            _log.error("%s; going on from memory: packets are lost when the relay ends", fault)

    def _note_healed(self) -> None:
        if self.fault is not None:
            self.fault = None
            self._told = ""
            waiting = self._memory.backlog.waiting
            _log.warning("%s is written again; %d packets to catch up", self.path, waiting)
