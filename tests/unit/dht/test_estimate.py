"""Size estimate, store sets, and the memory of look-ups."""

from __future__ import annotations

import pytest

from relay.dht.estimate import (
    CROWD_DISTANCE_MAX,
    LOOKUPS_REMEMBERED_MAX,
    REUSE_S,
    SIZE_MAX,
    SPACE,
    LookupHistory,
    StoreNode,
    size_estimate,
    take_until_secure,
)
from relay.dht.node_id import NodeInfo
from tests.support.chance import seeded

TARGET = bytes(20)


def at_distance(fraction: float, ip: str = "10.0.0.1", token: bytes = b"t") -> StoreNode:
    """A node so far from the target, as a fraction of the space."""
    return StoreNode(int(fraction * SPACE).to_bytes(20, "big"), (ip, 6881), token)


def infos(nodes: list[StoreNode]) -> list[NodeInfo]:
    return [NodeInfo(node.id, node.address) for node in nodes]


@pytest.mark.parametrize("size", [10, 300, 10_000])
def test_the_estimate_of_random_networks_is_about_right(size: int) -> None:
    rng = seeded(size)
    ids = [rng.randbytes(20) for _ in range(size)]
    estimates = []
    for _ in range(20):
        target = rng.randbytes(20)
        centre = int.from_bytes(target, "big")
        closest = sorted(ids, key=lambda i: int.from_bytes(i, "big") ^ centre)[:20]
        estimates.append(size_estimate(target, closest))
    mean = sum(estimates) / len(estimates)
    assert mean == pytest.approx(size, rel=0.3)


def test_no_nodes_no_estimate() -> None:
    assert size_estimate(TARGET, []) == 0.0
    assert size_estimate(TARGET, [TARGET]) == 0.0


def test_the_store_set_has_at_least_twenty_if_there_are() -> None:
    few = [at_distance(0.01 * i) for i in range(1, 9)]
    assert take_until_secure(TARGET, few, 8.0, 1) == tuple(few)
    many = [at_distance(0.01 * i) for i in range(1, 60)]
    assert len(take_until_secure(TARGET, many, 1e6, 1)) == 20


def test_crowding_near_the_target_extends_the_store_set() -> None:
    """A hundred nodes where twenty are expected: the set goes on to the expected distance."""
    sybils = [at_distance(i / 1e9) for i in range(1, 101)]
    honest = [at_distance(i / 1000) for i in range(1, 41)]
    taken = take_until_secure(TARGET, sybils + honest, 999.0, 1)
    assert len(taken) == 100 + 19, "up to where the 20th of 1000 nodes is expected"


def test_a_crowd_leaves_room_for_ten_others_in_the_store_set() -> None:
    """Also while the size of the network is thought far too large."""
    sybils = [at_distance(i / 1e9) for i in range(1, 31)]
    honest = [at_distance(i / 1000) for i in range(1, 41)]
    assert take_until_secure(TARGET, sybils + honest, 1e9, 1) == tuple(sybils[:20])
    crowd = int(0.001 * SPACE)
    taken = take_until_secure(TARGET, sybils + honest, 1e9, 1, crowd)
    assert taken == (*sybils, *honest[:10])
    assert take_until_secure(TARGET, sybils, 1e9, 1, crowd) == tuple(sybils)


def test_the_crowd_distance_is_where_the_tenth_node_is_expected() -> None:
    history = LookupHistory()
    assert history.crowd_distance == 0
    nodes = [at_distance(i / 1000) for i in range(1, 21)]
    history.remember(TARGET, infos(nodes), nodes, 0.0)
    assert history.crowd_distance / SPACE == pytest.approx(0.01)
    sybils = [at_distance(i / 1e9) for i in range(1, 21)]
    crowded = b"x" + bytes(19)
    near_it = [node._replace(id=b"x" + node.id[1:]) for node in sybils]
    history.remember(crowded, infos(near_it), near_it, 0.0)
    assert history.crowd_distance / SPACE == pytest.approx(0.01), "one look-up more does not tell"
    history.forget(TARGET)
    assert history.crowd_distance / SPACE == pytest.approx(1e-8)
    history.forget(crowded)
    assert history.crowd_distance == 0


