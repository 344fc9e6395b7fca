"""Many signed packets, made once: numbered keys, 253 bytes each, kept under the home cache folder.

A signature costs some 50 µs in Python, so a million of them take longer than what is to be
measured with them. The file holds entries of one size, ``key (32) || payload (253)``, in the
order of their numbers, and grows when more are asked for. The same number is the same packet in
every run; timestamps lie in the past, one microsecond apart.

Databases of the relay that hold the first N of them are kept beside it, one for each version of
the schema, written by the store itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, overload

import trio

from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store import database
from relay.store.worker import PacketStore
from tests.support.packets import Author, Packet
from tests.support.peers import CACHE

PAYLOAD_BYTES: Final = 253
KEY_BYTES: Final = 32
ENTRY_BYTES: Final = KEY_BYTES + PAYLOAD_BYTES
LIBRARY: Final = CACHE / "bench" / f"packets-{PAYLOAD_BYTES}.bin"
FIRST_TIMESTAMP_US: Final = 1_767_225_600_000_000
"""The beginning of 2026."""
_DNS_BYTES: Final = PAYLOAD_BYTES - 72
_PIECE: Final = 5_000
_STORED_AT_ONCE: Final = 20_000
_POLL_S: Final = 0.005
_TEXT: Final = "relay=https://relay.example./"


class Library(Sequence[Packet]):
    """The first `count` packets, read from the file as they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count
        with _locked(LIBRARY.with_suffix(".lock")):
            _extend(LIBRARY, count)
        with LIBRARY.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Packet: ...

    @overload
    def __getitem__(self, index: slice) -> list[Packet]: ...

    def __getitem__(self, index: int | slice) -> Packet | list[Packet]:
        if isinstance(index, slice):
            return [self._packet(number) for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._packet(index % self._count)

    def _packet(self, number: int) -> Packet:
        at = number * ENTRY_BYTES
        entry = self._data[at : at + ENTRY_BYTES]
        payload = entry[KEY_BYTES:]
        return Packet(entry[:KEY_BYTES], int.from_bytes(payload[64:72]), payload)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _extend(path: Path, count: int) -> None:
    there = path.stat().st_size // ENTRY_BYTES if path.exists() else 0
    if there >= count:
        return
    starts = range(there, count, _PIECE)
    with path.open("ab") as file, ProcessPoolExecutor(initializer=os.nice, initargs=(10,)) as pool:
        file.truncate(there * ENTRY_BYTES)
        for piece in pool.map(_entries, starts, [min(s + _PIECE, count) for s in starts]):
            file.write(piece)


def _entries(start: int, stop: int) -> bytes:
    """Sign the packets `start` to `stop`."""
    entries = []
    for number in range(start, stop):
        author = Author.numbered(number, "bench")
        packet = author.packet(
            _TEXT, timestamp_us=FIRST_TIMESTAMP_US + number, ttl_s=3600, size=_DNS_BYTES
        )
        entries.append(packet.public_key + packet.payload)
    return b"".join(entries)


def filled_database(count: int, folder: Path) -> None:
    """Put into `folder`, the cache of a relay to be started, a database of the first `count`.

    The store writes it once; every other time its files are copied.
    """
    schema = (Path(database.__file__).parent / "schema.sql").read_bytes()
    version = f"{database.SCHEMA_VERSION}-{hashlib.sha256(schema).hexdigest()[:12]}"
    kept = CACHE / "bench" / f"database-{count}-{version}"
    with _locked(kept.with_suffix(".lock")):
        if not kept.exists():
            making = kept.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o700)
            trio.run(_store, making, Library(count))
            making.rename(kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)


async def _store(folder: Path, packets: Sequence[Packet]) -> None:
    """Put every packet into a store of the relay, as if they had just been seen."""
    seen_us = FIRST_TIMESTAMP_US + len(packets)
    store = PacketStore(folder, len(packets), lambda: seen_us)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        while store.stats().loading:  # until then little is taken  # noqa: ASYNC110
            await trio.sleep(_POLL_S)
        for start in range(0, len(packets), _STORED_AT_ONCE):
            for packet in packets[start : start + _STORED_AT_ONCE]:
                signed = SignedPacket.from_relay_payload(
                    PublicKey(packet.public_key), packet.payload, verify=False
                )
                store.put_soon(SeenPacket(signed, seen_us))
            while store.stats().pending:  # noqa: ASYNC110
                await trio.sleep(_POLL_S)
        if store.stats().packets < len(packets):
            raise RuntimeError(f"the store took only {store.stats().packets} packets")
        await store.close()


def requests_file(count: int, packed: Callable[[int, int], Iterable[bytes]]) -> Path:
    """Return the requests for the first `count` packets as ``load.c`` reads them, kept as well.

    Args:
        count: how many.
        packed: makes the requests of the packets from a number up to another.
    """
    path = LIBRARY.with_name(f"gets-{count}.bin")
    with _locked(path.with_suffix(".lock")):
        if not path.exists():
            making = path.with_suffix(".making")
            with making.open("wb") as file:
                for start in range(0, count, _PIECE):
                    file.write(b"".join(packed(start, min(start + _PIECE, count))))
            making.rename(path)
    return path
