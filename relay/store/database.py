"""Opening the database file: ours, whole enough to work on, and private; or not at all.

What is in the place of the file is judged before a journal is replayed or a file made beside it.
A file that is not ours is never opened for writing. Nor is one ever opened without SQLite: to
close any descriptor of a file ends all the locks that the process has on it (POSIX), and then
another program, the last to leave as far as it can tell, folds the log away under our hands.
A new database is built under another name and renamed, so the file is there whole or not at all.
"""

import os
import sqlite3
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from relay.store.faults import as_faults, lasting
from relay.store.in_use import beside
from relay.store.new_file import sync_folder

DATABASE_FILE: Final = "pkarr-relay.sqlite3"
APPLICATION_ID: Final = 0x706B6172
"""``pkar``; at offset 68 of the file, so that ``file`` and others can tell what it is."""
SCHEMA_VERSION: Final = 1
_HEADER_BYTES: Final = 100
_BUSY_TIMEOUT_S: Final = 2.0
"""How long a person's ``sqlite3`` shell may hold the lock before we call it a fault."""
_PAGE_CACHE_KIB: Final = 8 * 1024
_CHECKPOINT_PAGES: Final = 2000
"""The log is copied into the file every 8 MiB: seldom, and soon replayed after a crash."""
_VALUE_BYTES_MAX: Final = 16 << 20
"""Of a value or row, ten times our largest: a spoiled length makes nobody allocate a gigabyte."""


@dataclass(frozen=True, slots=True)
class OpenDatabase:
    """A connection, and whether the file had to be made."""

    connection: sqlite3.Connection
    created: bool


class Connected:
    """Has a connection to a database file, and closes it when it is done."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection.

        The last to close also folds the log into the file; one opened for reading changes nothing
        on the disk.
        """
        with as_faults(self._path):
            self._connection.close()


def open_for_writing(path: Path) -> OpenDatabase:
    """Open the database at `path`, made if there is none, for the one writer.

    Every commit is on the disk when it returns: WAL with ``synchronous=FULL``.

    Raises:
        DatabaseFaultError: the file is not ours, damaged, or of a newer version.
        OSError: likewise sqlite3.Error, for `relay.store.faults.as_faults` to judge.
    """
    created = not _judge(path)
    if created:
        _create(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)  # SQLite gives the log and its index the mode of the database
    connection = _connect(path, "mode=rw")
    try:
        _set(connection, "synchronous=FULL")
        _set(connection, f"wal_autocheckpoint={_CHECKPOINT_PAGES}")
        _set(connection, f"journal_size_limit={_CHECKPOINT_PAGES * 4096}")
        _check_schema(path, connection)
        # A file that may not be written is opened all the same, to be read; find out now.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except BaseException:
        connection.close()
        raise
    return OpenDatabase(connection, created)


