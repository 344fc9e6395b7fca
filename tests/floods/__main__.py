"""Run the floods in a network namespace of their own.

    python -m tests.floods [arguments for pytest]

There loopback has all of 198.18.0.0/15 (RFC 2544, for benchmarks): addresses of strangers, for
whom limits hold, and 131,072 of them to forge; and nothing gets out.
"""

from __future__ import annotations

import os
import sys
from typing import Final

SETUP: Final = """
ip link set lo up
ip route add local 198.18.0.0/15 dev lo
exec "$@"
"""


def main() -> None:
    """Become pytest, in the namespace."""
    pytest = [sys.executable, "-m", "pytest", "-s", *(sys.argv[1:] or ["tests/floods"])]
    command = ["unshare", "--map-root-user", "--net", "--", "sh", "-eu", "-c", SETUP, "sh", *pytest]
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
