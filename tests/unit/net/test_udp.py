"""The driver on a real socket, with a scripted node: what it moves, and what it survives."""

import errno
import socket
from collections import deque
from functools import partial
from math import inf

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from relay.dht.counters import NodeCounters
from relay.dht.events import (
    Bootstrapped,
    GetFinished,
    GetHandle,
    GetOutcome,
    ItemReceived,
    PutAssured,
    PutFailure,
    PutFinished,
    PutHandle,
    PutOutcome,
    TablePoor,
)
from relay.dht.items import MutableItem
from relay.dht.node_id import NodeInfo
from relay.net import udp
from relay.net.udp import DhtDriver
from relay.net.udp_socket import SocketDatagrams, bind_udp

ITEM = MutableItem.from_value(bytes(32), 1, b"value", bytes(64))


async def until(predicate):
    """Let other tasks and the (perhaps virtual) clock go on until `predicate` holds."""
    with trio.fail_after(60):
        while not predicate():  # noqa: ASYNC110 -- what the driver does signals no event
            await trio.sleep(0.005)


class ScriptedNode:
    """Does nothing by itself: tests fill `outbox`, `events` and `deadline`."""

    def __init__(self):
        self.received = []
        self.deadlines_handled = []
        self.outbox = []
        self.events = deque()
        self.deadline = inf
        self.released = []
        self.bootstrap = []
        self.handles = []
        self.bootstrapped = False
        self.counters = NodeCounters()
        self.in_flight = 0
        self.native_responder = None
        self.table = []
        self.on_datagram = lambda payload, source, now: None

    def receive_datagrams(self, batch, now):
        for payload, source in batch:
            self.received.append((payload, source, now))
            self.on_datagram(payload, source, now)

    def handle_deadline(self, now):
        self.deadlines_handled.append((now, len(self.received)))
        self.deadline = inf

    def next_deadline(self):
        return self.deadline

    def datagrams_to_send(self):
        out, self.outbox = self.outbox, []
        return out

    def take_events(self):
        out = list(self.events)
        self.events.clear()
        return out

    def start_get(self, public_key, *, salt, seq, now):
        self.handles.append(GetHandle(bytes(20)))
        return self.handles[-1]

    def start_put(self, item, *, cas, now):
        self.handles.append(PutHandle(bytes(20)))
        return self.handles[-1]

    def release(self, handle, now):
        self.released.append(handle)

    def add_bootstrap(self, addresses, now):
        self.bootstrap.extend(addresses)

    def nodes(self):
        return self.table


class World:
    """A driver with its scripted node, and a stranger's socket to talk to it."""

    def __init__(self, **options):
        self.node = ScriptedNode()
        self.sock = bind_udp(0, "127.0.0.1")
        self.driver = DhtDriver(self.node, self.sock, **options)
        self.address = self.driver.local_address
        self.stranger = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def tell(self, payload):
        await self.stranger.sendto(payload, self.address)

    async def until_received(self, count):
        await until(lambda: len(self.node.received) >= count)


@pytest.fixture
async def world():
    world = World()
    await world.stranger.bind(("127.0.0.1", 0))
    yield world
    world.stranger.close()
    world.sock.close()


async def test_datagrams_reach_the_node_and_its_own_are_sent(world, nursery):
    def echo(payload, source, now):
        world.node.outbox.append((payload[::-1], source))

    world.node.on_datagram = echo
    assert await nursery.start(world.driver.run) == world.address
    await world.tell(b"ping")
    with trio.fail_after(30):
        payload, source = await world.stranger.recvfrom(100)
    assert (payload, source) == (b"gnip", world.address)
    assert (world.driver.counters.received, world.driver.counters.sent) == (1, 1)


