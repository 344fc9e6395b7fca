"""Who may enter the routing table, and in which order its nodes are named."""

import pytest

from relay.dht import krpc
from relay.dht.node_id import NodeInfo, secure_id
from relay.dht.routing_table import STALE_AFTER_S, K, RoutingTable
from tests.support.chance import seeded

OWN = bytes(20)


def far(number: int) -> bytes:
    """An identifier of the farthest bucket; larger is farther."""
    return b"\x80" + number.to_bytes(19, "big")


def public(number: int) -> tuple[str, int]:
    """An address in a /24 of its own."""
    return (f"198.{number // 256 + 18}.{number % 256}.1", 6881)


def full_table() -> RoutingTable:
    table = RoutingTable(OWN)
    for number in range(K):
        assert table.add(NodeInfo(far(number), public(number)), float(number))
    return table


def test_our_own_identifier_never_enters() -> None:
    table = RoutingTable(OWN)
    assert not table.add(NodeInfo(OWN, ("127.0.0.1", 1)), 0.0)
    assert len(table) == 0
    assert table.closest(OWN) == []


def test_a_bucket_has_20_places() -> None:
    table = full_table()
    assert not table.add(NodeInfo(far(99), public(99)), 100.0)
    assert len(table) == K == 20
    assert table.add(NodeInfo(b"\x40" + bytes(19), public(99)), 100.0)  # another bucket


def test_a_full_bucket_yields_its_head_only_when_that_is_stale() -> None:
    table = full_table()
    newcomer = NodeInfo(far(99), public(99))
    assert not table.add(newcomer, STALE_AFTER_S - 0.1)
    assert table.add(newcomer, STALE_AFTER_S)
    assert NodeInfo(far(0), public(0)) not in table
    assert NodeInfo(far(1), public(1)) in table
    assert len(table) == K


def test_a_node_seen_again_is_the_last_to_yield() -> None:
    table = full_table()
    assert table.add(NodeInfo(far(0), public(0)), 500.0)
    assert table.add(NodeInfo(far(99), public(99)), STALE_AFTER_S + 1.0)
    assert NodeInfo(far(0), public(0)) in table
    assert NodeInfo(far(1), public(1)) not in table


def test_one_node_per_address() -> None:
    table = RoutingTable(OWN)
    first = NodeInfo(far(1), ("203.0.113.1", 1))
    second = NodeInfo(far(2), ("203.0.113.1", 2))
    assert table.add(first, 0.0)
    assert not table.add(second, STALE_AFTER_S - 0.1)
    assert table.add(second, STALE_AFTER_S)
    assert table.nodes() == [second]


def test_two_nodes_per_network_in_a_bucket() -> None:
    table = RoutingTable(OWN)
    crowd = [NodeInfo(far(host), (f"203.0.113.{host}", 1)) for host in range(1, 4)]
    assert [table.add(node, 0.0) for node in crowd] == [True, True, False]
    elsewhere = NodeInfo(b"\x40" + bytes(19), ("203.0.113.9", 1))
    assert table.add(elsewhere, 0.0)
    assert table.add(crowd[2], STALE_AFTER_S)
    assert set(table.nodes()) == {crowd[1], crowd[2], elsewhere}


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.0.1"])
def test_exempt_addresses_may_hold_many_nodes(ip: str) -> None:
    table = RoutingTable(OWN)
    assert all(table.add(NodeInfo(far(port), (ip, port)), 0.0) for port in range(1, 21))
    assert len(table) == 20


def test_a_restarted_node_replaces_itself() -> None:
    """Another identifier at the same address and port: the old one is gone for certain."""
    for ip in ("203.0.113.1", "127.0.0.1"):
        table = RoutingTable(OWN)
        assert table.add(NodeInfo(far(1), (ip, 1)), 0.0)
        assert table.add(NodeInfo(far(2), (ip, 1)), 1.0)
        assert table.nodes() == [NodeInfo(far(2), (ip, 1))]


