"""The inside of a fuzzing process: one Python target under atheris. Started by `building`."""

from __future__ import annotations

import sys
from importlib import import_module

INSTRUMENTED = ["relay", "tomllib", "h11", "hypercorn"]
"""Packages whose branches count as coverage, if the target imports them."""


def main() -> None:
    """Instrument the relay and hand the target to libFuzzer."""
    import atheris  # only `nox -s fuzz` has it; the module is there to be looked at without

    name, program, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = import_module(f"tests.fuzz.targets.{name}").target
    atheris.Setup([program, *arguments], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
