"""Answers to others' queries: ping, find_node, get_peers, announce_peer, get, put.

A query is read against a small table of what its method needs; an argument that is missing or
misshapen is answered with error 203, a method we do not know with 204. What is not a query at
all never gets here (`krpc.decode`), and stays unanswered.

The checks of `put`, in this order, first failure wins (design/protocol.md, section 7.2, with
the decisions of issue 3, section 4):

    203 arguments   203 Bad token   205 value too big   207 salt too big   203 target
    301 cas         302 seq         206 signature

Differences from the reference node: queries without `target` are served and a target that is
given is checked, for mutable items too; a value may be any bencoded value; nodes are left out
of an answer that would not fit an unfragmented datagram; nothing crashes on a missing `sig`.

Source: BEP 5, BEP 44. Sans-IO: callers pass `now`, in monotonic seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final, TypeAlias

from relay import _kernels
from relay._kernels import Value
from relay.dht import krpc
from relay.dht.items import (
    PUBLIC_KEY_BYTES,
    SALT_BYTES_MAX,
    SEQ_MAX,
    SEQ_MIN,
    SIGNATURE_BYTES,
    VALUE_BYTES_MAX,
    ItemStore,
    MutableItem,
    PeerStore,
    immutable_target,
    value_bytes,
)
from relay.dht.krpc import NODE_BYTES, ErrorReply, Query, Response
from relay.dht.node_id import ID_BYTES, Address
from relay.dht.routing_table import K, RoutingTable
from relay.dht.tokens import TokenIssuer

PAYLOAD_BYTES_MAX: Final = 1452
"""Largest reply: what passes every ordinary path unfragmented (1500 minus PPPoE, IPv6, UDP)."""

_MUTABLE_KEYS: Final = frozenset((b"k", b"seq", b"sig", b"salt", b"cas"))
"""A put with any of these means a mutable item, however incomplete."""

_Arguments: TypeAlias = Mapping[bytes, Value]
_Values: TypeAlias = dict[bytes, Value]
_Method: TypeAlias = Callable[[_Arguments, bytes, Address, float], _Values]
"""(arguments, identifier of the querier, source, now) to the values of the response."""


class _RefusedError(Exception):
    """A query that gets an error instead of an answer."""

    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class Responder:
    """Serves queries out of what it is given.

    Args:
        table: whose closest nodes are named to others, and whose `own_id` is sent as ours.
        tokens: issues and recognises write tokens.
        items: where `put` stores.
        peers: where `announce_peer` stores.
        rng: picks torrent peers where there are too many to name.
        on_proof: called with the source and `now` when a query showed a valid token, so that
            its source cannot be forged (see `budget.SourceBudgets.prove`).
        holds: whether an item's signature does.
    """

    def __init__(
        self,
        table: RoutingTable,
        tokens: TokenIssuer,
        items: ItemStore,
        peers: PeerStore,
        rng: Random,
        on_proof: Callable[[Address, float], None] | None = None,
        holds: Callable[[MutableItem], bool] = MutableItem.verify,
    ) -> None:
        self._table = table
        self._tokens = tokens
        self._items = items
        self._peers = peers
        self._rng = rng
        self._on_proof = on_proof
        self._holds = holds
        self._methods: Mapping[bytes, _Method] = {
            b"ping": self._ping,
            b"find_node": self._find_node,
            b"get_peers": self._get_peers,
            b"announce_peer": self._announce_peer,
            b"get": self._get,
            b"put": self._put,
        }

    @property
    def own_id(self) -> bytes:
        """The identifier in our replies: that of the routing table."""
        return self._table.own_id

    def answer(self, query: Query, source: Address, now: float) -> Response | ErrorReply:
        """Do what a query asks and return the reply to it.

        Whether to serve at all (server mode, budgets, quotas) is decided before this is called.
        Never raises for a query that `krpc.decode` returned, whatever it holds.

        Args:
            query: the query.
            source: where it came from; the reply goes there and names it.
            now: monotonic seconds.

        Returns:
            The reply, `requester` set; encoded it has at most `PAYLOAD_BYTES_MAX` bytes.
        """
        try:
            method = self._methods.get(query.method)
            if method is None:
                raise _RefusedError(204, b"Method Unknown")
            querier = _octets(query.arguments, b"id", ID_BYTES)
            values = method(query.arguments, querier, source, now)
        except _RefusedError as refused:
            return ErrorReply(query.transaction_id, refused.code, refused.text, requester=source)
        values[b"id"] = self.own_id
        return _trimmed(Response(query.transaction_id, values, requester=source))

    def _ping(
        self, _arguments: _Arguments, _querier: bytes, _source: Address, _now: float
    ) -> _Values:
        return {}

    def _find_node(
        self, arguments: _Arguments, _querier: bytes, _source: Address, _now: float
    ) -> _Values:
        return self._nodes(_octets(arguments, b"target", ID_BYTES))

    def _get_peers(
        self, arguments: _Arguments, _querier: bytes, source: Address, now: float
    ) -> _Values:
        info_hash = _octets(arguments, b"info_hash", ID_BYTES)
        values = self._nodes(info_hash)
        values[b"token"] = self._tokens.issue(source, now)
        peers = self._peers.sample(info_hash, self._rng)
        if peers:
            values[b"values"] = [krpc.pack_address(peer) for peer in peers]
        return values

    def _announce_peer(
        self, arguments: _Arguments, querier: bytes, source: Address, now: float
    ) -> _Values:
        info_hash = _octets(arguments, b"info_hash", ID_BYTES)
        token = _octets(arguments, b"token")
        port = source[1]
        if not _integer(arguments, b"implied_port", 0, default=0):
            port = _integer(arguments, b"port", 1, 65535)
        self._check_token(token, source, now)
        self._peers.announce(info_hash, querier, (source[0], port))
        return {}

    def _get(self, arguments: _Arguments, _querier: bytes, source: Address, now: float) -> _Values:
        """With `seq` only mutable items are looked at, and one that is no newer stays unsent."""
        target = _octets(arguments, b"target", ID_BYTES)
        seq = _integer(arguments, b"seq") if b"seq" in arguments else None
        values = self._nodes(target)
        values[b"token"] = self._tokens.issue(source, now)
        v_encoded = self._items.immutable(target) if seq is None else None
        if v_encoded is not None:
            values[b"v"] = _kernels.decode(v_encoded)
            return values
        item = self._items.mutable(target)
        if item is not None:
            values[b"seq"] = item.seq
            if seq is None or item.seq > seq:
                values[b"k"] = item.public_key
                values[b"sig"] = item.signature
                values[b"v"] = _kernels.decode(item.v_encoded)
        return values

    def _put(self, arguments: _Arguments, _querier: bytes, source: Address, now: float) -> _Values:
        if b"v" not in arguments:
            raise _invalid(b"v")
        token = _octets(arguments, b"token")
        target = _octets(arguments, b"target", ID_BYTES) if b"target" in arguments else None
        v_encoded = _kernels.encode(arguments[b"v"])
        cas = _integer(arguments, b"cas") if b"cas" in arguments else None
        item = None if _MUTABLE_KEYS.isdisjoint(arguments) else _item(arguments, v_encoded)
        self._check_token(token, source, now)
        if value_bytes(v_encoded) > VALUE_BYTES_MAX:
            raise _RefusedError(205, b"Message (v field) too big.")
        if item is None:
            self._put_immutable(v_encoded, target)
        else:
            self._put_mutable(item, target, cas)
        return {}

    def _put_immutable(self, v_encoded: bytes, target: bytes | None) -> None:
        if target is not None and target != immutable_target(v_encoded):
            raise _RefusedError(203, b"Target doesn't match the sha1 hash of v field")
        self._items.put_immutable(v_encoded)

    def _put_mutable(self, item: MutableItem, target: bytes | None, cas: int | None) -> None:
        if item.salt is not None and len(item.salt) > SALT_BYTES_MAX:
            raise _RefusedError(207, b"salt (salt field) too big.")
        if target is not None and target != item.target:
            raise _RefusedError(203, b"Target doesn't match the sha1 hash of k and salt fields")
        stored = self._items.mutable(item.target)
        if stored is not None:
            if cas is not None and cas != stored.seq:
                raise _RefusedError(301, b"CAS mismatched, re-read value and try again.")
            if item.seq < stored.seq:
                raise _RefusedError(302, b"Sequence number less than current.")
        # An item equal to the stored one, signature included, was verified when that came in.
        if item != stored and not self._holds(item):
            raise _RefusedError(206, b"Invalid signature")
        self._items.put_mutable(item)

    def _nodes(self, target: bytes) -> _Values:
        return {b"nodes": self._table.closest_compact(target, K)}

    def _check_token(self, token: bytes, source: Address, now: float) -> None:
        if not self._tokens.valid(token, source, now):
            raise _RefusedError(203, b"Bad token")
        if self._on_proof is not None:
            self._on_proof(source, now)


def _item(arguments: _Arguments, v_encoded: bytes) -> MutableItem:
    """Read the mutable item of a put; nothing of it is verified yet."""
    return MutableItem(
        public_key=_octets(arguments, b"k", PUBLIC_KEY_BYTES),
        seq=_integer(arguments, b"seq"),
        v_encoded=v_encoded,
        signature=_octets(arguments, b"sig", SIGNATURE_BYTES),
        salt=_octets(arguments, b"salt") if b"salt" in arguments else None,
    )


def _octets(arguments: _Arguments, key: bytes, size: int | None = None) -> bytes:
    """Read a byte string that must be there, of `size` bytes if that is given."""
    value = arguments.get(key)
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise _invalid(key)
    return value


def _integer(
    arguments: _Arguments,
    key: bytes,
    lowest: int = SEQ_MIN,
    highest: int = SEQ_MAX,
    default: int | None = None,
) -> int:
    """Read an integer within bounds; one that is missing is `default`, if there is one."""
    value = arguments.get(key, default)
    if not isinstance(value, int) or not lowest <= value <= highest:
        raise _invalid(key)
    return value


def _invalid(key: bytes) -> _RefusedError:
    return _RefusedError(203, b"Invalid argument: " + key)


def _trimmed(reply: Response) -> Response:
    """Leave out the farthest nodes of a reply that would not fit one datagram.

    Only a stored value can make a reply that large; without one nothing is measured.
    """
    nodes = reply.values.get(b"nodes")
    if b"v" not in reply.values or not isinstance(nodes, bytes):
        return reply
    excess = len(krpc.encode(reply)) - PAYLOAD_BYTES_MAX
    if excess <= 0:
        return reply
    count = len(nodes) // NODE_BYTES + -excess // NODE_BYTES  # rounds down: enough go
    return replace(reply, values={**reply.values, b"nodes": nodes[: count * NODE_BYTES]})
