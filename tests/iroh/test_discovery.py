"""iroh endpoints find each other by key alone, through relays and the DHT, and move data.

Each scenario runs with iroh 0.91.1 and the current iroh, on loopback and in containers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, cast

import pytest

from tests.iroh.conftest import Note
from tests.iroh.places import Loopback
from tests.iroh.steps import WAIT_S, Iroh, Somewhere, dial, listen, published, through
from tests.support.packets import Author
from tests.support.peers import Json, Peer

pytestmark = pytest.mark.interop

PAIRS: Final = 10
SYNC_BYTES: Final = 10_000_000


def test_published_to_a_and_found_at_b_through_the_dht(
    place: Somewhere, iroh: Iroh, note: Note
) -> None:
    with listen(place, 0, iroh, through(place.a)) as far:
        key = str(far.ready["key"])
        published_s = published(place.a, far.ready["key"])
        assert place.b.get(key, "CacheOnly").status == 404
        met = dial(place, 1, iroh, through(place.b), key)
        assert place.b.get(key, "CacheOnly").body == place.a.get(key, "CacheOnly").body
        note("publish to A, dial through B", published=published_s, dialled=met["seconds"])


def test_published_straight_to_the_dht_and_found_through_a_relay(
    place: Somewhere, iroh: Iroh, note: Note
) -> None:
    with listen(place, 0, iroh, ("--dht", place.dht)) as far:
        met = dial(place, 1, iroh, through(place.a), far.ready["key"])
        note("publish to the DHT, dial through A", dialled=met["seconds"])


def test_published_to_a_relay_and_found_straight_in_the_dht(
    place: Somewhere, iroh: Iroh, note: Note
) -> None:
    with listen(place, 0, iroh, through(place.a)) as far:
        published(place.a, far.ready["key"])
        met = dial(place, 1, iroh, ("--dht", place.dht), far.ready["key"])
        note("publish to A, dial through the DHT", dialled=met["seconds"])


def test_ten_pairs_at_once(place: Somewhere, iroh: Iroh, note: Note) -> None:
    """Each listener publishes to A, each dialer asks B."""
    with ExitStack() as stack, ThreadPoolExecutor(PAIRS) as threads:
        started = time.monotonic()
        listeners = list(
            threads.map(
                lambda machine: listen(place, machine, iroh, through(place.a)), range(PAIRS)
            )
        )
        for listener in listeners:
            stack.enter_context(listener)
        reports = list(
            threads.map(
                lambda machine: dial(
                    place,
                    machine + 1,
                    iroh,
                    through(place.b),
                    listeners[machine].ready["key"],
                ),
                range(PAIRS),
            )
        )
        all_s = time.monotonic() - started
        slowest = max(float(str(met["seconds"])) for met in reports)
        note("ten pairs at once", slowest_dial=slowest, from_first_start_to_last_echo=all_s)


def test_a_peer_that_changes_its_address(place: Somewhere, iroh: Iroh, note: Note) -> None:
    """The new address is what everybody gets at A at once; B keeps the old one for a while."""
    seed = secrets.token_hex(32)
    first = listen(place, 0, iroh, through(place.a), "--seed", seed)
    with first:
        key = str(first.ready["key"])
        published(place.a, key)
        before = place.a.get(key).body
        assert place.b.get(key).body == before
        dial(place, 1, iroh, through(place.a), key)
    with listen(place, 2, iroh, through(place.a), "--seed", seed):
        published_s = published(place.a, key, former=before)
        met = dial(place, 1, iroh, through(place.a), key)
        assert place.b.get(key).body == before  # for minimum_ttl at most
        after = place.a.get(key).body
        assert place.b.get(key, "NetworkOnly").body == after
        assert place.b.get(key).body == after
        note("a new address", published=published_s, dialled=met["seconds"])


def test_the_relay_restarted_between_publish_and_resolve(
    place: Somewhere, iroh: Iroh, note: Note
) -> None:
    with listen(place, 0, iroh, through(place.a)) as far:
        published(place.a, far.ready["key"])
        started = time.monotonic()
        place.a.stop()
        place.a.start()
        restarted_s = time.monotonic() - started
        assert place.a.get(str(far.ready["key"]), "CacheOnly").status == 200
        met = dial(place, 1, iroh, through(place.a), far.ready["key"])
        note("relay restarted in between", restarted=restarted_s, dialled=met["seconds"])


class Files:
    """A file on each side, and where what the other sent is put."""

    def __init__(self, place: Somewhere) -> None:
        self._folder = place.folder / secrets.token_hex(4)
        self._folder.mkdir()
        self._place = place
        for name in ("here", "there"):
            (self._folder / name).write_bytes(os.urandom(SYNC_BYTES))

    def options(self, own: str, other: str) -> tuple[str, ...]:
        send, receive = self._folder / own, self._folder / f"{other}-as-received"
        return "--send", self._place.path(send), "--receive", self._place.path(receive)

    def digest(self, name: str) -> str:
        return hashlib.sha256((self._folder / name).read_bytes()).hexdigest()

    def assert_moved(self) -> None:
        for name in ("here", "there"):
            received = f"{name}-as-received"
            assert self.digest(received) == self.digest(name)
            (self._folder / received).unlink()


@pytest.fixture
def files(place: Somewhere) -> Files:
    return Files(place)


def sync(place: Somewhere, machine: int, iroh: Iroh, *arguments: object) -> list[object]:
    bind = ("--bind", "127.0.0.1:0") if isinstance(place, Loopback) else ()
    return [machine, iroh.sync, *bind, *arguments]


def test_ten_megabytes_move_both_ways_between_two_that_find_each_other(
    place: Somewhere, iroh: Iroh, files: Files, note: Note
) -> None:
    """One knows relay A, the other relay B; then the one that was called calls back."""
    authors = {"here": Author(), "there": Author()}
    options = {
        "here": (
            "--seed",
            authors["here"].seed.hex(),
            *through(place.a),
            *files.options("here", "there"),
        ),
        "there": (
            "--seed",
            authors["there"].seed.hex(),
            *through(place.b),
            *files.options("there", "here"),
        ),
    }
    for caller, called in (("here", "there"), ("there", "here")):
        relay, key = {"here": place.a, "there": place.b}[called], authors[called].key
        # Who called first has published where it was then: a dial must not be too early.
        former = relay.get(key, "CacheOnly").body
        with start(place, sync(place, 0, iroh, *options[called], "listen")) as far:
            assert far.ready["key"] == key
            published(relay, key, former)
            command = [*options[caller], "dial", key, "--wait", WAIT_S]
            met = finish(place, sync(place, 1, iroh, *command))
            assert met["ok"], met
            assert (met["sent"], met["received"]) == (SYNC_BYTES, SYNC_BYTES)
            told = far.next_line()
            assert told["event"] == "synced", told
            assert told["from"] == authors[caller].key
            files.assert_moved()
            note(
                f"10 MB each way at once, {caller} calls",
                found=met["found_s"],
                moved=met["moved_s"],
            )


def start(place: Somewhere, command: list[object]) -> Peer:
    machine, name, *arguments = command
    return place.listen(cast("int", machine), str(name), *arguments)


def finish(place: Somewhere, command: list[object]) -> Json:
    machine, name, *arguments = command
    return place.run(cast("int", machine), str(name), *arguments)
