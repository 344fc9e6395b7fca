"""The other compose files: in a project of one's own, a DHT of one's own, behind a proxy."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from relay.config import load_config
from tests.containers.test_compose import URL, ping, put, wait_joined
from tests.support.containers import CALL_S, Compose, docker, run, stats, wait_serving
from tests.support.given import FIRST_CONFIG
from tests.support.packets import Author
from tests.support.peers import ROOT
from tests.support.relay import fetch, free_port, wait_until

CADDY_IMAGE = "pkarr-relay-test-caddy"
CADDY = """
FROM python:3.11-slim-bookworm
RUN apt-get update -q && apt-get install -q -y --no-install-recommends caddy
"""
"""Debian's, where the public image cannot be pulled."""
MANY_REQUESTS = """
import http.client, random, socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
plain = socket.create_connection(("caddy", 443), 10)
client = http.client.HTTPConnection("localhost")
client.sock = context.wrap_socket(plain, server_hostname="localhost")
statuses = []
for number in range(int(sys.argv[1])):
    pretended = f"198.51.100.{random.randrange(256)}"
    client.request("GET", "/stats", headers={"X-Forwarded-For": pretended})
    answer = client.getresponse()
    answer.read()
    statuses.append(answer.status)
print(statuses.count(200), statuses.count(429))
"""


@pytest.mark.usefixtures("room")
def test_as_a_git_submodule_with_the_given_configuration(clone: Path, tmp_path: Path) -> None:
    """The user's own compose file, without UDP; and ours for that, which has it."""
    project = tmp_path / "app"
    project.mkdir()
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    source = tmp_path / "source"
    shutil.copytree(clone, source, ignore=shutil.ignore_patterns(".pkarr_cache"))
    for folder in (source, project):
        run(*git, "init", "-q", cwd=folder)
    run(*git, "add", "-A", cwd=source)
    run(*git, "commit", "-q", "-m", "a", cwd=source)
    run(*git, "submodule", "--quiet", "add", str(source), "pkarr", cwd=project)
    (project / "config.toml").write_text(FIRST_CONFIG)
    example = (project / "pkarr" / "examples" / "submodule" / "docker-compose.yml").read_text()
    own = example.replace('      - "6881:6881/udp"\n', "").replace("6881:6881/tcp", "6881:6881")
    assert own != example
    for text in (own, example):
        (project / "docker-compose.yml").write_text(text)
        compose = Compose(project)
        compose.build()
        with compose.up():
            wait_serving()
            assert stats()["dht"]["local_address"] == "0.0.0.0:6881"
            assert (project / ".pkarr_cache" / "pkarr-relay.sqlite3").exists()
            # Old dialect: ten at once, /stats among them.
            statuses = [fetch(f"{URL}/stats").status for _ in range(12)]
            assert 429 in statuses
            assert fetch(f"{URL}/health").status == 200


def test_a_dht_of_ones_own(clone: Path) -> None:
    compose = Compose(clone, "docker-compose.testnet.yml", project="testnet")
    http_port, dht_port = free_port(), free_port(socket.SOCK_DGRAM)
    compose.environ = {"TESTNET_HTTP_PORT": str(http_port), "TESTNET_DHT_PORT": str(dht_port)}
    url = f"http://127.0.0.1:{http_port}"
    compose.build()
    with compose.up():
        wait_joined(url, nodes=3)
        packet = Author().packet("offline")
        assert put(packet, url) == 3
        # Another relay has it from the DHT alone, and has never heard of a client.
        look = (
            "import urllib.request as r; "
            f"print(r.urlopen('http://127.0.0.1:8080/{packet.key}?policy=NetworkOnly').read().hex())"
        )
        found = docker("exec", compose.container("node2"), "python", "-c", look)
        assert bytes.fromhex(found) == packet.payload
        before = stats(url)["dht"]
        assert before["server_mode"] is True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            ping(sock, ("127.0.0.1", dht_port))
        assert stats(url)["dht"]["queries_in"] > before["queries_in"]
        assert [fetch(f"{url}/stats").status for _ in range(100)] == [200] * 100  # no limits


def test_the_testnet_knows_nobody_outside() -> None:
    config = load_config(ROOT / "examples" / "testnet.toml", {})
    assert config.warnings == ()
    assert config.mainline.bootstrap == (("node1", 6881), ("node2", 6881), ("node3", 6881))


@pytest.fixture(scope="module")
def caddy() -> str:
    """An image with Debian's Caddy."""
    subprocess.run(
        ["docker", "build", "-q", "-t", CADDY_IMAGE, "-"],
        input=CADDY,
        text=True,
        check=True,
        capture_output=True,
        timeout=2 * CALL_S,
    )
    return CADDY_IMAGE


@pytest.mark.usefixtures("image")
def test_behind_a_reverse_proxy(clone: Path, caddy: str, tmp_path: Path) -> None:
    """TLS and HTTP/2 in front, and limits by the real client, whatever it pretends to be."""
    folder = tmp_path / "pkarr-relay"
    shutil.copytree(clone, folder, ignore=shutil.ignore_patterns(".pkarr_cache"))
    compose = Compose(folder / "examples" / "reverse-proxy", project="proxy")
    https_port = free_port()
    compose.environ = {
        "CADDY_IMAGE": caddy,
        "HTTP_PORT": str(free_port()),
        "HTTPS_PORT": str(https_port),
    }
    compose.build()
    with compose.up():

        def asked() -> str:
            curl = ("curl", "-sS", "-k", "--http2", "-o", "/dev/null")
            form = ("-w", "%{http_version} %{http_code}")
            done = subprocess.run(
                [*curl, *form, f"https://localhost:{https_port}/health"],
                capture_output=True, text=True, check=False, timeout=CALL_S,
            )  # fmt: skip
            return done.stdout if done.returncode == 0 and done.stdout.endswith("200") else ""

        assert wait_until(asked, "an answer through the proxy") == "2 200"
        client = ("run", "--rm", "--network", "proxy_default", "pkarr-relay-under-test")
        served, refused = docker(*client, "python", "-c", MANY_REQUESTS, 120).split()
        assert int(served) >= 50  # the burst
        assert int(refused) > 0
        # A client with another address has a budget of its own.
        assert docker(*client[:2], "--ip", "10.231.80.99", *client[2:], "python", "-c",
                      MANY_REQUESTS, 50) == "50 0"  # fmt: skip
        assert run("curl", "-sS", "-k", f"https://localhost:{https_port}/health")
