"""The one door to every check: ``nox`` runs what CI runs, ``nox -s fast`` what fits in a minute.

All sessions of one Python share one environment under ``.nox``, with the relay installed in
place; it is made anew when what it is made from changes. What comes after ``--`` goes to pytest,
the fuzzers or the bench: ``nox -s tests -- tests/unit -k dns``. By name only:

- ``fast``: form, types, units.
- ``iroh``: its programs through relays, also in containers.
- ``debug``: bounds checks, assertions and sanitizers in the extension.
- ``fuzz``: what strangers may send, by libFuzzer.
- ``faults``: of disk, network, clock and names, for minutes.
- ``kills``: of the relay, a thousand, under load.
- ``soak``: an hour of mixed load.
- ``simulate``: ten thousand simulated histories, and worlds of a thousand nodes.
- ``floods``: of connections, datagrams, new keys and look-ups, in a network namespace.
- ``audit``, ``licences``, ``sbom`` and ``rebuild``: what it is made of, see tools/supply.py.
- ``bench`` and ``dashboard``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Callable

nox.options.default_venv_backend = "none"
nox.options.sessions = [
    *("lint", "types", "tests", "tests_pure", "tests_py313", "openapi", "interop", "containers"),
]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
OPENAPI, FUZZ, SUPPLY = "openapi", "fuzz", "supply"
"""Groups that are not for everyday: the first would put a plugin into every run of pytest."""
GROUPS = [name for name in PROJECT["dependency-groups"] if name not in {OPENAPI, FUZZ, SUPPLY}]
REQUIREMENTS = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *nox.project.dependency_groups(PROJECT, *GROUPS),
]
EXTENSION_SOURCES = {".pyx", ".pxd", ".pxi", ".h", ".py"}
APART = [
    f"--ignore=tests/{name}" for name in ("interop", "iroh", "containers", "openapi", "floods")
]
"""They have sessions of their own."""
FAULTS = ("relay_faults", "relay_surroundings", "store_faults", "relay_kill", "store_kill")
"""Tests of faults, in tests/integration; CI runs them all, some for a shorter time."""
VERSION_SPECIFIC = (
    *("asgi", "http_server", "http_page", "http_http2", "http_hostile", "transcripts"),
    *("startup", "lifecycle", "reload", "metrics", "dht_driver", "client", "client_commands"),
    *("store_faults", "upkeep"),
)
"""Tests in tests/integration of what the versions of Python and quart have a part in."""
SECOND_GOES_MAX = 3
NO_SECOND_GO = (
    *("parity", "property", "simulation", "fuzz", "kill", "crash"),
    *("store_faults", "relay_faults", "smuggling", "secrets"),
)
"""Words in the names of tests by chance, or of what may be lost, let in or told to strangers: what
they find once is found. Those that measure time beside other work are not among them, but for
test_relay_faults.py, whose bounds in CI are five times what is promised."""
EVERYTHING = ("--doctest-modules", "relay", "tests", *APART)


class Environment:
    """A virtual environment with the relay, its tools and its tests' needs, of one Python."""

    def __init__(self, session: nox.Session, python: str = sys.executable) -> None:
        version = _output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        self._session = session
        self._folder = ROOT / ".nox" / f"dev-{version}"
        pins = (ROOT / "constraints.txt").read_text()
        self._make("tools", [*REQUIREMENTS, pins], lambda: self._install_tools(python))
        layout = json.dumps([PROJECT["project"], PROJECT["tool"]["setuptools"]])
        paths = [ROOT / "setup.py", *sorted((ROOT / "_speedups").iterdir())]
        code = [path.read_text() for path in paths if path.suffix in EXTENSION_SOURCES]
        self._make("extension", [layout, *code], self._install_relay)

    def run(self, program: str, *arguments: str, **variables: str) -> None:
        """Run a program of the environment, with `variables` besides those of the session."""
        path = f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._session.run(
            str(self._folder / "bin" / program),
            *arguments,
            env={"PATH": path, "VIRTUAL_ENV": str(self._folder), **variables},
            external=True,
        )

    @property
    def python(self) -> str:
        """The path of its Python."""
        return str(self._folder / "bin" / "python")

    def program(self, group: str, name: str) -> str:
        """Return the path of a program of `group`, in an environment of the group's own."""
        folder = self._folder.with_name(f"{group}-{self._folder.name.partition('-')[2]}")
        pins = (ROOT / "constraints.txt").read_text()
        requirements = nox.project.dependency_groups(PROJECT, group)
        stamp = folder / "tools.stamp"
        recipe = "\n".join([*requirements, pins])
        if not stamp.exists() or stamp.read_text() != recipe:
            shutil.rmtree(folder, ignore_errors=True)
            python = str(self._folder / "bin" / "python")
            self._session.run(python, "-m", "venv", str(folder), external=True)
            pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
            self._session.run(*pip, "-c", "constraints.txt", *requirements, external=True)
            stamp.write_text(recipe)
        return str(folder / "bin" / name)

    def install(self, *arguments: str) -> None:
        """Install what only one session needs."""
        self._pip(*arguments)

    def pytest(self, *arguments: str, **variables: str) -> None:
        """Run pytest on `arguments`, or on what the caller of nox asks for instead.

        In CI up to three tests that failed are named and run once more by themselves: one that
        passes then depends on what else the machine does, and needs mending, but stops nobody.
        """
        if self._session.posargs or not os.environ.get("CI"):
            self.run("pytest", *(self._session.posargs or arguments), **variables)
            return
        failures = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
        failures.unlink(missing_ok=True)
        try:
            self.run("pytest", *arguments, **variables)
        except nox.command.CommandFailed:
            failed = json.loads(failures.read_text()) if failures.exists() else {}
            final = [name for name in failed if any(word in name for word in NO_SECOND_GO)]
            if final or not 1 <= len(failed) <= SECOND_GOES_MAX:
                raise
            for name in failed:
                self._session.warn(f"FAILED ONCE, is run again by itself: {name}")
            self.run(
                "pytest", "--last-failed", "--last-failed-no-failures=none", *arguments, **variables
            )

    def _make(self, part: str, recipe: list[str], make: Callable[[], None]) -> None:
        """Call `make` unless it has run for exactly this recipe."""
        digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()
        stamp = self._folder / f"{part}.stamp"
        if not stamp.exists() or stamp.read_text() != digest:
            make()
            stamp.write_text(digest)

    def _install_tools(self, python: str) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._session.run(python, "-m", "venv", str(self._folder), external=True)
        self._pip("-c", "constraints.txt", *REQUIREMENTS)

    def _install_relay(self) -> None:
        self._pip("--no-deps", "--no-build-isolation", "-e", ".")

    def _pip(self, *arguments: str) -> None:
        self.run("python", "-m", "pip", "install", "--quiet", *arguments)