def test_a_node_may_change_its_port_but_not_its_address() -> None:
    table = RoutingTable(OWN)
    assert table.add(NodeInfo(far(1), ("203.0.113.1", 1)), 0.0)
    moved = NodeInfo(far(1), ("203.0.113.1", 2))
    assert table.add(moved, 1.0)
    assert table.nodes() == [moved]
    thief = NodeInfo(far(1), ("198.51.100.1", 1))
    assert not table.add(thief, 2.0)
    assert table.nodes() == [moved]
    assert table.add(thief, 1.0 + STALE_AFTER_S)  # nobody answers at the old one any more
    assert table.nodes() == [thief]


def test_secure_nodes_are_named_first_then_the_closest() -> None:
    table = RoutingTable(OWN)
    target = far(0)
    insecure = [NodeInfo(far(number), public(number)) for number in (1, 2, 3)]
    secure = [
        NodeInfo(secure_id(ip, seeded(ip)), (ip, 6881)) for ip in ("203.0.113.1", "198.51.100.1")
    ]
    for node in insecure[::-1] + secure:
        assert table.add(node, 0.0)
    named = table.closest(target)
    assert named[2:] == insecure
    assert set(named[:2]) == set(secure)
    assert table.closest(target, 3) == named[:3]
    assert table.closest(named[1].id, 1) == [named[1]]
    assert krpc.unpack_nodes(table.closest_compact(target)) == named
    assert krpc.unpack_nodes(table.closest_compact(target, 3)) == named[:3]


def test_remove() -> None:
    table = full_table()
    assert table.remove(far(3))
    assert not table.remove(far(3))
    assert NodeInfo(far(3), public(3)) not in table
    assert table.add(NodeInfo(far(99), public(3)), 100.0)  # its place and its address are free


def test_the_places_of_removed_nodes_are_used_again() -> None:
    """A table of k = 1 has 160 places in all."""
    table = RoutingTable(OWN, k=1)
    for number in range(500):
        assert table.add(NodeInfo(far(number), public(number)), 0.0)
        assert table.closest(OWN) == [NodeInfo(far(number), public(number))]
        assert table.remove(far(number))
    assert table.closest(OWN) == []


def test_who_was_not_heard_of() -> None:
    table = full_table()
    assert table.unseen_since(20.0, 18.0) == [NodeInfo(far(n), public(n)) for n in (0, 1, 2)]
    assert table.stale(STALE_AFTER_S) == [NodeInfo(far(0), public(0))]
    assert table.stale(0.0) == []


def test_reset_moves_the_nodes_to_their_new_buckets() -> None:
    table = RoutingTable(OWN)
    for number in range(K):
        assert table.add(NodeInfo(far(number), public(number)), 50.0)
        assert table.add(NodeInfo(bytes([number + 1]) + bytes(19), public(100 + number)), number)
    before = len(table)
    assert before > K
    own_id = b"\x80" + bytes(18) + b"\x07"
    table.reset(own_id)
    assert table.own_id == own_id
    assert NodeInfo(far(7), public(7)) not in table  # that is us now
    # All the nodes that were spread over near buckets are now far, and share one.
    kept = [node for node in table.nodes() if node.id[0] != 0x80]
    assert len(kept) == K
    assert not table.add(NodeInfo(bytes([99]) + bytes(19), public(200)), 60.0)
    # Old age is kept: the one seen longest ago yields first.
    assert table.add(NodeInfo(bytes([99]) + bytes(19), public(200)), STALE_AFTER_S)
    assert NodeInfo(b"\x01" + bytes(19), public(100)) not in table


def test_reset_forgets_the_oldest_where_places_are_short() -> None:
    table = RoutingTable(OWN, k=1)
    old = NodeInfo(b"\x02" + bytes(19), public(1))
    recent = NodeInfo(b"\x04" + bytes(19), public(2))
    assert table.add(recent, 9.0)
    assert table.add(old, 5.0)
    table.reset(far(1))
    assert table.nodes() == [recent]


@pytest.mark.parametrize("size", [0, 19, 21])
def test_identifiers_have_20_bytes(size: int) -> None:
    table = RoutingTable(OWN)
    with pytest.raises(ValueError, match="20 bytes"):
        table.add(NodeInfo(bytes(size), ("127.0.0.1", 1)), 0.0)
    with pytest.raises(ValueError, match="20 bytes"):
        table.closest(bytes(size))
    assert len(table) == 0
