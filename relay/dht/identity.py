"""Who we are to the network: identifier, addresses, and whether we serve queries."""

from dataclasses import dataclass, field

from relay.dht.node_id import Address


@dataclass(slots=True)
class Identity:
    """Changes during a node's life: addresses are learned, server mode may be switched on."""

    node_id: bytes
    server_mode: bool
    addresses: set[Address] = field(default_factory=set)
    """Our own, local and public: never asked, never named as a contact."""

    @property
    def read_only(self) -> bool:
        """Whether our queries carry `ro` = 1: do not enter us into a table (BEP 43)."""
        return not self.server_mode
