"""Calls that block, in threads; where none can be had, that is said like any other want.

Leaf module.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from importlib import import_module, invalidate_caches
from types import ModuleType
from typing import Final, TypeVar

import trio

T = TypeVar("T")
RETRY_S: Final = 0.5


class NoThreadError(OSError):
    """The system lets us have no thread just now: EAGAIN, as pthread_create(3) says it."""


async def in_thread(
    work: Callable[..., T],
    *arguments: object,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Call `work` in a thread, as `trio.to_thread.run_sync` does.

    Args:
        work: what blocks.
        arguments: for it.
        limiter: how many threads there may be at once; None: Trio's own.
        abandon_on_cancel: do not wait for it when cancelled; only for what may go on unheeded.

    Raises:
        NoThreadError: no thread can be started. Others may go on; trying again may help.
    """
    began = False

    def begin() -> T:
        nonlocal began
        began = True
        return work(*arguments)

    try:
        return await trio.to_thread.run_sync(
            begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel
        )
    except RuntimeError as error:
        if began:
            raise
        raise NoThreadError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


async def imported(name: str) -> ModuleType:
    """Import a module that takes long, in a thread if one can be had; others go on meanwhile.

    Where no file can be opened just now it waits until one can.
    """
    while True:
        try:
            try:
                return await in_thread(import_module, name)
            except NoThreadError:
                return import_module(name)
        except (OSError, ImportError) as error:
            if not _is_want_of_descriptors(error):
                raise
            invalidate_caches()  # a folder that could not be read may be remembered as empty
        await trio.sleep(RETRY_S)


def _is_want_of_descriptors(error: OSError | ImportError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return os.strerror(errno.EMFILE) in str(error)  # so says dlopen(3) of a compiled module
