"""What an iroh endpoint publishes of itself, as people want to see it.

Each attribute is a text ``name=value`` of a TXT record at ``_iroh``: ``relay`` (a URL), ``addr``
(IP address and port, several), ``user-data``.

Source: protocol.md, section 8.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from relay.pkarr.dns_text import Record
    from relay.pkarr.keys import PublicKey

_OWNER: Final = "_iroh"


def iroh_attributes(key: PublicKey, records: Sequence[Record]) -> dict[str, list[str]]:
    """Return attribute to values, both in the order in which they come; empty: no endpoint.

    Args:
        key: whose packet.
        records: its answers, as `relay.pkarr.dns_text` shows them: what cannot be printed is
            escaped.
    """
    owner = f"{_OWNER}.{key}"
    found: dict[str, list[str]] = {}
    for record in records:
        if record.type == "TXT" and record.name == owner:
            name, equals, value = record.value.removeprefix('"').removesuffix('"').partition("=")
            if equals:
                found.setdefault(name, []).append(value)
    return found
