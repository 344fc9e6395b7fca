"""Votes about our address, and the ping that proves it."""

from __future__ import annotations

from relay.dht import krpc
from relay.dht.krpc import Query
from relay.dht.node_id import Address
from relay.dht.public_address import (
    CHECK_INTERVAL_S,
    CHECK_LOOKUPS,
    NETWORKS_MIN,
    PublicAddress,
)
from tests.support.chance import seeded

OURS = ("93.184.216.34", 6881)
OTHER = ("93.184.216.34", 7000)
OWN_ID = bytes(20)
TARGET = b"t" * 20


def make(fixed_ip: str | None = None) -> PublicAddress:
    return PublicAddress(seeded(1), fixed_ip)


def vote(
    public: PublicAddress, votes: dict[Address, int], now: float = 0.0, target: bytes = TARGET
) -> Address | None:
    """Count a look-up in which so many networks name each address."""
    named = [krpc.pack_address(address) for address, count in votes.items() for _ in range(count)]
    return public.vote(target, {b"%d" % at: name for at, name in enumerate(named)}, now)


def check(public: PublicAddress, votes: dict[Address, int], now: float = 0.0) -> Address | None:
    """Make the look-up that a check wants."""
    target = public.take_target()
    assert target is not None
    assert public.take_target() is None, "one at a time"
    assert target == public.check_targets[-1] != TARGET
    return vote(public, votes, now, target)


def trial(public: PublicAddress) -> Query:
    query = krpc.decode(public.trial(OWN_ID, read_only=True))
    assert isinstance(query, Query)
    return query


def test_the_majority_gives_the_first_address() -> None:
    public = make()
    assert vote(public, {}) is None
    assert vote(public, {OURS: 5, OTHER: 5}) is None
    assert public.address is None
    assert vote(public, {OURS: 6, OTHER: 5}) == OURS
    assert public.address == OURS
    assert public.firewalled
    assert public.take_target() is None


def test_only_a_new_address_wants_trying() -> None:
    public = make()
    assert vote(public, {OURS: 1}) == OURS
    assert public.confirm(trial(public), OURS)
    assert not public.firewalled
    assert vote(public, {OURS: 1}) is None
    assert public.take_target() is None
    assert not public.firewalled


def test_an_address_is_changed_when_look_ups_for_random_identifiers_agree() -> None:
    public = make()
    vote(public, {OURS: 20})
    assert public.confirm(trial(public), OURS)
    assert vote(public, {OTHER: 20}) is None
    for _ in range(CHECK_LOOKUPS - 1):
        assert check(public, {OTHER: 11, OURS: 9}) is None
        assert vote(public, {OTHER: 20}) is None, "others' look-ups do not count"
        assert (public.address, public.firewalled) == (OURS, False)
    assert len(set(public.check_targets)) == CHECK_LOOKUPS
    assert check(public, {OTHER: 20}) == OTHER
    assert (public.address, public.firewalled) == (OTHER, True)
    assert public.take_target() is None


def test_look_ups_for_chosen_targets_change_no_address_however_many_there_are() -> None:
    public = make()
    vote(public, {OURS: 20})
    assert public.confirm(trial(public), OURS)
    checks = 0
    for now in range(600):
        target = seeded(now).randbytes(20)
        assert vote(public, {OTHER: 200, OURS: 20}, float(now), target) is None
        wanted = public.take_target()
        if wanted is not None:
            checks += 1
            assert vote(public, {OURS: 11, OTHER: 9}, float(now), wanted) is None
    assert (public.address, public.firewalled) == (OURS, False)
    assert checks == 600 / CHECK_INTERVAL_S


def test_a_check_ends_with_the_first_look_up_that_does_not_agree() -> None:
    third: Address = ("93.184.216.34", 7001)
    for votes in ({OURS: 9}, {OTHER: 5, OURS: 5}, {third: 9}, {}):
        public = make()
        vote(public, {OURS: 20})
        assert public.confirm(trial(public), OURS)
        vote(public, {OTHER: 20})
        assert check(public, {OTHER: 20}) is None
        assert check(public, votes) is None
        assert public.take_target() is None
        vote(public, {OTHER: 20}, CHECK_INTERVAL_S - 1)
        assert public.take_target() is None, "not again at once"
        vote(public, {OTHER: 20}, CHECK_INTERVAL_S)
        for _ in range(CHECK_LOOKUPS - 1):
            assert check(public, {OTHER: 20}) is None
        assert check(public, {OTHER: 20}) == OTHER


def test_a_few_networks_change_no_address() -> None:
    for networks, expected in ((NETWORKS_MIN - 1, None), (NETWORKS_MIN, OTHER)):
        public = make()
        vote(public, {OURS: 1})
        vote(public, {OTHER: networks})
        for _ in range(CHECK_LOOKUPS - 1):
            assert check(public, {OTHER: networks}) is None
        assert check(public, {OTHER: networks}) == expected


def test_nonsense_is_not_taken() -> None:
    public = make()
    for address in (("0.0.0.0", 1), ("224.0.0.1", 1), ("93.184.216.34", 0)):  # noqa: S104
        assert vote(public, {address: 3}) is None
    assert public.address is None


def test_a_configured_ip_is_not_overruled() -> None:
    public = make("93.184.216.34")
    assert vote(public, {("8.8.8.8", 6881): 9}) is None
    assert public.take_target() is None
    assert vote(public, {OTHER: 9}) == OTHER


def test_only_our_own_ping_from_that_address_proves_it() -> None:
    public = make()
    vote(public, {OURS: 1})
    ping = trial(public)
    assert not public.confirm(Query(b"zzzz", b"ping", {}), OURS)
    assert not public.confirm(Query(ping.transaction_id, b"get", {}), OURS)
    assert not public.confirm(ping, OTHER)
    assert public.firewalled
    assert public.confirm(ping, OURS)
    assert not public.confirm(ping, OURS), "it counts once"


def test_a_ping_that_could_not_be_sent_is_tried_after_the_next_votes() -> None:
    public = make()
    assert vote(public, {OURS: 1}) == OURS
    trial(public)
    public.postpone()
    assert public.trial_source == b""
    assert vote(public, {OURS: 1}) == OURS
    assert public.confirm(trial(public), OURS)
    assert vote(public, {OURS: 1}) is None
    assert not public.firewalled


def test_what_begins_a_check_does_not_say_what_it_is_for() -> None:
    """Else whoever begins one each minute kept us from noticing our new address."""
    public = make()
    vote(public, {OURS: 20})
    assert vote(public, {("1.2.3.4", 5): 20}, 100.0) is None
    for _ in range(CHECK_LOOKUPS - 1):
        assert check(public, {OTHER: 20}, 100.0) is None
    assert check(public, {OTHER: 20}, 100.0) == OTHER


def test_a_check_that_confirms_our_address_is_over() -> None:
    public = make()
    vote(public, {OURS: 20})
    assert public.confirm(trial(public), OURS)
    assert vote(public, {OTHER: 20}, 100.0) is None
    assert check(public, {OURS: 20}, 100.0) is None
    assert public.take_target() is None
    assert public.address == OURS
