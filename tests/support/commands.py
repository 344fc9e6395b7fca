"""The client commands of ``pkarr-relay``, run as a user would: a process each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

from tests.support.peers import ROOT

COMMAND_S: Final = 60.0
"""Far above what any of them takes, so that a hung one fails."""


def command(
    *arguments: object, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``pkarr-relay`` with `arguments` and return what it said and its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "relay", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        timeout=COMMAND_S,
        check=False,
    )


def answer(*arguments: object, stdin: bytes = b"") -> dict[str, Any]:
    """Run one that has to succeed, with ``--json``, and return the object that it prints."""
    done = command(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return cast("dict[str, Any]", json.loads(done.stdout))