def test_in_a_small_network_the_crowd_distance_is_a_quarter_of_the_space() -> None:
    history = LookupHistory()
    nodes = [at_distance(i / 10) for i in range(1, 9)]
    history.remember(TARGET, infos(nodes), nodes, 0.0)
    assert history.crowd_distance == CROWD_DISTANCE_MAX == SPACE // 4


def test_too_few_networks_extend_the_store_set() -> None:
    one_network = [at_distance(0.01 * i) for i in range(1, 31)]
    elsewhere = at_distance(0.5, "93.0.0.1")
    taken = take_until_secure(TARGET, [*one_network, elsewhere, at_distance(0.6)], 100.0, 2)
    assert len(taken) == 30, "until the second network appears"


def test_a_store_set_is_reused_for_five_minutes() -> None:
    history = LookupHistory()
    nodes = [at_distance(0.1 * i) for i in range(1, 5)]
    assert history.remember(TARGET, infos(nodes), nodes, 100.0) == tuple(nodes)
    assert history.store_set(TARGET, 100.0 + REUSE_S) == tuple(nodes)
    assert history.store_set(TARGET, 100.1 + REUSE_S) == ()
    assert history.store_set(b"x" * 20, 100.0) == ()
    history.forget(TARGET)
    assert history.store_set(TARGET, 100.0) == ()


def test_nodes_without_a_token_are_no_place_to_store() -> None:
    history = LookupHistory()
    silent, open_to_all = at_distance(0.1, token=b""), at_distance(0.2)
    nodes = [silent, open_to_all]
    assert history.remember(TARGET, infos(nodes), nodes, 0.0) == (open_to_all,)


def test_the_average_size_forgets_with_the_look_ups() -> None:
    history = LookupHistory()
    assert history.size == (0.0, 1.0)
    for number in range(LOOKUPS_REMEMBERED_MAX + 10):
        spread = 0.001 if number < 10 else 0.01
        nodes = [at_distance(spread * i) for i in range(1, 21)]
        # Distances are relative to the target, which differs in bits that do not matter here.
        target = number.to_bytes(20, "big")
        history.remember(target, infos(nodes), nodes, 0.0)
    size, deviation = history.size
    assert size == pytest.approx(100, rel=0.01)
    assert 0 < deviation < 0.01
    assert history.store_set((5).to_bytes(20, "big"), 0.0) == ()


def test_one_crowded_key_spoils_no_average_for_good() -> None:
    """Names right next to a key, alive or not, make a size of 10^45 there."""
    history = LookupHistory()
    crowd = [StoreNode(bytes(19) + bytes([i]), ("10.0.0.1", 6881), b"t") for i in range(1, 21)]
    nodes = [at_distance(0.01 * i) for i in range(1, 21)]
    history.remember(TARGET, infos(crowd), crowd, 0.0)
    assert history.size[0] == SIZE_MAX
    for number in range(1, LOOKUPS_REMEMBERED_MAX + 1):
        history.remember(number.to_bytes(20, "big"), infos(nodes), nodes, 0.0)
    assert history.size[0] == pytest.approx(100, rel=0.01)


def test_large_store_sets_leave_fewer_look_ups_remembered() -> None:
    """A hostile network has 256 nodes answer each look-up, and wants all of them written to."""
    history = LookupHistory(nodes_max=1000)
    nodes = [at_distance(0.001 * i) for i in range(1, 257)]
    sets = []
    for number in range(100):
        sets.append(history.remember(number.to_bytes(20, "big"), infos(nodes), nodes, 0.0))
        assert history.nodes <= 1000
    assert history.nodes > 1000 - len(nodes)
    remembered = [n for n in range(100) if history.store_set(n.to_bytes(20, "big"), 0.0)]
    assert remembered == list(range(remembered[0], 100))
    assert sum(len(sets[number]) for number in remembered) == history.nodes


def test_being_offline_teaches_nothing() -> None:
    history = LookupHistory()
    assert history.remember(TARGET, [], [], 0.0) == ()
    assert history.size == (0.0, 1.0)
