"""The datagram room's native part, where the compiled kernels are in use; else the name is None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay._kernels import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "compiled":
    from relay._speedups.datagrams import Lane
else:
    Lane = None

__all__ = ["Lane"]
