"""The database file, spoiled: opened, or refused with a fault; what is served verifies.

The file is a real one with its write-ahead log. An input is a list of things that happen to them:
an operation, an offset of three bytes, a length, and octets.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from struct import pack, unpack_from

from relay import _kernels
from relay.errors import StoreError
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.store import records
from relay.store.database import DATABASE_FILE
from relay.store.faults import DatabaseFaultError
from relay.store.floors import Floor
from relay.store.inspection import TABLES, Inspector, checked
from relay.store.memory import Memory
from relay.store.offline import OfflineStore
from relay.store.packets import Changes, PacketCache
from relay.store.reader import PacketReader

WRITE, FLIP, CUT, COPY_PAGE, CLEAR_PAGE, IN_LOG, SIGN_LOG, DROP_LOG = range(8)
OPERATIONS_MAX = 12
PAGE_BYTES = 4096
NOW_US = 1_750_000_000_000_000
PACKETS = 12
INPUT_BYTES_MAX = 400

_FOLDER = Path(tempfile.mkdtemp(prefix="pkarr-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def seeds() -> Iterable[bytes]:
    """Nothing at all, each kind of harm, and a flipped bit in many places that hold something."""
    database, log = _files()
    yield b""
    for operation in range(8):
        yield bytes([operation, 0, 16, 4, 9]) + b"\xff\x00\x80\x7f\x01\x08\x0d\x31\x32"
    for file, content in ((0, database), (IN_LOG, log)):
        places = [at for at in range(len(content)) if content[at]]
        for at in places[:: len(places) // 60]:
            harm = bytes([FLIP, *at.to_bytes(3, "big"), 7])
            yield (bytes([IN_LOG]) + harm + bytes([SIGN_LOG])) if file else harm


def target(data: bytes) -> None:
    """Spoil the files, then do what a relay and an operator do."""
    database, log = _spoiled(data)
    folder = _FOLDER / "cache"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / DATABASE_FILE).write_bytes(database)
    if log:
        (folder / f"{DATABASE_FILE}-wal").write_bytes(log)
    with suppress(DatabaseFaultError):
        _inspect(folder / DATABASE_FILE)
    _work(folder / DATABASE_FILE)
    with suppress(StoreError), OfflineStore(folder, 100, create=False) as store:
        store.take_in([_seen(1, 5)], NOW_US)
        store.purge(_keypair(2).public_key, NOW_US)


def _work(path: Path) -> None:
    """As the parts of the store do it: the writer opens, the reader loads, both go on."""
    memory = Memory(PACKETS, lambda: NOW_US, lambda: None)
    memory.durable = True
    with suppress(DatabaseFaultError):
        writer = PacketCache(path, floors_max=10)
        try:
            _load(path, memory)
            with suppress(DatabaseFaultError):
                evicted = {_keypair(3).public_key.octets: Floor(9, NOW_US)}
                writer.commit(Changes(_records(0, 9), evicted, [], None, unsure=True), NOW_US)
            with suppress(DatabaseFaultError):
                generation = writer.next_generation()
                writer.write_recency([bytes(32)], generation, last=False)
                writer.write_recency([bytes(32)], generation, last=True)
            with suppress(DatabaseFaultError):
                rounds = 0
                while writer.shrink():
                    rounds += 1
                    assert rounds < 100
        finally:
            with suppress(DatabaseFaultError):
                writer.close()
    _load(path, memory)
    assert len(memory.table) <= PACKETS + 1024
    for number in range(PACKETS * 2):
        key = _keypair(number).public_key
        record = memory.table.get(key.octets)
        if record is not None:
            _assert_verifies(key.octets, record)


def _load(path: Path, memory: Memory) -> None:
    with suppress(DatabaseFaultError):
        reader = PacketReader(path)
        try:
            with suppress(DatabaseFaultError):
                for node_id, ip, port in reader.nodes():
                    assert (node_id, ip, port) in _NODES
            with suppress(DatabaseFaultError):
                assert reader.has_floors() in (True, False)
            with suppress(DatabaseFaultError):
                for piece in reader.load():
                    for key, record in records.unpack(piece.pack):
                        _assert_verifies(key, record)
                    memory.take_over(piece, may_evict=True)
            with suppress(DatabaseFaultError):
                found = reader.read([_keypair(number).public_key.octets for number in range(6)])
                for key, record in found.packets.items():
                    _assert_verifies(key, record)
                memory.adopt(found)
            assert reader.bad_rows >= 0
        finally:
            reader.close()


def _inspect(path: Path) -> None:
    with Inspector(path) as inspector:
        inspector.integrity(quick=True)
        for table in TABLES:
            with suppress(DatabaseFaultError):
                for rows in inspector.rows(table):
                    for text in rows.text.split(b" "):
                        checked(text)


def _assert_verifies(key: bytes, record: bytes) -> None:
    assert _is_good(key, record), (key, record)


@cache
def _is_good(key: bytes, record: bytes) -> bool:
    packet = records.decode(PublicKey(key), record).packet
    return _kernels.verify(key, packet.signature, packet.signable)


# ---------------------------------------------------------------------------- harm


def _spoiled(data: bytes) -> tuple[bytes, bytes]:
    database, log = (bytearray(content) for content in _files())
    at = 0
    for _ in range(OPERATIONS_MAX):
        if at >= len(data):
            break
        operation = data[at] % 8
        at += 1
        content = database
        if operation == IN_LOG:
            content = log
            operation = data[at] % CLEAR_PAGE if at < len(data) else WRITE
            at += 1
        elif operation == SIGN_LOG:
            _sign(log)
            continue
        elif operation == DROP_LOG:
            log.clear()
            continue
        head = data[at : at + 4].ljust(4, b"\0")
        at += 4
        place = int.from_bytes(head[:3], "big") % (len(content) + 1)
        if operation == WRITE:
            octets = data[at : at + head[3] % 32]
            at += len(octets)
            content[place : place + len(octets)] = octets
        elif operation == FLIP and place < len(content):
            content[place] ^= 1 << head[3] % 8
        elif operation == CUT:
            del content[place:]
        elif operation == COPY_PAGE and content:
            pages = max(len(content) // PAGE_BYTES, 1)
            source, sink = head[2] % pages * PAGE_BYTES, head[3] % pages * PAGE_BYTES
            content[sink : sink + PAGE_BYTES] = content[source : source + PAGE_BYTES]
        elif operation == CLEAR_PAGE:
            start = place - place % PAGE_BYTES
            size = len(content[start : start + PAGE_BYTES])
            content[start : start + size] = bytes(size)
    return bytes(database), bytes(log)


def _sign(log: bytearray) -> None:
    """Make the checksums of a write-ahead log right again (sqlite.org/fileformat2, section 4)."""
    if len(log) < 32 or log[:3] != b"\x37\x7f\x06":
        return
    order = ">" if log[3] & 1 else "<"
    sums = _sum_of(log[:24], (0, 0), order)
    log[24:32] = pack(">2I", *sums)
    salts = log[16:24]
    for start in range(32, len(log) - 24 - PAGE_BYTES + 1, 24 + PAGE_BYTES):
        log[start + 8 : start + 16] = salts
        frame = log[start : start + 8] + log[start + 24 : start + 24 + PAGE_BYTES]
        sums = _sum_of(frame, sums, order)
        log[start + 16 : start + 24] = pack(">2I", *sums)


def _sum_of(octets: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = sums
    words = unpack_from(f"{order}{len(octets) // 4}I", octets)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


# ---------------------------------------------------------------------------- the real file


_NODES = [(bytes([number]) * 20, f"203.0.113.{number}", 6881) for number in range(1, 9)]


@cache
def _files() -> tuple[bytes, bytes]:
    """The bytes of a database and of its write-ahead log."""
    path = _FOLDER / DATABASE_FILE
    evicted = {_keypair(number).public_key.octets: Floor(7, NOW_US) for number in range(20, 24)}
    keys = [_keypair(number).public_key.octets for number in range(PACKETS)]
    with PacketCache(path, floors_max=10) as writer:
        writer.commit(Changes(_records(1, PACKETS // 2), evicted, _NODES), NOW_US)
        writer.write_recency(keys[: PACKETS // 2], 1, last=True)
    database = path.read_bytes()
    with PacketReader(path), PacketCache(path, floors_max=10) as writer:
        writer.commit(Changes(_records(4, PACKETS), {}, _NODES[:4]), NOW_US)
        writer.write_recency(keys, 2, last=False)
        log = path.with_name(f"{DATABASE_FILE}-wal").read_bytes()
    return database, log


def _records(first: int, end: int) -> dict[bytes, bytes]:
    return {
        _keypair(number).public_key.octets: records.encode(_seen(number, number + first))
        for number in range(first, end)
    }


@cache
def _keypair(number: int) -> Keypair:
    return Keypair.from_seed(number.to_bytes(32, "big"))


@cache
def _seen(number: int, timestamp_us: int) -> SeenPacket:
    keypair = _keypair(number)
    text = dns_build.txt("_foo", "x" * (number * 37 % 255))
    return SeenPacket(SignedPacket.build(keypair, [text], timestamp_us), NOW_US - number)
