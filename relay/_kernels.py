"""Chooses, once, between the compiled kernels and their pure-Python twins.

The only module that imports kernels from `relay._speedups`. ``RELAY_PURE_PYTHON=1`` in the
environment forces the twins, for instance to rule out a miscompile. Without the extension the
twins serve too, and a warning says so: a relay that fell back in silence looks healthy and
serves a fraction of its load (which is why the command line refuses to start then; it asks
`IMPLEMENTATION` and `FORCED_PURE`).

What a kernel does and promises is told in its twin under `relay._pure`.
"""

import os
from typing import Final, Literal

from relay._pure.bencode import (
    DEPTH_MAX,
    DIGITS_MAX,
    BencodeError,
    Value,
    decode,
    decode_prefix,
    encode,
)
from relay._pure.xor import ID_BYTES, IdTable, bucket_index, distance

FORCED_PURE: Final = os.environ.get("RELAY_PURE_PYTHON") == "1"
"""Whether the environment asked for the twins."""

IMPLEMENTATION: Literal["compiled", "pure"] = "pure"
"""Which of the two was chosen. Read by start-up messages, `/stats` and tests."""

__all__ = [
    "DEPTH_MAX",
    "DIGITS_MAX",
    "FORCED_PURE",
    "ID_BYTES",
    "IMPLEMENTATION",
    "BencodeError",
    "IdTable",
    "Value",
    "bucket_index",
    "decode",
    "decode_prefix",
    "distance",
    "encode",
]
