"""Randomness that a failing test can repeat."""

from __future__ import annotations

import random


def seeded(seed: object) -> random.Random:
    """Return a generator that gives the same numbers for the same seed in every run."""
    return random.Random(str(seed))  # noqa: S311 - to be repeated, not to be secret