async def test_a_flood_is_seen_in_slices_and_loses_nothing(world, nursery):
    others_turns = 0

    async def other_task():
        nonlocal others_turns
        while True:
            await trio.lowlevel.checkpoint()
            others_turns += 1

    flood = 5 * udp.READ_DATAGRAMS_MAX
    for number in range(flood):
        await world.tell(b"%d" % number)
    nursery.start_soon(other_task)
    await nursery.start(world.driver.run)
    await world.until_received(flood)
    assert [payload for payload, _, _ in world.node.received] == [b"%d" % n for n in range(flood)]
    assert others_turns >= flood / udp.TURN_DATAGRAMS_MAX
    assert world.driver.kernel_drops == 0


async def test_kernel_drops_are_counted(world):
    world.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel has a minimum
    for _ in range(200):
        await world.tell(bytes(1000))
    assert world.driver.kernel_drops > 100


async def test_many_sends_leave_in_order_although_not_at_once(world, nursery):
    count = 3 * udp.BURST_DATAGRAMS_MAX
    target = world.stranger.getsockname()
    world.node.outbox = [(b"%d" % number, target) for number in range(count)]
    await nursery.start(world.driver.run)
    with trio.fail_after(30):
        got = [await world.stranger.recv(100) for _ in range(count)]
    assert got == [b"%d" % number for number in range(count)]


async def test_a_full_outbox_drops(world, nursery, monkeypatch):
    monkeypatch.setattr(udp, "OUTBOX_MAX", 5)
    target = world.stranger.getsockname()
    world.node.outbox = [(b"x", target)] * 25
    await nursery.start(world.driver.run)
    assert world.driver.counters.send_overflows == 20
    assert world.driver.counters.sent == 5


async def test_deadlines_are_kept_and_moved(world, nursery, autojump_clock):
    start = trio.current_time()
    world.node.deadline = start + 50
    await nursery.start(world.driver.run)
    await wait_all_tasks_blocked()
    world.node.deadline = start + 7
    handle = world.driver.start_get(bytes(32), on_item=print, on_finished=print)
    await trio.sleep(20)
    assert world.node.deadlines_handled == [(start + 7, 0)]
    world.driver.release(handle)
    assert world.node.released == [handle]


async def test_what_arrived_before_a_deadline_is_seen_before_it(world, nursery, monkeypatch):
    """More datagrams than one turn takes, and a deadline that passed while they waited."""
    monkeypatch.setattr(udp, "TURN_S", 10.0)  # reading ends with the last, however slow we are
    count = 4 * udp.TURN_DATAGRAMS_MAX
    for number in range(count):
        await world.tell(b"%d" % number)

    def set_deadline(payload, source, now):
        if payload == b"0":
            world.node.deadline = now + 1e-9

    world.node.on_datagram = set_deadline
    await nursery.start(world.driver.run)
    await world.until_received(count)
    await until(lambda: world.node.deadlines_handled)
    # All were read at one go and so arrived before the deadline; the last slice is seen with it.
    assert world.node.deadlines_handled[0][1] == count


async def test_items_and_the_end_of_a_lookup_reach_who_started_it(world, nursery):
    await nursery.start(world.driver.run)
    items, outcomes = [], []
    handle = world.driver.start_get(bytes(32), on_item=items.append, on_finished=outcomes.append)
    outcome = GetOutcome(ITEM, 1, 1, 1)
    world.node.events.extend([ItemReceived(handle, ITEM), GetFinished(handle, outcome)])
    await world.tell(b"wake up")
    await world.until_received(1)
    assert (items, outcomes) == ([ITEM], [outcome])
    world.driver.release(handle)
    assert world.node.released == []  # it was over


async def test_events_for_released_handles_are_ignored(world, nursery):
    await nursery.start(world.driver.run)
    items = []
    handle = world.driver.start_get(bytes(32), on_item=items.append, on_finished=items.append)
    world.driver.release(handle)
    world.node.events.extend([ItemReceived(handle, ITEM), GetFinished(handle, None)])
    world.node.events.append(PutFinished(PutHandle(bytes(20)), PutOutcome(1, 1, None)))
    await world.tell(b"wake up")
    await world.until_received(1)
    assert items == []


