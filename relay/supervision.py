"""Looks after a running relay: what the service manager hears of it, and what the log.

Every `TICK_S` it asks how the relay is. A service manager with a watchdog gets its sign of life
from here, that is from the event loop, and only while requests can really be served: a relay
that hangs, or whose front lane does, falls silent and is started anew. Its status line, and
changes of the relay's health that last, are told from here, too.

Source: sd_notify(3); issue 5, section 1.
"""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from relay.logs import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.http.serve import HttpServer
    from relay.notify import ServiceManager
    from relay.service import Health, RelayService

_log: Final = logging.getLogger("pkarr_relay")

TICK_S: Final = 1.0
SETTLED_S: Final = 5.0
"""A trouble that passes sooner is not worth a line; at the start there always is one."""
_TICKS_IN_WATCHDOG: Final = 8


@dataclass(slots=True)
class _Condition:
    """How the relay was found, and since when."""

    health: Health
    since: float
    told: bool = False


class Supervisor:
    """Watches one relay; `run` it beside what serves.

    Args:
        manager: who hears of it.
        service: says whether it serves, and what is wrong.
        http: says whether its lanes turn.
        status: one sentence for people.
    """

    def __init__(
        self,
        manager: ServiceManager,
        service: RelayService,
        http: HttpServer,
        status: Callable[[], str],
    ) -> None:
        self._manager = manager
        self._service = service
        self._http = http
        self._status = status
        self._told_status = ""
        self._stuck = False
        self._well = True
        """Whether the log's last word on the relay's health was a good one."""

    async def ready(self) -> None:
        """Say that requests are served (again)."""
        self._told_status = self._status()
        await self._manager.tell(READY=1, STATUS=self._told_status)

    async def run(self) -> None:
        """Watch until cancelled."""
        watchdog_s = self._manager.watchdog_s
        tick_s = TICK_S if watchdog_s is None else min(TICK_S, watchdog_s / _TICKS_IN_WATCHDOG)
        ping_due = trio.current_time()
        condition = _Condition(self._service.health(), ping_due)
        while True:
            now = trio.current_time()
            if watchdog_s is not None and now >= ping_due and self._able():
                ping_due = now + watchdog_s / 2 - tick_s
                await self._manager.tell(WATCHDOG=1)
            condition = self._note_health(condition, now)
            await self._tell_status()
            await trio.sleep(tick_s)

    def _able(self) -> bool:
        """Whether requests are served; a trouble that lasts is told once."""
        turning = self._http.turning()
        if not turning and not self._stuck:
            _log.error("the front lane does not do its work; the watchdog is not answered")
        elif turning and self._stuck:
            _log.warning("the front lane does its work again")
        self._stuck = not turning
        return turning and self._service.serving

    def _note_health(self, condition: _Condition, now: float) -> _Condition:
        health = self._service.health()
        if health != condition.health:
            return _Condition(health, now)
        if now - condition.since >= SETTLED_S and not condition.told:
            condition.told = True
            well = health.status == "ok"
            if not well:
                _log.warning("health: %s", health.status, extra=fields(**health.parts))
            elif not self._well:
                _log.info("health: ok")
            self._well = well
        return condition

    async def _tell_status(self) -> None:
        status = self._status()
        if status != self._told_status:
            self._told_status = status
            await self._manager.tell(STATUS=status)


class Terminal:
    """The terminal that the relay was started from, if it was.

    SIGHUP means two things: to reload, and that the terminal is gone. What is left of a relay
    whose terminal has gone, nobody would see; so that ends it, unless it was told (nohup) to
    live on.
    """

    def __init__(self) -> None:
        told_to_stay = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._had_one = not told_to_stay and _has_terminal()

    def is_gone(self) -> bool:
        """Tell whether there was one and is none any more."""
        return self._had_one and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
