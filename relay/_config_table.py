"""Reads settings from a TOML file and the environment, and remembers where each came from.

`ConfigDocument` holds raw values; `ConfigTable.get` turns one into a typed value by a
`Kind`, which knows what is allowed, or raises `ConfigError` with the place, the key,
the value and the kind's own words. A document notices which keys nobody asked for.

Source: design/protocol.md, section 5; issue "A relay that runs", section 2.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from relay._toml_positions import key_lines
from relay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")
D = TypeVar("D")

ENVIRONMENT_PREFIX: Final = "PKARR_RELAY__"
FILE_BYTES_MAX: Final = 1 << 20
"""A larger file was not written by hand; the shipped one has 8 kB."""
_SHOWN_CHARACTERS_MAX: Final = 80
_UTF8_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a setting may be: `parse` raises ValueError, perhaps with a reason."""

    allowed: str
    """Ends the sentence "allowed: ..."."""
    parse: Callable[[object], T]
    is_text: bool = False
    """In the environment, a text needs no quotes even where it would parse as TOML."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """One raw value and the words for the place it stands in."""

    value: object
    place: str
    from_environment: bool = False


class ConfigTable:
    """One table of the document; every key that is asked for counts as known."""

    def __init__(self, name: str, place: str, settings: Mapping[str, _Setting]) -> None:
        self.name = name
        self.place = place
        self._settings = settings
        self._known: set[str] = set()

    def has(self, key: str) -> bool:
        """Tell whether the operator set `key`, well or badly."""
        self._known.add(key)
        return key in self._settings

    def get(self, key: str, kind: Kind[T], default: D) -> T | D:
        """Return the value of `key`, or `default` where it is not set.

        Raises:
            ConfigError: it is set to something that `kind` does not allow.
        """
        return self._parsed(key, kind) if self.has(key) else default

    def require(self, key: str, kind: Kind[T]) -> T:
        """Return the value of `key`.

        Raises:
            ConfigError: it is missing, or set to something that `kind` does not allow.
        """
        if not self.has(key):
            raise self.error(key, f"{self.name}.{key} is missing; allowed: {kind.allowed}")
        return self._parsed(key, kind)

    def error(self, key: str, message: str) -> ConfigError:
        """Return the error that puts the place of `key`, or of its table, before `message`."""
        setting = self._settings.get(key)
        return ConfigError(f"{self.place if setting is None else setting.place}: {message}")

    def unknown(self) -> list[str]:
        """Return the keys that are set and were never asked for, in the order of the file."""
        return [key for key in self._settings if key not in self._known]

    def _parsed(self, key: str, kind: Kind[T]) -> T:
        setting = self._settings[key]
        value = setting.value
        if setting.from_environment:
            value = _environment_value(str(value), is_text=kind.is_text)
        try:
            return kind.parse(value)
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            message = f"{self.name}.{key} = {shown(value)} is refused{reason}"
            raise self.error(key, f"{message}; allowed: {kind.allowed}") from None


class ConfigDocument:
    """All tables of a file, with the environment laid over them."""

    def __init__(self, tables: Mapping[str, ConfigTable], warnings: list[str]) -> None:
        self._tables = tables
        self._asked: set[str] = set()
        self.warnings = warnings
        """Sentences about what is ignored or risky, for the log."""

    def table(self, name: str) -> ConfigTable:
        """Return the table `name`; an empty one if it is nowhere mentioned."""
        self._asked.add(name)
        return self._tables.get(name) or ConfigTable(name, name, {})

    def has(self, name: str) -> bool:
        """Tell whether the table `name` is mentioned at all."""
        return name in self._tables

    def warn_of_unknown(self) -> None:
        """Add a warning for every table and key that was never asked for."""
        for name, table in self._tables.items():
            if name in self._asked:
                self.warnings += [
                    str(table.error(key, f"unknown key {name}.{key_text(key)} is ignored"))
                    for key in table.unknown()
                ]
            else:
                self.warnings.append(f"{table.place}: unknown table [{key_text(name)}] is ignored")


def read_document(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    known_tables: frozenset[str],
    built_in: Mapping[str, Mapping[str, object]],
) -> ConfigDocument:
    """Read the file at `path`, or take `built_in` where there is none, then the environment.

    Args:
        path: the TOML file; None: there is none.
        environ: variables ``PKARR_RELAY__SECTION__KEY`` override single keys.
        known_tables: names that must be tables wherever they are mentioned.
        built_in: tables that hold as long as there is no file.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or a known table is no table.
    """
    warnings: list[str] = []
    settings: dict[str, dict[str, _Setting]] = {}
    places: dict[str, str] = {}
    if path is not None:
        values, lines = _parse(path, _read_text(path))
        for name, content in values.items():
            place = _place(path, lines.get((name,)))
            if isinstance(content, dict):
                places[name] = place
                settings[name] = {
                    key: _Setting(value, _place(path, lines.get((name, key), lines.get((name,)))))
                    for key, value in content.items()
                }
            elif name in known_tables:
                message = f"{name} = {shown(content)} is refused; allowed: a table"
                raise ConfigError(f"{place}: {message}")
            else:
                warnings.append(f"{place}: unknown key {key_text(name)} is ignored")
    for name, content in built_in.items() if path is None else ():
        places[name] = "built-in default"
        settings[name] = {key: _Setting(value, places[name]) for key, value in content.items()}
    for (name, key), setting in _overrides(environ, warnings).items():
        places.setdefault(name, setting.place)
        settings.setdefault(name, {})[key] = setting
    tables = {name: ConfigTable(name, places[name], settings[name]) for name in settings}
    return ConfigDocument(tables, warnings)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, not a file: Docker makes a folder where the file that is to be"
            " mounted is missing; end the container (docker-compose down), remove the folder on"
            " the host, put the file in its place and start again"
        ) from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(f"failed to read {path}: {reason}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: larger than {FILE_BYTES_MAX} bytes; this is no configuration")
    data = data.removeprefix(_UTF8_BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{_place(path, line)}: not UTF-8; allowed: TOML 1.0") from None


def _parse(path: Path, text: str) -> tuple[dict[str, object], dict[tuple[str, ...], int]]:
    try:
        return tomllib.loads(text), key_lines(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; allowed: TOML 1.0") from None
    except ValueError as error:
        # TOMLDecodeError ends with the line; integers of thousands of digits are plain ValueErrors.
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        if found is None:
            raise ConfigError(f"{path}: not TOML: {error}") from None
        place = f"{_place(path, int(found[2]))}, column {found[3]}"
        raise ConfigError(f"{place}: not TOML: {found[1]}") from None


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def _overrides(environ: Mapping[str, str], warnings: list[str]) -> dict[tuple[str, str], _Setting]:
    """Return the setting of each (table, key) that a variable is meant for.

    Names may be in capitals or not; of several for one key the first by its bytes counts, which
    is the one in capitals.
    """
    found: dict[tuple[str, str], _Setting] = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        place = f"environment variable {key_text(name)}"
        parts = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if len(parts) == 2 and all(parts):
            setting = _Setting(environ[name], place, from_environment=True)
            counting = found.setdefault((parts[0], parts[1]), setting)
            if counting is not setting:
                warnings.append(f"{place} is ignored; {counting.place} sets the same key")
        else:
            warnings.append(f"{place} is ignored; a name is {ENVIRONMENT_PREFIX}SECTION__KEY")
    return found


def _environment_value(text: str, *, is_text: bool) -> object:
    """Return what a variable says: TOML where it is TOML, the bare text otherwise."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value: object = parsed["value"]
    if len(parsed) != 1 or (is_text and not isinstance(value, str)):
        return text
    return value


def shown(value: object) -> str:
    """Return `value` on one line, as TOML would write it, cut where it gets long."""
    try:
        # JSON's strings, numbers, booleans and lists are TOML's; `str` is for dates.
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        return "a value too large to show"
    if len(text) > _SHOWN_CHARACTERS_MAX:
        return text[: _SHOWN_CHARACTERS_MAX - 3] + "..."
    return text


def key_text(key: str) -> str:
    """Return `key` as it stands in a file: quoted unless it is a bare key."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)
