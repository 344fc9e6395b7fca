"""Fixtures for every test; the process-level ones are built from `tests.support`."""

from __future__ import annotations

import sys
from pathlib import Path

# The tests' own helper package must be importable however pytest was started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
