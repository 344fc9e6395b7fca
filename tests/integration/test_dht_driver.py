"""Our nodes among themselves, on real sockets of the loopback interface."""

import random
import socket
from contextlib import suppress

import pytest
import trio

from relay.dht import krpc
from relay.dht.items import immutable_target
from relay.dht.krpc import ErrorReply, Query, Response
from relay.errors import NoNodesRespondedError, NotMostRecentError, StartupError
from relay.net.packets import PkarrDht
from relay.net.start import open_driver
from relay.net.testnet import open_testnet
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SignedPacket

NODES = 20
PUBLISHERS = [Keypair.from_seed(bytes([number]) * 32) for number in range(100)]


def packet_of(keypair, text="hello", timestamp_us=1_000_000):
    return SignedPacket.build(keypair, [dns_build.txt("_x", text)], timestamp_us)


@pytest.fixture
async def testnet():
    async with open_testnet(NODES) as testnet:
        yield testnet


@pytest.fixture
async def newcomer(testnet, nursery):
    """A client that has just joined: its driver, and the DHT through it."""
    driver = open_driver(
        port=0,
        bind_address="127.0.0.1",
        bootstrap=testnet.bootstrap,
        server_mode=False,
        request_timeout_s=5.0,
    )
    await nursery.start(driver.run)
    return PkarrDht(driver, 5.0), driver


async def every(function, arguments):
    """Run `function` for all arguments at the same time; results in their order."""
    results = [None] * len(arguments)

    async def one(index, argument):
        results[index] = await function(argument)

    async with trio.open_nursery() as nursery:
        for index, argument in enumerate(arguments):
            nursery.start_soon(one, index, argument)
    return results


async def test_publish_and_resolve(testnet, newcomer):
    dht, _ = newcomer
    packet = packet_of(PUBLISHERS[0])
    with trio.fail_after(10):
        assert await dht.publish(packet) == NODES
        for driver in testnet.drivers[:3]:
            found = await PkarrDht(driver, 5.0).resolve(packet.public_key)
            assert found == packet
        assert await dht.resolve(packet.public_key, accept=lambda found: True) == packet
        assert await dht.resolve(PUBLISHERS[1].public_key) is None


async def test_newer_replaces_older_and_not_the_other_way_round(newcomer):
    dht, _ = newcomer
    old, new = (packet_of(PUBLISHERS[0], "x", timestamp_us) for timestamp_us in (5, 6))
    with trio.fail_after(10):
        await dht.publish(old)
        await dht.publish(new)
        with pytest.raises(NotMostRecentError):
            await dht.publish(old)
        assert await dht.resolve(old.public_key) == new


async def test_hundred_lookups_at_once_get_their_replies(newcomer):
    """Issue 3, section 4: at least 99 % of the replies; the reference is said to lose most.

    A hundred keys, of which ten have a packet: verifying is not what this is about.
    """
    dht, driver = newcomer
    packets = [packet_of(keypair) for keypair in PUBLISHERS[:10]]
    with trio.fail_after(60):
        for packet in packets:
            assert await dht.publish(packet) >= NODES - 1
        counters = driver.node.counters
        queries, responses = counters.queries_out, counters.responses_in
        found = await every(dht.resolve, [keypair.public_key for keypair in PUBLISHERS])
    assert found == packets + [None] * (len(PUBLISHERS) - len(packets))
    asked, answered = counters.queries_out - queries, counters.responses_in - responses
    assert asked >= 100
    assert answered >= 0.99 * asked
    assert driver.kernel_drops == 0


async def test_callers_of_one_key_share_one_lookup(newcomer):
    dht, driver = newcomer
    packet = packet_of(PUBLISHERS[0])
    with trio.fail_after(10):
        await dht.publish(packet)
        lookups = driver.node.counters.lookups
        found = await every(dht.resolve, [packet.public_key] * 50)
    assert found == [packet] * 50
    assert driver.node.counters.lookups == lookups + 1


