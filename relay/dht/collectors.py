"""What a look-up looks for, besides nodes: reads the values in answers and checks them.

A value is used only after its proof: the owner's signature and the target for a mutable item,
the hash for an immutable one. Nothing larger than BEP 44 allows is ever used, even if its owner
signed it (the reference serves such values; issue 3, section 4 refuses them).

Source: BEP 44, BEP 5 (`get_peers`); design/protocol.md, sections 7.1 and 7.6.
"""

from collections.abc import Callable
from typing import Final, Protocol

from relay._kernels import Answer
from relay.dht import krpc
from relay.dht.items import (
    SEQ_MAX,
    SEQ_MIN,
    SIGNATURE_BYTES,
    VALUE_BYTES_MAX,
    MutableItem,
    immutable_target,
    value_bytes,
)
from relay.dht.node_id import Address

FOUND_MAX: Final = 8
"""Items and peer lists a look-up keeps for those who join it late: the last ones, and honest
networks know two or three. A key's owner can have each node answer with another item."""


class InvalidValueError(ValueError):
    """An answer carries a value that must not be used."""


class Collector(Protocol):
    """Reads the values of one look-up's answers."""

    def take(self, answer: Answer) -> object | None:
        """Return what is new and proven in an answer, None if there is nothing.

        Raises:
            InvalidValueError: there is a value, but it does not hold.
        """


def newer(left: MutableItem, right: MutableItem) -> bool:
    """Whether `left` supersedes `right`: a higher seq, or the same and a larger value.

    The order of design/protocol.md, section 3, so that all relays agree on the winner.
    """
    if left.seq != right.seq:
        return left.seq > right.seq
    return (left.value or b"", left.v_encoded) > (right.value or b"", right.v_encoded)


class ItemCollector:
    """Mutable items of one key and salt, each newer than those before it.

    The same item from twenty nodes is verified once, one that is not newer not at all.

    Args:
        public_key: 32 bytes.
        salt: as in `MutableItem`.
        holds: whether an item's signature does; may remember that.
    """

    def __init__(
        self,
        public_key: bytes,
        salt: bytes | None,
        holds: Callable[[MutableItem], bool] = MutableItem.verify,
    ) -> None:
        self._public_key = public_key
        self._salt = salt
        self._holds = holds
        self.found: list[MutableItem] = []
        """In order of arrival; the last one is the best."""

    @property
    def best(self) -> MutableItem | None:
        """The newest item so far."""
        return self.found[-1] if self.found else None

    def take(self, answer: Answer) -> MutableItem | None:
        """See `Collector`."""
        item = self.wanted(answer)
        if item is None:
            return None
        if not self._holds(item):
            raise InvalidValueError("bad signature")
        if len(self.found) >= FOUND_MAX:
            del self.found[0]
        self.found.append(item)
        return item

    def wanted(self, answer: Answer) -> MutableItem | None:
        """Return the item in an answer, unproven; None if there is none, or no newer one.

        Raises:
            InvalidValueError: there is something else.
        """
        v_encoded = answer.v_encoded
        if v_encoded is None:
            return None  # nothing stored, or nothing newer than the asked seq
        seq, signature = answer.seq, answer.signature
        if (
            answer.public_key != self._public_key
            or seq is None
            or not SEQ_MIN <= seq <= SEQ_MAX
            or signature is None
            or len(signature) != SIGNATURE_BYTES
        ):
            raise InvalidValueError("no mutable item of this key")
        if self.found:
            best = self.found[-1]
            if best.seq == seq and best.v_encoded == v_encoded:
                return None  # as most: all nodes have the same
        _check_size(v_encoded)
        item = MutableItem(self._public_key, seq, v_encoded, signature, self._salt)
        return None if self.found and not newer(item, self.found[-1]) else item


class ValueCollector:
    """The one immutable value with a given hash."""

    def __init__(self, target: bytes) -> None:
        self._target = target
        self.found: list[bytes] = []

    def take(self, answer: Answer) -> bytes | None:
        """See `Collector`."""
        v_encoded = answer.v_encoded
        if self.found or v_encoded is None:
            return None
        _check_size(v_encoded)
        if immutable_target(v_encoded) != self._target:
            raise InvalidValueError("another value's hash")
        self.found.append(v_encoded)
        return v_encoded


class PeerCollector:
    """Torrent peers, as nodes name them; nothing proves them."""

    def __init__(self) -> None:
        self.found: list[tuple[Address, ...]] = []

    def take(self, answer: Answer) -> tuple[Address, ...] | None:
        """See `Collector`."""
        entries = answer.peers
        if entries is None:
            return None
        if not isinstance(entries, list):
            raise InvalidValueError("no list of peers")
        peers = tuple(
            krpc.unpack_address(entry)
            for entry in entries
            if isinstance(entry, bytes) and len(entry) == krpc.ADDRESS_BYTES
        )
        if not peers:
            return None
        if len(self.found) < FOUND_MAX:
            self.found.append(peers)
        return peers


def _check_size(v_encoded: bytes) -> None:
    """Raise if a value is larger than BEP 44 allows."""
    if value_bytes(v_encoded) > VALUE_BYTES_MAX:
        raise InvalidValueError("value too large")
