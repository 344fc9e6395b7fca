"""A stand-in for systemd: hears what a service tells of itself, on a socket of its own."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

HEAR_S: Final = 30.0
MESSAGE_BYTES_MAX: Final = 65_536


class ServiceManager:
    """Listens on a path in `folder`, or on an abstract address if `folder` is None."""

    def __init__(self, folder: Path | None = None) -> None:
        self.address = (
            f"@pkarr-relay-test-{secrets.token_hex(8)}"
            if folder is None
            else str(folder / "notify")
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1))

    def environment(self, watchdog_s: float | None = None) -> tuple[str, ...]:
        """Return the start of a command that runs another one as a service of ours."""
        wanted = () if watchdog_s is None else (f"WATCHDOG_USEC={round(watchdog_s * 1e6)}",)
        return ("env", f"NOTIFY_SOCKET={self.address}", *wanted)

    def hear(self, timeout_s: float = HEAR_S) -> dict[str, str]:
        """Return the next message, or an empty one after `timeout_s`."""
        self._socket.settimeout(timeout_s)
        try:
            text = self._socket.recv(MESSAGE_BYTES_MAX).decode()
        except TimeoutError:
            return {}
        return dict(line.split("=", 1) for line in text.splitlines())

    def hear_of(self, name: str, timeout_s: float = HEAR_S) -> dict[str, str]:
        """Return the next message that has `name` in it, or an empty one after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self.hear(left)
            if name in message:
                return message
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
