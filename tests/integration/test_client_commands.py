"""The client commands with a real relay and a real DHT of ours, each run as a process."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.commands import answer, command
from tests.support.packets import Author, verifies
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, free_port

IROH = ("--txt", "_iroh=relay=https://relay.example/", "--txt", "_iroh=addr=203.0.113.9:4433")
RECORDS = (
    *IROH,
    *("--a", "@=192.0.2.1", "--aaaa", "www=2001:db8::1", "--cname", "alias=@"),
    *("--ns", "sub=ns.example.com", "--https", "@=1 . alpn=h2,h3 port=443"),
    *("--svcb", "_dns=1 dns.example. key65280=x", "--record", r"x 30 TYPE65280 \# 2 abcd"),
    *("--ttl", 60),
)


@dataclass(frozen=True)
class World:
    net: Peer
    relay: RelayProcess

    @property
    def dht(self) -> tuple[str, str]:
        return "--bootstrap", self.net.bootstrap[-1]

    @property
    def through(self) -> tuple[str, str]:
        return "--relay", self.relay.url


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("relay")
    with peers.own_net(8) as net, RelayProcess(folder, bootstrap=net.bootstrap[:2]) as relay:
        relay.wait_bootstrapped()
        yield World(net, relay)


@pytest.fixture
def secret_key(tmp_path: Path) -> Path:
    path = tmp_path / "author.key"
    assert command("keygen", path).returncode == 0
    return path


def test_a_life(world: World, tmp_path: Path) -> None:
    """Make a key, publish through the relay, find it past it; change it past it, find it again."""
    file = tmp_path / "alice.key"
    key = answer("keygen", file)["key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    published = answer("publish", file, *RECORDS, *world.through)
    assert published["key"] == key
    (way,) = published["published"]
    assert way["stored_nodes"] >= 8
    assert (way["name"], way["error"]) == (world.relay.url.rstrip("/"), None)

    found = answer("resolve", key, *world.dht)
    assert found["found"] is True
    assert found["payload"] == published["payload"]
    assert found["iroh"] == {"relay": ["https://relay.example/"], "addr": ["203.0.113.9:4433"]}
    values = {record["type"]: record["value"] for record in found["records"]}
    assert values["A"] == "192.0.2.1"
    assert values["HTTPS"] == "1 . alpn=h2,h3 port=443"
    assert values["TYPE65280"] == r"\# 2 abcd"
    assert values["CNAME"] == key

    newer = answer("publish", file, "--empty", *world.dht)
    assert newer["published"][0]["stored_nodes"] >= 8
    stale = answer("resolve", key, *world.through)
    assert stale["payload"] == published["payload"]
    fresh = answer("resolve", key, *world.through, "--policy", "NetworkOnly")
    assert fresh["payload"] == newer["payload"]


def test_what_people_see(world: World, secret_key: Path) -> None:
    published = command("publish", secret_key, *RECORDS, *world.through, *world.dht)
    key, *stored = published.stdout.decode().splitlines()
    assert [line.split(" by way of ")[1] for line in stored] == [
        world.relay.url.rstrip("/"),
        "the DHT",
    ]
    assert published.stderr == b""
    hexadecimal = answer("resolve", key, *world.through)["key_hex"]
    for spelling in (key, f"pk:{key}", f"https://www.{key}/path", hexadecimal):
        done = command("resolve", spelling, *world.through)
        assert (done.returncode, done.stderr) == (0, b"")
        head, table = done.stdout.decode().split(f"$ORIGIN {key}.\n")
        assert head.startswith(f"; pk:{key}\n; from {world.relay.url.rstrip('/')}\n; signed 20")
        assert f"; iroh endpoint {hexadecimal}\n;   relay  https://relay.example/\n" in head
        lines = [line.split(None, 4) for line in table.splitlines()]
        assert lines == [
            ["_iroh", "60", "IN", "TXT", '"relay=https://relay.example/"'],
            ["_iroh", "60", "IN", "TXT", '"addr=203.0.113.9:4433"'],
            ["@", "60", "IN", "A", "192.0.2.1"],
            ["www", "60", "IN", "AAAA", "2001:db8::1"],
            ["alias", "60", "IN", "CNAME", f"{key}."],
            ["sub", "60", "IN", "NS", "ns.example.com."],
            ["@", "60", "IN", "HTTPS", "1 . alpn=h2,h3 port=443"],
            ["_dns", "60", "IN", "SVCB", '1 dns.example. key65280="x"'],
            ["x", "30", "IN", "TYPE65280", r"\# 2 abcd"],
        ]
        again = [part for line in table.splitlines() for part in ("--record", line)]
        same = command("publish", secret_key, *again, "--output", "-").stdout
        before = world.relay.get(key).body
        assert same[72:] == before[72:]  # what is shown can be published as it stands


def test_nobody_has_it(world: World) -> None:
    key = Author().key
    for where in (world.through, world.dht, (*world.through, *world.dht)):
        done = command("resolve", key, *where)
        assert (done.returncode, done.stdout) == (3, b"")
        assert done.stderr.decode() == f"nobody has a packet of {key}\n"
    done = command("resolve", key, *world.through, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["found"] is False


def test_one_of_several_fails(world: World, secret_key: Path) -> None:
    absent = f"http://127.0.0.1:{free_port()}"
    where = ("--relay", absent, *world.through)
    done = command("publish", secret_key, "--a", "@=192.0.2.1", *where)
    assert done.returncode == 0
    assert done.stderr.decode().startswith(f"Warning: {absent}: ")
    key = done.stdout.decode().splitlines()[0]
    done = command("resolve", key, *where, "--policy", "NetworkOnly")
    assert done.returncode == 0
    assert done.stderr.decode().startswith(f"Warning: {absent}: ")
    done = command("resolve", Author().key, *where)
    assert done.returncode == 3
    for arguments in (("resolve", key), ("publish", secret_key, "--empty")):
        done = command(*arguments, "--relay", absent)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().startswith(f"Error: {absent}: ")
        assert done.stderr.count(b"\n") == 1


def test_a_dht_of_nobody_is_an_error() -> None:
    done = command("resolve", Author().key, "--bootstrap", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: the DHT: No queried DHT nodes responded\n"


def test_an_older_packet_is_refused(world: World, secret_key: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    assert command("publish", secret_key, "--empty", "--output", older).returncode == 0
    answer("publish", secret_key, "--a", "@=192.0.2.1", *world.through)
    for where in (world.through, world.dht):
        done = command("publish", "--payload", older, *where, "--key", key_of(secret_key))
        assert done.returncode == 1
        assert b"packet is not the most recent" in done.stderr


def key_of(secret_key: Path) -> str:
    return Author(bytes.fromhex(secret_key.read_text())).key


def test_payloads_of_others(world: World, tmp_path: Path) -> None:
    """What was signed elsewhere is published unchanged, with and without its key before it."""
    for number, form in enumerate(("plain", "whole", "hexadecimal")):
        author = Author()
        packet = author.packet(f"hello {number}")
        octets = {
            "plain": packet.payload,
            "whole": author.public_key + packet.payload,
            "hexadecimal": packet.payload.hex().encode(),
        }[form]
        path = tmp_path / form
        path.write_bytes(octets)
        source, stdin = (path, b"") if number % 2 else ("-", octets)
        answer("publish", "--payload", source, *world.through, stdin=stdin)
        assert world.relay.get(author.key).body == packet.payload


def test_cache_only_is_the_relays_cache(world: World) -> None:
    author = Author()
    payload = author.packet().payload
    answer("publish", "--payload", "-", *world.dht, stdin=payload)
    where = (*world.through, "--policy", "CacheOnly")
    assert command("resolve", author.key, *where).returncode == 3
    assert answer("resolve", author.key, *world.through)["payload"] == payload.hex()
    assert answer("resolve", author.key, *where)["payload"] == payload.hex()
    done = command("resolve", author.key, *world.dht, "--policy", "CacheOnly")
    assert done.returncode == 1
    assert b"name one with --relay" in done.stderr


def test_secret_keys_by_standard_input() -> None:
    made = command("keygen", "-")
    secret, key = made.stdout, made.stderr.decode().strip()
    signed = command("publish", "-", "--txt", "_x=y=z", "--output", "-", stdin=secret)
    author = Author(bytes.fromhex(secret.decode()))
    assert author.key == key
    assert verifies(author.public_key, signed.stdout)
    shown = command("inspect", "-", stdin=signed.stdout)
    assert shown.returncode == 0
    lines = shown.stdout.decode().splitlines()
    assert f"; key        pk:{key}, in the names of the records" in lines
    assert "; signature  good" in lines
    assert any(author.target.hex() in line for line in lines)
    assert lines[-1].split() == ["_x", "300", "IN", "TXT", '"y=z"']


@pytest.mark.parametrize(
    ("change", "key", "code", "verified"),
    [
        (lambda octets: octets, None, 0, True),
        (lambda octets: octets, "own", 0, True),
        (lambda octets: octets, "other", 1, False),
        (lambda octets: octets[:-1] + b"\0", None, 1, False),
        (lambda octets: octets[:-1], None, 1, None),
        (lambda octets: octets[:-1], "own", 1, False),
    ],
)
def test_verdicts(change, key, code, verified) -> None:
    author = Author.numbered(1)
    octets = change(author.packet("x" * 40).payload)
    given = {"own": author.key, "other": Author.numbered(2).key}.get(key)
    options = () if given is None else ("--key", given)
    done = command("inspect", "-", *options, "--json", stdin=octets)
    assert done.returncode == code, done.stderr
    shown = json.loads(done.stdout)
    assert shown["verified"] is verified
    text = command("inspect", "-", *options, stdin=octets)
    assert text.returncode == code
    verdict = {True: "good", False: "BAD", None: "not verified"}[verified]
    assert f"; signature  {verdict}" in text.stdout.decode()


def test_a_size_that_libtorrent_refuses() -> None:
    author = Author.numbered(3)
    for size, told in ((996, False), (997, True)):
        shown = command("inspect", "-", stdin=author.packet(size=size).payload).stdout
        assert (b"too long for libtorrent" in shown) is told


def test_what_strangers_wrote_cannot_steer_a_terminal() -> None:
    packet = Author.numbered(4).packet("\x1b]0;pwned\x07\r\n; from nobody\u202e")
    for options in ((), ("--json",)):
        shown = command("inspect", "-", *options, stdin=packet.payload).stdout.decode()
        assert set(shown) <= {*map(chr, range(32, 127)), "\n"}
    assert command(
        "inspect", "-", stdin=Author.numbered(4).packet("世界").payload,
        env={"PYTHONIOENCODING": "ascii"},
    ).returncode == 0  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resolve", "nonsense"], "no public key: Invalid PublicKey"),
        (["resolve", Author.numbered(1).key, "--relay", "ftp://127.0.0.1"], "http:// or https://"),
        (["resolve", Author.numbered(1).key, "--relay", "file:///etc/passwd"], "http:// or"),
        (["publish"], "name the file that holds the secret key"),
        (["publish", "-"], "give records"),
        (["publish", "-", "--empty", "--a", "@=192.0.2.1"], "not both"),
        (["publish", "-", "--key", "x", "--empty"], "--key belongs to --payload"),
        (["publish", "-", "--payload", "-"], "signed already"),
        (["publish", "-", "--a", "@=1"], "standard input holds no secret key"),
        (["publish", "00" * 32, "--empty"], "a secret key is never an argument"),
        (["publish", "--payload", "-", "--key", "x"], "no public key"),
        (["inspect", "-", "--key", "x"], "no public key"),
        (["inspect", "-"], "standard input holds no payload"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert done.stdout == b""


def test_records_that_are_none(secret_key: Path) -> None:
    for option, value, said in (
        ("--a", "@=nonsense", "--a '@=nonsense': Expected 4 octets"),
        ("--a", "192.0.2.1", "--a '192.0.2.1': not NAME=ADDRESS"),
        ("--record", "x A", "--record 'x A': the address is missing"),
        ("--txt", f"{'x' * 64}=y", "a label has at most 63 bytes"),
        ("--txt", f"_x={'y' * 1000}", "DNS Packet is too large"),
    ):
        done = command("publish", secret_key, option, value)
        assert done.returncode == 1
        assert said in done.stderr.decode()
    done = command("publish", secret_key, "--a", "@=192.0.2.1", "--ttl", -1)
    assert b"a TTL is in 0.." in done.stderr


@pytest.mark.parametrize("option", [["--timeout", "0"], ["--timeout", "x"], ["--bootstrap", "x"],
                                    ["--bootstrap", ":1"], ["--bootstrap", "x:70000"],
                                    ["--policy", "x"]])  # fmt: skip
def test_wrong_usage_ends_with_2(option: list[str]) -> None:
    done = command("resolve", Author.numbered(1).key, *option)
    assert done.returncode == 2
    assert b"usage: pkarr-relay resolve" in done.stderr
