"""What both ends of the control socket have to agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.store.offline import Outcome

VERSION: Final = 1
"""Of everything that `relay.control` lists."""
BATCH_PACKETS_MAX: Final = 512
"""Packets of an import at once: one commit of 10 ms."""
LETTERS: Final[Mapping[Outcome, str]] = {"stored": "s", "known": "k", "older": "o"}
"""What became of each packet of a batch."""
BAD: Final = "x"
"""It is no valid packet; a reason follows."""
