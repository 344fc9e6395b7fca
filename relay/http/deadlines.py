"""How long a connection's client may take for what; `relay.http.connection` keeps to it.

Apart from it, because whoever names these need not wait for Hypercorn to be imported.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a client may take for what, seconds."""

    head_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 30.0
    age_s: float = 300.0
    drain_s: float = 30.0
    """For requests under way on a connection that has come of age."""
    linger_s: float = 1.0
    """For the client to stop sending after we have ended."""

    @property
    def shortest_s(self) -> float:
        """How fine the sweep over all connections has to be."""
        return min(self.head_s, self.idle_s, self.write_s, self.age_s, self.drain_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What was before a connection got here: its deadlines go on, and it ends with an answer.

    The front lane hands over what it does not understand. After one HTTP/1 answer the client
    is to connect again, and is on the lane again.
    """

    opened_at: float
    head_since: float
    """Since when its next request is awaited. Both in monotonic seconds."""
