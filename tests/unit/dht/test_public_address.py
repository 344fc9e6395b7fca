"""Votes about our address, and the ping that proves it."""

from __future__ import annotations

from collections import Counter

from relay.dht import krpc
from relay.dht.krpc import Query
from relay.dht.public_address import PublicAddress
from tests.support.chance import seeded

OURS = ("93.184.216.34", 6881)
OTHER = ("93.184.216.34", 7000)
OWN_ID = bytes(20)


def make(fixed_ip: str | None = None) -> PublicAddress:
    return PublicAddress(seeded(1), fixed_ip)


def trial(public: PublicAddress) -> Query:
    query = krpc.decode(public.trial(OWN_ID, read_only=True))
    assert isinstance(query, Query)
    return query


def test_the_majority_decides() -> None:
    public = make()
    assert public.vote(Counter()) is None
    assert public.vote(Counter({OURS: 5, OTHER: 5})) is None
    assert public.address is None
    assert public.vote(Counter({OURS: 6, OTHER: 5})) == OURS
    assert public.address == OURS
    assert public.firewalled


def test_only_a_new_address_wants_trying() -> None:
    public = make()
    assert public.vote(Counter({OURS: 1})) == OURS
    assert public.confirm(trial(public), OURS)
    assert not public.firewalled
    assert public.vote(Counter({OURS: 1})) is None
    assert not public.firewalled
    assert public.vote(Counter({OTHER: 1})) == OTHER
    assert public.firewalled, "until it is tried"


def test_nonsense_is_not_taken() -> None:
    public = make()
    for address in (("0.0.0.0", 1), ("224.0.0.1", 1), ("93.184.216.34", 0)):  # noqa: S104
        assert public.vote(Counter({address: 3})) is None
    assert public.address is None


def test_a_configured_ip_is_not_overruled() -> None:
    public = make("93.184.216.34")
    assert public.vote(Counter({("8.8.8.8", 6881): 9})) is None
    assert public.vote(Counter({OTHER: 9})) == OTHER


def test_only_our_own_ping_from_that_address_proves_it() -> None:
    public = make()
    public.vote(Counter({OURS: 1}))
    ping = trial(public)
    assert not public.confirm(Query(b"zzzz", b"ping", {}), OURS)
    assert not public.confirm(Query(ping.transaction_id, b"get", {}), OURS)
    assert not public.confirm(ping, OTHER)
    assert public.firewalled
    assert public.confirm(ping, OURS)
    assert not public.confirm(ping, OURS), "it counts once"


def test_a_ping_that_could_not_be_sent_is_tried_after_the_next_votes() -> None:
    public = make()
    assert public.vote(Counter({OURS: 1})) == OURS
    trial(public)
    public.postpone()
    assert public.trial_source == b""
    assert public.vote(Counter({OURS: 1})) == OURS
    assert public.confirm(trial(public), OURS)
    assert public.vote(Counter({OURS: 1})) is None
    assert not public.firewalled
