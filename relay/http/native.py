"""The HTTP room's native part, where the compiled kernels are in use; else both names are None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay._kernels import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "compiled":
    from relay._speedups.front import Cells, Lane
else:
    Cells = Lane = None

__all__ = ["Cells", "Lane"]
