"""Between Pkarr values and DHT items: which packet answers, which error tells what."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from relay.dht.counters import NodeCounters
from relay.dht.events import GetHandle, GetOutcome, PutFailure, PutOutcome
from relay.dht.items import SEQ_MAX, MutableItem
from relay.errors import (
    InvalidItemError,
    NoClosestNodesError,
    NodesBusyError,
    NoNodesQueriedError,
    NoNodesRespondedError,
    NotMostRecentError,
    NoUsableResponseError,
    PublishOverloadedError,
    PublishTimedOutError,
    TimestampRangeError,
)
from relay.net.packets import PkarrDht
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SignedPacket

KEYPAIR = Keypair.from_seed(b"\x07" * 32)
KEY = KEYPAIR.public_key


def packet_of(timestamp_us):
    return SignedPacket.build(KEYPAIR, [dns_build.txt("x", "y")], timestamp_us)


def item_of(packet):
    return MutableItem.from_value(
        packet.public_key.octets, packet.timestamp_us, packet.dns, packet.signature
    )


OLD, NEW = packet_of(5), packet_of(9)
NO_DNS = MutableItem.from_value(KEY.octets, 7, b"not dns", bytes(64))
NO_STRING = MutableItem.from_value(KEY.octets, 7, [1, 2], bytes(64))


class Node:
    def __init__(self):
        self.counters = NodeCounters()
        self.table_size = 0


class ScriptedDriver:
    """Answers as the test says; remembers what it was asked."""

    def __init__(self):
        self.node = Node()
        self.bootstrapped = True
        self.gets = []
        self.puts = []
        self.released = []
        self.put_outcome = PutOutcome(3, 5, None)

    async def wait_bootstrapped(self, timeout):
        await trio.lowlevel.checkpoint()
        return self.bootstrapped

    def start_get(self, public_key, *, salt=b"", seq=None, on_item, on_finished):
        assert public_key == KEY.octets
        self.seq, self.on_item, self.on_finished = seq, on_item, on_finished
        self.gets.append(GetHandle(bytes(20)))
        return self.gets[-1]

    def release(self, handle):
        self.released.append(handle)

    async def put(self, item, *, cas=None, on_assured=None):
        self.puts.append(item)
        if on_assured is not None:
            on_assured()
        await trio.lowlevel.checkpoint()
        return self.put_outcome


@pytest.fixture
def driver():
    return ScriptedDriver()


@pytest.fixture
def dht(driver):
    return PkarrDht(driver, 2.0)


class Call:
    """A `resolve` under way."""

    def __init__(self, nursery, dht, **options):
        self.answers = []
        nursery.start_soon(self._run, dht, options)

    async def _run(self, dht, options):
        try:
            self.answers.append(await dht.resolve(KEY, **options))
        except Exception as error:  # noqa: BLE001, RUF100 -- compared by the test
            self.answers.append(error)


async def start(nursery, dht, **options):
    call = Call(nursery, dht, **options)
    await wait_all_tasks_blocked()
    return call


async def test_the_first_accepted_packet_answers_and_the_rest_goes_on(driver, dht, nursery):
    seen = []
    dht.on_packet = seen.append
    call = await start(nursery, dht, accept=lambda packet: packet.timestamp_us > 3)
    driver.on_item(item_of(packet_of(2)))
    await wait_all_tasks_blocked()
    assert call.answers == []
    driver.on_item(item_of(OLD))
    await wait_all_tasks_blocked()
    assert call.answers == [OLD]
    assert driver.released == []  # the look-up goes on
    driver.on_item(item_of(NEW))
    driver.on_finished(GetOutcome(item_of(NEW), 20, 20, 20))
    assert [packet.timestamp_us for packet in seen[:3]] == [2, 5, 9]


async def test_without_accept_the_most_recent_of_all_answers(driver, dht, nursery):
    call = await start(nursery, dht)
    driver.on_item(item_of(OLD))
    await wait_all_tasks_blocked()
    assert call.answers == []
    driver.on_finished(GetOutcome(item_of(NEW), 20, 20, 20))
    await wait_all_tasks_blocked()
    assert call.answers == [NEW]


async def test_nothing_acceptable_is_nothing(driver, dht, nursery):
    call = await start(nursery, dht, accept=lambda packet: False)
    driver.on_item(item_of(OLD))
    driver.on_finished(GetOutcome(item_of(OLD), 20, 20, 20))
    await wait_all_tasks_blocked()
    assert call.answers == [None]


async def test_nothing_acceptable_where_most_were_not_asked_is_no_answer(driver, dht, nursery):
    call = await start(nursery, dht, accept=lambda packet: False)
    driver.on_item(item_of(OLD))
    driver.on_finished(GetOutcome(item_of(OLD), 20, 20, 20, overloaded=True))
    await wait_all_tasks_blocked()
    assert [type(answer) for answer in call.answers] == [NodesBusyError]


async def test_the_best_item_at_the_end_may_be_accepted(driver, dht, nursery):
    """Same seq, larger value: no event of its own, but the outcome has it."""
    call = await start(nursery, dht, accept=lambda packet: packet == NEW)
    driver.on_finished(GetOutcome(item_of(NEW), 20, 20, 20))
    await wait_all_tasks_blocked()
    assert call.answers == [NEW]


@pytest.mark.parametrize(("given", "asked"), [(None, None), (41, 41), (2**64 - 1, SEQ_MAX)])
async def test_newer_than_is_the_seq(driver, dht, nursery, given, asked):
    await start(nursery, dht, newer_than_us=given)
    assert driver.seq == asked
    driver.on_finished(GetOutcome(None, 1, 1, 1))


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (GetOutcome(None, 0, 0, 0), NoNodesQueriedError),
        (GetOutcome(None, 0, 0, 0, overloaded=True), NoNodesQueriedError),
        (GetOutcome(None, 5, 0, 0), NoNodesRespondedError),
        (GetOutcome(None, 5, 5, 0), NoUsableResponseError),
        (GetOutcome(None, 5, 5, 1), type(None)),
        (GetOutcome(None, 5, 5, 1, overloaded=True), NodesBusyError),
    ],
)
async def test_failed_lookups(driver, dht, nursery, outcome, error):
    call = await start(nursery, dht)
    driver.on_finished(outcome)
    await wait_all_tasks_blocked()
    assert [type(answer) for answer in call.answers] == [error]


@pytest.mark.parametrize("item", [NO_DNS, NO_STRING])
@pytest.mark.parametrize("accept", [None, lambda packet: False])
async def test_a_newest_item_that_is_no_packet(driver, dht, nursery, item, accept):
    seen = []
    dht.on_packet = seen.append
    call = await start(nursery, dht, accept=accept)
    driver.on_item(item_of(OLD))
    driver.on_item(item)
    driver.on_finished(GetOutcome(item, 20, 20, 20))
    await wait_all_tasks_blocked()
    assert [type(answer) for answer in call.answers] == [InvalidItemError]
    assert call.answers[0].seq == 7
    assert seen == [OLD]


async def test_those_who_share_a_lookup_tell_the_cache_once(driver, dht, nursery):
    seen = []
    dht.on_packet = seen.append
    first = await start(nursery, dht, accept=lambda packet: True)
    on_first = driver.on_item
    second = await start(nursery, dht, accept=lambda packet: True)
    item = item_of(NEW)
    on_first(item)
    driver.on_item(item)
    await wait_all_tasks_blocked()
    assert first.answers == second.answers == [NEW]
    assert seen == [NEW]


async def test_who_hangs_up_releases_the_lookup(driver, dht):
    with trio.move_on_after(0.01):
        await dht.resolve(KEY)
    assert driver.released == driver.gets


@pytest.mark.parametrize(
    ("queries_out", "error"), [(0, NoNodesQueriedError), (4, NoNodesRespondedError)]
)
async def test_a_dead_network(driver, dht, queries_out, error):
    driver.bootstrapped = False
    driver.node.counters.queries_out = queries_out
    with pytest.raises(error):
        await dht.resolve(KEY)
    with pytest.raises(NoClosestNodesError):
        await dht.publish(NEW)
    assert driver.gets == driver.puts == []


async def test_nodes_that_found_us_count_as_bootstrap(driver, dht):
    driver.bootstrapped = False
    driver.node.table_size = 1
    assert await dht.publish(NEW) == 3


async def test_publish_stores_the_signed_item(driver, dht):
    assert await dht.publish(NEW) == 3
    (item,) = driver.puts
    assert item.signable == NEW.signable
    assert item.verify()


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (PutFailure.NO_CLOSEST_NODES, NoClosestNodesError),
        (PutFailure.TIMED_OUT, PublishTimedOutError),
        (PutFailure.NOT_MOST_RECENT, NotMostRecentError),
        (PutFailure.CAS_FAILED, NotMostRecentError),
        (PutFailure.OVERLOADED, PublishOverloadedError),
    ],
)
async def test_failed_puts(driver, dht, failure, error):
    driver.put_outcome = PutOutcome(0, 5, failure)
    with pytest.raises(error):
        await dht.publish(NEW)


async def test_timestamps_beyond_the_sequence_numbers(driver, dht):
    with pytest.raises(TimestampRangeError):
        await dht.publish(packet_of(2**63))
    assert driver.puts == []
