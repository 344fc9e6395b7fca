"""What does each compiled kernel cost, beside its pure twin and, for ed25519, libsodium?

One core, in this process, a round being one repeat long enough to be measured; the implementations
take turns. Bencode and the metric on a `get` reply with a 250-byte packet and 20 nodes; tables of
1,000 identifiers; signatures of distinct keys over packets of the library. The cost of calling
libsodium through PyNaCl is in its figure, as it would be in the relay's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from bench.anchors import SERVER_CORE, pinned
from bench.harness import Loader, Plan, in_turns, tell
from bench.library import Library
from bench.results import Goal, Row
from relay import _kernels
from relay._pure import bencode, dht, ed25519, xor
from tests.support.packets import signable

TABLE_SIZE: Final = 1000
BATCHES: Final = (1, 8, 64, 256)
GOALS: Final = {64: 2.0, 256: 2.5}
ROUNDS_MIN: Final = 5
REPEAT_SHARE: Final = 0.03
"""Of a plan's seconds, for one repeat."""
COMPILED: Final = "compiled"
PURE: Final = "pure"
PYNACL: Final = "PyNaCl"

Work = Callable[[], object]


def run(plan: Plan, loader: Loader) -> Iterator[Row]:
    """Measure every kernel."""
    if _kernels.IMPLEMENTATION != "compiled":
        raise RuntimeError("the extension is not built, or RELAY_PURE_PYTHON is set")
    with pinned(SERVER_CORE):
        yield from _bencode(plan)
        yield from _xor(plan)
        yield from _ed25519(plan)


def _measure(plan: Plan, row: Row, works: Mapping[str, tuple[Work, int]], rounds: int = 0) -> Row:
    """Time every work, given with the number of things it does, in turns."""
    counts = {name: _calls(plan, work) for name, (work, _) in works.items()}
    for name in in_turns(plan, list(works), max(plan.rounds, rounds)):
        work, things = works[name]
        each_us = _taken_s(work, counts[name]) / counts[name] / things * 1e6
        row.add(name, "single core", {"us": each_us})
    tell(row, COMPILED)
    return row


def _calls(plan: Plan, work: Work) -> int:
    """Return how many calls take long enough to be measured."""
    count = 1
    while _taken_s(work, count) < plan.seconds * REPEAT_SHARE:
        count *= 2
    return count


def _taken_s(work: Work, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        work()
    return time.perf_counter() - begun


def _bencode(plan: Plan) -> Iterator[Row]:
    values: dict[bytes, _kernels.Value] = {
        b"id": os.urandom(20),
        b"k": os.urandom(32),
        b"nodes": os.urandom(26 * 20),
        b"seq": 1_700_000_000_000_000,
        b"sig": os.urandom(64),
        b"token": os.urandom(8),
        b"v": os.urandom(250),
    }
    reply: dict[bytes, _kernels.Value] = {
        b"ip": os.urandom(6),
        b"r": values,
        b"t": os.urandom(4),
        b"y": b"r",
    }
    data = _kernels.encode(reply)
    decoders: dict[str, tuple[Work, int]] = {
        COMPILED: (lambda: _kernels.decode(data), 1),
        PURE: (lambda: bencode.decode(data), 1),
    }
    encoders: dict[str, tuple[Work, int]] = {
        COMPILED: (lambda: _kernels.encode(reply), 1),
        PURE: (lambda: bencode.encode(reply), 1),
    }
    yield _measure(plan, Row("kernels", "bencode decode, get reply"), decoders)
    yield _measure(plan, Row("kernels", "bencode encode, get reply"), encoders)


def _xor(plan: Plan) -> Iterator[Row]:
    left, right = os.urandom(20), os.urandom(20)
    nodes = [os.urandom(26) for _ in range(TABLE_SIZE)]
    compiled, pure = _kernels.IdTable(TABLE_SIZE), dht.IdTable(TABLE_SIZE)
    for one in (compiled, pure):
        for slot, node in enumerate(nodes):
            one.set(slot, node, False)
    distances: dict[str, tuple[Work, int]] = {
        COMPILED: (lambda: _kernels.distance(left, right), 1),
        PURE: (lambda: xor.distance(left, right), 1),
    }
    closest: dict[str, tuple[Work, int]] = {
        COMPILED: (lambda: compiled.closest(left, 20), 1),
        PURE: (lambda: pure.closest(left, 20), 1),
    }
    yield _measure(plan, Row("kernels", "distance"), distances)
    yield _measure(plan, Row("kernels", f"20 closest of {TABLE_SIZE}"), closest)


def _ed25519(plan: Plan) -> Iterator[Row]:
    signed = Library(max(BATCHES))[:]
    items = [(p.public_key, p.payload[:64], signable(p.timestamp_us, p.dns)) for p in signed]
    key, signature, message = items[0]

    def by_pynacl() -> bool:
        try:
            VerifyKey(key).verify(message, signature)
        except BadSignatureError:
            return False
        return True

    single: dict[str, tuple[Work, int]] = {
        COMPILED: (lambda: _kernels.verify(key, signature, message), 1),
        PURE: (lambda: ed25519.verify(key, signature, message), 1),
        PYNACL: (by_pynacl, 1),
    }
    yield _measure(plan, Row("kernels", "ed25519 verify"), single)
    for size in BATCHES:
        batch = items[:size]
        if not all(_kernels.verify_batch(batch, os.urandom)):
            raise RuntimeError("a good signature was refused")
        goal = Goal("us", "times fewer", GOALS.get(size, 0), COMPILED, PYNACL)
        row = Row("kernels", f"ed25519 batch of {size}, each", (goal,) if size in GOALS else ())
        works: dict[str, tuple[Work, int]] = {
            COMPILED: (partial(_kernels.verify_batch, batch, os.urandom), size),
            PYNACL: (by_pynacl, 1),
        }
        yield _measure(plan, row, works, ROUNDS_MIN)
