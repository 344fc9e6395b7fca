"""One relay for one folder: a lock that the kernel gives up when its holder dies."""

import fcntl
import os
from pathlib import Path
from typing import Final, Self

from relay.errors import StoreError

LOCK_FILE: Final = "pkarr-relay.lock"


class FolderTakenError(StoreError):
    """Another process has the folder."""


class FolderLock:
    """Holds `folder` until `release`, or until the process ends in whatever way.

    The file stays when the lock is gone; it names the last holder's process.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, folder: Path) -> Self:
        """Lock `folder`, which must exist.

        Raises:
            FolderTakenError: another relay holds it.
            OSError: the lock file cannot be made or opened.
        """
        # Root may be the one who takes it, in a folder that another user writes to.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        path = folder / LOCK_FILE
        descriptor = os.open(path, flags, 0o600)
        try:
            # Not fcntl.lockf: a POSIX lock would be lost as soon as any other code of this
            # process closed the file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f" (process {holder})" if holder.isdigit() else ""
            raise FolderTakenError(
                f"another relay{by} is using the cache folder {folder}"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    @property
    def holds(self) -> bool:
        """Whether it is still the folder's lock: its file was not removed or replaced.

        Raises:
            OSError: the folder cannot be looked at.
        """
        if self._descriptor is None:
            return False
        try:
            there = self._path.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(os.fstat(self._descriptor), there)

    def release(self) -> None:
        """Give the folder up; again and again if you like."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