def hostile_datagrams(rng):
    """Noise, mangled messages, and what once killed Rust nodes: a mutable put without `sig`."""
    key = PUBLISHERS[0].public_key.octets
    arguments = {b"id": bytes(20), b"target": bytes(20), b"k": key, b"v": b"x", b"token": bytes(8)}
    good = [
        krpc.encode(Query(b"aaaa", b"ping", {b"id": bytes(20)})),
        krpc.encode(Query(b"aaaa", b"get", {b"id": bytes(20), b"target": bytes(20)})),
        krpc.encode(Query(b"aaaa", b"put", arguments)),
        krpc.encode(Query(b"aaaa", b"put", {**arguments, b"seq": 1})),
        krpc.encode(Query(b"a" * 32, b"announce_peer", {b"id": bytes(20)})),
        krpc.encode(Response(b"\0\0\0\0", {b"id": bytes(20), b"nodes": bytes(26 * 50)})),
        krpc.encode(ErrorReply(b"\0\0\0\0", 203, b"no")),
    ]
    yield from good
    yield b""
    yield b"d" * 1400
    yield b"l" * 60_000
    yield b"d1:t99999999999999999999:"
    for _ in range(1000):
        octets = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            octets[rng.randrange(len(octets))] = rng.randrange(256)
        yield bytes(octets[: rng.randint(1, len(octets))])
        yield rng.randbytes(rng.randint(0, 1500))


@pytest.mark.parametrize("seed", range(3))
async def test_hostile_datagrams_disturb_nobody(testnet, newcomer, seed):
    dht, driver = newcomer
    packet = packet_of(PUBLISHERS[0])
    rng = random.Random(seed)  # noqa: S311 -- to be repeated, not to be secret
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker, trio.fail_after(30):
        await attacker.bind(("127.0.0.1", 0))
        for datagram in hostile_datagrams(rng):
            for target in (testnet.addresses[0], driver.local_address):
                await attacker.sendto(datagram, target)
        assert await dht.publish(packet) >= NODES - 1, f"seed {seed}"
        assert await dht.resolve(packet.public_key) == packet, f"seed {seed}"


async def test_one_network_survives_the_loss_of_most_nodes(newcomer, testnet):
    """They go deaf, all at once; the others answer."""
    dht, _ = newcomer
    packet = packet_of(PUBLISHERS[0])
    with trio.fail_after(30):
        await dht.publish(packet)
        for driver in testnet.drivers[5:]:
            driver.node.receive_datagrams = lambda batch, now: None
        assert await dht.resolve(packet.public_key, accept=lambda found: True) == packet
        assert await dht.publish(packet) == 5


async def test_a_silent_network_is_an_error_in_time(nursery):
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        await silent.bind(("127.0.0.1", 0))
        driver = open_driver(
            port=0,
            bind_address="127.0.0.1",
            bootstrap=[silent.getsockname()],
            request_timeout_s=0.2,
        )
        await nursery.start(driver.run)
        with trio.fail_after(30), pytest.raises(NoNodesRespondedError):
            await PkarrDht(driver, 0.2).resolve(PUBLISHERS[0].public_key)


