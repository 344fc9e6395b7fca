"""Our client commands beside the Rust `pkarr` client, on a Rust DHT and a Rust relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import World
from tests.support import peers
from tests.support.commands import answer, command
from tests.support.packets import Author

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("world", ["rust"], indirect=True),
]

FAR_NODE = 7
"""A node that the relay was not told of."""
TXT = {"type": "TXT", "class": "IN", "ttl_s": 300, "value": '"hello"'}


@pytest.fixture
def ways(world: World, tmp_path: Path) -> Iterator[dict[str, tuple[str, str]]]:
    """The options, alike in both clients, of the DHT, of our relay, and of the Rust one."""
    folder = tmp_path / "reference"
    folder.mkdir()
    with peers.reference_relay(world.net.bootstrap, folder) as reference:
        yield {
            "dht": ("--bootstrap", world.net.bootstrap[FAR_NODE]),
            "ours": ("--relay", world.relay.url),
            "theirs": ("--relay", reference.url),
        }


@pytest.mark.parametrize("there", ["dht", "ours", "theirs"])
@pytest.mark.parametrize("here", ["dht", "ours", "theirs"])
def test_theirs_finds_what_ours_published_and_the_other_way_round(
    ways: dict[str, tuple[str, str]], tmp_path: Path, here: str, there: str
) -> None:
    file = tmp_path / "author.key"
    key = answer("keygen", file)["key"]
    published = answer("publish", file, "--txt", "_x=hello", *ways[here])
    assert published["published"][0]["stored_nodes"] >= 10
    report = peers.run("pkarr-client", *ways[there], "resolve", key, "--policy", "NetworkOnly")
    assert report["payload"] == published["payload"], report

    report = peers.run("pkarr-client", *ways[here], "publish", "--txt", "_x=hello")
    assert report.get("stored"), report
    found = answer("resolve", report["key"], *ways[there], "--policy", "NetworkOnly")
    assert found["payload"] == report["payload"]
    assert found["records"] == [{"name": f"_x.{report['key']}", **TXT}]


def test_what_theirs_signed_is_inspected_and_published(
    world: World, ways: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    author = Author()
    options = ("--seed", author.seed.hex(), "--txt", "_x=hello", "--address", ".=192.0.2.1")
    signed = peers.run("pkarr-client", "sign", *options)
    payload = bytes.fromhex(str(signed["payload"]))
    shown = answer("inspect", "-", stdin=payload)
    assert (shown["key"], shown["verified"], shown["key_source"]) == (author.key, True, "in_names")
    assert [record["value"] for record in shown["records"]] == ['"hello"', "192.0.2.1"]
    answer("publish", "--payload", "-", *ways["dht"], stdin=payload)
    assert world.relay.get(author.key).body == payload


def test_the_same_secret_key_makes_the_same_packet(
    ways: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    """Byte for byte: same key file, same records, same time."""
    file = tmp_path / "author.key"
    made = answer("keygen", file)
    ours = answer("publish", file, "--txt", "_x=hello", "--a", "@=192.0.2.1", *ways["ours"])
    seed, stamp = file.read_text(), ours["timestamp_us"]
    options = ("--seed", seed, "--timestamp", stamp, "--txt", "_x=hello", "--address")
    theirs = peers.run("pkarr-client", "sign", *options, ".=192.0.2.1")
    assert theirs["key"] == made["key"]
    assert theirs["payload"] == ours["payload"]


def test_nobody_has_it(world: World, ways: dict[str, tuple[str, str]]) -> None:
    for way in ways.values():
        assert command("resolve", Author().key, *way).returncode == 3
