"""Key strings: 52 letters, URIs around them, percent signs, hexadecimal digits; any text at all.

The native lane reads keys too, of the one plain form; what it takes the parser takes alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from relay.errors import PublicKeyError
from relay.pkarr import zbase32
from relay.pkarr.keys import KEY_LETTERS, PublicKey
from tests.fuzz import vectors

DICTIONARY = (b"pk:", b"https://", b"//", b"@", b":", b".", b"?", b"#", b"%2f", b"/", b"_foo.",
              b"ybndrfg8ejkmcpqxot1uwisza345h769", b"\xc3\xbf", b"\xff", b"y" * 52)  # fmt: skip
INPUT_BYTES_MAX = 300


def seeds() -> Iterable[bytes]:
    """All spellings of the vectors, and keys in hexadecimal digits."""
    for case in vectors.cases("keystrings"):
        yield case["input"].encode("utf-8", "surrogatepass")
    for case in vectors.cases("keys"):
        yield from (case["uri"].encode(), case["public_key"].encode(), case["z32"].encode())


def target(data: bytes) -> None:
    """Read a text as a key: refused with a fault, or a key that is read from its own spelling."""
    for text in (
        data.decode("utf-8", "replace"),
        data.decode("utf-8", "surrogateescape"),
        data.decode("latin-1"),
        unquote_to_bytes(data).decode("utf-8", "replace"),
    ):
        _read(text)
    _spell(data)


def _read(text: str) -> None:
    try:
        key = PublicKey.parse(text)
    except PublicKeyError as error:
        assert error.fault in {"encoding", "length", "not_a_point"}
        assert str(error).isprintable()
        key = None
    try:
        any_key = PublicKey.parse_any(text)
    except PublicKeyError as error:
        assert key is None or text != text.strip(), (text, error)
        return
    spelled = str(any_key)
    assert len(spelled) == KEY_LETTERS
    assert PublicKey.parse(spelled) == any_key
    assert PublicKey.parse(any_key.uri) == any_key
    assert PublicKey.parse(f"https://a.b.{spelled}/c?d#e") == any_key
    assert len(any_key.target) == 20
    if key is not None and text == text.strip():
        assert key == any_key


def _spell(data: bytes) -> None:
    text = zbase32.encode(data)
    assert zbase32.decode(text) == data
    try:
        octets = zbase32.decode(data.decode("latin-1"))
    except ValueError:
        return
    assert len(octets) == len(data) * 5 // 8
    again = zbase32.encode(octets).encode("ascii")
    assert again[:-1] == data[: len(again) - 1]
