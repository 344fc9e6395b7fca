"""The socket as a file: private from its first moment, and in folders of any depth.

A Unix socket's address holds 107 bytes of path, and a cache folder may lie deeper. So the folder
is opened, and the socket is reached through the descriptor: ``/proc/self/fd/N/NAME`` is short
whatever the folder is called.

The socket is bound inside a folder that only we may enter, given its mode there, and renamed
into its place: nobody can connect before the mode is right, whatever the umask, and the socket
of a relay that was killed is replaced in the same step. Whoever does that must hold the cache
folder's lock.

Some file systems hold no sockets, such as those through which Docker Desktop shares folders. Then
the socket lies in a folder of its own under the system's temporary folder, and a link leads to it;
who follows the link makes sure that it is the lock's holder who listens there.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from relay.store.lock import LOCK_FILE

SOCKET_FILE: Final = "pkarr-relay.sock"
_DRAFT_FOLDER: Final = "pkarr-relay.sock.new"
_BACKLOG: Final = 64
_POLL_S: Final = 0.02
_PATH_BYTES_MAX: Final = 107
_NO_SOCKETS: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say that hold no sockets, or let none have a mode."""
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group: `ucred` in unix(7)."""


@contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """Listen in `folder`, whose lock the caller holds; the file goes with the block.

    Raises:
        OSError: the socket cannot be made.
    """
    draft = folder / _DRAFT_FOLDER
    _remove(draft)  # of a relay that was killed just then
    if (folder / SOCKET_FILE).is_symlink():  # likewise, while it served
        _remove((folder / SOCKET_FILE).readlink().parent)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        draft.mkdir(mode=0o700)
        try:
            try:
                _bind(listener, draft)
            except OSError as error:
                if error.errno not in _NO_SOCKETS:
                    raise
                elsewhere = Path(tempfile.mkdtemp(prefix="pkarr-relay-"))  # 0700
                stack.callback(_remove, elsewhere)
                _bind(listener, elsewhere)
                (draft / SOCKET_FILE).symlink_to(elsewhere / SOCKET_FILE)
            listener.listen(_BACKLOG)
            (draft / SOCKET_FILE).rename(folder / SOCKET_FILE)
        finally:
            _remove(draft)
        try:
            yield listener
        finally:
            with suppress(OSError):  # an unwritable folder keeps it; nobody listens any more
                (folder / SOCKET_FILE).unlink()


def _bind(listener: socket.socket, folder: Path) -> None:
    """Bind in a folder that only we may enter; let only us connect before it is moved."""
    with _short(folder / SOCKET_FILE) as address:
        listener.bind(address)
    (folder / SOCKET_FILE).chmod(0o600)


def _remove(private: Path) -> None:
    with suppress(OSError):
        (private / SOCKET_FILE).unlink(missing_ok=True)
        private.rmdir()


def connect(folder: Path, timeout_s: float) -> socket.socket:
    """Connect to the relay that listens in `folder`; every later wait is bounded likewise.

    Raises:
        OSError: FileNotFoundError and ConnectionRefusedError where none listens.
    """
    deadline = time.monotonic() + timeout_s
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout_s)
        with _short(folder / SOCKET_FILE) as address:
            while not _connected(client, address):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                time.sleep(_POLL_S)
        if (folder / SOCKET_FILE).is_symlink() and not _is_holder(client, folder):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        client.close()
        raise
    return client


def _is_holder(client: socket.socket, folder: Path) -> bool:
    """Tell whether the process that holds the folder's lock is at the other end."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, _, _ = _CREDENTIALS.unpack(credentials)
    return (folder / LOCK_FILE).read_text("ascii", "replace").strip() == str(process)


def _connected(client: socket.socket, address: str) -> bool:
    """Connect; False if so many wait already that the kernel lets nobody else wait."""
    try:
        client.connect(address)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give `path` an address that fits, good for the length of the block."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
