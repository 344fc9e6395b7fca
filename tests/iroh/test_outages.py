"""The network goes and comes back: what is begun after that works at once.

A relay is cut off (its container's network is taken away), frozen in its tracks, or alone because
all of the DHT is frozen. A dial and a PUT that begin after the heal succeed within `HEALED_S`. What
iroh had begun before goes on by its own back-off, which is measured and reported: the relay can do
nothing about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.iroh.conftest import Note
from tests.iroh.places import Containers, Relay
from tests.iroh.steps import Iroh, Somewhere, dial, listen, published, through
from tests.support.packets import Author, Packet
from tests.support.relay import Answer, wait_until

pytestmark = pytest.mark.interop

HEALED_S: Final = 5.0
"""Issue 5, section 2."""
OUTAGE_S: Final = 12.0
"""Longer than any request, query or back-off of the relay takes at first."""
RECOVERY_S: Final = 60.0

Switch = Callable[[], None]


def cut(place: Containers) -> tuple[Switch, Switch]:
    return lambda: place.cut(place.a), lambda: place.heal(place.a)


def frozen(place: Somewhere) -> tuple[Switch, Switch]:
    return lambda: place.freeze(place.a), lambda: place.thaw(place.a)


def alone(place: Somewhere) -> tuple[Switch, Switch]:
    """Freeze all that A could ask; relay B is a node of the DHT, too."""

    def begin() -> None:
        place.freeze_dht()
        place.freeze(place.b)

    def end() -> None:
        place.thaw(place.b)
        place.thaw_dht()

    return begin, end


def last(seconds: float, trouble: Callable[[], object]) -> None:
    """Let an outage last, with requests that come to nothing until its very end."""
    begin = time.monotonic()
    for second in range(round(seconds)):
        wait_until(lambda: time.monotonic() >= begin + second, "a second")  # noqa: B023 - now
        trouble()
    wait_until(lambda: time.monotonic() >= begin + seconds - 0.5, "the last second")
    trouble()
    wait_until(lambda: time.monotonic() >= begin + seconds, "the end")


def put(relay: Relay, packet: Packet, timeout_s: float = 2.0) -> Answer:
    return relay.put(packet.key, packet.payload, timeout_s)


def outage(
    place: Somewhere, iroh: Iroh, note: Note, kind: str, switch: tuple[Switch, Switch]
) -> None:
    """Put out, wait, heal; then dial one that A knows, one that only the DHT knows, and PUT."""
    begin, end = switch
    with (
        listen(place, 0, iroh, through(place.a)) as known,
        listen(place, 1, iroh, through(place.b)) as unknown,
        ThreadPoolExecutor() as threads,
    ):
        published(place.a, known.ready["key"])
        published(place.b, unknown.ready["key"])
        author, sought = Author(), str(unknown.ready["key"])

        def trouble() -> None:
            threads.submit(put, place.a, author.packet())
            threads.submit(place.a.get, sought)

        begin()
        try:
            last(OUTAGE_S, trouble)
        finally:
            end()
        key = known.ready["key"]
        dials = [
            threads.submit(dial, place, 2, iroh, through(place.a), key),
            threads.submit(dial, place, 3, iroh, through(place.a), sought),
        ]
        get_s = threads.submit(timed, lambda: place.a.get(sought), 200)
        packet = Author().packet()
        put_s = threads.submit(timed, lambda: put(place.a, packet, 30), 204)
        # What a dial took by its own account: in containers a program takes a while to start.
        dialled_s, found_s = (float(str(met.result()["seconds"])) for met in dials)
        note(
            f"{kind} for {OUTAGE_S:.0f} s, then healed",
            PUT=put_s.result(),
            GET_of_a_key_in_the_DHT=get_s.result(),
            dial_of_a_cached_key=dialled_s,
            dial_of_a_key_in_the_DHT=found_s,
        )
        assert max(put_s.result(), get_s.result(), dialled_s, found_s) <= HEALED_S


def timed(request: Callable[[], Answer], status: int) -> float:
    """Return how long a request takes that has to be answered with `status`."""
    started = time.monotonic()
    answer = request()
    assert answer.status == status, answer
    return time.monotonic() - started


def test_relay_cut_off(in_containers: Containers, iroh: Iroh, note: Note) -> None:
    outage(in_containers, iroh, note, "relay cut off", cut(in_containers))


def test_relay_frozen(place: Somewhere, iroh: Iroh, note: Note) -> None:
    outage(place, iroh, note, "relay frozen", frozen(place))


def test_dht_frozen(place: Somewhere, iroh: Iroh, note: Note) -> None:
    outage(place, iroh, note, "DHT frozen", alone(place))


def test_dht_cut_off(in_containers: Containers, iroh: Iroh, note: Note) -> None:
    """The relay serves on, but whatever it sends to the DHT is lost."""
    switch = in_containers.cut_dht, in_containers.heal_dht
    outage(in_containers, iroh, note, "DHT cut off", switch)


def recovery(
    place: Somewhere, iroh: Iroh, note: Note, kind: str, switch: tuple[Switch, Switch]
) -> None:
    """An endpoint starts during the outage; when does the relay have its address?"""
    begin, end = switch
    begin()
    try:
        far = listen(place, 0, iroh, through(place.a))
    except BaseException:
        end()
        raise
    with far:
        try:
            last(OUTAGE_S, lambda: None)
        finally:
            end()
        published_s = published(place.a, far.ready["key"], timeout_s=RECOVERY_S)
        note(
            f"iroh's own recovery: {kind} for {OUTAGE_S:.0f} s while it starts",
            published_after=published_s,
        )


def test_iroh_recovers_when_the_relay_was_cut_off(
    in_containers: Containers, iroh: Iroh, note: Note
) -> None:
    recovery(in_containers, iroh, note, "relay cut off", cut(in_containers))


def test_iroh_recovers_when_the_relay_was_frozen(place: Somewhere, iroh: Iroh, note: Note) -> None:
    recovery(place, iroh, note, "relay frozen", frozen(place))


def test_iroh_recovers_when_the_relay_was_down(place: Somewhere, iroh: Iroh, note: Note) -> None:
    def up() -> None:
        place.a.start()

    def down() -> None:
        place.a.stop()

    recovery(place, iroh, note, "relay down", (down, up))


def test_iroh_recovers_when_the_dht_was_frozen(place: Somewhere, iroh: Iroh, note: Note) -> None:
    recovery(place, iroh, note, "DHT frozen", alone(place))


def test_an_endpoint_moves_to_another_network(
    in_containers: Containers, iroh: Iroh, note: Note
) -> None:
    """Its machine gets another address while it runs, as a laptop does.

    iroh sends the new record on the connection that it kept for the next PUT and that died with
    the old address; it notices when 30 s have passed.
    """
    place = in_containers
    machine = place.machine(4)
    with listen(place, 4, iroh, through(place.a)) as far:
        key = far.ready["key"]
        published(place.a, key)
        dial(place, 5, iroh, through(place.a), key)
        former = place.a.get(str(key)).body
        place.network.disconnect(machine)
        place.network.connect(machine, place.network.address(201))
        try:
            published_s = published(place.a, key, former, RECOVERY_S)
            met = dial(place, 5, iroh, through(place.a), key)
        finally:
            place.network.disconnect(machine)
            place.network.connect(machine)
        note(
            "a running endpoint gets another address",
            published=published_s,
            dialled=met["seconds"],
        )
