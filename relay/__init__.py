"""A Pkarr relay and library: signed DNS packets over HTTP and the Mainline DHT.

Sign a packet, write it as a relay carries it, and read it back:

>>> import relay
>>> keypair = relay.Keypair.from_seed(bytes(32))
>>> packet = relay.SignedPacket.build(
...     keypair, [relay.records.txt("_service", "port=443", ttl_s=60)], timestamp_us=1
... )
>>> key = relay.PublicKey.parse(f"pk:{keypair.public_key}")
>>> relay.SignedPacket.from_relay_payload(key, packet.to_relay_payload()) == packet
True

Publish it and find it again, from a Trio program: see `relay.Client`.

Names are imported when they are first used, so that ``import relay`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relay.client import Client
    from relay.errors import RelayError
    from relay.pkarr import dns_build as records
    from relay.pkarr.keys import Keypair, PublicKey
    from relay.pkarr.packet import SeenPacket, SignedPacket
    from relay.pkarr.policy import ResolvePolicy

__version__: Final = "0.1.0"

__all__ = [
    "Client",
    "Keypair",
    "PublicKey",
    "RelayError",
    "ResolvePolicy",
    "SeenPacket",
    "SignedPacket",
    "__version__",
    "records",
]

_MODULE_OF: Final = {
    "Client": "relay.client",
    "Keypair": "relay.pkarr.keys",
    "PublicKey": "relay.pkarr.keys",
    "RelayError": "relay.errors",
    "ResolvePolicy": "relay.pkarr.policy",
    "SeenPacket": "relay.pkarr.packet",
    "SignedPacket": "relay.pkarr.packet",
    "records": "relay.pkarr.dns_build",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULE_OF[name])
    value: object = module if name == "records" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
