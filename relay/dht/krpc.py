"""KRPC messages: the envelope of every datagram on the Mainline DHT.

A datagram is one bencoded dictionary: a query (`y` = q), a response (r) or an
error (e), tied together by the transaction id `t`. This module turns bytes into
one of three value types and back, responses to our own queries into an `Answer`, and
knows the compact forms of addresses (6 bytes) and nodes (26 bytes). What a message
*means* is decided by its readers.

Reading is as tolerant as BEP 5 allows: keys in any order, bytes behind the
dictionary, unknown keys, any version tag. Writing is canonical, with the keys the
reference node writes (`ro` always, `ip` on answers) and a version tag of our own.

Sources: BEP 5 (KRPC), BEP 42 (`ip`), BEP 43 (`ro`); design/protocol.md, section 7.1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from relay import _kernels
from relay._kernels import PAYLOAD_BYTES_MIN, TRANSACTION_ID_BYTES_MAX, Answer, Value
from relay.dht.node_id import ID_BYTES, Address, NodeInfo, ip_octets

VERSION: Final = b"PK\x00\x01"
"""Our `v`. Not the reference's `RS`: some nodes treat versions differently, so never pretend."""
VERSION_BYTES_MAX: Final = 1000
"""A version tag beyond this is forgotten, not refused."""
NODE_BYTES: Final = 26
ADDRESS_BYTES: Final = 6

_TOKEN: Final = b"token"
_QUERY_TAIL: Final = b"1:v%d:%b1:y1:qe" % (len(VERSION), VERSION)
_QUERY: Final = b"q"
_RESPONSE: Final = b"r"
_ERROR: Final = b"e"


