"""Budgets: strangers are served at once, forgers gain nothing, nobody bans us, nothing grows."""

import tracemalloc
from collections import deque
from collections.abc import Callable
from random import Random

import pytest

from relay.dht.budget import (
    CREDIT_RATIO,
    LATE_MAX_S,
    PACE,
    PROOF_LASTS_S,
    STRANGERS,
    UNPROVEN,
    SourceBudgets,
)
from relay.dht.node_id import Address
from tests.support.chance import seeded

SECRET = bytes(range(32))
SOURCE = ("203.0.113.7", 6881)
QUERY_BYTES = 100
LIST_BYTES = 620
"""A reply with 20 nodes; with the largest value a reply has 1452."""


@pytest.fixture
def budgets() -> SourceBudgets:
    return SourceBudgets(SECRET)


def flood(
    budgets: SourceBudgets,
    *,
    per_s: float,
    seconds: float,
    reply_bytes: int,
    source: Address = SOURCE,
    start: float = 100.0,
) -> tuple[int, int]:
    """Send queries at an even rate; returns how many were admitted and the bytes sent back."""
    admitted = sent = 0
    for number in range(int(per_s * seconds)):
        now = start + number / per_s
        if budgets.admit(source, QUERY_BYTES, now):
            admitted += 1
            if budgets.charge_reply(source, reply_bytes, now):
                sent += reply_bytes
    return admitted, sent


def test_a_stranger_is_served_at_once(budgets: SourceBudgets) -> None:
    """Ten lists of nodes, or five of the largest replies, without waiting."""
    assert flood(budgets, per_s=1000, seconds=0.010, reply_bytes=LIST_BYTES) == (10, 6200)
    other = ("198.51.100.7", 6881)
    _, sent = flood(budgets, per_s=1000, seconds=0.010, reply_bytes=1452, source=other)
    assert sent >= 5 * 1452


def test_a_stranger_who_asks_once_a_second_is_always_served(budgets: SourceBudgets) -> None:
    assert flood(budgets, per_s=1, seconds=600, reply_bytes=LIST_BYTES) == (600, 600 * LIST_BYTES)


@pytest.mark.parametrize("reply_bytes", [60, LIST_BYTES, 1452])
@pytest.mark.parametrize("per_s", [0.5, 3, 20, 500])
@pytest.mark.parametrize("proven", [False, True], ids=["stranger", "proven"])
def test_nobody_gets_more_than_the_allowance(
    budgets: SourceBudgets, reply_bytes: int, per_s: float, proven: bool
) -> None:
    seconds = 30.0
    if proven:
        budgets.prove(SOURCE, 100.0)
    admitted, sent = flood(budgets, per_s=per_s, seconds=seconds, reply_bytes=reply_bytes)
    at_once = PACE.to_proven if proven else PACE.to_strangers
    assert admitted <= at_once + PACE.packets_per_s * seconds
    if proven:
        assert sent == admitted * reply_bytes
    else:
        earned = UNPROVEN.bytes_per_s * seconds + CREDIT_RATIO * QUERY_BYTES * admitted
        assert sent <= UNPROVEN.bytes_burst + earned


def test_a_forger_gains_next_to_nothing(budgets: SourceBudgets) -> None:
    """Ten minutes of 50 queries/s in a victim's name: the victim gets a fraction of that."""
    _, sent = flood(budgets, per_s=50, seconds=600, reply_bytes=1452)
    received = 50 * 600 * QUERY_BYTES
    assert sent < received / 3


def test_what_was_not_asked_for_earns_no_credit_in_advance(budgets: SourceBudgets) -> None:
    """Credit pays for replies already sent; it does not add up to a larger burst."""
    for number in range(20):
        assert budgets.admit(SOURCE, 1400, 100.0 + number)
    sent = 0
    while budgets.charge_reply(SOURCE, 1452, 120.0):
        sent += 1452
    assert sent <= UNPROVEN.bytes_burst


def test_a_proof_gives_the_larger_budget_and_ends(budgets: SourceBudgets) -> None:
    stranger, _ = flood(budgets, per_s=1000, seconds=0.3, reply_bytes=60)
    budgets.prove(SOURCE, 200.0)
    proven, _ = flood(budgets, per_s=1000, seconds=0.3, reply_bytes=1452, start=200.0)
    assert (stranger, proven) == (10, 20)
    late = 200.0 + PROOF_LASTS_S
    still, _ = flood(budgets, per_s=1000, seconds=0.1, reply_bytes=60, start=late - 0.1)
    assert still == 20
    assert not budgets.admit(SOURCE, QUERY_BYTES, late + 4.9), "15 have not been earned back"
    ended, _ = flood(budgets, per_s=1000, seconds=0.1, reply_bytes=60, start=late + 20.0)
    assert ended == 10


