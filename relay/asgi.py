"""The relay for those who bring their own Hypercorn: ``hypercorn -k trio 'relay.asgi:app'``.

Store and DHT node live as long as the ASGI lifespan. The configuration file is the one
named by ``PKARR_RELAY_CONFIG``, the built-in defaults where it is not set; its `[http]`
addresses, caps and ages are Hypercorn's business here. One worker only: two would need
the same DHT port and the same cache, and the second is refused.

Source: issue 3, section 1; the ASGI specification, "Lifespan Protocol".
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from relay.config import load_config
from relay.errors import ConfigError, StartupError, StoreError
from relay.http.messages import Receive, Scope, Send
from relay.server import Relay, running

_log: Final = logging.getLogger("pkarr_relay")

CONFIG_VARIABLE: Final = "PKARR_RELAY_CONFIG"
_ONE_WORKER: Final = (
    "; run one worker only (hypercorn --workers 1): the DHT port and the cache cannot be shared"
)


class LifespanApp:
    """An ASGI application that brings its relay up and down with the server's lifespan."""

    def __init__(self) -> None:
        self._relay: Relay | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: the lifespan, or a request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._relay is None:
            raise RuntimeError("the server must support the ASGI lifespan protocol")
        else:
            await self._relay.app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        name = os.environ.get(CONFIG_VARIABLE)
        try:
            config = load_config(None if name is None else Path(name), os.environ)
            async with running(config) as self._relay:
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
        except ConfigError as error:
            failure = str(error)
        except (StartupError, StoreError) as error:
            failure = f"{error}{_ONE_WORKER}"
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
        _log.error("%s", failure)
        await send({"type": "lifespan.startup.failed", "message": failure})


app: Final = LifespanApp()
