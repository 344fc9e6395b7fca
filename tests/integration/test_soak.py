"""The soak in its shortest form: all of its processes, no verdict on slopes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.soak.__main__ import main
from bench.soak.judge import RULES


@pytest.mark.slow
@pytest.mark.compiled  # the hour is the compiled kernels'; what it does is tested with both
def test_a_short_soak_finds_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--capacity", "2000", "--nodes", "12", "--life", "60", "--no-peers"]
    code = main(["--minutes", "0.25", "--rate", "0.1", *size, "--folder", str(tmp_path)])
    told = capsys.readouterr().out
    (kept,) = tmp_path.glob("soak-*.json")
    run = json.loads(kept.read_text())
    details = [detail for window in run["windows"] for detail in window["details"]]
    assert code == 0, "\n".join([told, *details, *run["log"]])
    assert all(name in sample for name in RULES for sample in run["samples"])
    assert run["facts"]["reloads"] >= 2
    assert kept.with_suffix(".svg").exists()
    assert kept.with_suffix(".md").read_text().count("\n") > 20
