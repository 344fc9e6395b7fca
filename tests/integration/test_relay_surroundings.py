"""What surrounds a real relay fails: the DHT, name servers, the clock, descriptors, threads, time.

It answers what it can, `/health` tells of it and of its end, and it recovers by itself. The same
for minutes, where seconds do here: ``nox -s faults``.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from json import dumps
from pathlib import Path
from typing import Final

import pytest

from tests.support import peers
from tests.support.commands import command
from tests.support.faults import MINUTES, Faults, Publisher, kept, part, pending, timely
from tests.support.packets import Author
from tests.support.peers import ROOT, Peer
from tests.support.relay import RelayProcess, free_port, status_of, wait_until

pytestmark = pytest.mark.slow

CUT_S: Final = 180.0 if MINUTES else 0.0
SUSPENDED_S: Final = 60.0 if MINUTES else 2.0
NO_NAMES_S: Final = 120.0 if MINUTES else 0.0
YEAR_S: Final = 365.25 * 86_400
CLOCK_S: Final = 30.0
"""So far apart may be two looks at one clock, on a machine that is busy."""
JOINED_S: Final = 70.0
"""The longest pause between two tries to resolve the bootstrap nodes' names, and a try."""
WITHOUT_S: Final = 2.0
"""How long somebody who cannot be let in waits while the relay is looked at."""


@pytest.fixture
def net() -> Iterator[Peer]:
    with peers.own_net(3) as running:
        yield running


def test_the_dht_is_cut_off_and_comes_back(net: Peer, tmp_path: Path) -> None:
    """Who asks for a packet that nobody can look up is told so, not that there is none."""
    with RelayProcess(tmp_path, bootstrap=net.bootstrap) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        hot = publisher.publish()
        assert part(relay, "dht") == "ok"
        os.kill(net.pid, signal.SIGSTOP)
        try:
            with relay.asked([Author().key]) as (cold,):
                began = time.monotonic()
                wait_until(lambda: part(relay, "dht") == "degraded", "health to tell", poll_s=0.02)
                timely("a cut DHT is told", began)
                assert status_of(cold) == 503
            assert relay.get(hot.key).body == hot.payload
            assert relay.get(Author().key).status == 503
            unpublished = Author().packet()
            assert relay.put(unpublished.key, unpublished.payload).status == 500
            time.sleep(CUT_S)
            assert relay.get(hot.key).body == hot.payload
            assert relay.get(Author().key).status == 503
            assert part(relay, "dht") == "degraded"
        finally:
            os.kill(net.pid, signal.SIGCONT)
        began = time.monotonic()
        wait_until(lambda: part(relay, "dht") == "ok", "health to tell", 120.0, poll_s=0.02)
        timely("its end is told", began)
        wait_until(lambda: relay.put(unpublished.key, unpublished.payload).status == 204, "a PUT")
        publisher.all_there()
        assert "Traceback" not in relay.log()


class NameServer:
    """Swallows all questions, until it is told to answer them: ``127.0.0.1``."""

    def __init__(self) -> None:
        self.address = f"127.53.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250 + 1}"
        self.answering = False
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.address, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", (self.address, 53))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(2048)
            if not question:
                return
            self.asked += 1
            if self.answering:
                self._socket.sendto(self._answer(question), client)

    @staticmethod
    def _answer(question: bytes) -> bytes:
        end = question.index(0, 12) + 5  # the name, its type and class
        is_a = question[end - 4 : end - 2] == b"\0\1"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("127.0.0.1")
        counts = b"\0\1" + (b"\0\1" if is_a else b"\0\0") + bytes(4)
        return question[:2] + b"\x81\x80" + counts + question[12:end] + (record if is_a else b"")


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


