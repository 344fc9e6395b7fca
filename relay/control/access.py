"""What the commands ask of a cache, whether a relay runs on it or not.

`open_cache` finds out: if a relay listens on the control socket it is asked
(`relay.control.remote`), else the file is opened, under the folder's lock (`relay.control.local`).
All calls block.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from relay.control.frames import FrameError
from relay.control.socket_file import SOCKET_FILE, connect
from relay.errors import CommandError
from relay.store.lock import FolderTakenError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from relay.pkarr.keys import PublicKey
    from relay.store.inspection import Rows
    from relay.store.offline import Outcome

STARTING_S: Final = 10.0
"""A relay that has the folder may be about to listen, or about to end."""
_POLL_S: Final = 0.05
SILENCE_S: Final = 60.0
"""A relay says every five seconds that it is at work."""

Batch: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Keys and records, as `relay.store.records` has them."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A packet that was refused."""

    reason: str


class CacheAccess(Protocol):
    """A cache, as an operator sees it.

    All methods raise `StoreError` or `CommandError` for what cannot be done.
    """

    def backup(self, target: Path, *, force: bool) -> int:
        """Copy the database to a new file, an absolute path; return its size in bytes."""
        ...

    def integrity(self, *, quick: bool) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        ...

    def rows(self, table: str) -> Iterator[Rows]:
        """Deliver all rows of a table, see `relay.store.inspection`."""
        ...

    def take_in(self, batches: Iterable[Batch]) -> Iterator[list[Outcome | Bad]]:
        """Verify and store batches of 1 to `BATCH_PACKETS_MAX` packets; say what became of them.

        When that is said the batch is on the disk. The next batch may have been asked for.
        """
        ...

    def purge(self, key: PublicKey) -> int | None:
        """Remove a packet; return its timestamp in microseconds, None if it was not there."""
        ...


@contextmanager
def open_cache(folder: Path, capacity: int, *, create: bool = False) -> Iterator[CacheAccess]:
    """Open the cache in `folder`, through the relay that uses it or, if there is none, alone.

    Args:
        folder: the cache folder.
        capacity: how many packets its relay keeps.
        create: make the folder and the database if there are none.

    Raises:
        CommandError: the folder is taken by somebody who does not answer.
        StoreError: there is no database, or it cannot be used.
    """
    with _opened(folder, capacity, create=create) as access:
        try:
            yield access
        except FrameError as error:
            raise CommandError(f"the relay is not of this release: {error}") from error


def _opened(folder: Path, capacity: int, *, create: bool) -> AbstractContextManager[CacheAccess]:
    from relay.control.local import LocalCache
    from relay.control.remote import RemoteCache

    deadline = time.monotonic() + STARTING_S
    while True:
        try:
            return RemoteCache(folder, connect(folder, SILENCE_S))
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # nobody listens: none runs, or it is about to
        except OSError as error:
            raise CommandError(f"{folder / SOCKET_FILE}: {error.strerror}") from error
        try:
            return LocalCache(folder, capacity, create=create)
        except FolderTakenError as error:
            if time.monotonic() > deadline:
                raise CommandError(f"{error}, and nobody answers on its {SOCKET_FILE}") from None
        time.sleep(_POLL_S)
