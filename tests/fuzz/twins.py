"""The relay's modules a second time, with the other kernels: to see whether both do the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "RELAY_PURE_PYTHON"


@contextmanager
def other_kernels() -> Iterator[None]:
    """Within this, what is imported of the relay is new, and uses the kernels not in use."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    asked = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "0" if asked == "1" else "1"
    try:
        yield
    finally:
        for name in list(sys.modules):
            if _is_ours(name):
                del sys.modules[name]
        sys.modules.update(ours)
        if asked is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = asked


def _is_ours(name: str) -> bool:
    """Whether it is a module of the relay; those in C are there once."""
    return name.partition(".")[0] == "relay" and not name.startswith("relay._speedups")
