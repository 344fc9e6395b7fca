"""What an operator does to the store: taking packets in, many at once, and taking one out.

`Upkeep` does it to the store of a running relay, through memory, and answers when the disk has
it. `relay.store.offline` does the same to the file of a relay that does not run.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import trio

from relay.errors import NotMostRecentError, StoreError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket
from relay.store import records
from relay.store.loading import Loader
from relay.store.memory import Memory
from relay.store.offline import KEEPS_NONE, Outcome
from relay.store.writer import Writer

_MERGED_AT_ONCE: Final = 32
"""Packets merged before others get their turn: about 0.3 ms."""


class Upkeep:
    """An operator's hand on a running store. Use from the store's Trio thread."""

    def __init__(self, memory: Memory, loader: Loader, writer: Writer) -> None:
        self._memory = memory
        self._loader = loader
        self._writer = writer

    @property
    def path(self) -> Path:
        """The database file."""
        return self._writer.path

    @property
    def locked(self) -> bool:
        """Whether the cache folder is ours."""
        return self._writer.locked

    async def take_in(self, packets: Sequence[SeenPacket]) -> list[Outcome]:
        """Apply the cache update rule to each, in order; return when the disk has them.

        Raises:
            StoreError: the disk fails, or nothing is kept; some may be in memory.
        """
        if self._memory.table.capacity == 0:
            raise StoreError(KEEPS_NONE)
        outcomes: list[Outcome] = []
        entries = iter(packets)
        while some := list(islice(entries, _MERGED_AT_ONCE)):
            await self._read([seen.packet.public_key.octets for seen in some])
            outcomes += map(self._merge, some)
            await trio.lowlevel.checkpoint()
        await self._written(
            seen.packet.public_key.octets
            for seen, outcome in zip(packets, outcomes, strict=True)
            if outcome == "stored"
        )
        return outcomes

    async def purge(self, key: PublicKey) -> SeenPacket | None:
        """Remove the packet of `key`, and refuse what is older, as after an eviction.

        Returns:
            What was removed, None if there was nothing; it is off the disk as well.

        Raises:
            StoreError: the disk fails; the packet is out of memory, and goes from the disk
                when that works again.
        """
        await self._read([key.octets])
        record = self._memory.purge(key.octets)
        if record is None:
            return None
        await self._written([key.octets])
        return records.decode(key, record)

    def _merge(self, seen: SeenPacket) -> Outcome:
        try:
            winner = self._memory.merge(seen)
        except NotMostRecentError:
            return "older"
        if winner is seen:
            return "stored"
        return "known" if winner.packet == seen.packet else "older"

    async def _written(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            while (written := self._memory.written(key)) is not None:
                self._fail_with_the_disk()
                await written.wait()
        self._fail_with_the_disk()

    async def _read(self, keys: Sequence[bytes]) -> None:
        await self._loader.read_all(keys)
        if self._loader.fault is not None:
            raise StoreError(str(self._loader.fault))

    def _fail_with_the_disk(self) -> None:
        if self._writer.fault is not None:
            raise StoreError(str(self._writer.fault))
