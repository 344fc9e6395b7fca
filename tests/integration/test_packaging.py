"""What leaves the house: the sdist compiles, the wheel installs, the command works."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest

from relay import __version__

ROOT = Path(__file__).parents[2]
EPOCH = 1_767_225_600
"""Seconds since 1970: how old all that is built says it is."""
EXTENSIONS = sorted(path.stem for path in (ROOT / "_speedups").glob("*.pyx"))

pytestmark = [pytest.mark.slow, pytest.mark.compiled]


def run(*command: object, cwd: Path) -> str:
    """Run a command with no settings of the test's own; return what it prints."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RELAY_", "PKARR_", "PYTHONPATH"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of what is committed or about to be."""
    folder = tmp_path_factory.mktemp("sdist")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.split(b"\0")  # fmt: skip
    source = folder / "source"
    for name in filter(None, map(os.fsdecode, names)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, folder, cwd=source)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a wheel from the sdist and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment of its own; return its bin folder."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    binaries = folder / "bin"
    pip = (binaries / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return binaries


def test_sdist_has_what_it_takes(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    expected = {"config.toml", "CHANGELOG.md", "LICENSE", "README.md", "constraints.txt"}
    expected |= {"noxfile.py", "setup.py", "relay/py.typed", "relay/store/schema.sql"}
    expected |= {"tests/conftest.py", "docs/architecture.md", "tools/build-peers"}
    expected |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "_speedups").iterdir()
        if path.suffix in {".pyx", ".pxd", ".pxi", ".pyi", ".h", ".py"}
    }
    assert expected - names == set()
    made = [name for name in names if name.endswith((".c", ".so", ".pyc"))]
    assert [name for name in made if not name.startswith("tests/fuzz/native/")] == []


def test_nothing_built_tells_who_built_it_and_when(sdist: Path, wheel: Path) -> None:
    """`nox -s rebuild` compares two builds byte for byte."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(EPOCH, 0, "root")}
    assert {member.mode for member in members} == {0o644, 0o755}
    assert [member.name for member in members] == sorted(
        (member.name for member in members), key=lambda name: name.split("/")
    )
    assert int.from_bytes(sdist.read_bytes()[4:8], "little") == EPOCH
    packed = zipfile.ZipFile(wheel)
    assert {info.date_time for info in packed.infolist()} == {(2026, 1, 1, 0, 0, 0)}
    compiled = [packed.read(name) for name in packed.namelist() if name.endswith(".so")]
    folder = os.fsencode(tempfile.gettempdir()) + b"/"  # pip compiles somewhere in it
    assert [code for code in compiled if folder in code] == []


def test_wheel_has_code_types_and_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    expected = {"relay/py.typed", "relay/cli.py", "relay/store/schema.sql"}
    expected |= {f"relay/_speedups/{name}.pyi" for name in EXTENSIONS}
    expected |= {
        path.relative_to(ROOT).as_posix()
        for folder in ("relay/http", "relay/store")
        for path in (ROOT / folder).iterdir()
        if path.suffix in {".html", ".css", ".js", ".json", ".sql"}
    }
    assert expected - set(names) == set()
    for name in EXTENSIONS:
        assert [n for n in names if n.startswith(f"relay/_speedups/{name}.") and n.endswith(".so")]
    assert {name.split("/")[0] for name in names} == {
        "relay",
        f"pkarr_relay-{__version__}.dist-info",
    }


def test_command_and_module_of_an_installation(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "pkarr-relay", "--version", cwd=tmp_path) == (
        f"pkarr-relay {__version__}\n"
    )
    assert run(installed / "python", "-m", "relay", "--version", cwd=tmp_path) == (
        f"pkarr-relay {__version__}\n"
    )
    said = run(installed / "pkarr-relay", "check-config", ROOT / "config.toml", cwd=tmp_path)
    assert said == f"{ROOT / 'config.toml'}: OK\n"


def test_an_installation_has_the_compiled_kernels(installed: Path, tmp_path: Path) -> None:
    script = "from relay import _kernels; print(_kernels.IMPLEMENTATION)"
    assert run(installed / "python", "-c", script, cwd=tmp_path) == "compiled\n"


def test_an_installation_has_what_the_page_needs(installed: Path, tmp_path: Path) -> None:
    script = "import relay.http.pages, relay.server, relay.asgi, relay.client"
    assert run(installed / "python", "-W", "error", "-c", script, cwd=tmp_path) == ""