def open_for_reading(path: Path, *, alone: bool = False) -> tuple[sqlite3.Connection, bool]:
    """Open the database at `path` for a reader that never holds up the writer.

    Works on a read-only file system too, if nothing is left in the write-ahead log.

    Args:
        path: the file.
        alone: there is no writer, and none comes: leave nothing behind that was not there.

    Returns:
        The connection, and whether it is frozen: it does not see what others write.

    Raises:
        DatabaseFaultError: the file is not ours, damaged, or of a newer version.
        OSError: likewise sqlite3.Error, for `relay.store.faults.as_faults` to judge.
    """
    if not _judge(path):
        raise FileNotFoundError(2, "no such file", str(path))
    writable = os.access(path.parent, os.W_OK, effective_ids=True)
    # SQLite wants to make the log's index even for reading; `immutable` reads the file alone.
    frozen = (alone or not writable) and not _has_log(path)
    connection = _connect(path, "mode=ro&immutable=1" if frozen else "mode=ro")
    try:
        _set(connection, "query_only=ON")
        _check_schema(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection, frozen


def _connect(path: Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{options}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,  # transactions are begun and ended in plain sight
        check_same_thread=False,  # Trio picks a thread for each call; one call at a time
    )
    # The file may have been prepared by somebody else: no functions run from its schema, and
    # pages are checked as they are read.
    connection.text_factory = _text
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
    try:
        _set(connection, "trusted_schema=OFF")
        _set(connection, "cell_size_check=ON")
        _set(connection, f"cache_size=-{_PAGE_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def _text(octets: bytes) -> str:
    """Read text that may be spoiled: what is no UTF-8 is not what we wrote, and is seen to be."""
    return octets.decode("utf-8", "replace")


def _set(connection: sqlite3.Connection, pragma: str) -> None:
    connection.execute(f"PRAGMA {pragma}").fetchall()


def _judge(path: Path) -> bool:
    """Tell whether a database of ours is at `path`; False: nothing is there."""
    # The log is looked for first: where the writer makes the file meanwhile, the file is there
    # before its log, so a log without a file is never the writer's new one seen halfway.
    has_log = _has_log(path)
    size = path.stat().st_size if path.exists() else 0
    if not size:
        if has_log:  # SQLite would replay it into a new file
            raise lasting(path, "is missing, but its write-ahead log is there")
        return False
    if size < _HEADER_BYTES:
        raise lasting(path, "is not a SQLite database")
    application_id, version = _marks(path)
    if application_id != APPLICATION_ID:
        raise lasting(path, f"is a SQLite database of another program{_described(path)}")
    if version != SCHEMA_VERSION:
        raise lasting(
            path,
            f"has schema version {version}, of another release of pkarr-relay; "
            f"this one knows {SCHEMA_VERSION}",
        )
    return True


def _marks(path: Path) -> tuple[int, int]:
    """Return the application id and the schema version in a file's header."""
    connection = _frozen(path)
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.close()
    return application_id, version


def _frozen(path: Path) -> sqlite3.Connection:
    """Open a file as it is: not even a lock is taken, and no log is replayed."""
    return sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)


def _create(path: Path) -> None:
    draft = beside(path, "-new")
    draft.unlink(missing_ok=True)  # of a process that died here; the folder's lock is ours
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        connection = _connect(draft, "mode=rw")
        try:
            _set(connection, "auto_vacuum=INCREMENTAL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id={APPLICATION_ID}; "
                f"PRAGMA user_version={SCHEMA_VERSION}; {_schema()} COMMIT;"
            )
            _set(connection, "journal_mode=WAL")
        finally:
            connection.close()
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@cache
def _schema() -> str:
    return Path(__file__).with_name("schema.sql").read_text("utf-8")


@cache
def _expected_columns() -> frozenset[tuple[str, str, str, int]]:
    model = sqlite3.connect(":memory:")
    try:
        model.executescript(_schema())
        return _columns(model)
    finally:
        model.close()


def _columns(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str, int]]:
    return frozenset(
        connection.execute(
            "SELECT t.name, c.name, c.type, c.pk FROM sqlite_master AS t, "
            "pragma_table_info(t.name) AS c WHERE t.type = 'table'"
        )
    )


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    """Make sure that our tables are as we made them; others beside them are nobody's business."""
    triggers = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")
    if not _expected_columns() <= _columns(connection) or triggers.fetchone() != (0,):
        raise lasting(path, "has tables or triggers that are not as pkarr-relay made them")


def _described(path: Path) -> str:
    """Name the tables of a stranger's database, so that the operator recognises it."""
    from sqlite_utils import Database  # slow to import, and hardly ever needed

    connection = _frozen(path)
    try:
        names = Database(connection, execute_plugins=False).table_names()
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # the latter: of what SQLite says
        return ", damaged"
    finally:
        connection.close()
    return f" (tables: {', '.join(sorted(names)[:5])})" if names else ""


def _has_log(path: Path) -> bool:
    try:
        return beside(path, "-wal").stat().st_size > 0
    except FileNotFoundError:
        return False
