"""How large the network is, where a value must be stored, and what recent look-ups found.

The distances of the nodes closest to a random target tell the size of a network: the i-th
closest is expected at i/N of the identifier space. Least squares over the 20 closest:

    N = sum(i²) / sum(i · distance_i)        distance as a fraction of the space

The *store set* ("take until secure") starts from that: an attacker with many nodes close to a
target pushes the 20 closest nearer than they should be, so the set goes on until it reaches
the distance where the 20th node is expected and as many different /6 networks as usual.

That alone does not help while the estimate is still too high, nor where nobody else was asked. So
there is the *crowd distance*, where the 10th node is expected: of the nodes nearer than that ten
count towards the 20, however many there are, both in look-ups (`lookup`) and in the store set. It
follows from the median of the look-ups, which those of a few crowded targets do not move.

Source: mainline, docs/dht_size_estimate.md; design/protocol.md, section 7.6. The constants,
including the first guesses of a million nodes and 20 networks, are those of the reference
node. There the guess of networks adds to the first look-up's count, so that the first puts go
to twice as many nodes as later ones; here it counts as a look-up of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import median_low
from typing import Final, NamedTuple

from relay._kernels import CROWD_MAX
from relay.dht.node_id import Address, NodeInfo, ip_octets

K: Final = 20
SPACE: Final = 1 << 160
CROWD_DISTANCE_MAX: Final = SPACE // 4
"""Where the tenth of 40 nodes is expected; in a smaller network everybody is asked anyway."""
SIZE_MAX: Final = 1 << 32
"""Nodes in a network, at most: as many as there are addresses (IPv4)."""
LOOKUPS_REMEMBERED_MAX: Final = 1000
NODES_REMEMBERED_MAX: Final = 40_000
"""Nodes in their store sets, twice as many as usual: a hostile network fills sets of 256."""
REUSE_S: Final = 300.0
"""How long a put may use the tokens of an earlier look-up: nodes keep them good for at least
five minutes (BEP 5), and within that time few nodes come or go."""

_FIRST_SIZE_SUM: Final = 1_000_000.0
_FIRST_SUBNET_SUM: Final = 20


class StoreNode(NamedTuple):
    """A node that answered a look-up, and the token to write there with (empty: it gave none)."""

    id: bytes
    address: Address
    token: bytes


class _Remembered(NamedTuple):
    """One look-up's store set and its share in the averages."""

    nodes: tuple[StoreNode, ...]
    at: float
    size: float
    responders_size: float
    subnets: int


def size_estimate(target: bytes, ids: Iterable[bytes]) -> float:
    """Estimate the number of nodes in a network from those closest to `target`.

    Args:
        target: 20 bytes, independent of the nodes' identifiers.
        ids: the closest nodes, closest first; the first `K` count.

    Returns:
        The least-squares estimate; 0 without nodes.

    >>> round(size_estimate(bytes(20), [bytes([i]) + bytes(19) for i in range(1, 21)]))
    256
    """
    centre = int.from_bytes(target, "big")
    squares = weighted = 0
    for count, node_id in enumerate(ids, start=1):
        if count > K:
            break
        squares += count * count
        weighted += count * (int.from_bytes(node_id, "big") ^ centre)
    return squares * SPACE / weighted if weighted else 0.0


def _summable(size: float) -> float:
    """Return a size whose sum with others is exact, so that it can be taken out of it again.

    One crowd around one key makes an estimate of 10^45, beside which all others would be lost.
    """
    return float(min(round(size), SIZE_MAX))


@lru_cache(maxsize=4096)
def subnet(ip: str) -> int:
    """Return the first 6 bits of an IPv4 address."""
    return ip_octets(ip)[0] >> 2


def take_until_secure(
    target: bytes, responders: Sequence[StoreNode], size: float, subnets: int, crowd: int = 0
) -> tuple[StoreNode, ...]:
    """Return the nodes to store on: at least the `K` closest, more where crowding is suspect.

    Args:
        target: 20 bytes.
        responders: nodes with a token, in the order of preference.
        size: expected number of nodes in the network.
        subnets: usual number of different /6 networks among the closest.
        crowd: the crowd distance.
    """
    if len(responders) <= K:
        return tuple(responders)
    expected = int(K * SPACE / (size + 1))
    centre = int.from_bytes(target, "big")
    seen: set[int] = set()
    count = 0
    for node in responders:
        seen.add(subnet(node.address[0]))
        if int.from_bytes(node.id, "big") ^ centre >= expected and len(seen) >= subnets:
            break
        count += 1
    return tuple(responders[: max(count, _beyond_crowd(centre, responders, crowd))])


