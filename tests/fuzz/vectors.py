"""Where seeds come from: the shared vectors."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared"


@cache
def cases(name: str) -> list[dict[str, Any]]:
    """Return the cases of one file of vectors."""
    folder = Path(os.environ.get("PKARR_RELAY_SHARED", SHARED)) / "vectors"
    return list(json.loads((folder / f"{name}.json").read_text())["cases"])


def octets(name: str, *fields: str) -> list[bytes]:
    """Return what these fields of all cases hold in hexadecimal digits, where they hold it."""
    return [
        bytes.fromhex(case[field]) for case in cases(name) for field in fields if case.get(field)
    ]
