"""What does each compiled kernel cost, beside its pure twin and, for ed25519, libsodium?

One core, in this process, best of several repeats (the least disturbed one). Bencode and the
metric on a `get` reply with a 250-byte packet and 20 nodes; tables of 1,000 identifiers;
signatures of distinct keys over 250-byte packets. Leaves out the cost of calling libsodium
through PyNaCl, which is in its figure as it would be in the relay's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from bench.anchors import SERVER_CORE, pinned
from bench.harness import Figure, Plan, packets
from relay import _kernels
from relay._pure import bencode, ed25519, xor
from tests.support.packets import signable

REPEATS: Final = 5
TABLE_SIZE: Final = 1000
BATCHES: Final = (1, 8, 64, 256)


def run(plan: Plan) -> list[Figure]:
    """Measure every kernel."""
    if _kernels.IMPLEMENTATION != "compiled":
        raise RuntimeError("the extension is not built, or RELAY_PURE_PYTHON is set")
    with pinned(SERVER_CORE):
        return [*_bencode(plan), *_xor(plan), *_ed25519(plan)]


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as Markdown; nothing for none."""
    if not figures:
        return ""
    lines = ["| kernel | compiled µs | pure µs | libsodium µs |", "| --- | --- | --- | --- |"]
    for figure in figures:
        cells = [
            f"{figure.ns[name] / 1000:,.2f}" if name in figure.ns else ""
            for name in ("compiled", "pure", "libsodium")
        ]
        lines.append(f"| {figure.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _time_ns(plan: Plan, work: Callable[[], object]) -> float:
    """Return the time of one call: the best of the repeats, each long enough to be measured."""
    repeat_s = plan.seconds / 100
    count, taken_s = 1, 0.0
    while taken_s < repeat_s:
        count *= 2
        taken_s = _taken_s(work, count)
    return min(_taken_s(work, count) for _ in range(REPEATS)) / count * 1e9


def _taken_s(work: Callable[[], object], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        work()
    return time.perf_counter() - begun


def _bencode(plan: Plan) -> list[Figure]:
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
    return [
        Figure(
            "bencode decode, get reply",
            {
                "compiled": _time_ns(plan, lambda: _kernels.decode(data)),
                "pure": _time_ns(plan, lambda: bencode.decode(data)),
            },
        ),
        Figure(
            "bencode encode, get reply",
            {
                "compiled": _time_ns(plan, lambda: _kernels.encode(reply)),
                "pure": _time_ns(plan, lambda: bencode.encode(reply)),
            },
        ),
    ]


def _xor(plan: Plan) -> list[Figure]:
    left, right = os.urandom(20), os.urandom(20)
    ids = [os.urandom(20) for _ in range(TABLE_SIZE)]
    compiled, pure = _kernels.IdTable(TABLE_SIZE), xor.IdTable(TABLE_SIZE)
    for one in (compiled, pure):
        for slot, identifier in enumerate(ids):
            one.set(slot, identifier, False)
    return [
        Figure(
            "distance",
            {
                "compiled": _time_ns(plan, lambda: _kernels.distance(left, right)),
                "pure": _time_ns(plan, lambda: xor.distance(left, right)),
            },
        ),
        Figure(
            f"20 closest of {TABLE_SIZE}",
            {
                "compiled": _time_ns(plan, lambda: compiled.closest(left, 20)),
                "pure": _time_ns(plan, lambda: pure.closest(left, 20)),
            },
        ),
    ]


def _ed25519(plan: Plan) -> list[Figure]:
    signed = packets(max(BATCHES))
    items = [(p.public_key, p.payload[:64], signable(p.timestamp_us, p.dns)) for p in signed]
    key, signature, message = items[0]

    def by_libsodium() -> bool:
        try:
            VerifyKey(key).verify(message, signature)
        except BadSignatureError:
            return False
        return True

    figures = [
        Figure(
            "ed25519 verify",
            {
                "compiled": _time_ns(plan, lambda: _kernels.verify(key, signature, message)),
                "pure": _time_ns(plan, lambda: ed25519.verify(key, signature, message)),
                "libsodium": _time_ns(plan, by_libsodium),
            },
        )
    ]
    for size in BATCHES:
        batch = items[:size]
        if not all(_kernels.verify_batch(batch, os.urandom)):
            raise RuntimeError("a good signature was refused")
        whole_ns = _time_ns(plan, partial(_kernels.verify_batch, batch, os.urandom))
        figures.append(Figure(f"ed25519 batch of {size}, each", {"compiled": whole_ns / size}))
    return figures
