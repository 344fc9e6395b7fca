"""The library against a real relay and a real, if small, DHT, all in this process."""

from dataclasses import replace
from functools import partial

import pytest
import trio

from relay import Client, Keypair, ResolvePolicy, records
from relay import config as relay_config
from relay.errors import InvalidItemError, LookupFailedError, NotMostRecentError
from relay.http.listener import open_listeners
from relay.net.testnet import open_testnet
from relay.server import serve

KEYPAIR = Keypair.from_seed(b"\x21" * 32)
KEY = KEYPAIR.public_key


@pytest.fixture
async def testnet():
    async with open_testnet(10) as testnet:
        yield testnet


@pytest.fixture
async def relay_url(testnet):
    """A relay with an ephemeral cache, on a free port."""
    config = relay_config.testnet_config()
    config = replace(
        config,
        mainline=replace(config.mainline, port=0, bootstrap=testnet.bootstrap),
    )
    listeners = open_listeners(["127.0.0.1"], 0)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, config, listeners, stop=stop))
        yield f"http://127.0.0.1:{listeners[0].getsockname()[1]}"
        stop.set()
    for listener in listeners:
        listener.close()


def dht_client(testnet, **options):
    return Client(bootstrap=testnet.bootstrap, bind_address="127.0.0.1", **options)


async def test_through_the_dht(testnet):
    async with dht_client(testnet) as author, dht_client(testnet) as reader:
        with trio.fail_after(20):
            assert await reader.resolve(KEY) is None
            packet = author.sign(KEYPAIR, [records.txt("_foo", "bar", ttl_s=30)])
            assert await author.publish(packet) == len(testnet.drivers)
            assert await reader.resolve(KEY) == packet
            newer = author.sign(KEYPAIR, [records.a("@", "192.0.2.7")])
            await author.publish(newer)
            assert await reader.resolve(KEY) == packet  # still fresh
            assert await reader.resolve(KEY, ResolvePolicy.NETWORK_ONLY) == newer
            assert await reader.resolve(KEY) == newer
            with pytest.raises(NotMostRecentError):
                await author.publish(packet)


@pytest.mark.parametrize("path", ["", "/", "/pkarr", "/pkarr/"])
async def test_through_a_relay(relay_url, path):
    async with Client([relay_url + path], dht=False) as client:
        with trio.fail_after(20):
            assert await client.resolve(KEY) is None
            packet = client.sign(KEYPAIR, [records.txt("_foo", "bar")])
            assert await client.publish(packet) >= 9
    async with Client([relay_url + path], dht=False) as other:
        with trio.fail_after(20):
            assert await other.resolve(str(KEY)) == packet
            assert await other.resolve(KEY, ResolvePolicy.NETWORK_ONLY) == packet
            old = other.sign(KEYPAIR, [], timestamp_us=1)
            with pytest.raises(NotMostRecentError):
                await other.publish(old)


async def test_the_relay_says_that_an_older_packet_is_older(relay_url):
    async with Client([relay_url], dht=False) as client:
        packet = client.sign(KEYPAIR, [records.txt("_foo", "bar")])
        await client.publish(packet)
    async with Client([relay_url], dht=False) as other:
        with pytest.raises(NotMostRecentError):
            await other.publish(other.sign(KEYPAIR, [], timestamp_us=packet.timestamp_us - 1))


async def test_both_ways_at_once(testnet, relay_url):
    async with dht_client(testnet) as author:
        packet = author.sign(KEYPAIR, [records.txt("_foo", "bar")])
        await author.publish(packet)
    async with Client(
        [relay_url, "http://127.0.0.1:1"], bootstrap=testnet.bootstrap, bind_address="127.0.0.1"
    ) as client:
        with trio.fail_after(20):
            assert await client.resolve(KEY) == packet
            newer = client.sign(KEYPAIR, [])
            assert await client.publish(newer) >= 10
    async with Client([relay_url], dht=False) as reader:
        assert await reader.resolve(KEY) == newer


async def test_an_item_that_is_no_packet(testnet, relay_url):
    from relay.dht.items import MutableItem

    value = b"not a DNS message"
    signature = KEYPAIR.sign(b"3:seqi7e1:v%d:%b" % (len(value), value))
    item = MutableItem.from_value(KEY.octets, 7, value, signature)
    outcome = await testnet.drivers[0].put(item)
    assert outcome.failure is None
    async with dht_client(testnet) as by_dht, Client([relay_url], dht=False) as by_relay:
        for client in (by_dht, by_relay):
            with trio.fail_after(20), pytest.raises(InvalidItemError) as caught:
                await client.resolve(KEY)
            assert caught.value.seq == 7


async def test_nobody_answers():
    async with Client(["http://127.0.0.1:1"], dht=False) as client:
        with trio.fail_after(20), pytest.raises(LookupFailedError, match=r"127\.0\.0\.1:1"):
            await client.resolve(KEY)
