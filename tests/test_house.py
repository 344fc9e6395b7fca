"""The house's own rules: who imports whom, what is documented, what must not be committed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest

from relay import __version__, _kernels, cli, logs
from relay._config_table import ConfigTable
from relay.config import CacheConfig, Config, HttpConfig, MainlineConfig, load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONFIG = ROOT / "config.toml"
LINES_MAX = 600
"""A longer module is more than one concern."""


def committed_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = (ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


def test_rooms_import_only_what_they_may(tmp_path: Path) -> None:
    """The contracts of pyproject.toml, with the extension's stubs in its place."""
    shutil.copytree(ROOT / "relay", tmp_path / "relay")
    (tmp_path / "relay" / "_speedups").mkdir()
    shutil.copy(ROOT / "_speedups" / "__init__.py", tmp_path / "relay" / "_speedups")
    for stub in (ROOT / "_speedups").glob("*.pyi"):
        shutil.copy(stub, tmp_path / "relay" / "_speedups" / f"{stub.stem}.py")
    run_linter = "from importlinter.cli import lint_imports_command as run; run()"
    settings = str(ROOT / "pyproject.toml")
    done = subprocess.run(
        [sys.executable, "-c", run_linter, "--no-cache", "--config", settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert " kept, 0 broken." in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_the_kernels_are_those_that_were_asked_for() -> None:
    """The compiled ones, unless the environment says otherwise."""
    pure = os.environ.get("RELAY_PURE_PYTHON") == "1"
    chosen: str = _kernels.IMPLEMENTATION
    assert chosen == ("pure" if pure else "compiled")
    home = "relay._pure." if pure else "relay._speedups."
    for kernel in (_kernels.decode, _kernels.distance, _kernels.verify):
        assert kernel.__module__.startswith(home)


@pytest.fixture
def known_keys(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Every (table, key) that the loader asks for, in both dialects of the rate limiter."""
    asked: set[tuple[str, str]] = set()
    has = ConfigTable.has

    def noting(table: ConfigTable, key: str) -> bool:
        asked.add((table.name, key))
        return has(table, key)

    monkeypatch.setattr(ConfigTable, "has", noting)
    load_config(None, {})
    return asked


def test_every_key_is_in_the_shipped_configuration(known_keys: set[tuple[str, str]]) -> None:
    table = ""
    found = set()
    for line in CONFIG.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found.add((table, key[1]))
    assert found == known_keys


def test_the_shipped_configuration_starts_and_keeps_to_the_defaults() -> None:
    config = load_config(CONFIG, {})
    assert config.warnings == ()
    assert config.http == HttpConfig(port=8080)
    assert config.mainline == MainlineConfig(port=6881)
    assert config.cache == CacheConfig(path=ROOT / ".pkarr_cache")
    assert config.rate_limiter is not None
    assert not config.rate_limiter.behind_proxy


def test_settings_left_out_are_shown_with_values_that_work(tmp_path: Path) -> None:
    """Uncommenting any of the shown lines gives a file that loads."""
    text = CONFIG.read_text()
    shown = re.sub(r"(?m)^# (?=bind |bind_address |bootstrap |public_ip |    \"|\]$)", "", text)
    path = tmp_path / "config.toml"
    path.write_text(shown)
    config = load_config(path, {})
    assert isinstance(config, Config)
    assert config.warnings == ()
    assert config.http.bind == ("0.0.0.0", "::")  # noqa: S104 -- as written there
    assert config.mainline.bootstrap is not None
    assert len(config.mainline.bootstrap) == 4
    assert config.mainline.public_ip is not None
    assert config.mainline.bind_address is not None


def test_every_option_is_in_the_readme() -> None:
    parser = cli._parser()
    options = {name for action in parser._actions for name in action.option_strings}
    assert {name for name in options if f"`{name}" not in README} == set()
    commands = next(action.choices for action in parser._actions if action.dest == "command")
    assert commands is not None
    assert {name for name in commands if f"`pkarr-relay {name}" not in README} == set()
    options = {
        f"{command} {name}"
        for command, subparser in commands.items()
        for action in subparser._actions
        for name in action.option_strings
        if re.search(rf"[`\[]{name}\b", README) is None
    }
    assert options == set()
    assert logs.FILTER_DEFAULT in README


def test_every_variable_is_in_the_readme() -> None:
    """Whatever the code reads from the environment by a name of ours."""
    name = re.compile(r"""["']((?:PKARR_)?RELAY_[A-Z_]+|RUST_LOG)["']""")
    sources = (ROOT / "relay").rglob("*.py")
    variables = {found for path in sources for found in name.findall(path.read_text())}
    assert {"PKARR_RELAY__", "PKARR_RELAY_CONFIG", "RUST_LOG", "RELAY_PURE_PYTHON"} <= variables
    assert {variable for variable in variables if f"`{variable}" not in README} == set()


def test_the_code_that_is_shown_for_iroh_is_compiled() -> None:
    """Each part of it stands word for word in the programs that tools/build-peers builds."""
    page = (ROOT / "docs" / "iroh.md").read_text()
    blocks = re.findall(r"```rust\n(.*?)```", page, re.DOTALL)
    programs = ("iroh-sync", "iroh-sync-0-91")
    assert len(blocks) == len(programs)
    for block, name in zip(blocks, programs, strict=True):
        source = (ROOT / "tests" / "peers" / name / "src" / "main.rs").read_text()
        imports, _, function = block.partition("\n\n")
        for part in (*imports.splitlines(), function):
            assert part in source, part


def test_ci_runs_the_readmes_own_line() -> None:
    line = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    assert line.endswith(".venv/bin/nox")
    assert f"    {line}\n" in README


def test_every_dependency_is_explained() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {
        re.split(r"[\s<>=\[;]", requirement)[0]
        for requirements in (
            project["project"]["dependencies"],
            project["build-system"]["requires"],
            *project["dependency-groups"].values(),
        )
        for requirement in requirements
    }
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert {name for name in names if f"| {name} |" not in page} == set()


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    """A promise that no test keeps is none."""
    named = re.findall(r"`(tests/[\w./-]+\.py)(?:::(\w+))?`", (ROOT / page).read_text())
    assert len(named) > 10 or page != "SECURITY.md"
    for path, name in named:
        assert (ROOT / path).is_file(), f"{page} names {path}"
        definition = f"def {name}(" if name else ""
        assert definition in (ROOT / path).read_text(), f"{page} names {name} in {path}"


def test_every_test_that_documents_name_is_there() -> None:
    """By its name alone, with parameters, cut short by three dots, or as a file."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = {
        name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    known = functions | {path.name for path in files}
    pages = [ROOT / f"{name}.md" for name in ("README", "SECURITY", "CHANGELOG")]
    named = [
        (page.name, found[1], found[2])
        for page in (*pages, *(ROOT / "docs").glob("*.md"))
        for span in re.findall(r"`[^`\n]+`", page.read_text())
        for found in re.finditer(r"(?<!\w)(test_\w+(?:\.py)?)(\.\.\.)?", span)
    ]
    assert len(named) > 200
    missing = [
        f"{page}: {name}{dots}"
        for page, name, dots in named
        if name not in known and not (dots and any(map(methodcaller("startswith", name), known)))
    ]
    assert missing == []


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f'image.version="{__version__}"' in (ROOT / "Dockerfile").read_text()


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "relay").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"relay._speedups"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_nothing_names_this_machine() -> None:
    machine_path = re.compile(r"(?<![\w./~}-])/(?:work|farm|root|opt|home)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in committed_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if machine_path.search(line)
    ]
    assert found == []


def test_modules_are_of_one_concern_and_finished() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = []
    for folder in ("relay", "_speedups"):
        for path in committed_files():
            if path.relative_to(ROOT).parts[0] != folder or path.suffix not in {".py", ".pyx"}:
                continue
            text = path.read_text()
            if text.count("\n") > LINES_MAX:
                found.append(f"{path.relative_to(ROOT)} is longer than {LINES_MAX} lines")
            found += [f"{path.relative_to(ROOT)}: {word}" for word in unfinished.findall(text)]
    assert found == []


def test_no_test_may_be_left_out() -> None:
    """What is missing is installed or is a failure; a test that did not run has shown nothing."""
    leaving_out = re.compile(r"mark\.(skip|skipif|xfail)\b|importorskip|pytest\.skip\(")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in committed_files()
        if path.suffix == ".py" and path != Path(__file__)
        for match in leaving_out.finditer(path.read_text())
    ]
    assert found == []
