"""A Pkarr relay and library: signed DNS packets over HTTP and the Mainline DHT."""

from typing import Final

__version__: Final = "0.1.0"
__all__ = ["__version__"]
