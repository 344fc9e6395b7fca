"""``pkarr-relay check``: is the database whole, and every packet in it what its owner signed?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from relay.commands.cache import add_command, cache_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from relay.control.access import CacheAccess
    from relay.store.inspection import Rows


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``check``."""
    parser = add_command(
        commands, "check", "check the database, and the signature of every packet in it", run
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only the database's structure without its indexes, and checksums",
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; each finding is a line on standard error, and then the code is 1."""
    from relay.store.inspection import TABLES

    findings = 0
    with cache_of(arguments) as cache:
        for finding in _findings(cache, list(TABLES), quick=arguments.quick):
            print(finding, file=sys.stderr)
            findings += 1
    return 1 if findings else 0


def _findings(cache: CacheAccess, tables: list[str], *, quick: bool) -> Iterator[str]:
    for finding in cache.integrity(quick=quick):
        yield f"database: {finding}"
    for table in tables:
        count = 0
        for rows in cache.rows(table):
            count += rows.count
            yield from _of_rows(table, rows, quick=quick)
        print(f"{table}: {count}")


def _of_rows(table: str, rows: Rows, *, quick: bool) -> Iterator[str]:
    from relay.store.inspection import checked

    texts = rows.text.split(b" ") if rows.text else []
    if len(texts) < rows.count:
        between = f"ids {rows.first} to {rows.last}"
        yield f"{table}: {rows.count - len(texts)} rows of {between} cannot be read"
    good = [text for text in texts if checked(text) is not None]
    if len(good) < len(texts):
        spoiled = [text for text in texts if checked(text) is None]
        yield from (f"{table}: {_named(table, text)}: wrong checksum" for text in spoiled)
    if table == "packets":
        yield from _of_packets(good, quick=quick)


def _of_packets(texts: list[bytes], *, quick: bool) -> Iterator[str]:
    from relay.clock import wall_clock_us
    from relay.store.records import checked_row
    from relay.store.verified import verified

    rows = []
    for text in texts:
        row = checked_row(text.decode("ascii"))
        if row is None:
            yield f"packets: {_named('packets', text)}: wrong size"
        else:
            rows.append((text, row))
    if quick:
        return
    judged = verified([row for _, row in rows], wall_clock_us())
    for (text, _), packet in zip(rows, judged, strict=True):
        if isinstance(packet, str):
            yield f"packets: {_named('packets', text)}: {packet}"


def _named(table: str, text: bytes) -> str:
    """Name a row so that it can be found: by its key, as far as it has one."""
    from relay.pkarr import zbase32

    if table not in ("packets", "floors"):
        return "a row"
    try:
        return zbase32.encode(bytes.fromhex(text[8:72].decode("ascii")))
    except ValueError:
        return "a row"
