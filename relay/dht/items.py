"""What nodes store for each other: signed items, plain values, and torrent peers.

A mutable item belongs to an ed25519 key (and a salt, to have several per key), carries a
sequence number, and is found under SHA-1(key || salt). An immutable value is found under
SHA-1 of its own bencoding. The stores keep the most recently used ones in memory only.

Values are kept bencoded (`v_encoded`): that is what is signed, hashed and sent again.

Source: BEP 44, BEP 5; design/protocol.md, section 7.2 (limits as the reference node).
"""

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha1
from random import Random
from typing import Final, Self, TypeVar

from relay import _kernels
from relay._kernels import RecordTable, Value
from relay.dht.node_id import Address

VALUE_BYTES_MAX: Final = 1000
"""Most bytes of a value, counted by `value_bytes` (BEP 44)."""

SALT_BYTES_MAX: Final = 64
"""Most bytes of a salt (BEP 44)."""

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

SEQ_MIN: Final = -(2**63)
SEQ_MAX: Final = 2**63 - 1
"""Sequence numbers are signed 64-bit integers (BEP 44)."""

PEERS_RETURNED_MAX: Final = 10
"""Most torrent peers named in one answer."""

_SEQ_AT: Final = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
_SEQ_BYTES: Final = 8
_NO_SALT: Final = b"\xff"

_T = TypeVar("_T")

_OCTET_0: Final = 0x30
_OCTET_9: Final = 0x39


def mutable_target(public_key: bytes, salt: bytes | None = None) -> bytes:
    """Return the 20 bytes under which a key's item is stored: SHA-1(key || salt).

    Args:
        public_key: 32 bytes.
        salt: None and empty are the same here (but not in `MutableItem.signable`).

    Source: BEP 44, "Mutable Items".
    """
    return _sha1(public_key + (salt or b""))


def immutable_target(v_encoded: bytes) -> bytes:
    """Return the 20 bytes under which a value is stored: SHA-1 of its bencoding.

    Source: BEP 44, "Immutable Items".
    """
    return _sha1(v_encoded)


def value_bytes(v_encoded: bytes) -> int:
    """Return the size of a value that counts against `VALUE_BYTES_MAX`.

    Args:
        v_encoded: the bencoding of one value.

    Returns:
        For a byte string the number of its bytes, for anything else the length of the encoding.

    >>> value_bytes(b"5:hello"), value_bytes(b"l1:ae")
    (5, 5)
    """
    content = _string_content(v_encoded)
    return len(v_encoded if content is None else content)


@dataclass(frozen=True, slots=True)
class MutableItem:
    """A signed value of one key. Nothing is checked at construction; see `verify`.

    Attributes:
        public_key: 32 bytes, the ed25519 key the item belongs to.
        seq: sequence number, `SEQ_MIN` to `SEQ_MAX`; higher replaces lower.
        v_encoded: the value, bencoded.
        signature: 64 bytes over `signable`.
        salt: distinguishes several items of one key. None: there is none. Empty is not None:
            it has the same target but is signed differently, as in the reference node.
    """

    public_key: bytes
    seq: int
    v_encoded: bytes
    signature: bytes
    salt: bytes | None = None

    @classmethod
    def from_value(
        cls, public_key: bytes, seq: int, value: Value, signature: bytes, salt: bytes | None = None
    ) -> Self:
        """Make an item of a value that is not bencoded yet; arguments as the attributes.

        Raises:
            TypeError: bencode cannot carry `value`.
            ValueError: bencode could carry it, but not within the limits of our decoder.
        """
        return cls(public_key, seq, _kernels.encode(value), signature, salt)

    @property
    def value(self) -> bytes | None:
        """The value if it is a byte string (as every Pkarr packet is), else None."""
        return _string_content(self.v_encoded)

    @property
    def target(self) -> bytes:
        """The 20 bytes under which the item is stored."""
        return mutable_target(self.public_key, self.salt)

    @property
    def signable(self) -> bytes:
        """The bytes that are signed (BEP 44, "Mutable Items").

        >>> MutableItem.from_value(bytes(32), 1, b"Hello World!", bytes(64)).signable
        b'3:seqi1e1:v12:Hello World!'
        """
        salted = b"" if self.salt is None else b"4:salt%d:%b" % (len(self.salt), self.salt)
        return b"%b3:seqi%de1:v%b" % (salted, self.seq, self.v_encoded)

    def verify(self) -> bool:
        """Whether the signature is the key's, over this value, seq and salt.

        By the rule of ZIP-215, as `relay._kernels.verify`. False, not an error, for keys and
        signatures of the wrong length.
        """
        if len(self.public_key) != PUBLIC_KEY_BYTES or len(self.signature) != SIGNATURE_BYTES:
            return False
        return _kernels.verify(self.public_key, self.signature, self.signable)


