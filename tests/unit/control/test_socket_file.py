"""The control socket as a file."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.control import socket_file
from relay.control.socket_file import SOCKET_FILE, connect, listening
from relay.store.lock import LOCK_FILE, FolderLock


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def talks(folder: Path, listener: socket.socket) -> bool:
    with connect(folder, 5.0) as client:
        server, _ = listener.accept()
        with server:
            client.sendall(b"x")
            return server.recv(1) == b"x"


@pytest.mark.usefixtures("_open_umask")
def test_it_is_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    with listening(tmp_path) as listener:
        mode = (tmp_path / SOCKET_FILE).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert talks(tmp_path, listener)
        assert [path.name for path in tmp_path.iterdir()] == [SOCKET_FILE]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_open_umask")
def test_it_is_never_anybody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From `bind` on: where it appears is a folder that only we may enter, until it is private."""
    seen = []
    rename = Path.rename

    def look(path: Path, target: Path) -> Path:
        seen.append((stat.S_IMODE(path.parent.stat().st_mode), stat.S_IMODE(path.stat().st_mode)))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look)
    with listening(tmp_path):
        assert seen == [(0o700, 0o600)]


@pytest.mark.parametrize("letters", [60, 107, 108, 200, 900])
def test_a_folder_may_lie_deep(tmp_path: Path, letters: int) -> None:
    folder = tmp_path
    while len(os.fsencode(folder)) < letters:
        folder /= "d" * min(100, max(letters - len(os.fsencode(folder)) - 1, 1))
    folder.mkdir(parents=True, exist_ok=True)
    with listening(folder) as listener:
        assert talks(folder, listener)
        assert len(os.listdir(f"/proc/{os.getpid()}/fd")) < 100, "descriptors are closed"
    assert list(folder.iterdir()) == []


def test_what_a_killed_relay_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "pkarr-relay.sock.new").mkdir()
    for path in (tmp_path / SOCKET_FILE, tmp_path / "pkarr-relay.sock.new" / SOCKET_FILE):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path, 5.0)
    with listening(tmp_path) as listener:
        assert talks(tmp_path, listener)


def test_without_one_it_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(tmp_path, 5.0)
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / ("x" * 120), 5.0)


def test_a_folder_that_refuses_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), listening(tmp_path / "file"):
        pass


@pytest.fixture
def no_sockets_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that holds no sockets, as far as we can tell."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bind = socket_file._bind

    def refuse(listener: socket.socket, where: Path) -> None:
        if where.is_relative_to(folder):
            raise OSError(errno.EOPNOTSUPP, "no sockets here")
        bind(listener, where)

    monkeypatch.setattr(socket_file, "_bind", refuse)
    return folder


def test_where_the_folder_holds_no_sockets_a_link_leads_to_it(no_sockets_here: Path) -> None:
    lock = FolderLock.take(no_sockets_here)
    with listening(no_sockets_here) as listener:
        path = no_sockets_here / SOCKET_FILE
        target = path.resolve()
        assert path.is_symlink()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
        assert talks(no_sockets_here, listener)
    lock.release()
    assert [path.name for path in no_sockets_here.iterdir()] == [LOCK_FILE]
    assert [path.name for path in no_sockets_here.parent.iterdir()] == ["shared"]


def test_at_the_end_of_the_link_only_the_locks_holder_is_believed(no_sockets_here: Path) -> None:
    (no_sockets_here / LOCK_FILE).write_text(f"{os.getpid() + 1}\n")
    with listening(no_sockets_here), pytest.raises(ConnectionRefusedError):
        connect(no_sockets_here, 5.0)


def test_the_end_of_a_killed_relays_link_is_removed(no_sockets_here: Path) -> None:
    killed = no_sockets_here.parent / "pkarr-relay-x"
    killed.mkdir()
    (killed / SOCKET_FILE).touch()
    (no_sockets_here / SOCKET_FILE).symlink_to(killed / SOCKET_FILE)
    with listening(no_sockets_here) as listener:
        assert not killed.exists()
        (no_sockets_here / LOCK_FILE).write_text(f"{os.getpid()}\n")
        assert talks(no_sockets_here, listener)
