"""The routing table as a state machine, against a plain list that is searched and sorted."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay._pure.xor import bucket_index, distance
from relay.dht.node_id import NodeInfo, ip_octets, is_exempt, is_secure, secure_id
from relay.dht.routing_table import STALE_AFTER_S, RoutingTable
from tests.support.chance import seeded

K = 3
"""Small enough for buckets to be full most of the time."""

PUBLIC = [f"203.0.113.{host}" for host in range(1, 8)] + [f"198.51.{net}.1" for net in range(6)]
EXEMPT = ["127.0.0.1", "10.0.0.1", "10.0.0.2"]

# Identifiers that differ early, so that few buckets take many nodes, and some secure ones.
plain_ids = st.integers(0, 255).map(lambda first: bytes([first]) + bytes(19))
secure_ids = st.sampled_from([secure_id(ip, seeded(ip)) for ip in PUBLIC])
addresses = st.tuples(st.sampled_from(PUBLIC + EXEMPT), st.integers(1, 3))
nodes = st.builds(NodeInfo, plain_ids | secure_ids, addresses)
centres = plain_ids | st.binary(min_size=20, max_size=20)


@dataclass
class Known:
    """One line of the list."""

    node: NodeInfo
    seen: float

    def stale(self, now: float) -> bool:
        return now - self.seen >= STALE_AFTER_S


class Model:
    """The rules of the module's docstring, each as a search through the list.

    The list is in the order of last sight, so the first of a bucket is the bucket's head.
    """

    def __init__(self, own_id: bytes) -> None:
        self.own_id = own_id
        self.known: list[Known] = []

    def bucket(self, index: int) -> list[Known]:
        return [line for line in self.known if bucket_index(self.own_id, line.node.id) == index]

    def add(self, node: NodeInfo, now: float) -> bool:
        for line in [line for line in self.known if line.node.id == node.id]:
            if line.node == node:
                self.known.remove(line)
                self.known.append(Known(node, now))
                return True
            if line.node.address[0] != node.address[0] and not line.stale(now):
                return False
            self.known.remove(line)
        if node.id == self.own_id or not self._make_room(node, now):
            return False
        self.known.append(Known(node, now))
        return True

    def _make_room(self, node: NodeInfo, now: float) -> bool:
        ip = node.address[0]
        index = bucket_index(self.own_id, node.id)
        restarted = [line for line in self.known if line.node.address == node.address]
        rivals = restarted or [
            line for line in self.known if line.node.address[0] == ip and not is_exempt(ip)
        ]
        if rivals and not restarted and not rivals[0].stale(now):
            return False
        self.known = [line for line in self.known if line not in rivals]
        neighbours = [
            line
            for line in self.bucket(index)
            if ip_octets(line.node.address[0])[:3] == ip_octets(ip)[:3] and not is_exempt(ip)
        ]
        for crowd, limit in ((neighbours, 2), (self.bucket(index), K)):
            crowd = [line for line in crowd if line in self.known]
            if len(crowd) >= limit:
                if not crowd[0].stale(now):
                    return False
                self.known.remove(crowd[0])
        return True

    def closest(self, target: bytes, count: int) -> list[NodeInfo]:
        def rank(node: NodeInfo) -> tuple[bool, int]:
            return not is_secure(node.id, node.address[0]), distance(node.id, target)

        return sorted((line.node for line in self.known), key=rank)[:count]


class RoutingTableMachine(RuleBasedStateMachine):
    """Drives table and list with the same events; they must never differ."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = RoutingTable(bytes(20), K)
        self.model = Model(bytes(20))

    @rule(node=nodes)
    def add(self, node: NodeInfo) -> None:
        self.now += 0.01  # no two at once: which of them was seen last would be a matter of taste
        assert self.table.add(node, self.now) == self.model.add(node, self.now)

    @rule(ids=st.lists(plain_ids, min_size=4, max_size=12))
    def add_many(self, ids: list[bytes]) -> None:
        """Nodes of a test network: one address, many ports."""
        for port, node_id in enumerate(ids, start=100):
            self.add(NodeInfo(node_id, ("127.0.0.1", port)))

    @precondition(lambda self: self.model.known)
    @rule(data=st.data())
    def see_again(self, data: st.DataObject) -> None:
        self.add(data.draw(st.sampled_from([line.node for line in self.model.known])))

    @rule(node_id=plain_ids | secure_ids)
    def remove(self, node_id: bytes) -> None:
        left = [line for line in self.model.known if line.node.id != node_id]
        assert self.table.remove(node_id) == (len(left) < len(self.model.known))
        self.model.known = left

    @rule(seconds=st.sampled_from([1.0, 100.0, STALE_AFTER_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(own_id=plain_ids)
    def reset(self, own_id: bytes) -> None:
        """The most recently seen nodes are entered first, as if they were seen just then."""
        before = self.model.known
        self.table.reset(own_id)
        self.model = Model(own_id)
        for line in sorted(before, key=lambda line: line.seen, reverse=True):
            self.model.add(line.node, line.seen)
        assert {line.node for line in self.model.known} == set(self.table.nodes())
        self.model.known.sort(key=lambda line: line.seen)

    @rule(centre=centres, count=st.integers(0, 30))
    def closest(self, centre: bytes, count: int) -> None:
        assert self.table.closest(centre, count) == self.model.closest(centre, count)

    @rule(seconds=st.sampled_from([0.0, 10.0, 100.5, STALE_AFTER_S]))
    def unseen(self, seconds: float) -> None:
        expected = {line.node for line in self.model.known if self.now - line.seen >= seconds}
        found = self.table.unseen_since(self.now, seconds)
        assert set(found) == expected
        assert len(found) == len(expected)

    @invariant()
    def same_nodes(self) -> None:
        found = self.table.nodes()
        assert len(self.table) == len(found) == len(self.model.known)
        assert set(found) == {line.node for line in self.model.known}
        assert all(node in self.table for node in found)

    @invariant()
    def limits_hold(self) -> None:
        public = [node for node in self.table.nodes() if not is_exempt(node.address[0])]
        assert len({node.address[0] for node in public}) == len(public)
        for index in range(161):
            lines = [line.node for line in self.model.bucket(index)]
            networks = [
                ip_octets(node.address[0])[:3] for node in lines if not is_exempt(node.address[0])
            ]
            assert len(lines) <= (K if index else 0)
            assert all(networks.count(network) <= 2 for network in networks)


RoutingTableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_routing_table = RoutingTableMachine.TestCase