def _output(*command: str, **variables: str) -> str:
    """Return what a command prints; empty if it cannot be run or fails."""
    environment = {**os.environ, **variables}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _find_python(version: str) -> str | None:
    """Return the path of a CPython `version`, on PATH or among those of pyenv."""
    tell_path = ("-c", "import sys; print(sys.executable)")
    found = _output(f"python{version}", *tell_path)
    for installed in _output("pyenv", "versions", "--bare").split():
        if not found and installed.startswith(f"{version}."):
            found = _output(f"python{version}", *tell_path, PYENV_VERSION=installed)
    return found or None


def _tree_as_installed(name: str, speedups: Path = ROOT / "_speedups") -> Path:
    """Return a folder where _speedups lies inside relay, as it does once it is installed.

    mypy knows nothing of setuptools' package-dir, nor does an import from a bare folder.
    """
    tree = ROOT / "build" / name
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "relay").mkdir(parents=True)
    for path in (ROOT / "relay").iterdir():
        (tree / "relay" / path.name).symlink_to(path)
    (tree / "relay" / "_speedups").symlink_to(speedups)
    return tree


@nox.session
def lint(session: nox.Session) -> None:
    """Check form: ruff, cython-lint, and the house's own rules, such as who may import whom."""
    environment = Environment(session)
    environment.run("ruff", "check", ".")
    environment.run("ruff", "format", "--check", ".")
    environment.run("cython-lint", "_speedups")
    environment.run("pytest", "--quiet", "tests/test_house.py")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy on the package and the benches, stubtest on the compiled part."""
    environment = Environment(session)
    tree = _tree_as_installed("types")
    for name in ("bench", "tests"):  # the benches use what the tests are supported by
        (tree / name).symlink_to(ROOT / name)
    settings = str(ROOT / "pyproject.toml")
    with session.chdir(tree):
        environment.run("mypy", "--config-file", settings)
        environment.run("mypy", "--config-file", settings, "--package", "bench")
        environment.run("stubtest", "--mypy-config-file", settings, "relay._speedups")


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test but those against real peers, with the compiled kernels."""
    Environment(session).pytest(*EVERYTHING)