def _beyond_crowd(centre: int, responders: Sequence[StoreNode], crowd: int) -> int:
    """Return how many of the first nodes make `K`, if at most `CROWD_MAX` near ones count."""
    near = counted = 0
    for at, node in enumerate(responders, start=1):
        if int.from_bytes(node.id, "big") ^ centre < crowd:
            near += 1
            if near > CROWD_MAX:
                continue
        counted += 1
        if counted == K:
            return at
    return len(responders)


class LookupHistory:
    """Store sets of the last look-ups, and the averages drawn from them.

    Bounded: `LOOKUPS_REMEMBERED_MAX` look-ups and `nodes_max` nodes in their store sets, the least
    recent forgotten first; a forgotten one also leaves the averages.
    """

    def __init__(self, nodes_max: int = NODES_REMEMBERED_MAX) -> None:
        self._nodes_max = nodes_max
        self._lookups: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._nodes = 0
        self._size_sum = 0.0
        self._responders_size_sum = _FIRST_SIZE_SUM
        self._subnet_sum = _FIRST_SUBNET_SUM
        self._crowd_distance: int | None = 0

    def remember(
        self,
        target: bytes,
        candidates: Sequence[NodeInfo],
        responders: Sequence[StoreNode],
        now: float,
    ) -> tuple[StoreNode, ...]:
        """Take in a finished look-up; return its store set.

        Args:
            target: 20 bytes.
            candidates: the closest nodes heard of, alive or not.
            responders: the closest nodes that answered, with or without a token.
            now: monotonic seconds.
        """
        writable = [node for node in responders if node.token]
        nodes = take_until_secure(
            target, writable, self._responders_size, self._subnets, self.crowd_distance
        )
        if not candidates:
            return nodes  # we are offline; nothing to learn from that
        self.forget(target)
        while self._lookups and (
            len(self._lookups) >= LOOKUPS_REMEMBERED_MAX
            or self._nodes + len(nodes) > self._nodes_max
        ):
            self.forget(next(iter(self._lookups)))
        heard_of = [node.id for node in candidates[:K]]
        answered = [node.id for node in responders[:K]]
        size = size_estimate(target, heard_of)
        entry = _Remembered(
            nodes,
            now,
            _summable(size),
            _summable(size if answered == heard_of else size_estimate(target, answered)),
            len({subnet(node.address[0]) for node in candidates[:K]}),
        )
        self._lookups[target] = entry
        self._crowd_distance = None  # to be computed when it is needed
        self._nodes += len(nodes)
        self._size_sum += entry.size
        self._responders_size_sum += entry.responders_size
        self._subnet_sum += entry.subnets
        return nodes

    def forget(self, target: bytes) -> None:
        """Drop what is known about a target, for instance because its tokens are refused."""
        entry = self._lookups.pop(target, None)
        if entry is not None:
            self._crowd_distance = None
            self._nodes -= len(entry.nodes)
            self._size_sum -= entry.size
            self._responders_size_sum -= entry.responders_size
            self._subnet_sum -= entry.subnets

    def store_set(self, target: bytes, now: float) -> tuple[StoreNode, ...]:
        """Return the store set of a look-up less than `REUSE_S` ago; empty if there is none."""
        entry = self._lookups.get(target)
        if entry is None or now - entry.at > REUSE_S:
            return ()
        return entry.nodes

    @property
    def nodes(self) -> int:
        """Nodes in the store sets that are remembered."""
        return self._nodes

    @property
    def size(self) -> tuple[float, float]:
        """Estimated number of nodes in the network, and its standard deviation as a fraction.

        The latter is the reference's fit to simulations (docs/standard-deviation-vs-lookups);
        0 nodes and 1.0 before the first look-up.
        """
        if not self._lookups:
            return 0.0, 1.0
        count = len(self._lookups)
        return max(self._size_sum, 0.0) / count, 0.281 * count**-0.529

    @property
    def crowd_distance(self) -> int:
        """How far from a target the tenth node is expected; 0 before the first look-up."""
        if self._crowd_distance is None:
            sizes = [entry.size for entry in self._lookups.values()]
            size = median_low(sizes) if sizes else 0.0
            self._crowd_distance = (
                min(int(CROWD_MAX * SPACE / size), CROWD_DISTANCE_MAX) if size else 0
            )
        return self._crowd_distance

    @property
    def _responders_size(self) -> float:
        return max(self._responders_size_sum, 0.0) / max(len(self._lookups), 1)

    @property
    def _subnets(self) -> int:
        return self._subnet_sum // (len(self._lookups) + 1)
