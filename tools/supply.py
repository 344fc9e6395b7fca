"""What the relay is made of: known holes, licences, bill of materials, builds to be compared.

    tools/supply.py audit PIP_AUDIT      is a version of constraints.txt known to have a hole?
    tools/supply.py licences PYTHON...   write docs/licences.md from what is installed there
    tools/supply.py sbom PYTHON FILE     write a CycloneDX 1.6 document of the wheel
    tools/supply.py rebuild              build sdist and wheel twice, elsewhere and later; compare
    tools/supply.py images               the same with the container image; needs Docker

`nox -s audit`, `licences`, `sbom` and `rebuild` call it. Exit code 0: all is well; 1: it is not; 2:
nothing can be said, for instance because the service cannot be reached.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import packaging
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
PINS: Final = ROOT / "constraints.txt"
LICENCES: Final = ROOT / "docs" / "licences.md"
PYTHONS: Final = ("3.11", "3.13")
"""The pins differ between these."""
WELL, WRONG, UNKNOWN = 0, 1, 2
INDEX_S: Final = 20.0

ALLOWED: Final = frozenset(
    {
        *("MIT", "MIT-0", "0BSD", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0"),
        *("Unlicense", "public domain", "MPL-2.0"),
    }
)
"""Nothing here asks more of who runs or changes the relay than to keep notices. MPL-2.0 asks for
changes of its own files, and only tools have it."""
RUNTIME_ALLOWED: Final = ALLOWED - {"MPL-2.0"}
SPOKEN: Final = {
    "apache software license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc license (iscl)": "ISC",
    "the unlicense (unlicense)": "Unlicense",
    "public domain": "public domain",
    "bsd 2-clause license": "BSD-2-Clause",
}
"""What packages without an SPDX expression say, in lower case."""
READ: Final = {
    "atheris": "Apache-2.0",
    "itsdangerous": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
}
"""Packages that say nothing, or only "BSD License"; this is what the text that they bring is."""


def pins(python: str | None = None) -> dict[str, str]:
    """Return name -> version of constraints.txt, for one Python or for all of them."""
    found = {}
    for line in PINS.read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            environment: Any = {**default_environment(), "python_version": python}
            if python and requirement.marker and not requirement.marker.evaluate(environment):
                continue
            (specifier,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


# ---- Known holes ----


def audit(program: str) -> int:
    """Ask pip-audit about every pin, for each Python; a pin that it cannot judge is no pass."""
    results = {_audit(program, python) for python in PYTHONS}
    return WRONG if WRONG in results else max(results)


def _audit(program: str, python: str) -> int:
    wanted = pins(python)
    found = _ask(program, wanted)
    if isinstance(found, str):
        _say(f"NOT AUDITED, Python {python}: {found}")
        return UNKNOWN
    told = {canonicalize_name(one["name"]): one for one in found if "skip_reason" not in one}
    unknown = vulnerable = 0
    for name, version in wanted.items():
        one = told.get(name) or _ask_index(name, version)
        if "skip_reason" in one:
            _say(f"NOT AUDITED, Python {python}: {name} {version}: {one['skip_reason']}")
            unknown += 1
        for hole in one.get("vulns", []):
            fixed = ", ".join(hole["fix_versions"]) or "no version"
            _say(f"VULNERABLE, Python {python}: {name} {version}: {hole['id']}; not in {fixed}")
            vulnerable += 1
    _say(f"Python {python}: {len(wanted) - unknown} of {len(wanted)} packages audited, "
         f"{vulnerable} known holes")  # fmt: skip
    return WRONG if vulnerable else UNKNOWN if unknown else WELL


def _ask(program: str, wanted: Mapping[str, str]) -> list[dict[str, Any]] | str:
    """Return what pip-audit says of each package, or why it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pins.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()))
        options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
        done = subprocess.run(
            [program, "--requirement", str(path), *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        return (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


def _ask_index(name: str, version: str) -> dict[str, Any]:
    """Ask pip's index, for one that has no page of each version as pip-audit asks for.

    Every index with a page of the package names the holes of its newest version there: an answer
    for a pin of that version, and none for any other.
    """
    try:
        with urllib.request.urlopen(f"{_index()}/{name}/json", timeout=INDEX_S) as answer:  # noqa: S310
            page = json.load(answer)
        newest, holes = page["info"]["version"], page["vulnerabilities"]
    except (OSError, ValueError, KeyError) as error:
        return {"skip_reason": f"neither pip-audit nor the index says anything: {error!r}"}
    if newest != version:
        return {"skip_reason": f"pip-audit says nothing, the index speaks of {newest} alone"}
    known = [hole for hole in holes if not hole.get("withdrawn")]
    return {"vulns": [{"id": hole["id"], "fix_versions": hole["fixed_in"]} for hole in known]}


@cache
def _index() -> str:
    """Return the address of the packages' pages on the index that pip is set to."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    simple = os.environ.get("PIP_INDEX_URL") or asked.stdout.strip()
    if not simple:
        from pip._internal.models.index import PyPI

        return str(PyPI.pypi_url)
    return f"{simple.rstrip('/').removesuffix('/simple')}/pypi"


# ---- Licences ----


def licence(metadata: Mapping[str, Any], classifiers: Iterable[str], name: str) -> str:
    """Return what a package says of its licence, as an SPDX expression where it can be told."""
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    if canonicalize_name(name) in READ:
        return READ[canonicalize_name(name)]
    said = str(metadata.get("License") or "").strip().splitlines()
    first = said[0].strip() if said else ""
    if licence_parts(first) and licence_parts(first) <= ALLOWED:
        return first
    if first.lower() in SPOKEN:
        return SPOKEN[first.lower()]
    known = [c.split(" :: ")[-1].lower() for c in classifiers if c.startswith("License :: ")]
    return " OR ".join(sorted({SPOKEN.get(words, words) for words in known})) or "unknown"


def licence_parts(expression: str) -> set[str]:
    """Return the licences that an expression names."""
    return {part.strip("() ") for part in re.split(r" (?:OR|AND|WITH) ", expression)} - {""}


def installed() -> dict[str, str]:
    """Return name -> licence of what this Python has installed, without the relay itself."""
    found = {}
    for one in importlib.metadata.distributions():
        metadata = one.metadata
        classifiers = metadata.get_all("Classifier") or []
        values = {
            key: metadata[key] for key in ("License-Expression", "License") if key in metadata
        }
        found[canonicalize_name(metadata["Name"])] = licence(values, classifiers, metadata["Name"])
    return {name: words for name, words in sorted(found.items()) if name != "pkarr-relay"}


def closure(roots: Iterable[str]) -> set[str]:
    """Return the names that `roots` need, by the metadata of what is installed here."""
    left, found = [Requirement(root) for root in roots], set[str]()
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if one.marker and not any(
            one.marker.evaluate({"extra": extra}) for extra in (one.extras or {""})
        ):
            continue
        key = f"{name}[{','.join(sorted(one.extras))}]"
        if key in found:
            continue
        found.add(key)
        for line in importlib.metadata.requires(one.name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in (*one.extras, "")
            ):
                needed.marker = None
                left.append(needed)
    return {key.partition("[")[0] for key in found}


def runtime() -> set[str]:
    """Return the names of what an installation of the relay brings, in this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return closure(project["project"]["dependencies"])


def licence_rows() -> dict[str, tuple[str, str]]:
    """Return name -> (use, licence) of docs/licences.md."""
    rows = {}
    for line in LICENCES.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| Package", "| ---")):
            name, use, words = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = use, words
    return rows


def write_licences(pythons: Iterable[str]) -> int:
    """Write the table from what each of `pythons` has installed; the first has what runs.

    Where a package is installed in none of them, the page stays as it is.
    """
    merged: dict[str, str] = {}
    run: set[str] = set()
    for number, python in enumerate(pythons):
        found = json.loads(_call(python, "list"))
        merged = {**found["licences"], **merged}
        run = set(found["runtime"]) if number == 0 else run
    wanted = set(pins()) | run  # sqlite-utils brings pip, which nobody pins
    missing = wanted - set(merged)
    for name in sorted(missing):
        _say(f"NOT INSTALLED anywhere, so its licence is not known: {name}")
    if missing:
        return UNKNOWN
    lines = [
        "# Licences",
        "",
        "Of every package in `constraints.txt`, by what the packages say of themselves.",
        "`nox -s licences` writes this page; `tests/unit/test_supply.py` holds it to the pins, to",
        "what is installed, and to the licences that are allowed (`tools/supply.py`). The relay's",
        "own is MIT; the C compiled into it is its own, or made by Cython from its own.",
        "",
        "| Package | For | Licence |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {'running' if name in run else 'work'} | {merged[name]} |"
        for name in sorted(wanted)
    ]
    LICENCES.write_text("\n".join(lines) + "\n")
    bad = [row for row in licence_rows().items() if not licence_parts(row[1][1]) <= ALLOWED]
    for name, (_, words) in bad:
        _say(f"NOT ALLOWED: {name}: {words}")
    return WRONG if bad else WELL


# ---- Bill of materials ----


def bill(python: str) -> dict[str, Any]:
    """Return the CycloneDX document of the wheel as `python` would run it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = json.loads(_call(python, "list"))
    name, version = project["name"], project["version"]
    own = f"pkg:pypi/{name}@{version}"
    parts = [_library(one, found) for one in found["runtime"]]
    sources = [_source(path) for path in compiled_sources()]
    tree = [{"ref": own, "dependsOn": sorted(part["bom-ref"] for part in [*parts, *sources])}]
    refs = {part["name"]: part["bom-ref"] for part in parts}
    for part in parts:
        needs = sorted(refs[n] for n in found["needs"][part["name"]] if n in refs)
        tree.append({"ref": part["bom-ref"], "dependsOn": needs})
    tree += [{"ref": source["bom-ref"], "dependsOn": []} for source in sources]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + _digest_of_tree())}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(commit_time(), UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": name,
                "version": version,
                "purl": own,
                "description": project["description"],
                "licenses": [{"license": {"id": project["license"]}}],
            },
            "properties": [
                {"name": "python", "value": found["python"]},
                {"name": "sqlite", "value": found["sqlite"]},
                {"name": "cython", "value": pins()["cython"]},
            ],
        },
        "components": [*parts, *sources],
        "dependencies": tree,
    }


def _library(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    version = found["versions"][name]
    ref = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": version,
        "purl": ref,
        "scope": "required",
        "licenses": _licences(found["licences"][name]),
    }


def _licences(words: str) -> list[dict[str, Any]]:
    if words == "public domain":  # no SPDX licence is meant by it
        return [{"license": {"name": words}}]
    if licence_parts(words) == {words}:
        return [{"license": {"id": words}}]
    return [{"expression": words}]


def compiled_sources() -> list[Path]:
    """Return what the extension is compiled from."""
    kinds = {".h", ".pyx", ".pxd", ".pxi"}
    return sorted(path for path in (ROOT / "_speedups").iterdir() if path.suffix in kinds)


def _source(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(ROOT).as_posix()
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"id": "MIT"}}],
    }


def _digest_of_tree() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in compiled_sources())).hexdigest()


def validate(file: Path) -> int:
    """Hold a document to the schema of CycloneDX; runs where pip-audit and jsonschema are."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    trouble = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text())
    _say(f"{file.name}: {f'INVALID: {trouble}' if trouble else 'valid CycloneDX 1.6'}")
    return WRONG if trouble else WELL


# ---- Builds ----


def commit_time() -> int:
    """Return when the newest commit was made, seconds since 1970; 0 without a repository."""
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return int(done.stdout or 0)


def export(folder: Path) -> None:
    """Copy what is committed, or about to be, into `folder`; the copies are as old as that."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, names)):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
            shutil.copymode(ROOT / name, target)


def build(snapshot: Path, folder: Path, python: str) -> tuple[Path, Path]:
    """Build an sdist and a wheel from a copy in `folder`; return their paths."""
    source, out = folder / "source", folder / "out"
    shutil.copytree(snapshot, source, copy_function=shutil.copy)  # new times for all files
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(commit_time())}
    for kind in ("sdist", "wheel"):
        script = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
        done = subprocess.run(
            [python, "-c", script, str(out)],
            cwd=source, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def rebuild(python: str) -> int:
    """Build twice, in folders of different names and lengths, at different times; compare."""
    with (
        tempfile.TemporaryDirectory(prefix="a") as one,
        tempfile.TemporaryDirectory(prefix="another-folder-") as other,
    ):
        snapshot = Path(one) / "snapshot"
        export(snapshot)
        first = build(snapshot, Path(one), python)
        time.sleep(2)  # a time stamp of whole seconds, or of two as in ZIP, must show
        second = build(snapshot, Path(other) / "deeper", python)
        result = WELL
        for a, b in zip(first, second, strict=True):
            same = a.read_bytes() == b.read_bytes()
            digest = hashlib.sha256(a.read_bytes()).hexdigest()
            _say(f"{a.name}: {'the same, byte for byte' if same else 'DIFFERS'}; sha256 {digest}")
            for difference in differences(a.read_bytes(), b.read_bytes()):
                _say(f"  {difference}")
            result = result if same else WRONG
    return result


def differences(a: bytes, b: bytes) -> Iterator[str]:
    """Tell in which members two archives differ, and how."""
    if a == b:
        return
    left, right = members(a), members(b)
    for name in sorted(set(left) | set(right)):
        if name not in left or name not in right:
            yield f"{name}: only in the {'second' if name not in left else 'first'}"
        elif left[name] != right[name]:
            what = [
                f"{field} {x!r} and {y!r}"
                for field, x, y in zip(
                    ("time", "mode", "owner", "content"), left[name], right[name], strict=True
                )
                if x != y
            ]
            yield f"{name}: {', '.join(what)}"
    if list(left) != list(right):
        yield "the order of the members"
    elif left == right:
        yield "the packing only: all members are the same"


def members(archive: bytes) -> dict[str, tuple[object, object, object, str]]:
    """Return name -> (time, mode, owner, digest of the content) of a tar or a zip."""
    found: dict[str, tuple[object, object, object, str]] = {}
    if archive[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            for info in packed.infolist():
                digest = hashlib.sha256(packed.read(info)).hexdigest()
                mode = oct(info.external_attr >> 16)
                found[info.filename] = info.date_time, mode, "", digest
        return found
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            digest = hashlib.sha256(file.read() if file else member.linkname.encode()).hexdigest()
            owner = member.uid, member.gid, member.uname
            found[member.name] = int(member.mtime), oct(member.mode), owner, digest
    return found


def images() -> int:
    """Build the image twice without any cache; compare what is in it, times aside."""
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder))  # once: somebody may be at work meanwhile
        first, second = (_image_files(f"pkarr-relay-rebuild:{number}", folder) for number in (0, 1))
    unlike = sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )
    _say(f"{len(first):,} files, {len(unlike)} differ in mode, owner or content")
    unexpected = [name for name in unlike if not re.fullmatch(IMAGE_MAY_DIFFER, name)]
    for name in unlike:
        _say(f"  {name}{'  UNEXPECTED' if name in unexpected else ''}")
    return WRONG if unexpected else WELL


def _image_files(tag: str, folder: str) -> dict[str, tuple[object, ...]]:
    """Build the image in `folder`; return name -> (mode, owner, digest of the content)."""
    arguments = [
        f"--build-arg={name}={os.environ[name]}"
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
        if name in os.environ
    ]
    command = ["docker", "build", "-q", "--no-cache", "-t", tag, *arguments, folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    container = subprocess.run(
        ["docker", "create", tag], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        tree = subprocess.run(
            ["docker", "export", container], check=True, capture_output=True
        ).stdout
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)
        subprocess.run(["docker", "rmi", tag], check=True, capture_output=True)
    return {name: values[1:] for name, values in members(tree).items()}


IMAGE_MAY_DIFFER: Final = (
    r"var/log/.*|var/cache/ldconfig/aux-cache|etc/(hostname|hosts|resolv\.conf)"
)
"""Logs with the time in them; a cache by inode numbers; what Docker writes at every start."""


# ---- The command ----


def describe() -> dict[str, Any]:
    """Return what this Python has installed, for another one that asks."""
    import sqlite3

    names = runtime() if _has("trio") else set()
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "licences": installed(),
        "runtime": sorted(names),
        "versions": versions,
        "needs": {name: sorted(closure([name]) - {name}) for name in names},
    }


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _call(python: str, *arguments: str) -> str:
    """Run this file with another Python, which is lent our `packaging`: it may have none."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(packaging.__file__).parent, Path(folder) / "packaging")
        done = subprocess.run(
            [python, str(Path(__file__)), *arguments],
            env={**os.environ, "PYTHONPATH": folder}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def _say(words: str) -> None:
    sys.stdout.write(words + "\n")


def main() -> int:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("audit").add_argument("program")
    commands.add_parser("licences").add_argument("pythons", nargs="+")
    sbom = commands.add_parser("sbom")
    sbom.add_argument("python")
    sbom.add_argument("file", type=Path)
    commands.add_parser("validate").add_argument("file", type=Path)
    commands.add_parser("rebuild")
    commands.add_parser("images")
    commands.add_parser("list")
    options = parser.parse_args()
    match options.command:
        case "audit":
            return audit(options.program)
        case "licences":
            return write_licences(options.pythons)
        case "sbom":
            options.file.parent.mkdir(parents=True, exist_ok=True)
            options.file.write_text(json.dumps(bill(options.python), indent=2) + "\n")
            return WELL
        case "validate":
            return validate(options.file)
        case "rebuild":
            return rebuild(sys.executable)
        case "images":
            return images()
        case _:
            _say(json.dumps(describe()))
            return WELL


if __name__ == "__main__":
    sys.exit(main())