async def test_put_waits_for_its_outcome(world, nursery):
    await nursery.start(world.driver.run)
    outcomes = []

    async def put():
        outcomes.append(await world.driver.put(ITEM))

    nursery.start_soon(put)
    await wait_all_tasks_blocked()
    world.node.events.append(PutFinished(world.node.handles[0], PutOutcome(3, 5, None)))
    await world.tell(b"wake up")
    await until(lambda: outcomes)
    assert outcomes == [PutOutcome(3, 5, None)]
    assert world.node.released == []


async def test_who_puts_is_told_as_soon_as_it_cannot_fail(world, nursery):
    await nursery.start(world.driver.run)
    told = []
    nursery.start_soon(partial(world.driver.put, ITEM, on_assured=lambda: told.append("assured")))
    nursery.start_soon(world.driver.put, ITEM)  # does not want to know
    await wait_all_tasks_blocked()
    world.node.events.extend(PutAssured(handle) for handle in world.node.handles)
    world.node.events.append(PutAssured(PutHandle(bytes(20))))  # nobody waits for this one
    await world.tell(b"wake up")
    await until(lambda: told)
    assert told == ["assured"]
    assert world.node.released == []


async def test_a_cancelled_put_is_released(world, nursery):
    await nursery.start(world.driver.run)
    with trio.move_on_after(0):
        await world.driver.put(ITEM)
    assert world.node.released == world.node.handles


async def test_errors_of_the_network_do_not_end_the_driver(world, nursery):
    """Broadcast without permission, an impossible port, a datagram beyond any MTU."""
    target = world.stranger.getsockname()
    world.node.outbox = [
        (b"x", ("255.255.255.255", 1)),
        (b"x", ("127.0.0.1", 0)),
        (bytes(70_000), target),
        (b"good", target),
    ]
    await nursery.start(world.driver.run)
    with trio.fail_after(30):
        assert await world.stranger.recv(100) == b"good"
    assert world.driver.counters.send_errors == 3


class FlakySocket:
    """A real socket whose next reads and writes fail as told."""

    def __init__(self, sock):
        self._sock = sock
        self.read_errors = deque()
        self.write_errors = deque()

    def recvfrom(self, size):
        if self.read_errors:
            raise OSError(self.read_errors.popleft(), "as told")
        return self._sock.recvfrom(size)

    def sendto(self, payload, address):
        if self.write_errors:
            raise OSError(self.write_errors.popleft(), "as told")
        return self._sock.sendto(payload, address)

    def __getattr__(self, name):
        return getattr(self._sock, name)


@pytest.fixture
def flaky(world):
    sock = FlakySocket(world.sock)
    world.driver._datagrams = SocketDatagrams(sock, world.driver.counters)
    return sock


async def test_icmp_errors_are_read_past(world, flaky, nursery):
    flaky.read_errors.extend([errno.ECONNREFUSED] * 3)
    await nursery.start(world.driver.run)
    await world.tell(b"behind the errors")
    await world.until_received(1)
    assert world.driver.counters.receive_errors == 3


async def test_nothing_but_errors_is_waited_out(world, flaky, nursery, autojump_clock):
    flaky.read_errors.extend([errno.ENOMEM] * (2 * udp.READ_DATAGRAMS_MAX))
    await nursery.start(world.driver.run)
    start = trio.current_time()
    await world.tell(b"behind the errors")
    await until(lambda: world.node.received)
    assert trio.current_time() - start >= 2 * udp.ERRORS_PAUSE_S


async def test_our_own_mistakes_are_not_hidden(world, flaky):
    flaky.read_errors.append(errno.EBADF)
    await world.tell(b"x")
    with pytest.RaisesGroup(pytest.RaisesExc(OSError), flatten_subgroups=True):
        await world.driver.run()


