"""What is pinned may be used, is listed with its licence, and is in the bill of materials."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from packaging.utils import canonicalize_name

from tools import supply

Page: TypeAlias = dict[str, Any]

pytestmark = pytest.mark.compiled  # none of it depends on the kernels


def test_every_pin_is_listed_with_a_licence_that_is_allowed() -> None:
    rows = supply.licence_rows()
    wanted = set(supply.pins()) | {"pip"}  # which sqlite-utils brings and nobody pins
    assert set(rows) == wanted, "write docs/licences.md anew with `nox -s licences`"
    for name, (use, words) in rows.items():
        allowed = supply.RUNTIME_ALLOWED if use == "running" else supply.ALLOWED
        assert supply.licence_parts(words) <= allowed, (name, words)


def test_what_is_installed_says_what_is_listed() -> None:
    rows, found = supply.licence_rows(), supply.installed()
    listed = {name: rows[name][1] for name in found if name in rows}
    assert {name: found[name] for name in listed} == listed
    running = {name for name, (use, _) in rows.items() if use == "running"}
    # typing_extensions and its like come with older Pythons only.
    assert supply.runtime() <= running
    assert {"trio", "hypercorn", "h2", "cffi", "pynacl"} <= supply.runtime()
    assert not {"pytest", "mypy", "nox"} & running


def test_every_pin_is_a_version_and_each_python_has_its_own() -> None:
    assert supply.pins("3.11")["quart"] != supply.pins("3.13")["quart"]
    for python in supply.PYTHONS:
        assert len(supply.pins(python)) > 50


@pytest.mark.parametrize(
    ("metadata", "classifier", "told"),
    [
        ({"License-Expression": "MIT OR Apache-2.0"}, "", "MIT OR Apache-2.0"),
        (
            {"License": "Apache-2.0"},
            "License :: OSI Approved :: Apache Software License",
            "Apache-2.0",
        ),
        ({"License": "The MIT License (MIT)\nCopyright"}, "", "MIT"),
        ({}, "License :: OSI Approved :: MIT License", "MIT"),
        ({}, "License :: OSI Approved :: GNU Affero General Public License v3", None),
        ({"License": "ask my lawyer"}, "", None),
        ({}, "", None),
    ],
)
def test_a_licence_that_is_not_known_is_not_allowed(
    metadata: dict[str, str], classifier: str, told: str | None
) -> None:
    found = supply.licence(metadata, [classifier], "example")
    if told is None:
        assert not supply.licence_parts(found) <= supply.ALLOWED
    else:
        assert found == told


def test_a_page_of_licences_is_whole_or_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, pins = tmp_path / "licences.md", tmp_path / "constraints.txt"
    page.write_text("as it was")
    pins.write_text("trio==0.1\nnobody-has-this==1\n")
    monkeypatch.setattr(supply, "LICENCES", page)
    monkeypatch.setattr(supply, "PINS", pins)
    assert supply.write_licences([sys.executable]) == supply.UNKNOWN
    assert page.read_text() == "as it was"
    assert "NOT INSTALLED anywhere, so its licence is not known: nobody-has-this" in (
        capsys.readouterr().out
    )
    pins.write_text("trio==0.1\n")
    assert supply.write_licences([sys.executable]) == supply.WELL
    assert supply.licence_rows()["trio"][0] == "running"


# ---- The bill of materials ----


def test_the_bill_names_everything_that_runs_and_every_source_compiled() -> None:
    bill = supply.bill(sys.executable)
    assert json.loads(json.dumps(bill)) == bill
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    libraries = {part["name"] for part in bill["components"] if part["type"] == "library"}
    assert libraries == supply.runtime()
    files = {part["name"] for part in bill["components"] if part["type"] == "file"}
    assert files == {
        path.relative_to(supply.ROOT).as_posix()
        for pattern in ("*.h", "*.pyx", "*.pxd", "*.pxi")
        for path in (supply.ROOT / "_speedups").glob(pattern)
    }
    own = bill["metadata"]["component"]["bom-ref"]
    refs = {part["bom-ref"] for part in bill["components"]}
    assert len(refs) == len(bill["components"])
    tree = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
    assert set(tree) == refs | {own}
    assert tree[own] == refs
    trio = next(ref for ref in refs if ref.startswith("pkg:pypi/trio@"))
    assert any(ref.startswith("pkg:pypi/outcome@") for ref in tree[trio])
    again = supply.bill(sys.executable)
    assert again == bill, "two bills of one thing differ"


# ---- The audit ----


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Page]]:
    """An index of packages' pages, for pip and so for the audit; what it has none of is 404."""
    pages: dict[str, Page] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, pypi, name, kind = self.path.split("/")
            assert (pypi, kind) == ("pypi", "json")
            body = json.dumps(pages.get(name)).encode()
            self.send_response(200 if name in pages else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    supply._index.cache_clear()
    yield pages
    supply._index.cache_clear()
    server.shutdown()
    thread.join()
    server.server_close()


def an_auditor(folder: Path, script: str, silent_on: str = "") -> str:
    """Write a stand-in for pip-audit, which answers as the real one does; return its path."""
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "pins = [l.strip().split('==') for l in open(sys.argv[2])]\n"
        "whole = ', '.join(json.dumps({'name': n, 'version': v, 'vulns': []}) for n, v in pins"
        f" if n != {silent_on!r})\n"
        """hole = json.dumps({'id': 'X-1', 'fix_versions': ['2']})\n"""
        f"print({script!r}.replace('ALL', whole).replace('HOLE', hole))\n"
    )
    program.chmod(0o700)
    return str(program)


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ('{"dependencies": [ALL]}', supply.WELL, " 0 known holes"),
        ('{"dependencies": [ALL, {"name": "trio", "version": "1", "vulns": [HOLE]}]}', 1, "X-1"),
        ('{"dependencies": []}', supply.UNKNOWN, "NOT AUDITED"),
        ('{"dependencies": [{"name": "trio", "skip_reason": "no"}]}', supply.UNKNOWN, "trio"),
        ("no route to host", supply.UNKNOWN, "NOT AUDITED"),
    ],
)
def test_an_audit_without_an_answer_is_no_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, code: int, words: str
) -> None:
    assert supply.audit(an_auditor(tmp_path, script)) == code
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("newest", "holes", "code", "words"),
    [
        (None, [], supply.WELL, " 0 known holes"),
        (None, [{"id": "X-2", "fixed_in": ["99"]}], supply.WRONG, "X-2; not in 99"),
        (None, [{"id": "X-2", "fixed_in": [], "withdrawn": "2026-01-01"}], supply.WELL, "0 known"),
        ("99", [], supply.UNKNOWN, "the index speaks of 99 alone"),
    ],
)
def test_the_index_answers_for_its_newest_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], index: dict[str, Page],
    newest: str | None, holes: list[dict[str, object]], code: int, words: str,
) -> None:  # fmt: skip
    """Where pip-audit has no answer, as on an index without pages of each version."""
    pin = supply.pins("3.11")["trio"]
    index["trio"] = {"info": {"version": newest or pin}, "vulnerabilities": holes}
    program = an_auditor(tmp_path, '{"dependencies": [ALL]}', silent_on="trio")
    assert supply.audit(program) == code
    assert words in capsys.readouterr().out


# ---- Builds ----


def a_tar(*members: tuple[str, bytes, int]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, mtime in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def a_zip(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def test_a_difference_between_builds_is_named() -> None:
    first = a_tar(("a", b"1", 5), ("b", b"2", 5))
    assert list(supply.differences(first, first)) == []
    (time,) = supply.differences(first, a_tar(("a", b"1", 5), ("b", b"2", 6)))
    assert time == "b: time 5 and 6"
    (content,) = supply.differences(first, a_tar(("a", b"1", 5), ("b", b"x", 5)))
    assert content.startswith("b: content ")
    assert "b: only in the first" in supply.differences(first, a_tar(("a", b"1", 5)))
    order = supply.differences(first, a_tar(("b", b"2", 5), ("a", b"1", 5)))
    assert list(order) == ["the order of the members"]
    assert len(list(supply.differences(a_zip("a", b"1"), a_zip("a", b"2")))) == 1


def test_names_are_canonical() -> None:
    assert all(name == canonicalize_name(name) for name in supply.licence_rows())