def test_an_honest_relay_is_answered_twice_a_second(budgets: SourceBudgets) -> None:
    """As the Rust relay asks in a small network: two queries for each PUT, twenty at once."""
    budgets.prove(SOURCE, 100.0)
    assert flood(budgets, per_s=1000, seconds=0.02, reply_bytes=1452)[0] == 20
    assert flood(budgets, per_s=2, seconds=300, reply_bytes=1452, start=101.0)[0] == 600


def test_a_proof_renewed_lasts_longer(budgets: SourceBudgets) -> None:
    budgets.prove(SOURCE, 0.0)
    budgets.prove(SOURCE, PROOF_LASTS_S - 1.0)
    admitted, _ = flood(budgets, per_s=1000, seconds=0.1, reply_bytes=60, start=PROOF_LASTS_S + 9)
    assert admitted == 20


def test_the_port_does_not_matter(budgets: SourceBudgets) -> None:
    admitted = [budgets.admit((SOURCE[0], port), QUERY_BYTES, 100.0) for port in range(1, 31)]
    assert admitted == [True] * 10 + [False] * 20


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "10.9.8.7", "172.20.0.1", "192.168.1.1", "169.254.1.1"]
)
def test_exempt_addresses_have_no_budget(budgets: SourceBudgets, ip: str) -> None:
    admitted, sent = flood(budgets, per_s=10_000, seconds=0.2, reply_bytes=1452, source=(ip, 1))
    assert (admitted, sent) == (2000, 2000 * 1452)
    assert [budgets.reserve(ip, 1.0, 5.0) for _ in range(100)] == [0.0] * 100


def test_sources_that_share_a_cell_share_its_budget_but_not_a_proof() -> None:
    """One cell only, so everybody meets in it."""
    budgets = SourceBudgets(SECRET, cells=1)
    honest, flooder = ("203.0.113.1", 1), ("198.51.100.1", 1)
    assert flood(budgets, per_s=1000, seconds=0.1, reply_bytes=60, source=flooder)[0] == 10
    assert not budgets.admit(honest, QUERY_BYTES, 100.1)
    budgets.prove(honest, 100.1)
    assert budgets.admit(honest, QUERY_BYTES, 100.1)
    assert not budgets.admit(flooder, QUERY_BYTES, 100.1)
    budgets.prove(flooder, 100.1)  # the later proof counts
    assert budgets.admit(flooder, QUERY_BYTES, 100.1)
    assert not budgets.admit(honest, QUERY_BYTES, 100.1)


def test_which_sources_meet_depends_on_the_secret() -> None:
    def meets(secret: bytes) -> list[str]:
        budgets = SourceBudgets(secret, cells=8)
        flood(budgets, per_s=1000, seconds=0.1, reply_bytes=60)
        others = [f"198.51.100.{host}" for host in range(1, 65)]
        return [ip for ip in others if not budgets.admit((ip, 1), QUERY_BYTES, 100.1)]

    assert meets(bytes(32)) != meets(SECRET)
    assert meets(SECRET) == meets(SECRET)


def forget_budget() -> Callable[[str], None]:
    budgets = SourceBudgets(SECRET)

    def touch(ip: str) -> None:
        budgets.admit((ip, 1), QUERY_BYTES, 100.0)
        budgets.charge_reply((ip, 1), LIST_BYTES, 100.0)
        budgets.prove((ip, 1), 100.0)

    return touch


def forget_pace() -> Callable[[str], None]:
    budgets = SourceBudgets(SECRET)

    def touch(ip: str) -> None:
        budgets.reserve(ip, 1.0, 100.0)

    return touch


@pytest.mark.parametrize("make", [forget_budget, forget_pace], ids=["budgets", "pace"])
def test_forged_sources_do_not_grow_the_tables(make: Callable[[], Callable[[str], None]]) -> None:
    rng = seeded(1)

    def forged() -> str:
        return f"8.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"

    tracemalloc.start()
    try:
        touch = make()
        for _ in range(8000):  # more than any cache of address facts holds
            touch(forged())
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(8000):
            touch(forged())
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert before < 5_000_000
    assert after - before < 100_000


IP = SOURCE[0]


def test_queries_go_in_a_burst_and_then_one_a_second_by_right(budgets: SourceBudgets) -> None:
    assert [budgets.reserve(IP, 1.0, 10.0) for _ in range(20)] == [0.0] * 20
    assert budgets.reserve(IP, 1.0, 10.0) == 1.0
    assert budgets.reserve(IP, 1.0, 10.0) == 2.0
    assert budgets.reserve("198.51.100.7", 1.0, 10.0) == 0.0
    sent = [budgets.reserve(IP, 0.0, 10.0 + tenth / 10) == 0.0 for tenth in range(600)]
    assert sum(sent[:100]) == pytest.approx(9, abs=1)
    assert sum(sent[400:]) == pytest.approx(40, abs=1), "and two a second where nobody is answered"


def test_no_longer_wait_is_offered_and_no_place_taken_then(budgets: SourceBudgets) -> None:
    for _ in range(20):
        assert budgets.reserve(IP, 0.5, 10.0) == 0.0
    for _ in range(1000):
        assert budgets.reserve(IP, 0.5, 10.0) > 0.5
    assert budgets.reserve(IP, 0.5, 10.5) == 0.5