@nox.session
def tests_pure(session: nox.Session) -> None:
    """Run the tests again with the pure-Python kernels, without those that take long."""
    Environment(session).pytest(
        *EVERYTHING,
        "--ignore=tests/parity",  # compares the two kinds of kernels; has run
        "-m",
        "not slow and not compiled",
        RELAY_PURE_PYTHON="1",
    )


@nox.session
def tests_py313(session: nox.Session) -> None:
    """Run the tests of logic and HTTP on Python 3.13, with the pair of quart made for it."""
    python = _find_python("3.13")
    if python is None:
        session.warn("NOT TESTED: Python 3.13 with quart 0.23 and quart-trio 0.13; there is no")
        session.warn("NOT TESTED: python3.13 on PATH or in pyenv.")
        session.skip("no Python 3.13")
    http = [f"tests/integration/test_{name}.py" for name in VERSION_SPECIFIC]
    Environment(session, python).pytest("tests/unit", "tests/parity", *http, "-m", "not slow")


@nox.session
def openapi(session: nox.Session) -> None:
    """Let schemathesis hold a running relay to the OpenAPI document that it serves."""
    environment = Environment(session)
    environment.pytest("tests/openapi", SCHEMATHESIS=environment.program(OPENAPI, "schemathesis"))


@nox.session
def interop(session: nox.Session) -> None:
    """Run the tests against real peers, which are built first where they are missing."""
    environment = Environment(session)
    session.run("tools/build-peers", env={"PYTHON": sys.executable}, external=True)
    environment.pytest("tests/interop")


@nox.session
def iroh(session: nox.Session) -> None:
    """Run iroh programs through relays, on loopback and in containers; needs Docker."""
    environment = Environment(session)
    session.run("tools/build-peers", env={"PYTHON": sys.executable}, external=True)
    environment.pytest("tests/iroh")


@nox.session
def containers(session: nox.Session) -> None:
    """Build the image and run what is promised of it; where Docker is, it has to succeed."""
    if not _output("docker", "info"):
        session.warn("NOT TESTED: image, docker-compose.yml, quick start, examples; there is no")
        session.warn("NOT TESTED: Docker daemon that answers.")
        session.skip("no Docker")
    environment = Environment(session)
    session.run("tools/build-peers", env={"PYTHON": sys.executable}, external=True)
    session.run(".ci/containers", "images", external=True)
    environment.pytest("tests/containers")


@nox.session
def fast(session: nox.Session) -> None:
    """Check form, types and units."""
    lint(session)
    types(session)
    Environment(session).pytest("tests/unit", "-m", "not slow")


