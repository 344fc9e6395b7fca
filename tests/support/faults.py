"""Faults for a real relay: system calls that fail on command, by `faults.c` in its process."""

from __future__ import annotations

import errno
import http.client
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final, Protocol, cast

from tests.support.packets import Author, Packet
from tests.support.relay import Answer, RelayProcess, exchange

SOURCE: Final = Path(__file__).with_name("faults.c")
_FIELDS: Final = (
    *("write_error", "fsync_error", "fsync_failures", "read_error", "short_writes"),
    *("clock_ns", "thread_error", "fsync_hangs", "met"),
)
"""As they lie in the page, 8 bytes each."""
FOR_EVER: Final = -1
MINUTES: Final = "PKARR_TEST_MINUTES" in os.environ
"""Whether faults last as long as in the world, as `nox -s faults` has it; else they last as long
as it takes to see them."""
TOLD_S: Final = 2.0 if MINUTES else 10.0
"""How soon ``/health`` must tell of a fault and of its end. Two seconds are promised; the rest is
for CI, where other work has the cores. What waits for it waits longer, so that this can fail."""


@cache
def library() -> Path:
    """Compile the library that lets calls fail, once a run."""
    target = Path(mkdtemp(prefix="pkarr-faults-")) / "faults.so"
    command = ("cc", "-shared", "-fPIC", "-O1", "-o", target, SOURCE, "-ldl")
    subprocess.run(command, check=True)
    return target


class Faults:
    """What fails in the processes started with `wrapper`; nothing, at first."""

    def __init__(self, folder: Path) -> None:
        path = folder / "faults"
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.wrapper: Final = (*("env", f"LD_PRELOAD={library()}", f"PKARR_TEST_FAULTS={path}"),)

    def set(self, **values: int) -> None:
        """Let calls fail from now on, or no more (0)."""
        for name, value in values.items():
            struct.pack_into("=q", self._page, 8 * _FIELDS.index(name), value)

    @property
    def met(self) -> int:
        """How many calls have failed so far."""
        (count,) = struct.unpack_from("=q", self._page, 8 * _FIELDS.index("met"))
        return int(count)

    def jump(self, seconds: float) -> None:
        """Set the wall clock that far from the true one."""
        self.set(clock_ns=int(seconds * 1_000_000_000))

    def disk_error(self, *, reads: bool = True) -> None:
        """Let the disk fail."""
        self.set(
            write_error=errno.EIO,
            fsync_error=errno.EIO,
            fsync_failures=FOR_EVER,
            read_error=errno.EIO if reads else 0,
        )

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.set(**dict.fromkeys(_FIELDS[:-1], 0))


def timely(what: str, began: float) -> None:
    """Check that what has just come did not take long; `began` is monotonic, seconds."""
    seconds = time.monotonic() - began
    print(f"{what} after {seconds:.2f} s")  # shown by -rP
    assert seconds < TOLD_S, f"{what}: only after {seconds:.2f} s"


def part(relay: RelayProcess, name: str) -> str:
    """Return the status of a part, as ``/health`` has it; "silent" if that does not answer."""
    try:
        health = cast("dict[str, Any]", relay.health().json())
    except OSError:
        return "silent"
    return str(health["parts"][name]["status"])


class Ask(Protocol):
    """Sends a request on a connection that is kept open."""

    def __call__(self, method: str, path: str, body: bytes | None = None) -> Answer: ...


@contextmanager
def kept(relay: RelayProcess) -> Iterator[Ask]:
    """Keep a connection to the relay."""
    with closing(http.client.HTTPConnection("127.0.0.1", relay.port, timeout=30)) as connection:
        yield partial(exchange, connection)


class Publisher:
    """Publishes packets, one after the other, and remembers those that were acknowledged."""

    def __init__(self, relay: RelayProcess, label: str = "publisher") -> None:
        self.relay = relay
        self.acknowledged: dict[str, Packet] = {}
        self._label = label
        self._sent = 0

    def publish(self, number: int | None = None) -> Packet:
        """Publish the next packet, or a newer one of author `number`; it must be taken."""
        with kept(self.relay) as ask:
            return self.publish_on(ask, self._sent if number is None else number)

    def publish_on(self, ask: Ask, place: int) -> Packet:
        """Publish a newer packet of author `place` on a kept connection."""
        self._sent += 1
        packet = Author.numbered(place, self._label).packet(f"turn {self._sent}", size=500)
        answer = ask("PUT", f"/{packet.key}", packet.payload)
        assert answer.status == 204, answer
        self.acknowledged[packet.key] = packet
        return packet

    def all_there(self) -> None:
        """Check that each is served, from the cache alone, as it was published last."""
        for key, packet in self.acknowledged.items():
            answer = self.relay.get(key, "CacheOnly")
            assert answer.status == 200, f"lost {key}"
            assert answer.body == packet.payload, key


def pending(relay: RelayProcess) -> int:
    """Return how many packets are not on the disk."""
    cache = cast("dict[str, Any]", relay.stats()["cache"])
    return int(cache["pending"])
