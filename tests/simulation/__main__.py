"""``python -m tests.simulation``: see `command`, which worker processes can import."""

from __future__ import annotations

import sys

from tests.simulation.command import main

if __name__ == "__main__":
    sys.exit(main())
