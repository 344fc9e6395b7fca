"""The requests of one connection that are under way, as Hypercorn's protocols start them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Self, cast

import trio

from relay.http.exchange import Exchange
from relay.http.messages import Application, Message, Scope, Send

if TYPE_CHECKING:
    from types import TracebackType

_log: Final = logging.getLogger("pkarr_relay.http")


class Requests:
    """Hypercorn's task group: starts one task a request, and keeps the unfinished ones.

    Attributes:
        method: of the request that begins, as it came. Hypercorn writes methods in capitals, but
            they are case-sensitive (RFC 9110, section 9.1), and h11 would wait for the body of a
            `head`.
        open: the requests under way.
        served: how many have begun.
        idle_since: when the last one ended, on trio's clock.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.method = ""
        self.open: set[Exchange] = set()
        self.served = 0
        self.idle_since = trio.current_time()

    async def spawn_app(
        self, app: Application, config: object, scope: Scope, send: Send
    ) -> Callable[[Message], Awaitable[None]]:
        """Start the application on a request; return where its body goes."""
        scope["method"] = self.method
        exchange = Exchange(send)
        self.open.add(exchange)
        self.served += 1
        self._nursery.start_soon(self._run, app, scope, exchange, send)
        return exchange.put

    def spawn(self, func: Callable[..., Awaitable[object]], *args: Any) -> None:  # noqa: ANN401
        """Start one of the protocol's own tasks."""
        self._nursery.start_soon(func, *args)

    def break_bodies(self) -> None:
        """Tell those who read the body of a request that it will not come."""
        for exchange in self.open:
            exchange.break_body()

    def give_up(self) -> None:
        """Cancel what can no longer be answered."""
        for exchange in self.open:
            exchange.abandon()

    async def _run(self, app: Application, scope: Scope, exchange: Exchange, send: Send) -> None:
        try:
            with exchange.scope:
                await app(scope, exchange.receive, exchange.send)
        except Exception:
            _log.exception("the application failed on %s", scope.get("method"))
        finally:
            self.open.discard(exchange)
            self.idle_since = trio.current_time()
        if not exchange.client_gone:
            # Hypercorn's sign for "the application has returned": 500 if it said nothing.
            await cast("Callable[[None], Awaitable[None]]", send)(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to end: the nursery is the connection's."""
