"""``python -m bench [--quick] [NAME ...]``: run the benches, print the table, keep the figures."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import dht_lookup, http, kernels, put
from bench.harness import FULL, QUICK, Figure, Loader, Plan, Row, save, table

BENCHES: Final[dict[str, Callable[[Plan, Loader], list[Row]]]] = {
    "http": http.run,
    "put": put.run,
    "lookup": dht_lookup.run,
}
KERNELS: Final = "kernels"


def main() -> int:
    """Run what the arguments ask for; without names, everything."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds, under 3 minutes")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{KERNELS}, {', '.join(BENCHES)}")
    arguments = parser.parse_args()
    names = arguments.names or [KERNELS, *BENCHES]
    if unknown := set(names) - {KERNELS, *BENCHES}:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    plan = QUICK if arguments.quick else FULL
    figures: list[Figure] = []
    rows: list[Row] = []
    try:
        if KERNELS in names:
            figures += kernels.run(plan)
        with tempfile.TemporaryDirectory() as folder:
            loader = Loader(Path(folder))
            for name in (name for name in names if name in BENCHES):
                rows += BENCHES[name](plan, loader)
    finally:  # minutes of measuring are kept also when a later bench fails
        if figures or rows:
            parts = [kernels.table(figures), table(rows)]
            sys.stdout.write("\n\n".join(part for part in parts if part) + "\n")
            sys.stdout.write(f"\nkept in {save(rows, figures, plan).relative_to(Path.cwd())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
