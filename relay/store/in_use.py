"""Whether the files that are open are still those in the folder.

A file that was removed, replaced, or that another program folded away is written to all the same:
the kernel keeps what has no name until it is closed. Whoever believes such a commit loses it. So
the files are known by their numbers (device and inode), looked at after each commit and now and
then. https://www.sqlite.org/howtocorrupt.html, section 4.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from relay.store.faults import DatabaseFaultError, FilesLostError, lasting

SUFFIXES: Final = ("", "-wal", "-shm")
"""What SQLite keeps under a database's name: the file, the write-ahead log, the log's index."""

Number = tuple[int, int] | None
"""Device and inode; None: there is no such file."""


def beside(path: Path, suffix: str) -> Path:
    """Return the path of what SQLite keeps under the database's name and a suffix."""
    return path.with_name(path.name + suffix)


def number_of(path: Path) -> Number:
    """Return what tells a file from all others.

    Raises:
        OSError: it cannot be looked at; that there is none is no error.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def state_of(path: Path) -> object:
    """Return something that changes when the files at `path` do, in whatever way."""
    found: list[object] = []
    for suffix in SUFFIXES[:2]:
        try:
            status = beside(path, suffix).stat()
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError as error:
            found.append(error.errno)
    return found


class FilesInUse:
    """The files of one open database, as they were when it was opened."""

    def __init__(self, path: Path) -> None:
        # Paths are made once: a new one for each look would have Python intern its name and
        # forget it again, and after many that costs a new table of all interned strings, 2 MB.
        self._path = path
        files = [path, *(beside(path, suffix) for suffix in SUFFIXES[1:])]
        self._numbers = {file: number_of(file) for file in files}

    @property
    def replaced(self) -> bool:
        """Whether another file has the database's name."""
        return number_of(self._path) not in (None, self._numbers[self._path])

    def check(self) -> None:
        """Make sure that the files open are those that others will find.

        Raises:
            FilesLostError: they are not.
            OSError: they cannot be looked at.
        """
        for path, number in self._numbers.items():
            if number is None:
                continue
            now = number_of(path)
            if now != number:
                what = "removed" if now is None else "replaced"
                raise FilesLostError(f"{path} was {what} while it was in use")

    def check_size(self, database_bytes: int, before: int) -> int:
        """Make sure that the file was not cut short, unless by as much as the database shrank.

        Args:
            database_bytes: how large the database is; some of it may be in the log alone.
            before: how large the file was when it was looked at last.

        Returns:
            How large the file is.

        Raises:
            DatabaseFaultError: it was cut short.
        """
        now = self._path.stat().st_size
        if now < min(database_bytes, before):
            raise lasting(self._path, "was cut short while it was in use")
        return now

    def remove_leftovers(self) -> None:
        """Remove the log whose database has gone: SQLite would apply it to the next one.

        Call it when no connection is open.
        """
        if number_of(self._path) == self._numbers[self._path]:
            return
        for path, number in self._numbers.items():
            if path != self._path and number is not None and number_of(path) == number:
                with suppress(FileNotFoundError):
                    path.unlink()


def check_writable(folder: Path) -> None:
    """Make sure that the file system still takes writes, without one.

    Raises:
        DatabaseFaultError: it is read-only now.
        OSError: it cannot be asked.
    """
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise DatabaseFaultError(f"{folder} may not be written: it is read-only", heals=True)
