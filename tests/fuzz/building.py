"""Makes what libFuzzer drives: an instrumented tree of the relay, and programs of C targets.

All of it is in ``build/fuzz``, made anew when a source changes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from tests.fuzz import corpus

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
TREE = BUILD / "tree"
SPEEDUPS = ROOT / "_speedups"
SOURCES = {".pyx", ".pxd", ".pxi", ".h"}
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-function")


def kernels() -> None:
    """Compile the extension for libFuzzer, with sanitizers, into a tree of its own."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "kernels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others may be about to fuzz, too
        _make_tree()


def _make_tree() -> None:
    sources = [path for path in sorted(SPEEDUPS.iterdir()) if path.suffix in SOURCES]
    recipe = sha256(b"\0".join(path.read_bytes() for path in [*sources, ROOT / "setup.py"]))
    stamp = BUILD / "kernels.stamp"
    if not stamp.exists() or stamp.read_text() != recipe.hexdigest():
        shutil.rmtree(TREE, ignore_errors=True)
        (TREE / "_speedups").mkdir(parents=True)
        for source in [*sources, SPEEDUPS / "__init__.py"]:
            shutil.copy(source, TREE / "_speedups")
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, TREE)
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=TREE,
            env={
                **os.environ,
                "CC": "clang",
                "LDSHARED": "clang -shared",
                "PKARR_RELAY_DEBUG": "fuzz",
            },
            check=True,
        )
        stamp.write_text(recipe.hexdigest())
    links = {f"relay/{path.name}": path for path in (ROOT / "relay").iterdir()}
    links |= {"relay/_speedups": Path("..", "_speedups")}
    links |= {name: ROOT / name for name in ("tests", "config.toml")}
    (TREE / "relay").mkdir(exist_ok=True)
    for name, destination in links.items():
        if not (TREE / name).is_symlink():
            (TREE / name).symlink_to(destination)


def python_target(name: str, *, pure: bool) -> Path:
    """Return a program that runs a Python target under libFuzzer.

    A file that can be run by itself, for libFuzzer calls itself again to minimise a corpus.
    """
    kernels()
    atheris = find_spec("atheris")
    if atheris is None or atheris.origin is None:
        raise SystemExit("atheris is not installed; `nox -s fuzz` installs it")
    preload = Path(atheris.origin).parents[1] / "asan_with_fuzzer.so"
    variables = {
        "LD_PRELOAD": str(preload),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16",  # CPython keeps what it interns
        "PYTHONMALLOC": "malloc",  # each object in memory of its own, for ASan to watch
        "RELAY_PURE_PYTHON": "1" if pure else "0",
    }
    program = BUILD / "bin" / f"{name}-pure" if pure else BUILD / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        "#!/bin/sh\n"
        f"cd {quote(str(TREE))} || exit 1\n"
        f"exec env {' '.join(f'{key}={quote(value)}' for key, value in variables.items())} "
        f'{quote(sys.executable)} -m tests.fuzz.engine {quote(name)} "$0" "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def native_target(name: str, folder: Path = BUILD / "bin", *, replay: bool = False) -> Path:
    """Compile a C target and return its program.

    Args:
        name: of the C file.
        folder: where the program is put.
        replay: whether with a `main` that runs the files it is given, by any compiler, instead
            of libFuzzer, which is clang's.
    """
    source = corpus.FOLDER / "native" / f"{name}.c"
    program = folder / name
    engine = ["-fsanitize=fuzzer"]
    if replay:
        engine = [str(corpus.FOLDER / "native" / "replay.c")]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            os.environ.get("CC", "cc") if replay else "clang",
            # A few hundred inputs take less than the optimiser.
            *("-O0" if replay else "-O1", "-g", "-UNDEBUG", "-pthread"),
            *("-D_GNU_SOURCE", '-DPT_LAYOUT="fuzz"'),
            *(*WARNINGS, *SANITIZERS, f"-I{SPEEDUPS}"),
            *(str(source), *engine, "-o", str(program), "-lm"),
        ],
        check=True,
    )
    return program
