"""The cache of a relay that does not run: what operators do to it, to the file alone.

The folder's lock is held meanwhile, so no relay starts on it. `relay.store.upkeep` does the same
to a relay that runs.
"""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Literal, Self

from relay.errors import StoreError
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, merge
from relay.store import records
from relay.store.database import DATABASE_FILE
from relay.store.faults import as_faults
from relay.store.floors import Floor, floors_kept, is_over
from relay.store.found import READ_KEYS_MAX, Found
from relay.store.lock import LOCK_FILE, FolderLock
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader

Outcome = Literal["stored", "known", "older"]
"""It is on the disk now; it was there already; a more recent one is there, or was."""

KEEPS_NONE: Final = "the cache keeps no packets: its size is 0"


class OfflineStore:
    """The cache of a relay that does not run; `close` it, or use it as a context manager.

    Args:
        folder: the cache folder.
        capacity: how many packets the relay keeps; the floors are bounded by it.
        create: make what is missing.

    Raises:
        StoreError: a relay, or another command, has the folder; there is no database; or it
            cannot be used.
    """

    def __init__(self, folder: Path, capacity: int, *, create: bool) -> None:
        self.path: Final = folder / DATABASE_FILE
        self._capacity = capacity
        self._open: tuple[PacketCache, PacketReader] | None = None
        with as_faults(folder):
            if create:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self.path.exists():
                raise StoreError(f"there is no database in {folder}")
            self._lock = FolderLock.take(folder)
            _give_to_the_owner(folder, folder / LOCK_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and give the folder up."""
        opened, self._open = self._open, None
        try:
            if opened is not None:
                cache, reader = opened
                reader.close()
                cache.close()
        finally:
            self._lock.release()

    def take_in(self, packets: Sequence[SeenPacket], now_us: int) -> list[Outcome]:
        """Apply the cache update rule to each, in order; they are on the disk on return."""
        if self._capacity == 0:
            raise StoreError(KEEPS_NONE)
        cache, reader = self._files()
        known = _all_of(reader, {seen.packet.public_key.octets for seen in packets})
        changed: dict[bytes, bytes] = {}
        outcomes = [_merge(seen, known, changed, now_us) for seen in packets]
        if changed:
            cache.commit(Changes(records=changed), now_us)
        return outcomes

    def purge(self, key: PublicKey, now_us: int) -> SeenPacket | None:
        """Remove the packet of `key`, and refuse what is older; None: there was none."""
        cache, reader = self._files()
        record = reader.read([key.octets]).packets.get(key.octets)
        if record is None:
            return None
        floor = Floor.of(record, max(now_us, reader.latest_us()))
        cache.commit(Changes(evicted={key.octets: floor}), now_us)
        return records.decode(key, record)

    def _files(self) -> tuple[PacketCache, PacketReader]:
        if self._open is None:
            cache = PacketCache(self.path, floors_max=floors_kept(self._capacity))
            try:
                with as_faults(self.path):
                    _give_to_the_owner(self.path.parent, self.path)
                self._open = cache, PacketReader(self.path)
            except BaseException:
                cache.close()
                raise
        return self._open


def _give_to_the_owner(folder: Path, path: Path) -> None:
    """Let root leave nothing behind that the relay's own user may not open."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _all_of(reader: PacketReader, keys: set[bytes]) -> Found:
    found = Found()
    rest = iter(keys)
    while some := list(islice(rest, READ_KEYS_MAX)):
        piece = reader.read(some)
        found.packets.update(piece.packets)
        found.floors.update(piece.floors)
    return found


def _merge(seen: SeenPacket, known: Found, changed: dict[bytes, bytes], now_us: int) -> Outcome:
    """Apply the cache update rule; what wins goes to `known` and `changed`."""
    key = seen.packet.public_key
    record = known.packets.get(key.octets)
    if record is None:
        floor = known.floors.get(key.octets)
        holds = floor is not None and not is_over(floor.evicted_us, now_us)
        if floor is not None and holds and seen.packet.timestamp_us < floor.timestamp_us:
            return "older"
    else:
        held = records.decode(key, record)
        if merge(held, seen) is held:
            return "known" if held.packet == seen.packet else "older"
    known.packets[key.octets] = changed[key.octets] = records.encode(seen)
    return "stored"
