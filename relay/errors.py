"""Every error raised on purpose here; branches name the party at fault.

Leaf module: imports nothing of ours. HTTP statuses are not chosen here but in
`relay.http.errors`, by looking a class up along its MRO. Texts that clients of
the reference relay see are byte-exact (design/protocol.md, sections 1 to 4).
"""

from typing import Literal

PublicKeyFault = Literal["encoding", "length", "not_a_point"]
PacketFault = Literal["too_short", "too_large", "signature", "dns"]


class RelayError(Exception):
    """Root of every error raised on purpose in this package."""


class ConfigError(RelayError):
    """The operator's: a configuration that cannot be used. The text names file, line and key."""


class StartupError(RelayError):
    """The operator's: a port, folder or file that cannot be had at start-up."""


class CommandError(RelayError):
    """The caller's: a command line whose work cannot be done. The text says why, in one line."""


class PublicKeyError(RelayError):
    """The caller's: text or bytes that name no ed25519 public key."""

    def __init__(self, fault: PublicKeyFault, message: str) -> None:
        super().__init__(message)
        self.fault: PublicKeyFault = fault


class PacketError(RelayError):
    """The sender's: a signed packet that no honest client would send."""

    def __init__(self, fault: PacketFault, message: str) -> None:
        super().__init__(message)
        self.fault: PacketFault = fault


class TimestampRangeError(RelayError):
    """The sender's: a timestamp beyond the signed 64 bits of a BEP 44 sequence number."""

    def __init__(self) -> None:
        super().__init__("timestamp does not fit a BEP 44 sequence number")


class BodyTooLargeError(RelayError):
    """The sender's: a request body over the limit; `limit` in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__("Failed to buffer the request body: length limit exceeded")
        self.limit = limit


class NotMostRecentError(RelayError):
    """The sender's: the cache or the DHT holds a more recent packet for the key."""

    def __init__(self) -> None:
        super().__init__("packet is not the most recent")


class DhtQuotaError(RelayError):
    """The client's: it has spent its share of DHT queries."""

    def __init__(self) -> None:
        super().__init__("Too many requests to DHT nodes")


class InvalidItemError(RelayError):
    """The key owner's: the newest validly signed DHT item is not a Pkarr packet; `seq` is its."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"DHT mutable item at seq {seq} is not a valid signed packet")
        self.seq = seq


class LookupFailedError(RelayError):
    """The network's: a look-up that could not be answered, neither with a packet nor with none."""


class NoNodesQueriedError(LookupFailedError):
    """No bootstrap address is known and the routing table is empty."""

    def __init__(self) -> None:
        super().__init__("No DHT nodes were queried")


class NoNodesRespondedError(LookupFailedError):
    """Every query timed out."""

    def __init__(self) -> None:
        super().__init__("No queried DHT nodes responded")


class NoUsableResponseError(LookupFailedError):
    """Nodes responded, but only with errors or nonsense."""

    def __init__(self) -> None:
        super().__init__("No responded DHT nodes returned usable response")


class NodesBusyError(LookupFailedError):
    """Most nodes near the key may not be asked now, so much has gone to them lately."""

    def __init__(self) -> None:
        super().__init__("Too many DHT look-ups at once: most nodes in question were not asked")


class PublishFailedError(RelayError):
    """The network's: no DHT node stored the packet."""


class PublishTimedOutError(PublishFailedError):
    """No node acknowledged in time, or all refused for reasons that are not recency."""

    def __init__(self) -> None:
        super().__init__("DHT query timed out")


class PublishOverloadedError(PublishFailedError):
    """So many look-ups run, or so much went to most nodes near the key, that it was not sent."""

    def __init__(self) -> None:
        super().__init__("Too many DHT look-ups at once: the packet was sent to no node")


class NoClosestNodesError(PublishFailedError):
    """The look-up before the put found nobody to store on."""

    def __init__(self) -> None:
        super().__init__("DHT query found no closest nodes")


class StoreError(RelayError):
    """The disk's or the operator's: the packet store cannot be read or written."""
