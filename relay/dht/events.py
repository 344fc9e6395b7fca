"""What a `DhtNode` tells its driver: handles, outcomes and events.

A handle stands for one caller's interest in a look-up or a put; several callers
may share the work behind it. Events name the handle they are for. Handles are
compared by identity.
"""

import enum
from dataclasses import dataclass
from typing import TypeAlias

from relay.dht.items import MutableItem
from relay.dht.node_id import Address, NodeInfo


@dataclass(frozen=True, slots=True, eq=False)
class GetHandle:
    """One caller's interest in a look-up of `target`."""

    target: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PutHandle:
    """One caller's interest in storing something under `target`."""

    target: bytes


Handle: TypeAlias = GetHandle | PutHandle


class PutFailure(enum.Enum):
    """Why nothing counts as stored."""

    NO_CLOSEST_NODES = "the look-up found no node with a token"
    TIMED_OUT = "no node acknowledged in time, or all refused for reasons other than recency"
    NOT_MOST_RECENT = "nodes hold a higher sequence number (302)"
    CAS_FAILED = "nodes hold another sequence number than the expected one (301)"
    OVERLOADED = "too many look-ups are running, or most near nodes are busy; nothing was sent"


@dataclass(frozen=True, slots=True)
class GetOutcome:
    """How a look-up ended.

    `queried` nodes were sent the query, `responded` of them answered with
    anything, `usable` of those with a response that could be used (no error, no
    read-only node). `best` is the verified item with the highest seq (ties: the
    larger value). `closest` are the usable responders nearest to the target,
    nearest first. `overloaded`: too much else is going on; nothing was sent,
    or not to most of those nearest to the target.
    """

    best: MutableItem | None
    queried: int
    responded: int
    usable: int
    closest: tuple[NodeInfo, ...] = ()
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """How a put ended: `stored` of `contacted` remote nodes acknowledged; failure None: success."""

    stored: int
    contacted: int
    failure: PutFailure | None


@dataclass(frozen=True, slots=True)
class ItemReceived:
    """A verified mutable item: the handle's first one, or one newer than those before it."""

    handle: GetHandle
    item: MutableItem


@dataclass(frozen=True, slots=True)
class ValueReceived:
    """An immutable value, bencoded, whose SHA-1 is the target; at most one per handle."""

    handle: GetHandle
    value_encoded: bytes


@dataclass(frozen=True, slots=True)
class PeersReceived:
    """Torrent peers that one node named for an info hash."""

    handle: GetHandle
    peers: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class GetFinished:
    """The last event of a `GetHandle`."""

    handle: GetHandle
    outcome: GetOutcome


@dataclass(frozen=True, slots=True)
class PutAssured:
    """The put can no longer fail: half of its nodes have acknowledged, the others may be slow."""

    handle: PutHandle


@dataclass(frozen=True, slots=True)
class PutFinished:
    """The last event of a `PutHandle`."""

    handle: PutHandle
    outcome: PutOutcome


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """A node has answered us for the first time."""


@dataclass(frozen=True, slots=True)
class TablePoor:
    """Nobody answers and the known addresses are used up: resolve the bootstrap names again."""


Event: TypeAlias = (
    ItemReceived
    | ValueReceived
    | PeersReceived
    | GetFinished
    | PutAssured
    | PutFinished
    | Bootstrapped
    | TablePoor
)
