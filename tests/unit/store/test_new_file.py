"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from relay.control.socket_file import SOCKET_FILE
from relay.store.database import DATABASE_FILE
from relay.store.in_use import SUFFIXES
from relay.store.lock import LOCK_FILE
from relay.store.new_file import new_file, told


def write(target: Path, text: str, *, replace: bool = False) -> None:
    with new_file(target, replace=replace) as draft:
        os.write(draft.descriptor, text.encode())
        assert draft.path.parent == target.parent


def test_it_is_there_afterwards_and_private(tmp_path: Path) -> None:
    with new_file(tmp_path / "file", replace=False) as draft:
        os.write(draft.descriptor, b"text")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_text() == "text"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_there_stays_unless_asked_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "file", "old")
    with pytest.raises(FileExistsError) as caught:
        write(tmp_path / "file", "new")
    assert "--force" in told(tmp_path / "file", caught.value)
    assert (tmp_path / "file").read_text() == "old"
    write(tmp_path / "file", "new", replace=True)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
@pytest.mark.parametrize("replace", [True, False])
def test_only_a_file_is_replaced(tmp_path: Path, kind: str, replace: bool) -> None:
    target = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("/dev/null" if kind == "link" else "nowhere")
    before = target.lstat()
    with pytest.raises(OSError, match="regular") as caught:
        write(target, "new", replace=replace)
    assert told(target, caught.value) == (
        f"{target} cannot be written: what is there is no regular file"
    )
    assert os.path.samestat(before, target.lstat())
    assert not list(target.parent.glob(".pkarr-relay-*"))


def test_a_pipe_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="regular"),
        new_file(tmp_path / "target", replace=True),
    ):
        os.mkfifo(tmp_path / "target")
    assert (tmp_path / "target").is_fifo()


@pytest.mark.parametrize("there", [True, False])
def test_files_of_a_cache_are_not_replaced(tmp_path: Path, there: bool) -> None:
    names = {LOCK_FILE, SOCKET_FILE, *(DATABASE_FILE + suffix for suffix in SUFFIXES)}
    for name in names - {LOCK_FILE}:
        write(tmp_path / name, "somebody's, in a folder that is no cache's")
        if not there:
            (tmp_path / name).unlink()
    (tmp_path / LOCK_FILE).touch()
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    for name in names:
        with pytest.raises(OSError, match="cache") as caught:
            write(tmp_path / name, "new", replace=True)
        assert told(tmp_path / name, caught.value).endswith("it is a file of a relay's cache")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    write(tmp_path / f"{DATABASE_FILE}.copy", "new")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_meanwhile_stays(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileExistsError), new_file(tmp_path / "file", replace=False):
        (tmp_path / "file").write_text("other")
    assert (tmp_path / "file").read_text() == "other"
    write(tmp_path / "second", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "second"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "file", replace=False):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_remains_of_the_dead_go_and_drafts_of_the_living_stay(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".pkarr-relay-1.partial", tmp_path / ".pkarr-relay-2.partial"
    mine = tmp_path / "pkarr-relay-3.partial"
    for path in (dead, alive, mine):
        path.write_text("half")
    with alive.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(tmp_path / "file", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "file", mine.name]


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with new_file(tmp_path / "a", replace=False), new_file(tmp_path / "b", replace=False):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    target = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        write(target, "text")
    assert told(target, caught.value) == f"{target} cannot be written: No such file or directory"


@pytest.mark.parametrize("replace", [True, False])
def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_is_too(
    tmp_path: Path, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        named = "named" if (tmp_path / "file").exists() else "unnamed"
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"{kind} {named}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write(tmp_path / "file", "text", replace=replace)
    assert steps == ["file unnamed", "folder named"]
