"""A clock for deadlines of minutes: it leaps, and the test waits until the server has looked at it.

A busy machine may take seconds for anything, so what is to happen before a deadline and what after
it must lie much further apart than a test could sleep.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
import trio

from relay.http import connection, exchange, front, messages, requests, serve
from relay.http.deadlines import Deadlines
from relay.http.serve import HttpServer
from tests.integration.http_client import until

AGE_S: Final = 10_000.0
LONG_S: Final = 1e6
"""Far above every leap."""
AGED: Final = Deadlines(
    head_s=LONG_S, idle_s=LONG_S, write_s=LONG_S, age_s=AGE_S, drain_s=LONG_S, linger_s=5.0
)
"""Only the age can pass."""


class LeapingClock:
    """Stands in for `trio` in the modules that keep deadlines, and tells their time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        self._sweeps = 0
        check = HttpServer._check

        def counted(server: HttpServer, now: float) -> None:
            check(server, now)
            self._sweeps += 1

        for module in (connection, exchange, front, requests, serve):
            monkeypatch.setattr(module, "trio", self)
        for module in (front, messages):
            monkeypatch.setattr(module, "BODY_TIMEOUT_S", LONG_S)
        monkeypatch.setattr(serve, "SWEEP_S", 0.01)
        monkeypatch.setattr(HttpServer, "_check", counted)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def current_time(self) -> float:
        return trio.current_time() + self._ahead_s

    async def leap(self, seconds: float) -> None:
        """Go ahead so far; returns when all connections have been looked at since."""
        self._ahead_s += seconds
        wanted = self._sweeps + 2  # the first may have begun before, or be about to end
        await until(lambda: self._sweeps >= wanted)