def test_name_servers_are_dead_and_come_back(net: Peer, names: NameServer, tmp_path: Path) -> None:
    """The start waits for nothing; hot packets are served; the node joins once names resolve."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {names.address}\noptions timeout:1 attempts:1\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", script, str(resolv))
    port = net.bootstrap[0].rpartition(":")[2]
    with RelayProcess(tmp_path, bootstrap=[f"dht.test:{port}"], wrapper=wrapper) as relay:
        wait_until(lambda: names.asked, "a question for the name")
        assert part(relay, "dht") == "degraded"
        hot = Author().packet()
        line = dumps({"key": hot.key, "payload": b64encode(hot.payload).decode()})
        done = command("import", "-c", relay.config_path, "-", stdin=line.encode())
        assert done.returncode == 0, done
        assert relay.get(hot.key, "CacheOnly").body == hot.payload
        time.sleep(NO_NAMES_S)
        wait_until(lambda: "no bootstrap node's name can be resolved" in relay.log(), "the log")
        assert relay.get(hot.key, "CacheOnly").body == hot.payload
        names.answering = True
        began = time.monotonic()
        wait_until(lambda: relay.dht_stats()["table_size"], "the node to join", 120.0, poll_s=0.02)
        joined_s = time.monotonic() - began
        print(f"once names resolve, the DHT is joined after {joined_s:.2f} s")
        assert joined_s < JOINED_S
        began = time.monotonic()
        wait_until(lambda: part(relay, "dht") == "ok", "health to tell", poll_s=0.02)
        timely("that it is joined is told", began)
        assert relay.put(hot.key, hot.payload).status == 204
        assert "Traceback" not in relay.log()


@pytest.mark.parametrize("years", [1, -10], ids=["ahead", "behind"])
def test_the_wall_clock_jumps_and_is_set_right(net: Peer, tmp_path: Path, years: int) -> None:
    """Packets are looked up anew when nobody knows their age, and never served as fresh for years.

    Rate limits, tokens and deadlines go by another clock, which never jumps.
    """
    faults = Faults(tmp_path)
    quotas = "".join(f'{name} = "1000r/s"\n' for name in ("quota", "user_dht_quota", "dht_quota"))
    sections = {"rate_limiter": f"behind_proxy = false\n{quotas}"}
    with RelayProcess(
        tmp_path, bootstrap=net.bootstrap, wrapper=faults.wrapper, sections=sections
    ) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        for _ in range(5):
            publisher.publish()
        for shift_s in (years * YEAR_S, 0.0):
            faults.jump(shift_s)
            answer = relay.health()
            date = parsedate_to_datetime(answer.headers["date"]).timestamp()
            assert abs(date - time.time() - shift_s) < CLOCK_S, "the fault is there"
            for key, packet in publisher.acknowledged.items():
                lookups = relay.dht_stats()["lookups"]
                answer = relay.get(key)
                assert answer.body == packet.payload
                assert int(answer.headers["age"]) < CLOCK_S
                assert relay.dht_stats()["lookups"] > lookups, "its age is not known"
                modified = parsedate_to_datetime(answer.headers["last-modified"]).timestamp()
                assert abs(modified - packet.timestamp_us / 1e6) <= 1
            for key, packet in publisher.acknowledged.items():
                lookups = relay.dht_stats()["lookups"]
                answer = relay.get(key)
                assert answer.body == packet.payload
                seen = parsedate_to_datetime(answer.headers["memento-datetime"]).timestamp()
                assert abs(seen - time.time() - shift_s) < CLOCK_S, "known anew"
                assert relay.dht_stats()["lookups"] == lookups
                assert int(answer.headers["x-ratelimit-remaining"]) > 100
            publisher.publish(0)
            publisher.publish(9)
            assert part(relay, "cache") == part(relay, "dht") == "ok"
        relay.kill()
        relay.start()
        publisher.all_there()
        assert "Traceback" not in relay.log()


def test_without_descriptors_those_who_are_in_are_served(net: Peer, tmp_path: Path) -> None:
    """Others wait in the kernel's queue, and the relay does not spin; then they are let in."""
    with RelayProcess(tmp_path, bootstrap=net.bootstrap) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        with kept(relay) as ask, socket.socket() as client:
            hot = publisher.publish_on(ask, 0)
            soft, hard = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
            highest = max(map(int, os.listdir(f"/proc/{relay.pid}/fd")))
            # The lane is at rest, so nothing closes meanwhile.
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (min(8, highest), hard))
            client.connect(("127.0.0.1", relay.port))
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            wait_until(lambda: "cannot accept connections" in relay.log(), "the log")
            for number in range(20):
                publisher.publish_on(ask, number)
                assert ask("GET", f"/{hot.key}").status == 200
            client.settimeout(WITHOUT_S)
            before_s, began = awake_s(relay), time.monotonic()
            with pytest.raises(TimeoutError):
                client.recv(1)
            passed_s = time.monotonic() - began
            after_s = awake_s(relay).items()
            share = max(s - before_s.get(thread, 0.0) for thread, s in after_s) / passed_s
            print(f"it wants the processor {share:.1%} of the time")
            assert share < 0.75, "it spins"
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (soft, hard))
            began = time.monotonic()
            client.settimeout(30.0)
            assert client.recv(12) == b"HTTP/1.1 200"
            timely("those who waited are answered", began)
        wait_until(lambda: part(relay, "cache") == "ok", "the store")
        publisher.all_there()
        assert "Traceback" not in relay.log()


