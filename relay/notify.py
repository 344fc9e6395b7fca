"""Tells whoever started the relay how it is: systemd's notification protocol, without its library.

A datagram of ``NAME=value`` lines goes to the Unix socket that ``NOTIFY_SOCKET`` names, a path or,
with ``@``, an abstract one. ``WATCHDOG_USEC`` says how often a sign of life is wanted. Nobody to
tell is as good as somebody: then nothing is sent.

What cannot be sent is no reason to end, and nobody waits for it for long.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5). Leaf module.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final, Self

import trio

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_log: Final = logging.getLogger("pkarr_relay")

SEND_S: Final = 1.0
"""How long one message may take; the socket's buffer is nearly always empty."""
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Where to send messages, and how often a sign of life.

    Args:
        address: of the socket, as ``NOTIFY_SOCKET`` gives it; None: there is nobody.
        watchdog_s: a relay that is silent for so long is ended and started anew; None: none is.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s: Final = watchdog_s if address is not None else None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self:
        """Return the one that `environ` names, and take the variables out of it.

        They are meant for this process: a child of ours must not speak for us.
        """
        address, usec, pid = (environ.pop(name, None) for name in _VARIABLES)
        if not address:
            return cls()
        if not address.startswith(("/", "@")):
            _log.warning("NOTIFY_SOCKET=%r is neither a path nor an abstract socket", address)
            return cls()
        meant = pid is None or pid == str(os.getpid())
        return cls(address, _seconds(usec) if usec and meant else None)

    async def tell(self, **state: str | int) -> None:
        """Send ``NAME=value`` lines, such as ``tell(READY=1, STATUS="Serving")``."""
        if self._address is None:
            return
        message = "\n".join(f"{name}={_one_line(str(value))}" for name, value in state.items())
        try:
            with (
                trio.fail_after(SEND_S),
                trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
            ):
                # Connected each time: systemd makes its socket anew when it is upgraded.
                await sock.connect(self._address.replace("@", "\0", 1).encode())
                await sock.send(message.encode())
        except (OSError, trio.TooSlowError) as error:
            _log.warning(
                "the service manager cannot be told: %s", str(error) or "it does not listen"
            )

    async def tell_reloading(self) -> None:
        """Say that a reload begins; ``READY=1`` ends it."""
        await self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def _seconds(usec: str) -> float | None:
    if not usec.isascii() or not usec.isdigit() or int(usec[:20]) == 0:
        _log.warning("WATCHDOG_USEC=%r is no number of microseconds", usec)
        return None
    return int(usec[:20]) / 1e6


def _one_line(text: str) -> str:
    return " ".join(text.split())
