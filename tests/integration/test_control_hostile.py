"""The control socket of a real relay, with somebody at the other end who does as he likes."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from relay.control.frames import BODY_BYTES_MAX, HEAD_BYTES_MAX
from relay.control.server import PEERS_MAX
from relay.control.socket_file import SOCKET_FILE, connect
from tests.support.chance import seeded
from tests.support.packets import Author
from tests.support.peers import ROOT
from tests.support.relay import RelayProcess, wait_until

ANSWER_S: Final = 20.0


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with RelayProcess(tmp_path_factory.mktemp("relay")) as relay:
        wait_until((relay.cache / SOCKET_FILE).exists, "the control socket")
        yield relay
        assert checked(relay)
        assert relay.stop() == 0
        assert "Traceback" not in relay.log()


@pytest.fixture(autouse=True)
def _unharmed(relay: RelayProcess) -> Iterator[None]:
    """After each test the relay serves, has a place for a command, and has closed what was open."""
    before = descriptors(relay)
    yield
    assert relay.health().status == 200
    wait_until(lambda: free(relay), "a place to be free")
    # SQLite keeps the descriptor of a closed connection for the next one, while there are locks.
    wait_until(lambda: descriptors(relay) <= before + PEERS_MAX, "connections to be closed")


def descriptors(relay: RelayProcess) -> int:
    return len(os.listdir(f"/proc/{relay.pid}/fd"))


def free(relay: RelayProcess) -> bool:
    (head,) = said(relay, request("purge", key="y" * 52))
    return head == {"done": True, "timestamp_us": None}


def checked(relay: RelayProcess) -> bool:
    command = (sys.executable, "-m", "relay", "check", "-c", str(relay.config_path))
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def request(what: str, **details: object) -> bytes:
    return json.dumps({"control": 1, "do": what, **details}).encode() + b"\n"


def said(relay: RelayProcess, *pieces: bytes, hang_up: bool = False) -> list[dict[str, Any]]:
    """Send pieces on a connection of their own; return the heads of all frames until the end."""
    with connect(relay.cache, ANSWER_S) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                client.sendall(piece)
            if hang_up:
                client.shutdown(socket.SHUT_WR)
        return heads(client)


def heads(client: socket.socket) -> list[dict[str, Any]]:
    """Read until the end; of these requests no answer has a body."""
    data = b""
    with suppress(ConnectionResetError):  # it left without having read everything
        while piece := client.recv(65_536):
            data += piece
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not JSON"),
        (b"\0" * 100 + b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "control"),
        (b'{"control": 2, "do": "rows"}\n', "pkarr-relay 0."),
        (b'{"control": 1}\n', '"do" must be'),
        (b'{"control": 1, "do": ["rows"]}\n', '"do" must be'),
        (request("x" * 1000), "cannot do 'xxxxxxxxxxxxxxxxxxxx'"),
        (request("rows"), '"table" must be'),
        (request("rows", table="sqlite_master"), "no table"),
        (request("rows", table="packets; DROP TABLE packets"), "no table"),
        (request("integrity"), '"quick" must be'),
        (request("backup", target="x", force=False), "slash"),
        (request("backup", target="", force=False), "slash"),
        (request("backup", target="/nonexistent/x", force=False), "cannot be written"),
        (request("backup", target="/proc/x", force=False), "cannot be written"),
        (request("backup", target="/proc/" + "x" * 300, force=False), "cannot be written"),
        (request("backup", target="/proc/a\0b", force=False), "slash"),
        (request("purge", key="nobody"), "Invalid PublicKey"),
        (request("purge", key="y" * 52, more="x" * HEAD_BYTES_MAX), "more than 65536 bytes"),
        (b'{"bytes": %d}\n' % (BODY_BYTES_MAX + 1), "more than"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    relay: RelayProcess, sent: bytes, complaint: str
) -> None:
    (head,) = said(relay, sent)
    assert list(head) == ["error"]
    assert complaint in head["error"]


def test_a_giant_line_is_not_read_to_its_end(relay: RelayProcess) -> None:
    before = relay.rss_bytes()
    heads = said(relay, *[b"x" * 65_536] * 1000)
    assert [list(head) for head in heads] == [["error"]]
    assert relay.rss_bytes() < before + 16_000_000


@pytest.mark.parametrize(
    "pack",
    [
        b"",
        b"x",
        bytes(34),
        b"\0\x50" + bytes(111),
        b"\xff\xff" + bytes(70_000),
        (b"\0\x50" + bytes(112)) * 513,
    ],
)
def test_what_is_imported_must_be_packets(relay: RelayProcess, pack: bytes) -> None:
    frame = b'{"bytes": %d}\n' % len(pack) + pack
    first, *rest = said(relay, request("import"), frame, hang_up=True)
    assert first == {"ready": True}
    if pack:
        assert [list(head) for head in rest] == [["error"]]
    else:
        assert rest == [{"outcomes": "", "reasons": []}]


def test_forged_packets_are_refused_by_the_relay_itself(relay: RelayProcess) -> None:
    """Whatever a command would have said of them."""
    good, forged = Author().packet(), Author().packet()
    rows = [
        (good.public_key, good.payload),
        (forged.public_key, bytes(64) + forged.payload[64:]),
        (good.public_key, forged.payload),
    ]
    pack = b"".join(
        (8 + len(payload)).to_bytes(2) + key + bytes(8) + payload for key, payload in rows
    )
    frame = b'{"bytes": %d}\n' % len(pack) + pack
    heads = said(relay, request("import"), frame, b'{"done": true}\n')
    assert heads[1]["outcomes"] == "sxx"
    assert heads[1]["reasons"] == ["signature error"] * 2
    assert heads[2] == {"done": True}
    assert relay.get(good.key, "CacheOnly").body == good.payload
    assert relay.get(forged.key, "CacheOnly").status == 404


def test_noise(relay: RelayProcess) -> None:
    rng = seeded("control noise")
    for _ in range(100):
        said(relay, *noise(rng), hang_up=True)


def noise(rng: random.Random) -> list[bytes]:
    start = rng.choice([b"", request("import"), request("integrity", quick=True), b'{"bytes": 9}'])
    return [start, rng.randbytes(rng.randrange(3000)), b"\n", rng.randbytes(100)]


def test_few_are_served_at_once_and_one_more_is_told(relay: RelayProcess) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(connect(relay.cache, ANSWER_S)) for _ in range(PEERS_MAX)]
        for client in held:
            client.sendall(request("import"))
            assert json.loads(client.recv(1000)) == {"ready": True}
        for _ in range(200):
            (head,) = said(relay, request("purge", key="y" * 52))
            assert head["error"] == f"{PEERS_MAX} other commands are under way"
        assert relay.health().status == 200
        done = subprocess.run(
            (sys.executable, "-m", "relay", "check", "-c", str(relay.config_path)),
            cwd=ROOT,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 1
        assert "other commands are under way" in done.stderr


def test_hundreds_of_silent_connections_are_shed(relay: RelayProcess) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(relay.cache, ANSWER_S))
        wait_until(lambda: descriptors(relay) < 60, "all but a few to be closed")
        packet = Author().packet()
        assert relay.get(packet.key, "CacheOnly").status == 404


def test_those_who_leave_at_any_moment_leave_nothing(relay: RelayProcess, tmp_path: Path) -> None:
    for what in (
        b"",
        b"{",
        request("import"),
        request("import") + b'{"bytes": 100}\nabc',
        request("rows", table="packets"),
        request("integrity", quick=False),
        request("backup", target=str(tmp_path / "x"), force=True),
        request("purge", key="y" * 52),
    ):
        for _ in range(10):
            with connect(relay.cache, ANSWER_S) as client:
                client.sendall(what)
    wait_until(lambda: set(os.listdir(tmp_path)) <= {"x"}, "drafts to go")


def test_somebody_who_does_not_read_waits_alone(relay: RelayProcess) -> None:
    """Whoever takes no answers holds one of the places, and nothing else."""
    with connect(relay.cache, ANSWER_S) as client:
        client.sendall(request("import") + b'{"bytes": 0}\n' * 2000)
        for _ in range(20):
            assert relay.health().status == 200
        assert checked(relay)
