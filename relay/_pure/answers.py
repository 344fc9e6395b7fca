"""Responses to our queries, in pure Python: the specification of `relay._speedups.answers`.

Nearly every datagram that answers a look-up or a put is as plain as its sender could make it.
`read_answer` reads those, straight into the attributes that look-ups and puts ask for, and
leaves everything else, right or wrong, to the general decoder (`relay.dht.krpc`).

Source: BEP 5, BEP 42 to 44; design/protocol.md, section 7.1. Parity: tests/parity/test_answers.py.
"""

from typing import Final

from relay._pure.bencode import BencodeError, Value, decode_prefix, encode

PAYLOAD_BYTES_MIN: Final = 15
"""Shorter datagrams cannot hold a message and are dropped unread, as in the reference."""
TRANSACTION_ID_BYTES_MAX: Final = 32
"""Longer transaction ids are refused: echoing them would only serve an amplifier."""

_ID_BYTES: Final = 20
_ADDRESS_BYTES: Final = 6
_DIGITS_MAX: Final = 18


class Answer:
    """A response to a query of ours, in the terms of look-ups and puts.

    Attributes:
        transaction_id: at most 32 bytes.
        node_id: the answerer's identifier, 20 bytes; None: it gave none that is one.
        nodes: compact node info.
        token: to write with.
        public_key: `k` of a mutable item.
        seq: of a mutable item.
        signature: `sig` of a mutable item.
        v_encoded: a stored value, bencoded canonically.
        peers: what stands under `values`, whatever it is.
        requester: our address as the answerer sees it, in compact form: 6 bytes.
        read_only: whether the answerer says that it serves nobody (BEP 43).
    """

    __slots__ = (
        "node_id",
        "nodes",
        "peers",
        "public_key",
        "read_only",
        "requester",
        "seq",
        "signature",
        "token",
        "transaction_id",
        "v_encoded",
    )

    def __init__(
        self,
        transaction_id: bytes,
        node_id: bytes | None = None,
        nodes: bytes | None = None,
        token: bytes | None = None,
        public_key: bytes | None = None,
        seq: int | None = None,
        signature: bytes | None = None,
        v_encoded: bytes | None = None,
        peers: Value | None = None,
        requester: bytes | None = None,
        read_only: bool = False,
    ) -> None:
        self.transaction_id = transaction_id
        self.node_id = node_id
        self.nodes = nodes
        self.token = token
        self.public_key = public_key
        self.seq = seq
        self.signature = signature
        self.v_encoded = v_encoded
        self.peers = peers
        self.requester = requester
        self.read_only = read_only


def read_answer(payload: bytes) -> Answer | None:
    """Read a plain response.

    Args:
        payload: a datagram.

    Returns:
        None for what is not plain. A response is plain if its keys are sorted and distinct, all
        values but the dictionary `r` are strings or integers of at most 18 digits, it has no
        `values`, and the keys that we know (`ip`, `ro`, `t`, `y`; `id`, `k`, `nodes`, `seq`,
        `sig`, `token`, `v`) have the type that they should, `id` and `ip` the length, too.
    """
    try:
        return _read(payload)
    except (BencodeError, _NotPlainError):
        return None


class _NotPlainError(Exception):
    """A datagram for the general decoder."""


def _read(payload: bytes) -> Answer:
    envelope, end = decode_prefix(payload)
    if len(payload) < PAYLOAD_BYTES_MIN or not isinstance(envelope, dict):
        raise _NotPlainError
    if encode(envelope) != payload[:end]:  # keys were not sorted and distinct
        raise _NotPlainError
    values = envelope.pop(b"r", None)
    if not isinstance(values, dict) or b"values" in values or envelope.get(b"y") != b"r":
        raise _NotPlainError
    if not all(_is_flat(value) for value in (*envelope.values(), *values.values())):
        raise _NotPlainError
    transaction_id = _string(envelope, b"t")
    if transaction_id is None or len(transaction_id) > TRANSACTION_ID_BYTES_MAX:
        raise _NotPlainError
    value = _string(values, b"v")
    return Answer(
        transaction_id,
        _string(values, b"id", _ID_BYTES),
        _string(values, b"nodes"),
        _string(values, b"token"),
        _string(values, b"k"),
        _integer(values, b"seq"),
        _string(values, b"sig"),
        None if value is None else encode(value),
        None,
        _string(envelope, b"ip", _ADDRESS_BYTES),
        (_integer(envelope, b"ro") or 0) > 0,
    )


def _is_flat(value: Value) -> bool:
    return isinstance(value, bytes) or (isinstance(value, int) and abs(value) < 10**_DIGITS_MAX)


def _string(members: dict[bytes, Value], key: bytes, size: int | None = None) -> bytes | None:
    value = members.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise _NotPlainError
    return value


def _integer(members: dict[bytes, Value], key: bytes) -> int | None:
    value = members.get(key)
    if value is None:
        return None
    if not isinstance(value, int):
        raise _NotPlainError
    return value
