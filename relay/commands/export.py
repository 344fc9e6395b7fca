"""``pkarr-relay export FILE``: every packet as a line of JSON, see `relay.control.lines`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from relay.commands.cache import absolute, add_command, cache_of
from relay.errors import CommandError

if TYPE_CHECKING:
    import argparse

    from relay.control.access import CacheAccess


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``export``."""
    parser = add_command(commands, "export", "write every packet as a line of JSON", run)
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("file", metavar="FILE", help="where to; - is standard output")


def run(arguments: argparse.Namespace) -> int:
    """Write all packets; 1 if some on the disk are spoiled and had to be left out.

    Raises:
        CommandError: the file cannot be written.
    """
    from relay.store.new_file import new_file, told

    if arguments.file == "-":
        with cache_of(arguments) as cache:
            return _to_standard_output(cache)
    target = absolute(Path(arguments.file))
    with cache_of(arguments) as cache:
        try:
            with (
                new_file(target, replace=arguments.force) as draft,
                open(draft.descriptor, "w", encoding="ascii", closefd=False) as out,
            ):
                written, spoiled = _export(cache, out)
        except OSError as error:
            raise CommandError(told(target, error)) from error
    print(f"{target}: {written} packets")
    return _exit_code(spoiled)


def _to_standard_output(cache: CacheAccess) -> int:
    try:
        _, spoiled = _export(cache, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read it has seen enough; Python would complain of it once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        raise CommandError(f"standard output cannot be written: {error.strerror}") from error
    return _exit_code(spoiled)


def _export(cache: CacheAccess, out: IO[str]) -> tuple[int, int]:
    """Write all packets; return how many, and how many are spoiled."""
    from relay.control.lines import to_line
    from relay.store.records import unpack
    from relay.store.table import pack_rows

    written = spoiled = 0
    for rows in cache.rows("packets"):
        good, pack = pack_rows(rows.text.decode("ascii"))
        out.writelines(to_line(*row) for row in unpack(pack))
        written += good
        spoiled += rows.count - good
    return written, spoiled


def _exit_code(spoiled: int) -> int:
    if spoiled:
        print(f"{spoiled} spoiled packets are left out; `check` names them", file=sys.stderr)
    return 1 if spoiled else 0
