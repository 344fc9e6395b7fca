"""The process from its first to its last second: quick start, waiting look-ups, clean end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.packets import Author
from tests.support.peers import ROOT, Peer
from tests.support.relay import (
    TESTNET_PORT,
    RelayProcess,
    fetch,
    free_port,
    wait_for_port,
    wait_until,
)

ANYBODY = "o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy"


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[list[str]]:
    with Peer(sys.executable, "-m", "tests.support.own_dht", "--nodes", 4) as network:
        yield network.bootstrap


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(
    tmp_path: Path, bootstrap: list[str], number: signal.Signals
) -> None:
    """Also with an idle connection and half a request open: exit code 0, nothing is cut off.

    What does not end by itself is ended after `SHUTDOWN_S` of `relay.http.serve` or
    `relay.server`, and the log says so.
    """
    with RelayProcess(tmp_path, bootstrap=bootstrap) as relay, ExitStack() as clients:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        for start in (b"", b"GET /"):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
            client.sendall(start)
        relay._running.send_signal(number)
        assert relay._ended() == 0
        _, begun, ending = relay.log().partition(f"{number.name}: shutting down\n")
        assert begun
        (last,) = ending.splitlines()
        assert last.endswith(" INFO pkarr_relay: shutdown")
        relay.start()
        assert relay.request(f"{packet.key}?policy=CacheOnly").body == packet.payload


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_come_again_until_the_last_moment_change_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with RelayProcess(tmp_path) as relay:
        process = relay._running
        sent = 0
        while process.poll() is None:  # it takes milliseconds to end: some come while it does
            process.send_signal(number)
            sent += 1
            time.sleep(0.0002)
        assert relay._ended() == 0
        assert sent > 1
        assert relay.log().rstrip().endswith("shutdown")


def test_a_configuration_that_cannot_be_read_to_its_end_does_not_hold_up_the_relays(
    tmp_path: Path,
) -> None:
    """A FIFO in its place, as if a file system hung."""
    with RelayProcess(tmp_path) as relay:
        relay.config_path.unlink()
        os.mkfifo(relay.config_path)
        os.kill(relay.pid, signal.SIGHUP)

        def read_from() -> int | None:
            with suppress(OSError):  # nobody reads yet
                return os.open(relay.config_path, os.O_WRONLY | os.O_NONBLOCK)
            return None

        writer = wait_until(read_from, "the relay to read its file")
        assert writer is not None
        try:
            assert relay.stop() == 0
        finally:
            os.close(writer)
        assert relay.log().rstrip().endswith(" INFO pkarr_relay: shutdown")


def test_the_routing_table_outlives_the_process(tmp_path: Path, bootstrap: list[str]) -> None:
    with RelayProcess(tmp_path, bootstrap=bootstrap) as relay:
        relay.wait_bootstrapped()
        wait_until(lambda: relay.dht_stats()["table_size"] == 4, "the whole network")
        assert relay.stop() == 0
        text = relay.config_path.read_text().splitlines()
        without = ["bootstrap = []" if line.startswith("bootstrap") else line for line in text]
        relay.config_path.write_text("\n".join(without))
        relay.start().wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204


def test_lookups_before_the_first_answer_wait_for_it(tmp_path: Path) -> None:
    """At most `request_timeout`, then 503 for a GET and 500 for a PUT (issue 3, section 1)."""
    silent = free_port(socket.SOCK_DGRAM)
    sections = {"mainline": "request_timeout_seconds = 1"}
    relay = RelayProcess(tmp_path, bootstrap=[f"127.0.0.1:{silent}"], sections=sections)
    packet = Author().packet()
    with relay:
        began = time.monotonic()
        answer = relay.get(ANYBODY)
        assert (answer.status, answer.body) == (503, b"No queried DHT nodes responded")
        assert relay.put(packet.key, packet.payload).status == 500
        assert time.monotonic() - began < 10.0
        assert relay.health().json()["status"] == "degraded"


def test_the_soft_limit_of_open_files_is_raised_for_the_connections(tmp_path: Path) -> None:
    sections = {"http": "max_connections = 300"}
    wrapper = ("sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh")
    with RelayProcess(tmp_path, sections=sections, wrapper=wrapper) as relay:
        limits = Path(f"/proc/{relay.pid}/limits").read_text().splitlines()
        soft = next(line.split()[3] for line in limits if line.startswith("Max open files"))
        assert int(soft) >= 300


def test_taken_ports_are_named(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as relay:
        other = tmp_path / "other.toml"
        text = relay.config_path.read_text()
        for taken, wanted in (("DHT", f"port {relay.dht_port}"), ("TCP", f":{relay.port}")):
            replaced = str(relay.port) if taken == "DHT" else str(relay.dht_port)
            other.write_text(
                text.replace(f"port = {replaced}", f"port = {free_port()}").replace(
                    str(relay.cache), str(tmp_path / f"cache-{taken}")
                )
            )
            done = start(other)
            assert done.returncode == 1
            assert wanted in done.stderr
            assert taken in done.stderr
            assert "Traceback" not in done.stderr


def test_a_second_relay_on_the_cache_folder_is_refused(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as relay:
        other = tmp_path / "other.toml"
        text = relay.config_path.read_text()
        for port in (relay.port, relay.dht_port):
            text = text.replace(f"port = {port}", f"port = {free_port()}")
        other.write_text(text)
        done = start(other)
        assert done.returncode == 1
        assert f"Error: another relay (process {relay.pid}) is using" in done.stderr
        assert relay.health().status == 200


def start(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )


def test_testnet_stays_on_loopback(tmp_path: Path) -> None:
    """`--testnet`: HTTP on 15411, no rate limit, ten nodes, everything on 127.0.0.1."""
    wait_for_port(TESTNET_PORT)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay", "--testnet"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    url = f"http://127.0.0.1:{TESTNET_PORT}/"

    def ready() -> bool:
        try:
            return fetch(url + "stats").json()["dht"]["table_size"] == 10
        except OSError:
            return False

    try:
        wait_until(ready, "the test network")
        packet = Author().packet()
        stored = fetch(url + packet.key, "PUT", packet.payload)
        assert (stored.status, stored.headers["pkarr-dht-stored-nodes"]) == (204, "10")
        assert "x-ratelimit-limit" not in stored.headers
        found = fetch(f"{url}{packet.key}?policy=NetworkOnly")
        assert found.body == packet.payload
        assert listening_addresses(process.pid) == {"127.0.0.1"}
    finally:
        process.terminate()
        assert process.wait(15) == 0


def listening_addresses(pid: int) -> set[str]:
    """The local IPv4 and IPv6 addresses of a process's UDP sockets and TCP listeners."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            name = str(fd.readlink())
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (table.startswith("udp") or fields[3] == "0A"):
                address = bytes.fromhex(fields[1].partition(":")[0])
                words = [address[at : at + 4][::-1] for at in range(0, len(address), 4)]
                raw = b"".join(words)
                family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
                found.add(socket.inet_ntop(family, raw))
    return found
