"""The cache of a relay that does not run, for the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from relay.clock import wall_clock_us
from relay.control.access import Bad
from relay.store.inspection import Inspector
from relay.store.offline import OfflineStore
from relay.store.verified import verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from relay.control.access import Batch
    from relay.pkarr.keys import PublicKey
    from relay.store.inspection import Rows
    from relay.store.offline import Outcome


class LocalCache:
    """Holds the folder's lock; see `relay.control.access.CacheAccess` and `OfflineStore`."""

    def __init__(self, folder: Path, capacity: int, *, create: bool) -> None:
        self._store = OfflineStore(folder, capacity, create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()

    def backup(self, target: Path, *, force: bool) -> int:
        """Copy the database to a new file."""
        with Inspector(self._store.path, alone=True) as inspector:
            return inspector.copy_to(target, replace=force)

    def integrity(self, *, quick: bool) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        with Inspector(self._store.path, alone=True) as inspector:
            return inspector.integrity(quick=quick)

    def rows(self, table: str) -> Iterator[Rows]:
        """Deliver all rows of a table."""
        with Inspector(self._store.path, alone=True) as inspector:
            yield from inspector.rows(table)

    def take_in(self, batches: Iterable[Batch]) -> Iterator[list[Outcome | Bad]]:
        """Verify and store batches of packets."""
        for batch in batches:
            now_us = wall_clock_us()
            judged = verified(batch, now_us)
            good = [packet for packet in judged if not isinstance(packet, str)]
            outcomes = iter(self._store.take_in(good, now_us))
            yield [Bad(packet) if isinstance(packet, str) else next(outcomes) for packet in judged]

    def purge(self, key: PublicKey) -> int | None:
        """Remove a packet."""
        seen = self._store.purge(key, wall_clock_us())
        return None if seen is None else seen.packet.timestamp_us