class KrpcDecodeError(ValueError):
    """A datagram that is no KRPC message; its sender gets no answer."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question; `arguments` are unchecked beyond being a dictionary (empty if they were not)."""

    transaction_id: bytes
    method: bytes
    arguments: Mapping[bytes, Value]
    read_only: bool = False
    version: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `requester` is the `ip` key: the asker's address as the answerer sees it."""

    transaction_id: bytes
    values: Mapping[bytes, Value]
    requester: Address | None = None
    read_only: bool = False
    version: bytes | None = None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A refusal: a BEP 5 or BEP 44 code (201 to 302) and a text for people."""

    transaction_id: bytes
    code: int
    message: bytes
    requester: Address | None = None
    read_only: bool = False
    version: bytes | None = None


Message: TypeAlias = Query | Response | ErrorReply


def read(payload: bytes) -> Query | Answer | ErrorReply:
    """Read one datagram, a response in the terms of our look-ups and puts.

    Raises:
        KrpcDecodeError: as `decode`.
    """
    answer = _kernels.read_answer(payload)
    if answer is not None:
        return answer
    message = decode(payload)
    return answer_of(message) if isinstance(message, Response) else message


def answer_of(response: Response) -> Answer:
    """Return a response in the terms of look-ups and puts: what is misshapen counts as absent."""
    values = response.values
    node_id = _octets(values, b"id")
    seq, value = values.get(b"seq"), values.get(b"v")
    return Answer(
        response.transaction_id,
        node_id if node_id is not None and len(node_id) == ID_BYTES else None,
        _octets(values, b"nodes"),
        _octets(values, b"token"),
        _octets(values, b"k"),
        seq if isinstance(seq, int) else None,
        _octets(values, b"sig"),
        None if value is None else _kernels.encode(value),
        values.get(b"values"),
        None if response.requester is None else pack_address(response.requester),
        response.read_only,
    )


def _octets(values: Mapping[bytes, Value], key: bytes) -> bytes | None:
    value = values.get(key)
    return value if isinstance(value, bytes) else None


def decode(payload: bytes) -> Message:
    """Read one datagram.

    Args:
        payload: the datagram; bytes after the dictionary are ignored.

    Returns:
        The message. Optional keys of the wrong type count as absent.

    Raises:
        KrpcDecodeError: too short, not a dictionary, or a key without which there
            is nothing to answer (`t`, `y`, `q`, `r`, `e`) is missing or malformed.
    """
    if len(payload) < PAYLOAD_BYTES_MIN or payload[0] != 0x64:  # "d"
        raise KrpcDecodeError("no bencoded dictionary")
    try:
        envelope, _ = _kernels.decode_prefix(payload)
    except _kernels.BencodeError as error:
        raise KrpcDecodeError(str(error)) from error
    if not isinstance(envelope, dict):  # pragma: no cover - first byte was "d"
        raise KrpcDecodeError("no bencoded dictionary")
    transaction_id = envelope.get(b"t")
    if not isinstance(transaction_id, bytes) or len(transaction_id) > TRANSACTION_ID_BYTES_MAX:
        raise KrpcDecodeError("no usable transaction id")
    kind = envelope.get(b"y")
    if kind == _RESPONSE:
        values = envelope.get(b"r")
        if not isinstance(values, dict):
            raise KrpcDecodeError("response without values")
        return Response(
            transaction_id,
            values,
            _read_requester(envelope),
            _read_only(envelope),
            _read_version(envelope),
        )
    if kind == _QUERY:
        method = envelope.get(b"q")
        if not isinstance(method, bytes):
            raise KrpcDecodeError("query without method")
        arguments = envelope.get(b"a")
        return Query(
            transaction_id,
            method,
            arguments if isinstance(arguments, dict) else {},
            _read_only(envelope),
            _read_version(envelope),
        )
    if kind == _ERROR:
        return _read_error(transaction_id, envelope)
    raise KrpcDecodeError("neither query, response nor error")


def _read_error(transaction_id: bytes, envelope: dict[bytes, Value]) -> ErrorReply:
    """Read `e` = [code, text]; libtorrent adds an `r`, which `y` overrules."""
    details = envelope.get(b"e")
    if not isinstance(details, list) or not details or not isinstance(details[0], int):
        raise KrpcDecodeError("error without code")
    text = details[1] if len(details) > 1 else b""
    return ErrorReply(
        transaction_id,
        details[0],
        text if isinstance(text, bytes) else b"",
        _read_requester(envelope),
        _read_only(envelope),
        _read_version(envelope),
    )


def _read_requester(envelope: dict[bytes, Value]) -> Address | None:
    packed = envelope.get(b"ip")
    if isinstance(packed, bytes) and len(packed) == ADDRESS_BYTES:
        return unpack_address(packed)
    return None


def _read_only(envelope: dict[bytes, Value]) -> bool:
    flag = envelope.get(b"ro")
    return isinstance(flag, int) and flag > 0


def _read_version(envelope: dict[bytes, Value]) -> bytes | None:
    version = envelope.get(b"v")
    if isinstance(version, bytes) and len(version) <= VERSION_BYTES_MAX:
        return version
    return None


def encode(message: Message) -> bytes:
    r"""Write one datagram, keys sorted, with `VERSION` unless the message names another tag.

    >>> encode(Query(b"aaaa", b"ping", {b"id": bytes(20)}, read_only=True))[-42:]
    b'e1:q4:ping2:roi1e1:t4:aaaa1:v4:PK\x00\x011:y1:qe'
    """
    envelope: dict[bytes, Value] = {
        b"ro": int(message.read_only),
        b"t": message.transaction_id,
        b"v": VERSION if message.version is None else message.version,
    }
    if isinstance(message, Query):
        envelope[b"y"] = _QUERY
        envelope[b"q"] = message.method
        envelope[b"a"] = dict(message.arguments)
        return _kernels.encode(envelope)
    if isinstance(message, Response):
        envelope[b"y"] = _RESPONSE
        envelope[b"r"] = dict(message.values)
    else:
        envelope[b"y"] = _ERROR
        envelope[b"e"] = [message.code, message.message]
    if message.requester is not None:
        envelope[b"ip"] = pack_address(message.requester)
    return _kernels.encode(envelope)


class QueryTemplate:
    """A query but for its transaction id: encoded once, sent to many nodes.

    >>> template = QueryTemplate(b"ping", {b"id": bytes(20)}, read_only=True)
    >>> template.fill(b"aaaa") == encode(Query(b"aaaa", b"ping", {b"id": bytes(20)}, True))
    True
    """

    __slots__ = ("_head", "method")

    def __init__(self, method: bytes, arguments: Mapping[bytes, Value], read_only: bool) -> None:
        self.method = method
        self._head = b"d1:a%b%b" % (
            _kernels.encode(dict(arguments)),
            _behind_arguments(method, read_only),
        )

    def fill(self, transaction_id: bytes) -> bytes:
        """Return the datagram with `transaction_id` in its place."""
        return b"%b%d:%b%b" % (self._head, len(transaction_id), transaction_id, _QUERY_TAIL)


class WriteTemplate:
    """A query but for its transaction id and its token, which every node gets its own of.

    >>> template = WriteTemplate(b"put", {b"id": bytes(20), b"v": b"x"}, read_only=True)
    >>> arguments = {b"id": bytes(20), b"token": b"t", b"v": b"x"}
    >>> query = Query(b"aaaa", b"put", arguments, read_only=True)
    >>> template.with_token(b"t").fill(b"aaaa") == encode(query)
    True
    """

    __slots__ = ("_after", "_before", "_method")

    def __init__(self, method: bytes, arguments: Mapping[bytes, Value], read_only: bool) -> None:
        self._method = method
        before = {key: value for key, value in arguments.items() if key < _TOKEN}
        after = {key: value for key, value in arguments.items() if key > _TOKEN}
        self._before = b"d1:a%b5:token" % _kernels.encode(before)[:-1]
        self._after = b"%b%b" % (_kernels.encode(after)[1:], _behind_arguments(method, read_only))

    def with_token(self, token: bytes) -> QueryTemplate:
        """Return the query to the node that gave `token`."""
        query = QueryTemplate.__new__(QueryTemplate)
        query.method = self._method
        query._head = b"%b%d:%b%b" % (self._before, len(token), token, self._after)
        return query


def _behind_arguments(method: bytes, read_only: bool) -> bytes:
    return b"1:q%d:%b2:roi%de1:t" % (len(method), method, read_only)


def pack_address(address: Address) -> bytes:
    """Return the 6-byte compact form of an IPv4 address and port (BEP 5).

    >>> pack_address(("127.0.0.1", 6881)).hex()
    '7f0000011ae1'
    """
    return ip_octets(address[0]) + address[1].to_bytes(2, "big")


def unpack_address(packed: bytes) -> Address:
    """Read the first 6 bytes of `packed`; the inverse of `pack_address`."""
    return (
        f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}",
        packed[4] << 8 | packed[5],
    )


def pack_nodes(nodes: Iterable[NodeInfo]) -> bytes:
    """Return compact node info: 20 bytes of id and 6 of address each (BEP 5)."""
    return b"".join(node.id + pack_address(node.address) for node in nodes)


def unpack_nodes(data: bytes) -> list[NodeInfo]:
    """Read compact node info; an incomplete last entry is ignored.

    >>> unpack_nodes(bytes(20) + bytes([10, 0, 0, 1, 0, 80]))[0].address
    ('10.0.0.1', 80)
    """
    return [
        NodeInfo(data[at : at + ID_BYTES], unpack_address(data[at + ID_BYTES : at + NODE_BYTES]))
        for at in range(0, len(data) - NODE_BYTES + 1, NODE_BYTES)
    ]