async def test_queries_without_end_hold_up_no_deadline(nursery, monkeypatch):
    """The lane may have something to answer each time that anybody looks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        driver = open_driver(
            port=0,
            bind_address="127.0.0.1",
            bootstrap=[silent.getsockname()],
            request_timeout_s=0.2,
        )
        await nursery.start(driver.run)
        drain = driver._drain
        monkeypatch.setattr(driver, "_drain", lambda: drain()._replace(answered=1))
        ended = trio.Event()
        driver.start_get(bytes(32), on_item=lambda _: None, on_finished=lambda _: ended.set())
        with trio.fail_after(20):
            await ended.wait()


async def test_lookups_wait_for_the_first_answer(testnet, nursery):
    """The very first call of a node that is only just starting finds the packet."""
    packet = packet_of(PUBLISHERS[0])
    await PkarrDht(testnet.drivers[0], 1.0).publish(packet)
    driver = open_driver(port=0, bind_address="127.0.0.1", bootstrap=testnet.bootstrap)
    dht = PkarrDht(driver, 2.0)
    nursery.start_soon(driver.run)
    with trio.fail_after(30):
        assert await dht.resolve(packet.public_key) == packet


async def test_a_saved_table_replaces_the_bootstrap_nodes(testnet, newcomer):
    dht, _ = newcomer
    packet = packet_of(PUBLISHERS[0])
    await dht.publish(packet)
    saved = []
    async with trio.open_nursery() as nursery:
        keeper = open_driver(
            port=0, bind_address="127.0.0.1", bootstrap=testnet.bootstrap, save_nodes=saved.append
        )
        await nursery.start(keeper.run)
        await PkarrDht(keeper, 2.0).resolve(packet.public_key)
        nursery.cancel_scope.cancel()
    assert len(saved[-1]) >= NODES - 1
    async with trio.open_nursery() as nursery:
        restarted = open_driver(port=0, bind_address="127.0.0.1", bootstrap=[], nodes=saved[-1])
        await nursery.start(restarted.run)
        with trio.fail_after(30):
            assert await PkarrDht(restarted, 2.0).resolve(packet.public_key) == packet
        nursery.cancel_scope.cancel()


async def test_a_taken_port_is_a_startup_error(testnet):
    with pytest.raises(StartupError, match="in use"):
        open_driver(port=testnet.addresses[0][1], bind_address="127.0.0.1", bootstrap=[])


# ---- Queries of others ----


@pytest.fixture
async def server(nursery):
    driver = open_driver(port=0, bind_address="127.0.0.1", bootstrap=[], server_mode=True)
    await nursery.start(driver.run)
    return driver


@pytest.fixture
def stranger(server):
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        yield sock


def numbered(number, method, **arguments):
    """A query whose transaction id is `number`, by somebody who wants none himself."""
    named = {key.encode(): value for key, value in arguments.items()}
    query = Query(number.to_bytes(4, "big"), method, {b"id": b"s" * 20} | named, read_only=True)
    return krpc.encode(query)


async def replies(sock, count):
    """The next `count` replies by the number of their query."""
    found = {}
    with trio.fail_after(20):
        while len(found) < count:
            payload, _ = await sock.recvfrom(2048)
            message = krpc.decode(payload)
            found[int.from_bytes(message.transaction_id, "big")] = message
    return found


async def test_every_query_of_a_flood_is_answered_and_counted(server, stranger, nursery):
    """Plain ones, which the lane answers where it is in use, and others that only the node can."""
    count, in_a_row = 6000, 50
    value = b"3:abc"
    server.node._responder._items.put_immutable(value)

    async def ask():
        for number in range(count):
            match number % 5:
                case 0:
                    query = numbered(number, b"ping")
                case 1:
                    query = numbered(number, b"find_node", target=bytes(20))
                case 2:
                    query = numbered(number, b"get", target=immutable_target(value))
                case 3:
                    query = numbered(number, b"vote")
                case _:
                    query = numbered(number, b"get_peers", info_hash=b"h" * 19)
            await stranger.sendto(query, server.local_address)
            if number % in_a_row == 0:
                await trio.sleep(0.001)

    nursery.start_soon(ask)
    found = await replies(stranger, count)
    for number, message in found.items():
        if number % 5 < 3:
            assert isinstance(message, Response), number
            assert message.values[b"id"] == server.node.node_id
        else:
            assert isinstance(message, ErrorReply), number
            assert message.code == (204 if number % 5 == 3 else 203)
    assert found[2].values[b"v"] == b"abc"
    counters = server.node.counters
    assert (counters.queries_in, counters.replies_out) == (count, count)
    assert (server.counters.received, server.counters.sent) == (count, count)
    assert server.kernel_drops == 0


@pytest.mark.compiled  # without the lane the node is as busy as its flooder
async def test_lookups_go_on_under_a_flood(testnet, newcomer):
    """Who asks us as fast as we answer does not keep us from asking others."""
    busy = testnet.drivers[0]
    packet = packet_of(PUBLISHERS[0])

    async def flood():
        unanswered = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            while True:
                for number in range(unanswered, 64):
                    query = numbered(number, b"get", target=bytes(20))
                    stranger.sendto(query, busy.local_address)
                unanswered = 64
                with suppress(BlockingIOError):
                    while True:
                        stranger.recv(2048)
                        unanswered -= 1
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as flooding:
        flooding.start_soon(flood)
        with trio.fail_after(120):
            await newcomer[0].publish(packet)
            for _ in range(20):
                assert await PkarrDht(busy, 5.0).resolve(packet.public_key) == packet
        flooding.cancel_scope.cancel()
    assert busy.node.counters.queries_in > 1000
    assert busy.node.counters.timeouts == 0
    assert busy.kernel_drops == 0