class ItemStore:
    """The items and values we keep for others, least recently used out first.

    Holds what it is given: checking signatures, targets and sizes is the caller's part, and
    bounds memory together with the two capacities (2000 values of at most 1000 bytes each).
    The datagram lane answers from the two tables, too.
    """

    def __init__(self, mutable_max: int = 1000, immutable_max: int = 1000) -> None:
        self.mutable_records: Final = RecordTable(mutable_max)
        """Items as `_pack` makes them, by target."""
        self.immutable_records: Final = RecordTable(immutable_max)
        """Bencoded values, by target."""

    def mutable(self, target: bytes) -> MutableItem | None:
        """Return the item stored under `target`, which counts as a use of it."""
        record = self.mutable_records.get(target)
        return None if record is None else _unpack(record)

    def immutable(self, target: bytes) -> bytes | None:
        """Return the bencoded value stored under `target`, which counts as a use of it."""
        return self.immutable_records.get(target)

    def put_mutable(self, item: MutableItem) -> None:
        """Store an item in place of whatever its target held."""
        self.mutable_records.put(item.target, _pack(item))

    def put_immutable(self, v_encoded: bytes) -> None:
        """Store a bencoded value under its hash."""
        self.immutable_records.put(immutable_target(v_encoded), v_encoded)


def _pack(item: MutableItem) -> bytes:
    """Return an item as one string of bytes: key, signature, seq, salt, value.

    The salt has its length in front, or a byte in place of both if there is none. The datagram
    lane reads this, too (`_speedups/dht_answer.h`).
    """
    salt = _NO_SALT if item.salt is None else bytes([len(item.salt)]) + item.salt
    seq = item.seq.to_bytes(_SEQ_BYTES, "big", signed=True)
    return b"".join((item.public_key, item.signature, seq, salt, item.v_encoded))


def _unpack(record: bytes) -> MutableItem:
    """Return what `_pack` was given."""
    salt_at = _SEQ_AT + _SEQ_BYTES + 1
    length = record[salt_at - 1 : salt_at]
    value_at = salt_at + (0 if length == _NO_SALT else length[0])
    return MutableItem(
        public_key=record[:PUBLIC_KEY_BYTES],
        seq=int.from_bytes(record[_SEQ_AT : salt_at - 1], "big", signed=True),
        v_encoded=record[value_at:],
        signature=record[PUBLIC_KEY_BYTES:_SEQ_AT],
        salt=None if length == _NO_SALT else record[salt_at:value_at],
    )


class PeerStore:
    """Addresses of torrent peers by info hash, least recently used out first.

    At most `info_hashes_max` info hashes with `peers_max` peers each, the limits of the reference,
    and `peers_total_max` peers in all: a million of them, which one liar with a token could
    announce within two hours, would take 310 MB. As in the reference a peer is known by its node
    identifier: announcing again replaces the address. (BEP 5 would drop peers by age; a relay does
    not care to be a tracker, so the limits alone must do.)
    """

    def __init__(
        self, info_hashes_max: int = 2000, peers_max: int = 500, peers_total_max: int = 50_000
    ) -> None:
        self._swarms: OrderedDict[bytes, OrderedDict[bytes, Address]] = OrderedDict()
        self.info_hashes: Final = RecordTable(info_hashes_max)
        """Those that have peers, used as `_swarms` is: so the datagram lane knows them, too."""
        self._info_hashes_max = info_hashes_max
        self._peers_max = peers_max
        self._peers_total_max = peers_total_max
        self._total = 0

    def __len__(self) -> int:
        """How many peers there are, of all info hashes."""
        return self._total

    def announce(self, info_hash: bytes, node_id: bytes, address: Address) -> None:
        """Remember that the node `node_id` has a torrent peer at `address`."""
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            swarm = OrderedDict()
        self._total -= len(swarm)
        _store(swarm, node_id, address, self._peers_max)
        self._total += len(swarm)
        if info_hash not in self._swarms and len(self._swarms) >= self._info_hashes_max:
            self._drop_oldest()
        self._swarms[info_hash] = swarm
        self._swarms.move_to_end(info_hash)
        self.info_hashes.put(info_hash, b"")
        while self._total > self._peers_total_max and len(self._swarms) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, swarm = self._swarms.popitem(last=False)
        self.info_hashes.drop_oldest()
        self._total -= len(swarm)

    def sample(self, info_hash: bytes, rng: Random) -> list[Address]:
        """Return the peers of an info hash, or `PEERS_RETURNED_MAX` random ones of many."""
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            return []
        self._swarms.move_to_end(info_hash)
        self.info_hashes.get(info_hash)
        peers = list(swarm.values())
        if len(peers) <= PEERS_RETURNED_MAX:
            return peers
        return rng.sample(peers, PEERS_RETURNED_MAX)


def _store(lru: OrderedDict[bytes, _T], key: bytes, value: _T, capacity: int) -> None:
    """Put a pair in as the most recently used one; the least recently used makes room."""
    lru[key] = value
    lru.move_to_end(key)
    if len(lru) > capacity:
        lru.popitem(last=False)


def _sha1(data: bytes) -> bytes:
    return sha1(data, usedforsecurity=False).digest()


def _string_content(v_encoded: bytes) -> bytes | None:
    """The bytes of a bencoded string, None for the other kinds of value."""
    if not _OCTET_0 <= v_encoded[0] <= _OCTET_9:
        return None
    return v_encoded[v_encoded.index(b":") + 1 :]
