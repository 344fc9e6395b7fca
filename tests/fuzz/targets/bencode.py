"""Bencode: the two kernels agree on values, texts and positions; what is read is written back."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from relay._pure import bencode as pure
from relay._speedups import bencode as compiled
from tests.fuzz import vectors

DICTIONARY = (b"d", b"l", b"e", b"i0e", b"i-1e", b"0:", b"1:a", b"i18446744073709551616e", b"20:")
INPUT_BYTES_MAX = 1500


def seeds() -> Iterable[bytes]:
    """Datagrams, values, and shapes at the limits."""
    yield from vectors.octets("krpc-server", "request_hex", "response_hex")
    yield from (b"l" * 32 + b"e" * 32, b"l" * 33 + b"e" * 33, b"d" * 40, b"d1:bi1e1:ai2ee")
    yield from (b"i99999999999999999999e", b"i-99999999999999999999e", b"i100000000000000000000e")
    yield from (b"999999999:", b"0999999999:", b"i-0e", b"i00e", b"i-9223372036854775808e")


def target(data: bytes) -> None:
    """Read with both kernels, and write what was read."""
    value = _agreed("decode", data)
    _agreed("decode_prefix", data)
    if isinstance(value, Exception):
        return
    spelled = _agreed("encode", value)
    assert isinstance(spelled, bytes)
    assert _outcome(compiled, "decode", spelled) == value
    if len(spelled) == len(data):
        assert sorted(spelled) == sorted(data)
    else:  # keys came twice
        assert len(spelled) < len(data)


def _agreed(function: str, argument: Any) -> Any:
    ours, theirs = _outcome(compiled, function, argument), _outcome(pure, function, argument)
    assert repr(ours) == repr(theirs), (function, ours, theirs)
    return ours


def _outcome(kernel: ModuleType, function: str, argument: Any) -> Any:
    try:
        return getattr(kernel, function)(argument)
    except ValueError as error:
        return error
