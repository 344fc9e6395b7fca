"""The library's face, with scripted relays and a scripted DHT: whom it asks, what it believes."""

import subprocess
import sys

import pytest
import trio

import relay
from relay import Client, Keypair, ResolvePolicy, records
from relay.errors import (
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PacketError,
    PublicKeyError,
    PublishFailedError,
    StartupError,
    TimestampRangeError,
)
from relay.pkarr.packet import SeenPacket, SignedPacket

KEYPAIR = Keypair.from_seed(b"\x07" * 32)
KEY = KEYPAIR.public_key
NOW_US = 1_800_000_000_000_000


def packet_of(timestamp_us, text="x"):
    return SignedPacket.build(KEYPAIR, [records.txt("_x", text, ttl_s=0)], timestamp_us)


OLD, NEW = packet_of(5_000_000), packet_of(9_000_000)


class ScriptedRelay:
    """Answers as told, after a while if told; remembers what it was asked."""

    def __init__(self, answer=None, *, delay_s=0.0, age_s=0):
        self.answer = answer
        self.delay_s = delay_s
        self.age_s = age_s
        self.asked = []
        self.stored = []
        self.finished = 0

    async def resolve(self, key, policy, known):
        self.asked.append((key, policy, known))
        await trio.sleep(self.delay_s)
        self.finished += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            return None
        return SeenPacket(self.answer, NOW_US - self.age_s * 1_000_000)

    async def publish(self, packet):
        self.stored.append(packet)
        await trio.sleep(self.delay_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    def __init__(self):
        self.now_us = NOW_US

    def __call__(self):
        return self.now_us


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client_of(clock):
    """A client of scripted relays."""

    def make(*relays, **options):
        urls = [f"http://relay-{number}.example" for number in range(len(relays))]
        client = Client(urls, dht=False, wall_clock_us=clock, **options)
        client._relays = list(relays)
        return client

    return make


async def test_one_answer_is_enough_and_is_remembered(client_of, autojump_clock):
    fast, slow = ScriptedRelay(NEW), ScriptedRelay(NEW, delay_s=100)
    client = client_of(fast, slow)
    with trio.fail_after(1):
        assert await client.resolve(KEY) == NEW
        assert await client.resolve(str(KEY)) == NEW
        assert await client.resolve(f"pk:{KEY}", ResolvePolicy.CACHE_ONLY) == NEW
    assert len(fast.asked) == len(slow.asked) == 1
    assert slow.finished == 0


async def test_expired_packets_are_asked_for_again(client_of, clock):
    relay = ScriptedRelay(NEW)
    client = client_of(relay)
    await client.resolve(KEY)
    clock.now_us += 300 * 1_000_000
    assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) == NEW
    assert await client.resolve(KEY) is None  # the relay saw it when we last did: not fresh
    assert relay.asked[-1] == (KEY, ResolvePolicy.CACHE_FIRST, NEW)


@pytest.mark.parametrize(("age_s", "found"), [(0, True), (299, True), (300, False), (9999, False)])
async def test_a_relays_answer_must_be_fresh(client_of, age_s, found):
    client = client_of(ScriptedRelay(NEW, age_s=age_s))
    assert (await client.resolve(KEY) is not None) == found
    assert await client.resolve(KEY, ResolvePolicy.NETWORK_ONLY) == NEW


async def test_older_than_known_is_no_answer(client_of, clock):
    relay = ScriptedRelay(NEW)
    client = client_of(relay)
    await client.resolve(KEY)
    clock.now_us += 400 * 1_000_000
    relay.answer, relay.age_s = OLD, -400
    assert await client.resolve(KEY) is None
    assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) == NEW
    assert await client.resolve(KEY, ResolvePolicy.NETWORK_ONLY) == OLD


async def test_network_only_waits_for_all_and_takes_the_most_recent(client_of, autojump_clock):
    client = client_of(ScriptedRelay(OLD), ScriptedRelay(NEW, delay_s=3), ScriptedRelay(None))
    assert await client.resolve(KEY, ResolvePolicy.NETWORK_ONLY) == NEW
    assert client._relays[1].asked == [(KEY, ResolvePolicy.NETWORK_ONLY, None)]


async def test_cache_only_asks_the_relays_caches_for_what_is_unknown(client_of):
    relays = [ScriptedRelay(OLD), ScriptedRelay(NEW, age_s=9999)]
    client = client_of(*relays)
    assert client.known(KEY) is None
    assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) == NEW  # as the reference's client
    assert [relay.asked for relay in relays] == [[(KEY, ResolvePolicy.CACHE_ONLY, None)]] * 2
    assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) == NEW
    assert len(relays[0].asked) == 1
    assert client.known(KEY).packet == NEW


async def test_cache_only_never_asks_the_dht():
    async with Client(bootstrap=[], bind_address="127.0.0.1") as client:
        assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) is None


async def test_one_that_knows_of_nothing_outweighs_failures(client_of):
    client = client_of(ScriptedRelay(LookupFailedError("down")), ScriptedRelay(None))
    assert await client.resolve(KEY) is None


async def test_failures(client_of):
    single = LookupFailedError("down")
    with pytest.raises(LookupFailedError) as caught:
        await client_of(ScriptedRelay(single)).resolve(KEY)
    assert caught.value is single
    both = client_of(ScriptedRelay(single), ScriptedRelay(LookupFailedError("out")))
    with pytest.raises(LookupFailedError, match=r"^(down; out|out; down)$"):
        await both.resolve(KEY)


