"""Names to addresses, in the background."""

import logging
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from relay.net import bootstrap
from relay.net.bootstrap import BootstrapNames


class Resolver(trio.abc.HostnameResolver):
    """Knows two names; fails as long as it is told to."""

    def __init__(self):
        self.broken = False
        self.asked = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        self.asked.append(host)
        await trio.lowlevel.checkpoint()
        addresses = {b"one": ["10.0.0.1"], b"two": ["10.0.0.2", "10.0.0.1"]}
        if self.broken or host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        assert family == socket.AF_INET
        return [(family, type, 17, "", (ip, port)) for ip in addresses[host]]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@pytest.fixture
async def resolver():
    resolver = Resolver()
    before = trio.socket.set_custom_hostname_resolver(resolver)
    yield resolver
    trio.socket.set_custom_hostname_resolver(before)


async def test_all_addresses_of_all_names_come_at_once(resolver, nursery):
    delivered = []
    names = BootstrapNames([("one", 1), ("two", 1), ("127.0.0.1", 5), ("unknown", 9)])
    nursery.start_soon(names.run, delivered.append)
    await wait_all_tasks_blocked()
    assert [sorted(addresses) for addresses in delivered] == [
        [("10.0.0.1", 1), ("10.0.0.2", 1), ("127.0.0.1", 5)]
    ]


async def test_no_names_no_task():
    names = BootstrapNames([])
    assert not names.configured
    await names.run(print)


async def test_failing_names_are_tried_again_with_growing_pauses(
    resolver, nursery, autojump_clock, caplog
):
    resolver.broken = True
    delivered = []
    start = trio.current_time()
    nursery.start_soon(BootstrapNames([("one", 1)]).run, delivered.append)
    await trio.sleep(100)
    assert delivered == []
    assert len(resolver.asked) == 7  # at 0, 1, 3, 7, 15, 31, 63 seconds
    resolver.broken = False
    with caplog.at_level(logging.INFO, "relay.net"):
        await trio.sleep(bootstrap.PAUSE_MAX_S)
    assert delivered == [[("10.0.0.1", 1)]]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2  # the change for the worse and the change for the better
    assert "one (" in messages[0]
    assert trio.current_time() - start < 200


@pytest.mark.parametrize("host", ["x" * 70, "a..b", "\udcff"])
async def test_impossible_names_are_failures_like_others(host, nursery):
    send, receive = trio.open_memory_channel(1)
    nursery.start_soon(BootstrapNames([(host, 1), ("127.0.0.1", 5)]).run, send.send_nowait)
    with trio.fail_after(10), receive, send:
        assert await receive.receive() == [("127.0.0.1", 5)]


async def test_resolving_again_is_asked_for_and_paced(resolver, nursery, autojump_clock):
    delivered = []
    names = BootstrapNames([("one", 1)])
    nursery.start_soon(names.run, delivered.append)
    await trio.sleep(50)
    assert len(delivered) == 1
    names.resolve_again()
    names.resolve_again()
    await trio.sleep(5)
    assert len(delivered) == 2
    for _ in range(60):
        names.resolve_again()
        await trio.sleep(1)
    assert len(delivered) <= 2 + 6  # pauses of 2, 4, 8, 16, 32 seconds
    await trio.sleep(bootstrap.CALM_S + bootstrap.PAUSE_MAX_S + 1)
    before = len(delivered)
    names.resolve_again()
    await trio.sleep(2 * bootstrap.PAUSE_MIN_S)
    assert len(delivered) == before + 1  # after a calm time, at once
