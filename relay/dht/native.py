"""The DHT room's native part, where the compiled kernels are in use; else the name is None.

`Responder` answers plain queries from the tables that it shares with the node: for the datagram
lane, which asks it before it asks the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay._kernels import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "compiled":
    from relay._speedups.dht import Responder
else:
    Responder = None

__all__ = ["Responder"]
