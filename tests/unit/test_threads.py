"""What blocks, in threads: what is wanted and cannot be had just now."""

from __future__ import annotations

import errno
import importlib
from types import ModuleType

import pytest

from relay import threads


@pytest.mark.parametrize(
    "want",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system"),
        ImportError("_ssl.so: cannot open shared object file: Too many open files"),
    ],
)
async def test_an_import_waits_for_descriptors(monkeypatch, autojump_clock, want):
    left = [want, want]

    def import_module(name: str) -> ModuleType:
        if left:
            raise left.pop()
        return importlib.import_module(name)

    monkeypatch.setattr(threads, "import_module", import_module)
    assert await threads.imported("json") is importlib.import_module("json")
    assert left == []


async def test_a_module_that_is_not_there_is_not_waited_for():
    with pytest.raises(ModuleNotFoundError, match="nothing_like_it"):
        await threads.imported("nothing_like_it")