@nox.session
def debug(session: nox.Session) -> None:
    """Run the tests of logic with bounds checks, assertions and sanitizers in the extension."""
    environment = Environment(session)
    tree = _tree_as_installed("debug", Path("..", "_speedups"))
    shutil.copytree(ROOT / "_speedups", tree / "_speedups", ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "config.toml", "noxfile.py"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("bench", "docs"):  # some tests look at these
        (tree / name).symlink_to(ROOT / name)
    shared = Path(os.environ.get("PKARR_RELAY_SHARED", ROOT.parent / "shared"))
    (tree.parent / "shared").unlink(missing_ok=True)
    (tree.parent / "shared").symlink_to(shared.resolve())  # beside the tree, as beside the project
    sanitizers = [_output("gcc", f"-print-file-name=lib{name}.so") for name in ("asan", "ubsan")]
    with session.chdir(tree):
        environment.run(
            "python", "setup.py", "--quiet", "build_ext", "--inplace", PKARR_RELAY_DEBUG="1"
        )
        environment.pytest(
            *("tests/parity", "tests/property", "tests/unit", "-m", "not slow"),
            LD_PRELOAD=" ".join(sanitizers),
            ASAN_OPTIONS="detect_leaks=0",  # CPython keeps what it interns
        )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run fuzzers, all or those named, 900 seconds each or as many as said; needs clang."""
    environment = Environment(session)
    environment.install("-c", "constraints.txt", *PROJECT["dependency-groups"][FUZZ])
    environment.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def floods(session: nox.Session) -> None:
    """Flood relays and print what came of it, in a network namespace with addresses to forge.

    Takes some 10,100 descriptors, for connections that do nothing.
    """
    Environment(session).run("python", "-m", "tests.floods", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; bench/README.md says what."""
    Environment(session).run("python", "-m", "bench", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Live through 10,000 simulated histories and large worlds; `-- --seed 17` repeats one."""
    Environment(session).run("python", "-m", "tests.simulation", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Let a real relay meet faults for as long as they last in the world; prints what it took."""
    Environment(session).run(
        "pytest",
        "-rP",
        *(f"tests/integration/test_{name}.py" for name in FAULTS),
        *session.posargs,
        PKARR_TEST_MINUTES="1",
    )


@nox.session
def kills(session: nox.Session) -> None:
    """Kill the relay a thousand times under mixed load; nothing acknowledged may be lost."""
    Environment(session).run("python", "-m", "tests.support.kills", *session.posargs)


@nox.session
def dashboard(session: nox.Session) -> None:
    """Ask a real Prometheus all that the Grafana dashboard asks; draw what comes back."""
    Environment(session).run("python", "-m", "bench.dashboard", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Put a relay under an hour of mixed load, in a network that changes; judge what grows."""
    environment = Environment(session)
    session.run("tools/build-peers", env={"PYTHON": sys.executable}, external=True)
    environment.run("python", "-m", "bench.soak", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Ask whether any pinned version is known to have a hole; no answer is no pass."""
    environment = Environment(session)
    environment.run("python", "tools/supply.py", "audit", environment.program(SUPPLY, "pip-audit"))


@nox.session
def licences(session: nox.Session) -> None:
    """Write docs/licences.md from what all environments, that of nox too, have installed."""
    environment = Environment(session)
    pythons = [environment.program(group, "python") for group in (OPENAPI, SUPPLY, FUZZ)]
    pythons.append(sys.executable)  # nox is pinned, too, and is installed nowhere else
    environment.run("python", "tools/supply.py", "licences", environment.python, *pythons)


@nox.session
def sbom(session: nox.Session) -> None:
    """Write artifacts/pkarr-relay.cdx.json, the bill of materials; hold it to its schema."""
    environment = Environment(session)
    file = str(ROOT / "artifacts" / "pkarr-relay.cdx.json")
    environment.run("python", "tools/supply.py", "sbom", environment.python, file)
    validator = environment.program(SUPPLY, "python")
    session.run(validator, "tools/supply.py", "validate", file, external=True)


@nox.session
def rebuild(session: nox.Session) -> None:
    """Build sdist and wheel twice and compare; ``-- images`` does so with the image."""
    commands = session.posargs or ["rebuild"]
    for command in commands:
        Environment(session).run("python", "tools/supply.py", command)
