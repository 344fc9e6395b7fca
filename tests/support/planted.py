"""The relay with a defect planted in it, to show that what should find such a one does.

python -m tests.support.planted DEFECT PYTHON -m relay ...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from relay.cli import main
from relay.store import records
from relay.store.found import Found
from relay.store.packets import Changes, PacketCache
from relay.store.worker import PacketStore

SLOW_COMMIT_S: Final = 0.1
"""So long that kills come before it as often as after it."""


def acknowledge_before_the_commit() -> None:
    """Let nobody wait for the disk."""
    commit = PacketCache.commit

    def slow(self: PacketCache, changes: Changes, now_us: int) -> Found:
        time.sleep(SLOW_COMMIT_S)
        return commit(self, changes, now_us)

    async def put_if_newer(self: PacketStore, seen: Any) -> Any:
        return self._memory.merge(seen)

    PacketCache.commit = slow  # type: ignore[method-assign]
    PacketStore.put_if_newer = put_if_newer  # type: ignore[method-assign]


def commit_nothing() -> None:
    """Take each group for written that was rolled back."""

    def commit(self: PacketCache, changes: Changes, now_us: int) -> Found:
        return Found()

    PacketCache.commit = commit  # type: ignore[method-assign]


def forget_floors() -> None:
    """Evict without a trace."""
    add_floors = PacketCache._add_floors

    def nothing(self: PacketCache, rows: Any, now_us: int) -> None:
        add_floors(self, [records.floor_row(key, 0, now_us) for key, *_ in rows], now_us)

    PacketCache._add_floors = nothing  # type: ignore[method-assign]


DEFECTS: Final[dict[str, Callable[[], None]]] = {
    "acknowledges before the commit": acknowledge_before_the_commit,
    "commits nothing": commit_nothing,
    "forgets floors": forget_floors,
}


if __name__ == "__main__":
    DEFECTS[sys.argv[1]]()
    del sys.argv[1:5]  # DEFECT PYTHON -m relay
    main_code = main(sys.argv[1:])
    sys.exit(main_code)
