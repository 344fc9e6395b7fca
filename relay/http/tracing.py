"""What the log says of a request: one line at debug, and the id that all its lines bear.

The id is our own, unless the request came through a trusted proxy that has given it one: then
the proxy's log and ours tell of it by the same name. It is made only when something is logged.
Answers do not carry it: they are the reference's, byte for byte.
"""

from __future__ import annotations

import logging
import re
import secrets
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Final

from relay import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.http.clients import Client, ClientRules
    from relay.http.messages import Request
    from relay.http.routes import Route

_log: Final = logging.getLogger("pkarr_relay.http")

_GIVEN: Final = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
"""What an id of a proxy may be; anything else is not repeated."""
_PROCESS: Final = secrets.token_hex(4)
"""Before each number, so that ids of different runs differ."""
_numbers: Final[Iterator[int]] = count(1)
_SHOWN_MAX: Final = 120
"""Characters of a path or a reason."""


class Trace:
    """One request on its way through the application."""

    __slots__ = ("_began", "_id", "_number", "_request", "_rules")

    def __init__(self, request: Request, rules: ClientRules) -> None:
        self._request = request
        self._rules = rules
        self._number = next(_numbers)
        self._id: str | None = None
        self._began = perf_counter()
        logs.request_id.set(self.id)

    def id(self) -> str:
        """Return the request's id."""
        if self._id is None:
            self._id = self._given_id() or f"{_PROCESS}-{self._number:x}"
        return self._id

    def elapsed_s(self) -> float:
        """Return the seconds since it came."""
        return perf_counter() - self._began

    def ended(self, route: Route, client: Client, status: int, reason: bytes = b"") -> None:
        """Log what became of it, at debug.

        Args:
            route: what it asked for.
            client: who asked.
            status: of the answer; 499: nobody was there to be answered.
            reason: the text of an answer that is no success.
        """
        if not _log.isEnabledFor(logging.DEBUG):
            return
        segment = route.segment.decode("latin-1")[:_SHOWN_MAX]
        _log.debug(
            "request",
            extra=logs.fields(
                method=self._request.method,
                route=route.kind.value,
                key=segment or None,
                status=status,
                ms=round(1000 * self.elapsed_s(), 3),
                client=logs.show_client(client.address),
                reason=reason.decode(errors="replace")[:_SHOWN_MAX] or None,
            ),
        )

    def _given_id(self) -> str | None:
        given = self._request.header(b"x-request-id")
        if given is None or not _GIVEN.fullmatch(given):
            return None
        return given.decode("ascii") if self._rules.trusts(self._request.peer) else None
