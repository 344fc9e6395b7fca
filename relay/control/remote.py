"""The cache of a relay that runs, for the commands: the other end of its control socket."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from relay.control.access import SILENCE_S, Bad
from relay.control.frames import Frame, FrameError, FrameReader
from relay.control.protocol import BAD, LETTERS, VERSION
from relay.control.socket_file import connect
from relay.errors import CommandError
from relay.store.inspection import Rows
from relay.store.records import packed

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Mapping

    from relay.control.access import Batch
    from relay.pkarr.keys import PublicKey
    from relay.store.offline import Outcome

_AHEAD: Final = 2
"""Batches sent whose outcomes have not come: what both sides may have written and not read fits
into the socket's buffers twice over, so neither waits for the other."""
_RECEIVE_BYTES: Final = 256 * 1024
_OUTCOMES: Final[Mapping[str, Outcome]] = {letter: outcome for outcome, letter in LETTERS.items()}


class RemoteCache:
    """Asks the relay that runs on `folder`; see `relay.control.access.CacheAccess`.

    Args:
        folder: the relay's cache folder.
        first: a connection to it; each request takes one of its own.
    """

    def __init__(self, folder: Path, first: socket.socket) -> None:
        self._folder = folder
        self._first: socket.socket | None = first

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            self._first.close()

    def backup(self, target: Path, *, force: bool) -> int:
        """Let the relay copy the database to a new file."""
        with self._ask("backup", target=os.fspath(target), force=force) as asked:
            return asked.end().integer("size")

    def integrity(self, *, quick: bool) -> list[str]:
        """Return what SQLite finds wrong with the file."""
        with self._ask("integrity", quick=quick) as asked:
            return asked.end().texts("findings")

    def rows(self, table: str) -> Iterator[Rows]:
        """Deliver all rows of a table."""
        with self._ask("rows", table=table) as asked:
            while "done" not in (frame := asked.next()):
                count, first, last = map(frame.integer, ("rows", "first", "last"))
                yield Rows(count, first, last, frame.body)

    def take_in(self, batches: Iterable[Batch]) -> Iterator[list[Outcome | Bad]]:
        """Let the relay verify and store batches of packets."""
        with self._ask("import") as asked:
            asked.next()
            sizes: deque[int] = deque()
            for batch in batches:
                asked.send(Frame({}, b"".join(packed(*row) for row in batch)))
                sizes.append(len(batch))
                if len(sizes) == _AHEAD:
                    yield _outcomes(asked.next(), sizes.popleft())
            while sizes:
                yield _outcomes(asked.next(), sizes.popleft())
            asked.send(Frame({"done": True}))
            asked.end()

    def purge(self, key: PublicKey) -> int | None:
        """Let the relay remove a packet."""
        with self._ask("purge", key=str(key)) as asked:
            answer = asked.end()
            missing = answer.head.get("timestamp_us") is None
            return None if missing else answer.integer("timestamp_us")

    def _ask(self, what: str, **details: object) -> _Asked:
        connection, self._first = self._first, None
        try:
            asked = _Asked(connection or connect(self._folder, SILENCE_S))
        except OSError as error:
            raise CommandError(f"the relay does not answer any more: {error.strerror}") from error
        asked.send(Frame({"control": VERSION, "do": what, **details}))
        return asked


class _Asked:
    """A request under way, and the connection it has for itself."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, frame: Frame) -> None:
        """Send a frame.

        Raises:
            CommandError: the relay has ended, or does not read.
        """
        try:
            self._connection.sendall(frame.encode())
        except TimeoutError:
            raise CommandError(_SILENT) from None
        except OSError:
            # It may have said why; that is still there to be read.
            while True:
                self.next()

    def next(self) -> Frame:
        """Return the next frame that says something.

        Raises:
            CommandError: the relay refuses, has ended, or says nothing.
        """
        while "alive" in (frame := self._receive()):
            pass
        if "error" in frame:
            raise CommandError(frame.text("error"))
        return frame

    def end(self) -> Frame:
        """Return the last frame."""
        frame = self.next()
        if "done" not in frame:
            raise FrameError("the relay says something else than asked for")
        return frame

    def _receive(self) -> Frame:
        try:
            while (frame := self._reader.take()) is None:
                data = self._connection.recv(_RECEIVE_BYTES)
                if not data:
                    raise CommandError(_ENDED)
                self._reader.feed(data)
        except TimeoutError:
            raise CommandError(_SILENT) from None
        except OSError:
            raise CommandError(_ENDED) from None
        return frame


_ENDED: Final = "the relay ended before it had done it"
_SILENT: Final = f"the relay has said nothing for {SILENCE_S:.0f} seconds"


def _outcomes(frame: Frame, count: int) -> list[Outcome | Bad]:
    letters, reasons = frame.text("outcomes"), iter(frame.texts("reasons"))
    if len(letters) != count:
        raise FrameError("the relay has another number of packets in mind")
    return [Bad(next(reasons, "")) if one == BAD else _OUTCOMES[one] for one in letters]
