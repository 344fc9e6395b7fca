"""The reading task: fills the table at the start, and reads what is needed before its turn.

After the load it goes on reading freshness floors, for packets that are not in the table.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import trio

from relay.pkarr.packet import SeenPacket, merge
from relay.store.bell import Bell
from relay.store.disk_thread import DiskThread
from relay.store.faults import DatabaseFaultError
from relay.store.found import READ_KEYS_MAX
from relay.store.memory import Memory
from relay.store.packets import Node
from relay.store.reader import PacketReader, Piece
from relay.store.writer import RETRY_S, Writer

_log = logging.getLogger("relay.store")

_EVICTED_WAITING_MAX: Final = 2048
"""With more evictions than this to be written, the load waits: the file is being shrunk."""
_DEFERRED_MAX: Final = 4096
"""Packets learned from the DHT that wait for what the disk has; more are not kept."""


class Loader:
    """Reads the writer's file into `memory`.

    `fault` is what is wrong with reading, None while all is well.
    """

    def __init__(self, memory: Memory, writer: Writer) -> None:
        self.fault: DatabaseFaultError | None = None
        self.loading = True
        """Whether a packet that is not in the table may still be on the disk."""
        self.bell: Final = Bell()
        self._memory = memory
        self._writer = writer
        self._reader: PacketReader | None = None
        self._bad_rows_before = 0
        self._floors_found = False
        self._wanted: dict[bytes, trio.Event] = {}
        self._deferred: dict[bytes, SeenPacket] = {}
        self._reopen_wanted = False
        self._running = True
        self._at_work = False
        self._reopened: trio.Event | None = None  # set: no file may be open until then
        self._release_wanted = False
        self._released = trio.Event()
        self._disk = DiskThread(writer.path)
        writer.on_commit.append(self.bell.ring)
        writer.on_reopened = self._look_again
        writer.on_lost = self._release

    @property
    def bad_rows(self) -> int:
        """Spoiled rows met since the start."""
        return self._bad_rows_before + (self._reader.bad_rows if self._reader else 0)

    def may_have(self, key: bytes) -> bool:
        """Tell whether the disk may know of a packet of `key`, or its floor, and memory not."""
        return (
            self._running
            and self.fault is None
            and (self.loading or self._memory.lost_evictions or self._has_floors)
            and key not in self._memory.table
            and not self._memory.floors.is_absent(key)
        )

    @property
    def _has_floors(self) -> bool:
        return self._floors_found or self._writer.floors_saved

    def open(self) -> list[Node]:
        """Open the file, and return the DHT routing table saved in it."""
        try:
            self._reader = PacketReader(self._writer.path)
            return self._reader.nodes()
        except DatabaseFaultError as fault:
            self._note(fault)
            return []

    async def read(self, key: bytes) -> None:
        """Bring what the disk has of `key` into memory."""
        done = self._wanted.get(key)
        if done is None:
            done = self._wanted[key] = trio.Event()
            self.bell.ring()
        await done.wait()

    async def read_all(self, keys: Sequence[bytes]) -> None:
        """Bring what the disk has of many keys into memory, as far as it is not there."""
        for key in keys:
            if key not in self._wanted and self.may_have(key):
                self._wanted[key] = trio.Event()
                self.bell.ring()
        for key in keys:
            if (done := self._wanted.get(key)) is not None:
                await done.wait()

    def merge_soon(self, seen: SeenPacket) -> None:
        """Merge a packet into memory as soon as it is known what the disk has of its key."""
        key = seen.packet.public_key.octets
        if len(self._deferred) < _DEFERRED_MAX or key in self._deferred:
            self._deferred[key] = merge(self._deferred.get(key), seen)
            if key not in self._wanted:
                self._wanted[key] = trio.Event()
                self.bell.ring()

    async def run(self) -> None:
        """Load everything, then read what is wanted, until cancelled."""
        self._at_work = True
        try:
            while True:
                try:
                    await self._read_on()
                except DatabaseFaultError as fault:
                    self._note(fault)
                    self._let_go()
                    if fault.heals:
                        await trio.sleep(RETRY_S)
                    else:
                        # The connection stays open until the writer has closed its own: the
                        # last one to close would fold the log into the damaged file.
                        self._writer.condemn(fault)
                        self._await_file()
                if self._reopened is not None:
                    await self._stand_back(self._reopened)
        finally:
            self._running = self._at_work = False
            self._let_go()
            self._released.set()

    async def _stand_back(self, reopened: trio.Event) -> None:
        """Let memory answer alone until there is a file again."""
        self.fault = self.fault or self._writer.fault
        self._let_go()
        while not reopened.is_set():
            if self._release_wanted:
                self._release_wanted = False
                await self.close()
                self._released.set()
            await self.bell.heard()
        self._reopened = None

    async def _release(self) -> None:
        """Close the connection; none is opened before `_look_again`."""
        if not self._at_work:
            await self.close()
            return
        self._await_file()
        self._release_wanted, self._released = True, trio.Event()
        self.bell.ring()
        await self._released.wait()

    def _await_file(self) -> None:
        """Have reading wait for `_look_again`."""
        if self._reopened is None:
            self._reopened = trio.Event()

    async def close(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            self._bad_rows_before += reader.bad_rows
            # The disk is not asked for anything any more, so it does not matter what it says.
            with trio.CancelScope(shield=True), contextlib.suppress(DatabaseFaultError):
                await self._disk.run(reader.close)

    async def _read_on(self) -> None:
        """Load, and read what is wanted, until another file is to be read."""
        if self._reader is None or self._reopen_wanted or self.fault is not None:
            await self.close()
            self._reopen_wanted = False
            self._memory.floors.forget_absent()
            self._reader = await self._disk.run(PacketReader, self._writer.path)
        reader = self._reader
        self._memory.note_time(await self._disk.run(reader.latest_us))
        self._floors_found = await self._disk.run(reader.has_floors)
        self.fault = None
        self.loading = True
        pieces = reader.load()
        while not self._reopen_wanted and self._reopened is None:
            if self._wanted:
                await self._read_wanted(reader)
            elif self.loading and self._memory.floors.unsaved < _EVICTED_WAITING_MAX:
                await self._load_piece(pieces)
            else:
                await self.bell.heard()

    async def _load_piece(self, pieces: Iterator[Piece]) -> None:
        piece = await self._disk.run(_next_piece, pieces)
        if piece is not None:
            self._memory.take_over(piece, may_evict=self._writer.fault is None)
            return
        if self._reopen_wanted or self._reopened is not None:  # it was the load of another file
            return
        self._memory.table.forget_expected()
        self.loading = False
        self._writer.load_is_over()
        _log.info(
            "%d packets loaded from %s, %d spoiled rows left out",
            len(self._memory.table),
            self._writer.path,
            self.bad_rows,
        )
        await self._disk.run(self._memory.table.settle)

    async def _read_wanted(self, reader: PacketReader) -> None:
        keys = list(islice(self._wanted, READ_KEYS_MAX))
        found = await self._disk.run(reader.read, keys)
        self._memory.adopt(found)
        for key in keys:
            if key not in found.packets and key not in found.floors:
                self._memory.floors.learn_absent(key)
            self._finish(key)

    def _finish(self, key: bytes) -> None:
        seen = self._deferred.pop(key, None)
        if seen is not None:
            self._memory.merge_unless_below_floor(seen)
        self._wanted.pop(key).set()

    def _let_go(self) -> None:
        """Answer all who wait from memory alone; the writer has to look for itself then."""
        self._writer.doubt()
        for key in list(self._wanted):
            self._finish(key)

    def _look_again(self, other: bool) -> None:
        if other or (self._reader is not None and self._reader.frozen):
            self._reopen_wanted = True
        if self._reopened is not None:
            self._reopened.set()
        self.bell.ring()

    def _note(self, fault: DatabaseFaultError) -> None:
        if self.fault is None and self._writer.fault is None:
            _log.error("%s; its packets cannot be read just now", fault)
        self.fault = fault
        self._writer.doubt()


def _next_piece(pieces: Iterator[Piece]) -> Piece | None:
    return next(pieces, None)
