"""The service of docker-compose.yml in use: packets, crashes, and queries from outside."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import (
    NAME,
    Compose,
    address,
    docker,
    seconds_since,
    state,
    stats,
    wait_for_room,
    wait_healthy,
    wait_serving,
)
from tests.support.packets import Author, Packet
from tests.support.relay import fetch, wait_until

URL = "http://127.0.0.1:8080"
OTHER = """
version: "3.8"
services:
  pkarr:
    environment:
      - PKARR_RELAY__MAINLINE__BOOTSTRAP=["other:6881"]
      - PKARR_RELAY__MAINLINE__SERVER_MODE=true
    depends_on: [other]
  other:
    build: .
    command: pkarr-relay
    environment:
      - PKARR_RELAY__HTTP__PORT=8080
      - PKARR_RELAY__MAINLINE__BOOTSTRAP=[]
      - PKARR_RELAY__MAINLINE__SERVER_MODE=true
"""
"""What a user may put beside docker-compose.yml; here a second node, so that PUTs find one."""


@pytest.fixture(scope="module")
def service(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """docker-compose.yml as it is, with another node beside it."""
    folder = tmp_path_factory.mktemp("service") / "pkarr-relay"
    shutil.copytree(clone, folder, ignore=shutil.ignore_patterns(".pkarr_cache"))
    (folder / "docker-compose.override.yml").write_text(OTHER)
    compose = Compose(folder, project="service")
    compose.build()
    wait_for_room()
    with compose.up():
        wait_joined()
        yield compose


def wait_joined(url: str = URL, nodes: int = 1) -> None:
    """Wait until a relay answers and knows some other nodes."""

    def joined() -> bool:
        try:
            return bool(stats(url)["dht"]["table_size"] >= nodes)
        except OSError:
            return False

    wait_until(joined, "DHT nodes in the routing table", 60)


def put(packet: Packet, url: str = URL) -> int:
    """Publish a packet; return how many nodes have it."""
    answer = fetch(f"{url}/{packet.key}", "PUT", packet.payload)
    assert answer.status == 204, answer
    return int(answer.headers["pkarr-dht-stored-nodes"])


def ping(sock: socket.socket, target: tuple[str, int]) -> bytes:
    """Ask a node for a sign of life as BEP 5 says; return its answer."""
    transaction = secrets.token_hex(1).encode()
    sock.sendto(
        b"d1:ad2:id20:%be1:q4:ping1:t2:%b1:y1:qe" % (b"outside the containe", transaction), target
    )
    answer = sock.recv(2000)
    assert b"1:t2:" + transaction in answer
    return answer


def test_packets_outlive_the_container(service: Compose) -> None:
    packet = Author().packet("still there")
    assert put(packet) == 1
    service("down")
    assert (service.folder / ".pkarr_cache" / "pkarr-relay.sqlite3").exists()
    service("up", "-d")
    wait_serving()
    answer = fetch(f"{URL}/{packet.key}?policy=CacheOnly")
    assert (answer.status, answer.body) == (200, packet.payload)
    wait_joined()


@pytest.mark.usefixtures("service")
def test_a_crash_is_mended() -> None:
    """Not by `docker kill`, which counts as stopped by hand: by the kernel."""
    packet = Author().packet("survives")
    put(packet)
    before = state()
    as_root = ("run", "--rm", "--pid", f"container:{NAME}", "--entrypoint", "python")
    crash = f"import os; os.kill(1, {int(signal.SIGKILL)})"
    began = time.monotonic()
    try:
        os.kill(before["Pid"], signal.SIGKILL)
    except PermissionError:  # tests need not be root
        docker(*as_root, "pkarr-relay-under-test", "-c", crash)
    wait_until(lambda: state()["Pid"] not in {0, before["Pid"]}, "the restart")
    wait_healthy()
    print(f"\nkilled, and healthy again after {seconds_since(began):.1f} s")
    assert fetch(f"{URL}/{packet.key}?policy=CacheOnly").body == packet.payload
    wait_joined()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("way", ["published port", "container's address", "another container"])
def test_queries_over_udp_are_answered_and_counted(way: str, service: Compose) -> None:
    queries = 20
    before = stats()["dht"]
    assert before["server_mode"] is True
    if way == "another container":
        ask = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            "s.settimeout(5); s.connect(('pkarr', 6881)); "
            f"q = b'd1:ad2:id20:outside the containee1:q4:ping1:t2:aa1:y1:qe'; "
            f"print(sum(s.send(q) > 0 and b'1:t2:aa' in s.recv(2000) for _ in range({queries})))"
        )
        assert int(docker("exec", service.container("other"), "python", "-c", ask)) == queries
    else:
        host = "127.0.0.1" if way == "published port" else address(NAME)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            node_id = bytes.fromhex(before["node_id"])
            for _ in range(queries):
                assert node_id in ping(sock, (host, 6881))
    after = stats()["dht"]
    assert after["queries_in"] - before["queries_in"] >= queries
    assert after["replies_out"] - before["replies_out"] >= queries


@pytest.mark.usefixtures("service")
def test_the_other_commands_work_inside() -> None:
    """As ``docker-compose exec`` runs them: by root, on a relay that is not."""
    inside = ("exec", "-i", NAME, "sh", "-c")
    key = docker(*inside, "pkarr-relay keygen /tmp/a.key && chown 10001 /tmp/a.key").split()[-1]
    relay = "--relay http://127.0.0.1:8080"
    docker(*inside, f"pkarr-relay publish /tmp/a.key --txt hello=world {relay}")
    assert "world" in docker(*inside, f"pkarr-relay resolve {key} {relay}")
    config = "-c /config.toml"
    docker(*inside, f"rm -f /cache/copy.sqlite3; pkarr-relay backup {config} /cache/copy.sqlite3")
    assert docker("exec", NAME, "stat", "-c", "%u %a", "/cache/copy.sqlite3") == "10001 600"
    docker(*inside, f"pkarr-relay check {config}")
    assert key in docker(*inside, f"pkarr-relay export {config} -")
    docker(*inside, f"pkarr-relay purge {config} {key}")
    assert key not in docker(*inside, f"pkarr-relay export {config} -")
