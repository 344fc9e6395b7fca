"""``pkarr-relay import FILE``: packets from lines of JSON, verified, into the cache."""

from __future__ import annotations

import sys
from collections import Counter
from typing import IO, TYPE_CHECKING

from relay.commands.cache import add_command, cache_of
from relay.errors import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from relay.control.access import Batch


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``import``."""
    parser = add_command(
        commands, "import", "read packets from lines of JSON, as export writes them", run
    )
    parser.add_argument("file", metavar="FILE", help="where from; - is standard input")


def run(arguments: argparse.Namespace) -> int:
    """Read all lines; 1 if some were bad: each is named on standard error, the others are in.

    Raises:
        CommandError: the file cannot be read, or the relay ended; what was counted is in.
    """
    from contextlib import closing

    if arguments.file == "-":
        return _import(arguments, sys.stdin.buffer)
    try:
        file = open(arguments.file, "rb")  # noqa: SIM115 -- closed below
    except OSError as error:
        raise CommandError(f"{arguments.file} cannot be read: {error.strerror}") from error
    with closing(file):
        return _import(arguments, file)


def _import(arguments: argparse.Namespace, file: IO[bytes]) -> int:
    from relay.control.access import Bad

    counts: Counter[str] = Counter()
    reader = _Reader(file)
    try:
        with cache_of(arguments, create=True) as cache:
            for outcomes in cache.take_in(reader.batches()):
                numbers = reader.sent.pop(0)
                for number, outcome in zip(numbers, outcomes, strict=True):
                    if isinstance(outcome, Bad):
                        reader.complain(number, outcome.reason)
                    else:
                        counts[outcome] += 1
    finally:
        print(
            f"{counts['stored']} packets stored, {counts['known']} were there already,"
            f" {counts['older']} older than what is or was there, {reader.bad} bad lines"
        )
    return 1 if reader.bad else 0


class _Reader:
    """Lines in, batches out; remembers from which lines a batch is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.bad = 0
        self.sent: list[list[int]] = []
        """Of each batch whose outcomes have not come: the number of each packet's line."""

    def complain(self, number: int, reason: str) -> None:
        """Say what is wrong with a line."""
        self.bad += 1
        print(f"line {number}: {reason}", file=sys.stderr)

    def batches(self) -> Iterator[Batch]:
        """Return batches of packets, none of them empty."""
        from relay.control.lines import from_line
        from relay.control.protocol import BATCH_PACKETS_MAX

        rows: list[tuple[bytes, bytes]] = []
        numbers: list[int] = []
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                continue
            try:
                rows.append(from_line(line))
                numbers.append(number)
            except ValueError as error:
                self.complain(number, str(error))
            if len(rows) == BATCH_PACKETS_MAX:
                self.sent.append(numbers)
                yield rows
                rows, numbers = [], []
        if rows:
            self.sent.append(numbers)
            yield rows

    def _lines(self) -> Iterator[bytes]:
        """Return lines, of those that are too long only so much that this can be seen."""
        from relay.control.lines import LINE_BYTES_MAX

        while line := self._read(LINE_BYTES_MAX + 1):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._read(LINE_BYTES_MAX)
            yield line

    def _read(self, limit: int) -> bytes:
        try:
            return self._file.readline(limit)
        except OSError as error:
            raise CommandError(f"the file cannot be read: {error.strerror}") from error