async def test_a_full_socket_is_waited_for(world, flaky, nursery):
    target = world.stranger.getsockname()
    flaky.write_errors.extend([errno.EAGAIN] * 2)
    world.node.outbox = [(b"1", target), (b"2", target)]
    await nursery.start(world.driver.run)
    with trio.fail_after(30):
        assert [await world.stranger.recv(9), await world.stranger.recv(9)] == [b"1", b"2"]
    assert world.driver.counters.send_errors == 0


async def test_unreachable_networks_are_counted(world, flaky, nursery):
    codes = [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ECONNREFUSED, errno.ENOBUFS]
    flaky.write_errors.extend(codes)
    world.node.outbox = [(b"x", world.stranger.getsockname())] * len(codes)
    await nursery.start(world.driver.run)
    assert world.driver.counters.send_errors == len(codes)


async def test_bootstrap_addresses_and_the_first_answer(nursery):
    world = World(bootstrap=[("127.0.0.1", 4242)])
    await nursery.start(world.driver.run)
    await until(lambda: world.node.bootstrap)
    assert world.node.bootstrap == [("127.0.0.1", 4242)]
    results = []

    async def wait():
        results.append(await world.driver.wait_bootstrapped(60))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert results == []
    world.node.bootstrapped = True
    world.node.events.append(Bootstrapped())
    await world.tell(b"wake up")
    await until(lambda: results)
    assert results == [True]
    assert await world.driver.wait_bootstrapped(0)
    world.stranger.close()


async def test_a_poor_table_asks_for_names_again(nursery, autojump_clock):
    world = World(bootstrap=[("127.0.0.1", 4242)])
    await nursery.start(world.driver.run)
    await until(lambda: len(world.node.bootstrap) == 1)
    world.node.events.append(TablePoor())
    world.driver.release(world.driver.start_get(bytes(32), on_item=print, on_finished=print))
    await until(lambda: len(world.node.bootstrap) == 2)
    assert world.node.bootstrap == [("127.0.0.1", 4242)] * 2
    world.stranger.close()


async def test_waiting_for_bootstrap_ends(nursery, autojump_clock):
    world = World(bootstrap=[("127.0.0.1", 4242)])
    await nursery.start(world.driver.run)
    assert not await world.driver.wait_bootstrapped(2.0)
    assert trio.current_time() >= 2.0
    world.stranger.close()


async def test_nobody_to_ask_is_not_waited_for(world):
    with trio.fail_after(20):
        assert not await world.driver.wait_bootstrapped(60)


async def test_the_table_is_saved_now_and_then_and_at_the_end(autojump_clock):
    saved = []
    world = World(save_nodes=saved.append)
    world.node.table = [NodeInfo(b"i" * 20, ("10.0.0.1", 7))]
    async with trio.open_nursery() as nursery:
        await nursery.start(world.driver.run)
        await trio.sleep(udp.SAVE_INTERVAL_S * 1.5)
        assert saved == [[(b"i" * 20, "10.0.0.1", 7)]]
        nursery.cancel_scope.cancel()
    assert len(saved) == 2
    world.stranger.close()


async def test_an_empty_table_overwrites_nothing():
    saved = []
    world = World(save_nodes=saved.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.driver.run)
        nursery.cancel_scope.cancel()
    assert saved == []
    world.stranger.close()


async def test_nobody_waits_for_a_driver_that_has_ended(world):
    outcomes = []
    async with trio.open_nursery() as nursery:
        await nursery.start(world.driver.run)
        world.driver.start_get(bytes(32), on_item=print, on_finished=outcomes.append)
        nursery.cancel_scope.cancel()
    assert outcomes == [GetOutcome(None, 0, 0, 0)]
    with trio.fail_after(20):
        world.driver.start_get(bytes(32), on_item=print, on_finished=outcomes.append)
        assert await world.driver.put(ITEM) == PutOutcome(0, 0, PutFailure.TIMED_OUT)
    assert len(outcomes) == 2
    assert world.driver.kernel_drops is None
    assert world.sock.fileno() == -1
