r"""Frames of the control socket: a JSON object on a line, and as many bytes after it as it says.

    {"rows": 512, "bytes": 3}\nabc

Sizes are bounded on both sides, so that neither can be made to keep more than one frame of the
largest size. Sans-IO: `FrameReader` is handed what came and gives whole frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from relay.errors import RelayError

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 2 * 1024 * 1024
"""Rows come in pieces of 512: 1.2 MB at most."""
_BODY_BYTES: Final = "bytes"


class FrameError(RelayError):
    """The other side's: what it sent is no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. The lookups raise `FrameError` for what is missing or of another kind."""

    head: Mapping[str, object]
    body: bytes = b""

    def __contains__(self, name: str) -> bool:
        return name in self.head

    def text(self, name: str) -> str:
        """Return a string."""
        value = self.head.get(name)
        if not isinstance(value, str):
            raise FrameError(f"{json.dumps(name)} must be a string")
        return value

    def integer(self, name: str) -> int:
        """Return an integer that is not negative."""
        value = self.head.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise FrameError(f"{json.dumps(name)} must be an integer that is not negative")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.head.get(name)
        if not isinstance(value, bool):
            raise FrameError(f"{json.dumps(name)} must be true or false")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        value = self.head.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise FrameError(f"{json.dumps(name)} must be a list of strings")
        return value

    def encode(self) -> bytes:
        r"""Return the frame as it is sent.

        >>> Frame({"rows": 1}, b"abc").encode()
        b'{"rows": 1, "bytes": 3}\nabc'
        """
        head = dict(self.head)
        if _BODY_BYTES in head:
            raise ValueError(f"{_BODY_BYTES!r} is the size of the body")
        if self.body:
            head[_BODY_BYTES] = len(self.body)
        line = json.dumps(head).encode("ascii")
        if len(line) >= HEAD_BYTES_MAX or len(self.body) > BODY_BYTES_MAX:
            raise ValueError("a frame is too large; bounds belong where it is made")
        return b"%b\n%b" % (line, self.body)


class FrameReader:
    r"""Makes frames of bytes as they come.

    >>> reader = FrameReader()
    >>> reader.feed(b'{"rows": 1, "bytes": 3}\nab')
    >>> reader.take()
    >>> reader.feed(b'c{"done"')
    >>> reader.take()
    Frame(head={'rows': 1, 'bytes': 3}, body=b'abc')
    >>> reader.amid
    True
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._head: dict[str, object] | None = None
        self._body_bytes = 0

    @property
    def amid(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer) or self._head is not None

    def feed(self, data: bytes) -> None:
        """Take what came; call `take` until it returns None before the next."""
        self._buffer += data

    def take(self) -> Frame | None:
        """Return the next whole frame, None if there is none yet.

        Raises:
            FrameError: this is no frame, or too large a one; there is nothing to go on with.
        """
        head = self._head = self._take_head() if self._head is None else self._head
        if head is None or len(self._buffer) < self._body_bytes:
            return None
        frame = Frame(head, bytes(self._buffer[: self._body_bytes]))
        del self._buffer[: self._body_bytes]
        self._head = None
        return frame

    def _take_head(self) -> dict[str, object] | None:
        end = self._buffer.find(b"\n", self._searched, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._buffer) >= HEAD_BYTES_MAX:
                raise FrameError(f"a line has more than {HEAD_BYTES_MAX} bytes")
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        try:
            head = json.loads(line)
        except (ValueError, RecursionError):
            raise FrameError("a line is not JSON") from None
        if not isinstance(head, dict):
            raise FrameError("a line is not a JSON object")
        frame = Frame(head)
        self._body_bytes = frame.integer(_BODY_BYTES) if _BODY_BYTES in head else 0
        if self._body_bytes > BODY_BYTES_MAX:
            raise FrameError(f"a frame has more than {BODY_BYTES_MAX} bytes")
        return head
