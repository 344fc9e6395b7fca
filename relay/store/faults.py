"""What can be wrong with the database, said so that an operator knows what to do.

SQLite's result codes are grouped by what follows from them: whether trying again later can
help. https://www.sqlite.org/rescode.html
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from relay.errors import StoreError


class DatabaseFaultError(StoreError):
    """The database cannot be used just now; never leaves the store.

    `heals` tells whether trying again later can help: a disk may get room again, a damaged
    file stays damaged.
    """

    def __init__(self, reason: str, *, heals: bool) -> None:
        super().__init__(reason)
        self.heals = heals


class FilesLostError(DatabaseFaultError):
    """The open files are no longer those in the folder: what is written to them is lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, heals=True)


_HEALING: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
    sqlite3.SQLITE_READONLY: "it may not be written",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_AUTH: "access is denied",
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_PROTOCOL: "another program keeps it locked",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
    sqlite3.SQLITE_SCHEMA: "another program changed its schema",
    sqlite3.SQLITE_ERROR: "another program changed its schema",
}
_LASTING: Final = {
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_CONSTRAINT: "is damaged",  # no statement of ours can break a constraint
    sqlite3.SQLITE_TOOBIG: "is damaged",  # nothing of ours is as long as what was found
}


def lasting(path: Path, what: str) -> DatabaseFaultError:
    """Return a fault that only the operator can end; `what` follows the path: ``is damaged``."""
    return DatabaseFaultError(f"{path} {what}; nothing in it is changed", heals=False)


@contextmanager
def as_faults(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say about `path` into `DatabaseFaultError`.

    Mistakes of ours (a closed connection, a wrong argument) pass through: they should end
    the program.
    """
    try:
        yield
    except OSError as error:
        raise DatabaseFaultError(f"{path} cannot be used: {error.strerror}", heals=True) from error
    except MemoryError as error:  # in the place of an error with SQLITE_NOMEM
        reason = _HEALING[sqlite3.SQLITE_NOMEM]
        raise DatabaseFaultError(f"{path}: {reason}", heals=True) from error
    except UnicodeDecodeError as error:
        # SQLite quotes what is wrong with a schema, and what is wrong need not be text.
        raise lasting(path, f"is damaged ({error.object.decode('utf-8', 'replace')})") from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            raise
        primary = code & 0xFF  # the upper bits refine it
        if primary in _LASTING:
            raise lasting(path, f"{_LASTING[primary]} ({error})") from error
        if primary not in _HEALING:
            raise
        raise DatabaseFaultError(f"{path}: {_HEALING[primary]} ({error})", heals=True) from error
