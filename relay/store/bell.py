"""Waking a task that works off whatever has come up meanwhile."""

import trio


class Bell:
    """One task hears, anybody rings. Rings that come while it is not listening are one ring."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake the task, now or as soon as it listens."""
        self._rung.set()

    async def heard(self) -> None:
        """Wait until it has rung since the last time."""
        await self._rung.wait()
        self._rung = trio.Event()