def test_the_burst_of_queries_recovers(budgets: SourceBudgets) -> None:
    for start in (10.0, 30.0):
        assert [budgets.reserve(IP, 1.0, start) for _ in range(20)] == [0.0] * 20


@pytest.mark.parametrize("proven", [False, True], ids=["stranger", "proven"])
def test_whoever_forges_an_address_does_not_keep_us_from_asking_there(
    budgets: SourceBudgets, proven: bool
) -> None:
    """A hundred queries a second in its name, for ten minutes."""
    budgets.prove(SOURCE, 100.0)
    start = 100.0 if proven else 100.0 + PROOF_LASTS_S
    answered, asked = 0, [0, 0]
    for number in range(60_000):
        now = start + number / 100
        answered += budgets.admit(SOURCE, QUERY_BYTES, now)
        if number >= 500 and number % 10 == 0:
            asked[number >= 1500] += budgets.reserve(IP, 0.0, now) == 0.0
    assert asked[0] >= 24, "about 25 in the first ten seconds"
    assert asked[1] == pytest.approx(585, abs=2), "and then one a second"
    assert answered == pytest.approx(600, abs=20), "others have what is left"


def test_two_that_have_much_to_ask_each_other_are_answered(budgets: SourceBudgets) -> None:
    """Else both would only ask, and neither would get an answer."""
    budgets.prove(SOURCE, 100.0)
    answered = asked = 0
    for number in range(6000):
        now = 100.0 + number / 100
        asked += budgets.reserve(IP, 1.0, now) <= 1.0
        answered += number % 50 == 0 and budgets.admit(SOURCE, QUERY_BYTES, now)
    assert asked >= 60
    assert answered >= 45


def test_queries_and_answers_are_in_one_account(budgets: SourceBudgets) -> None:
    """As many answers at once as there may be; then whatever goes in ten seconds."""
    budgets.prove(SOURCE, 100.0)
    answers = queries = 0
    for number in range(1001):
        now = 100.0 + number / 100
        while budgets.admit(SOURCE, QUERY_BYTES, now):
            answers += 1
        while budgets.reserve(IP, 0.0, now) == 0.0:
            queries += 1
    assert (answers, queries) == (20, 25)


@pytest.mark.parametrize("seed", range(20))
def test_no_address_gets_what_libtorrent_bans_for(budgets: SourceBudgets, seed: int) -> None:
    """More than 50 packets in 10 s. Whatever the mixture, to whom, sent on time or late."""
    sent = history(budgets, seeded(seed))
    assert len(sent) > 500
    window: deque[float] = deque()
    for at in sorted(sent):
        window.append(at)
        while window[0] < at - 10.0:
            window.popleft()
        assert len(window) <= 45


def history(budgets: SourceBudgets, rng: Random) -> list[float]:
    """When packets go to `SOURCE`, in bursts and at leisure."""
    now, sent = 1000.0, []
    share, pauses_s = rng.random(), rng.choice(([0.0, 0.1], [0.0, 0.1, 1.0], [0.0, 0.2, 13.0]))
    for _ in range(6000):
        now += rng.choice(pauses_s)
        if rng.random() < 0.01:
            budgets.prove(SOURCE, now)
        if rng.random() < share:
            wait_s = budgets.reserve(IP, 1.0, now)
            if wait_s <= 1.0:
                sent.append(now + wait_s + rng.choice((0.0, LATE_MAX_S)) * (wait_s > 0.0))
        elif budgets.admit(SOURCE, QUERY_BYTES, now):
            sent.append(now)
    return sent


def test_a_whole_network_s_addresses_share_what_strangers_have(budgets: SourceBudgets) -> None:
    """40,000 forged addresses, each within its own budget: so much a second, and no more."""
    per_s, burst = STRANGERS.bytes_per_s, STRANGERS.bytes_burst
    start, seconds, rate, reply_bytes = 1000.0, 2.0, 20_000, 1452
    friend = ("192.0.2.1", 6881)
    budgets.prove(friend, start)
    sent = 0
    for number in range(int(rate * seconds)):
        now = start + number / rate
        source = (f"{80 + number // 65_536}.{number >> 8 & 255}.{number & 255}.1", 6881)
        if budgets.admit(source, QUERY_BYTES, now):
            sent += reply_bytes * budgets.charge_reply(source, reply_bytes, now)
    assert 0.9 * (burst + per_s * seconds) < sent <= burst + per_s * seconds
    end = start + seconds
    assert budgets.admit(friend, QUERY_BYTES, end)
    assert budgets.charge_reply(friend, reply_bytes, end), "who has proved itself is served"
    stranger = ("198.51.100.9", 6881)
    assert budgets.admit(stranger, QUERY_BYTES, end + 1)
    assert budgets.charge_reply(stranger, reply_bytes, end + 1), "and so is anybody when it is over"
