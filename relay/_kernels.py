"""Chooses, once, between the compiled kernels and their pure-Python twins.

The only module that imports kernels from `relay._speedups`. ``RELAY_PURE_PYTHON=1`` in the
environment forces the twins, for instance to rule out a miscompile. Where the extension is
missing the twins serve too, and a warning says so: a relay that fell back in silence looks
healthy and serves a fraction of its load. (The command line refuses to start then; it asks
`IMPLEMENTATION` and `FORCED_PURE`.)

It is all or nothing: a build that lacks one kernel is broken and not to be trusted in the
others. What a kernel does and promises is told in its twin under `relay._pure`.
"""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Final, Literal

from relay._pure.bencode import Value
from relay._pure.contacts import Refusal, State

FORCED_PURE: Final = os.environ.get("RELAY_PURE_PYTHON") == "1"
"""Whether the environment asked for the twins."""


def _choose() -> Literal["compiled", "pure"]:
    if FORCED_PURE:
        return "pure"
    try:
        # Also those that other modules drive: a half-built extension is a missing one.
        for name in (
            *("answers", "bencode", "contacts", "ed25519", "xor", "dht"),
            *("table", "front", "datagrams"),
        ):
            importlib.import_module(f"relay._speedups.{name}")
    except ImportError as error:
        logging.getLogger("relay.kernels").warning(
            "the compiled kernels are missing, everything will be slow: %s", error
        )
        return "pure"
    return "compiled"


IMPLEMENTATION: Final = _choose()
"""Which of the two was chosen. Read by start-up messages, `/stats` and tests."""

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from relay._pure.answers import (
        PAYLOAD_BYTES_MIN,
        TRANSACTION_ID_BYTES_MAX,
        Answer,
        read_answer,
    )
    from relay._pure.bencode import (
        DEPTH_MAX,
        DIGITS_MAX,
        BencodeError,
        decode,
        decode_prefix,
        encode,
    )
    from relay._pure.contacts import (
        CANDIDATES_MAX,
        CROWD_MAX,
        NODES_PER_ANSWER_MAX,
        QUERIES_MAX,
        Contact,
        K,
        Progress,
        Row,
    )
    from relay._pure.dht import (
        BudgetCells,
        IdTable,
        RateCells,
        RecordTable,
        siphash,
    )
    from relay._pure.ed25519 import is_point, verify, verify_batch
    from relay._pure.xor import ID_BYTES, bucket_index, distance
else:
    from relay._speedups.answers import (
        PAYLOAD_BYTES_MIN,
        TRANSACTION_ID_BYTES_MAX,
        Answer,
        read_answer,
    )
    from relay._speedups.bencode import (
        DEPTH_MAX,
        DIGITS_MAX,
        BencodeError,
        decode,
        decode_prefix,
        encode,
    )
    from relay._speedups.contacts import (
        CANDIDATES_MAX,
        CROWD_MAX,
        NODES_PER_ANSWER_MAX,
        QUERIES_MAX,
        Contact,
        K,
        Progress,
        Row,
    )
    from relay._speedups.dht import (
        BudgetCells,
        IdTable,
        RateCells,
        RecordTable,
        siphash,
    )
    from relay._speedups.ed25519 import is_point, verify, verify_batch
    from relay._speedups.xor import ID_BYTES, bucket_index, distance


__all__ = [
    "CANDIDATES_MAX",
    "CROWD_MAX",
    "DEPTH_MAX",
    "DIGITS_MAX",
    "FORCED_PURE",
    "ID_BYTES",
    "IMPLEMENTATION",
    "NODES_PER_ANSWER_MAX",
    "PAYLOAD_BYTES_MIN",
    "QUERIES_MAX",
    "TRANSACTION_ID_BYTES_MAX",
    "Answer",
    "BencodeError",
    "BudgetCells",
    "Contact",
    "IdTable",
    "K",
    "Progress",
    "RateCells",
    "RecordTable",
    "Refusal",
    "Row",
    "State",
    "Value",
    "bucket_index",
    "decode",
    "decode_prefix",
    "distance",
    "encode",
    "is_point",
    "read_answer",
    "siphash",
    "verify",
    "verify_batch",
]
