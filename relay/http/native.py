"""The HTTP room's native part, where the compiled kernels are in use; else the names are None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay._kernels import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "compiled":
    from relay._speedups.front import Cells, Lane, Lanes
else:
    Cells = Lane = Lanes = None

__all__ = ["Cells", "Lane", "Lanes"]
