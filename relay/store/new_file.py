"""A file that appears under its name only when it is whole and on the disk.

It is written under another name in the same folder, made by us and private, then given its own.
What a process that was killed has left there is removed by the next one that writes there.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.store.lock import LOCK_FILE

_PREFIX: Final = ".pkarr-relay-"
_SUFFIX: Final = ".partial"
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say."""
_OF_A_CACHE: Final = re.compile(
    r"pkarr-relay\.(lock|sock(\.new)?|sqlite3(-(wal|shm|new|journal))?)"
)
"""Files that a relay, and SQLite, keep in a cache folder, which is known by the lock in it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that has no name of its own yet: where it lies, and an open descriptor of it."""

    path: Path
    descriptor: int


@contextlib.contextmanager
def new_file(target: Path, *, replace: bool) -> Iterator[Draft]:
    """Write `target` in the block: it is there, mode 0600, after the block, or not at all.

    Args:
        target: what it is to be called.
        replace: take the place of a file that is there.

    Raises:
        FileExistsError: `target` is there and is not to be replaced; told before the block
            and, should it have come meanwhile, after it.
        OSError: whatever else the file system has against it; or `target` is a file of a cache,
            or something other than a file.
    """
    _check(target)
    if not replace and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))
    _remove_remains(target.parent)
    draft = _make(target.parent)
    try:
        yield draft
        os.fsync(draft.descriptor)
        _check(target)
        _give_name(draft.path, target, replace=replace)
        sync_folder(target.parent)
    finally:
        draft.path.unlink(missing_ok=True)
        os.close(draft.descriptor)


def told(target: Path, error: OSError) -> str:
    """Say why `new_file` did not make `target`."""
    if isinstance(error, FileExistsError):
        return f"{target} is there already; --force replaces it"
    return f"{target} cannot be written: {error.strerror}"


def sync_folder(folder: Path) -> None:
    """Bring to the disk which names are in `folder`: a file's own fsync does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(target: Path) -> None:
    """Refuse what nobody means to replace, whatever was said: devices, pipes, links, caches."""
    if _OF_A_CACHE.fullmatch(target.name) and os.path.lexists(target.parent / LOCK_FILE):
        raise OSError(errno.EINVAL, "it is a file of a relay's cache", os.fspath(target))
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "what is there is no regular file", os.fspath(target))


def _make(folder: Path) -> Draft:
    while True:
        path = folder / f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that its writer lives; see below
        # Between the two calls it may have been taken for remains.
        if os.path.lexists(path):
            return Draft(path, descriptor)
        os.close(descriptor)


def _remove_remains(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # somebody else's, or gone: not our business
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _give_name(draft: Path, target: Path, *, replace: bool) -> None:
    if replace:
        draft.rename(target)
        return
    try:
        os.link(draft, target)  # unlike a rename it leaves a file that came meanwhile alone
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        draft.rename(target)
