"""The thread in which a connection to the database is used: one call at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from relay.store.faults import DatabaseFaultError
from relay.threads import NoThreadError, in_thread

T = TypeVar("T")
SLOW_S: Final = 2.0
"""A call that takes longer is worth telling: the disk may never answer."""


class DiskThread:
    """Runs what blocks, one call after the other.

    Calls are not abandoned when cancelled: a commit under way is waited for, so that what is known
    of the disk stays true.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(1)
        self._under_way: list[float] = []  # since when, the oldest first

    @property
    def slow(self) -> str | None:
        """What is wrong, if a call has been under way for more than `SLOW_S`."""
        if not self._under_way or trio.current_time() - self._under_way[0] <= SLOW_S:
            return None
        return f"{self._path}: the disk has not answered for more than {SLOW_S:g} s"

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Call `work` in a thread.

        Raises:
            DatabaseFaultError: no thread can be had; `work` was not called.
        """
        began = trio.current_time()
        self._under_way.append(began)
        try:
            return await in_thread(work, *arguments, limiter=self._limiter)
        except NoThreadError as error:
            raise DatabaseFaultError(
                f"{self._path} cannot be used: no thread can be started ({error.strerror})",
                heals=True,
            ) from error
        finally:
            self._under_way.remove(began)