async def test_invalid_items(client_of, clock):
    invalid = ScriptedRelay(InvalidItemError(7_000_000))
    with pytest.raises(InvalidItemError):
        await client_of(invalid, ScriptedRelay(None)).resolve(KEY)
    client = client_of(ScriptedRelay(NEW))
    await client.resolve(KEY)
    clock.now_us += 400 * 1_000_000
    client._relays = [invalid]
    assert await client.resolve(KEY) is None  # it is older than what we know


async def test_texts_that_are_no_keys(client_of):
    with pytest.raises(PublicKeyError):
        await client_of(ScriptedRelay()).resolve("nonsense!")


async def test_publish_returns_the_largest_count_and_remembers(client_of):
    client = client_of(ScriptedRelay(3), ScriptedRelay(8), ScriptedRelay(PublishFailedError("no")))
    assert await client.publish(NEW) == 8
    assert await client.resolve(KEY, ResolvePolicy.CACHE_ONLY) == NEW
    with pytest.raises(NotMostRecentError):
        await client.publish(OLD)
    assert client._relays[0].stored == [NEW]
    assert await client.publish(NEW) == 8  # the same again is welcome


async def test_a_more_recent_packet_somewhere_is_told(client_of):
    client = client_of(ScriptedRelay(3), ScriptedRelay(NotMostRecentError()))
    with pytest.raises(NotMostRecentError):
        await client.publish(NEW)
    assert client.known(KEY) is None


async def test_failed_publishes(client_of):
    with pytest.raises(TimestampRangeError):
        await client_of(ScriptedRelay(TimestampRangeError())).publish(NEW)
    both = [ScriptedRelay(PublishFailedError("one")), ScriptedRelay(PublishFailedError("two"))]
    with pytest.raises(PublishFailedError, match=r"one; two|two; one"):
        await client_of(*both).publish(NEW)


async def test_the_cache_is_bounded(client_of):
    client = client_of(ScriptedRelay(1), cache_packets=2)
    keypairs = [Keypair.from_seed(bytes([number]) * 32) for number in range(3)]
    for keypair in keypairs:
        await client.publish(client.sign(keypair, []))
    kept = [client.known(keypair.public_key) for keypair in keypairs]
    assert [packet is not None for packet in kept] == [False, True, True]


async def test_without_cache_answers_still_come(client_of):
    client = client_of(ScriptedRelay(NEW), cache_packets=0)
    assert await client.resolve(KEY) == NEW
    assert client.known(KEY) is None


async def test_what_is_signed_last_is_the_most_recent(client_of, clock):
    client = client_of(ScriptedRelay(1))
    first = client.sign(KEYPAIR, [records.txt("_x", "z")])
    assert first.timestamp_us == NOW_US
    await client.publish(first)
    clock.now_us -= 60_000_000  # the clock was set back
    second = client.sign(KEYPAIR, [records.txt("_x", "a")])
    assert second.timestamp_us == NOW_US + 1
    assert second.more_recent_than(first)
    assert client.sign(KEYPAIR, [], timestamp_us=5).timestamp_us == 5
    with pytest.raises(PacketError):
        client.sign(KEYPAIR, [records.txt("_x", *["y" * 255] * 4)])


def test_a_client_of_nothing():
    with pytest.raises(ValueError, match="relays"):
        Client(dht=False)
    with pytest.raises(ValueError, match="http"):
        Client(["ftp://relay.example"])


async def test_the_dht_is_there_only_inside_the_block():
    client = Client(bootstrap=[], bind_address="127.0.0.1")
    with pytest.raises(RuntimeError, match="async with"):
        await client.resolve(KEY)
    async with client:
        with pytest.raises(RuntimeError, match="already"):
            await client.__aenter__()
        with pytest.raises(LookupFailedError):
            await client.resolve(KEY)
    with pytest.raises(RuntimeError, match="async with"):
        await client.publish(NEW)


async def test_a_start_that_failed_can_be_tried_again(monkeypatch):
    client = Client(bootstrap=[], bind_address="203.0.113.9")  # of a network that nobody has
    for _ in range(2):
        with pytest.raises(StartupError):
            await client.__aenter__()
    monkeypatch.setattr(client, "_bind_address", "127.0.0.1")
    async with client:
        pass


@pytest.mark.parametrize("dht", [True, False])
async def test_errors_of_the_block_come_out_as_they_are(dht):
    error = ValueError("the caller's own")
    with pytest.raises(ValueError, match="own") as caught:
        async with Client(
            ["http://relay.example"], dht=dht, bootstrap=[], bind_address="127.0.0.1"
        ):
            raise error
    assert caught.value is error


async def test_cancelling_the_block(autojump_clock):
    with trio.move_on_after(5) as scope:
        async with Client(bootstrap=[], bind_address="127.0.0.1"):
            await trio.sleep_forever()
    assert scope.cancelled_caught


def test_public_names_are_there():
    assert set(relay.__all__) <= set(dir(relay))
    for name in relay.__all__:
        assert getattr(relay, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = relay.nothing_like_it


def test_importing_the_package_imports_nothing_slow():
    code = "import relay, sys; print(*sorted(m for m in sys.modules if m.startswith('relay')))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == ["relay"]
