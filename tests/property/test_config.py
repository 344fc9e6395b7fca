"""Whatever the file or the environment holds: a configuration or a ConfigError."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay._toml_positions import key_lines
from relay.config import load_config
from relay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHIPPED = Path(__file__).parents[2] / "config.toml"
KEYS = {
    table: re.findall(r"(?m)^(?:# )?(\w+) = ", content)
    for table, content in re.findall(r"(?ms)^\[(\w+)\]$(.*?)(?=^\[|\Z)", SHIPPED.read_text())
}
"""Of each table, those that are commented out included."""

bare_keys = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
quoted_keys = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\\x7f', min_codepoint=32), max_size=8
).map(lambda text: f'"{text}"')
strings = st.sampled_from(
    ["''", '""', '"a # b"', "'''\n]'x'\n'''", '"""\n}"\\"""z"""', "'''''y'''''", '"\\u00e9\\""']
)
scalars = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.sampled_from(["true", "false", "1979-05-27 07:32:00Z", "'2r/s'", "'10.0.0.0/8'"]),
    strings,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: "[ # ]\n " + ",\n ".join(parts) + "]"),
        st.lists(st.tuples(bare_keys, scalars), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=6,
)


endings = st.sampled_from(["", " # ]", "\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Texts that look like a configuration, mostly TOML, seldom a good one."""
    lines = []
    for _ in range(draw(st.integers(0, 5))):
        table = draw(st.sampled_from(sorted(KEYS)) | bare_keys | quoted_keys)
        lines.append(draw(st.sampled_from(["[{}]", "[ {} ] # x", "[[{}]]"])).format(table))
        for _ in range(draw(st.integers(0, 4))):
            key = draw(st.sampled_from(KEYS.get(table, ["a"])) | bare_keys | quoted_keys)
            lines.append(f"{key} = {draw(values)}{draw(endings)}")
    return "\n".join(lines)


def check(data: bytes, environ: Mapping[str, str], folder: Path) -> None:
    """Load; the only way to fail is an error of one printable line."""
    path = folder / "config.toml"
    path.write_bytes(data)
    complaints: tuple[str, ...] = ()
    try:
        complaints = load_config(path, environ).warnings
    except ConfigError as error:
        complaints = (str(error),)
    assert all(complaint.isprintable() for complaint in complaints)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@given(data=st.binary(max_size=300))
@example(data=b"a = 0x" + b"f" * 10_000)
@example(data=b"[http]\nport = 0x" + b"f" * 10_000)
@example(data=b"a." * 3000 + b"a = 1")
@example(data=b"http = " + b"{a = " * 500 + b"1" + b"}" * 500)
def test_any_bytes(folder: Path, data: bytes) -> None:
    check(data, {}, folder)


@given(text=documents())
def test_any_toml(folder: Path, text: str) -> None:
    check(text.encode(), {}, folder)


@given(
    environ=st.dictionaries(
        st.builds(
            "PKARR_RELAY__{}__{}".format,
            st.sampled_from(["HTTP", "MAINLINE", "CACHE", "RATE_LIMITER", "X", ""]),
            st.sampled_from([key.upper() for keys in KEYS.values() for key in keys]) | st.text(),
        )
        | st.text(max_size=5).map("PKARR_RELAY__".__add__),
        values | st.text(),
        max_size=5,
    )
)
def test_any_environment(folder: Path, environ: dict[str, str]) -> None:
    check(SHIPPED.read_bytes(), environ, folder)


def paths(table: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Return every path of names in `table`, outside arrays."""
    found = set()
    for key, value in table.items():
        found.add((*prefix, key))
        if isinstance(value, dict):
            found |= paths(value, (*prefix, key))
    return found


@given(text=documents())
def test_every_key_has_its_line(text: str) -> None:
    """The line finder sees what tomllib sees, on a line that holds the key's name."""
    try:
        parsed = tomllib.loads(text)
    except ValueError:
        return
    lines = key_lines(text)
    assert paths(parsed) <= set(lines)
    source = text.split("\n")
    for path, line in lines.items():
        assert path[-1] in source[line - 1]
