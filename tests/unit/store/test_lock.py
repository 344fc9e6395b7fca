"""The folder's lock."""

import os
import re

import pytest

from relay.errors import StoreError
from relay.store.lock import LOCK_FILE, FolderLock


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path):
    lock = FolderLock.take(tmp_path)
    with pytest.raises(StoreError, match=re.escape(f"(process {os.getpid()})")) as refusal:
        FolderLock.take(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    lock.release()
    lock.release()
    FolderLock.take(tmp_path).release()


def test_the_lock_file_is_private_and_a_strange_one_is_no_trouble(tmp_path):
    (tmp_path / LOCK_FILE).write_bytes(b"\xff" * 100)
    lock = FolderLock.take(tmp_path)
    assert (tmp_path / LOCK_FILE).read_bytes() == b"%d\n" % os.getpid()
    (tmp_path / LOCK_FILE).write_bytes(b"nobody")
    with pytest.raises(StoreError, match="another relay is using"):
        FolderLock.take(tmp_path)
    lock.release()


def test_a_new_lock_file_is_private(tmp_path):
    FolderLock.take(tmp_path).release()
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_the_callers_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FolderLock.take(tmp_path / "missing")