def awake_s(relay: RelayProcess) -> dict[str, float]:
    """For how long each thread has run or waited for a processor, seconds.

    Who spins does so all the time, however many others the machine is shared with.
    """
    spans = {}
    for path in Path(f"/proc/{relay.pid}/task").glob("*/schedstat"):
        ran_ns, waited_ns, _ = path.read_text().split()
        spans[path.parent.name] = (int(ran_ns) + int(waited_ns)) / 1e9
    return spans


def test_without_threads_it_goes_on(net: Peer, tmp_path: Path) -> None:
    """The store goes on from memory, and what else wants a thread does without one."""
    faults = Faults(tmp_path)
    faults.set(thread_error=errno.EAGAIN)
    with RelayProcess(tmp_path, bootstrap=net.bootstrap, wrapper=faults.wrapper) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        hot = publisher.publish()
        wait_until(lambda: part(relay, "cache") == "degraded", "health to tell of it")
        for _ in range(10):
            publisher.publish()
        assert relay.get(hot.key).body == hot.payload
        assert relay.request("").status == 200  # the page, which a thread would prepare
        os.kill(relay.pid, signal.SIGHUP)
        wait_until(lambda: "reload" in relay.log(), "the answer to SIGHUP")
        assert faults.met, "no thread was wanted"
        faults.heal()
        began = time.monotonic()
        wait_until(lambda: part(relay, "cache") == "ok", "the store", poll_s=0.05)
        timely("with threads the store is well", began)
        publisher.publish()
        wait_until(lambda: pending(relay) == 0, "everything to be written")
        relay.kill()
        relay.start()
        publisher.all_there()
        assert "Traceback" not in relay.log()


def test_a_suspended_machine_goes_on(net: Peer, tmp_path: Path) -> None:
    with RelayProcess(tmp_path, bootstrap=net.bootstrap) as relay:
        relay.wait_bootstrapped()
        publisher = Publisher(relay)
        hot = publisher.publish()
        os.kill(relay.pid, signal.SIGSTOP)
        time.sleep(SUSPENDED_S)
        os.kill(relay.pid, signal.SIGCONT)
        began = time.monotonic()
        assert relay.get(hot.key).body == hot.payload
        timely("a hot packet is served", began)
        wait_until(lambda: relay.health().json()["status"] == "ok", "health", poll_s=0.05)
        timely("all is well", began)
        publisher.publish()
        publisher.all_there()
        assert "Traceback" not in relay.log()


@contextmanager
def another_name(folder: Path, way: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Give the cache folder another name; yield it, and what the second relay is run by."""
    other = folder / "another"
    if way == "link":
        other.symlink_to(folder / "cache")
        yield other, ()
    elif way == "bind mount":
        other.mkdir()
        script = f'mount --bind "{folder / "cache"}" "$0" && exec "$@"'
        yield other, ("unshare", "--mount", "sh", "-c", script, str(other))
    else:
        yield folder / "cache", ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.parametrize("way", ["link", "bind mount", "container"])
def test_a_second_relay_is_refused_whatever_the_folder_is_called(tmp_path: Path, way: str) -> None:
    with RelayProcess(tmp_path) as relay, another_name(tmp_path, way) as (cache, wrapper):
        wait_until(lambda: (relay.cache / "pkarr-relay.lock").exists(), "the lock")
        text = relay.config_path.read_text().replace(dumps(str(relay.cache)), dumps(str(cache)))
        for port in (relay.port, relay.dht_port):
            text = text.replace(f"port = {port}", f"port = {free_port()}")
        (tmp_path / "other.toml").write_text(text)
        done = subprocess.run(
            [*wrapper, sys.executable, "-m", "relay", "-c", str(tmp_path / "other.toml")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1, done
        assert "another relay" in done.stderr
        assert f"is using the cache folder {cache}" in done.stderr
        assert relay.health().json()["parts"]["cache"]["status"] == "ok"
