"""Fixtures for every test; the process-level ones are built from `tests.support`.

Hypothesis: no deadline, because two busy cores make any example slow now and then; and in CI
the same examples every time, so that a red run means a change and not luck. Locally they vary.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

# The tests' own helper package must be importable however pytest was started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
