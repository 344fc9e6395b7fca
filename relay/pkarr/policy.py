"""How fresh an answer a reader asks for."""

from enum import Enum


class ResolvePolicy(Enum):
    """The value of the ``policy`` query parameter, spelled as in URLs (protocol.md, 4.2)."""

    CACHE_FIRST = "CacheFirst"
    """A cached packet while it is fresh, else the first acceptable answer of the DHT."""
    CACHE_ONLY = "CacheOnly"
    """Whatever is cached, expired or not; the DHT is never asked."""
    NETWORK_ONLY = "NetworkOnly"
    """The most recent packet of a whole DHT look-up, whatever is cached."""
