"""On which line each key of a TOML document stands.

`tomllib` gives values without positions, and an error that does not name the
line sends its reader searching. This finder walks a document that `tomllib` has
already accepted, so it may skip over values without judging them; all it has to
get right is where strings, arrays and inline tables end. Should it lose its way
all the same, it reports what it has found so far: a coarser place, never an error.

Leaf module. Source: TOML 1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

KeyPath = tuple[str, ...]

_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BLANK: Final = re.compile(r"[ \t]*")
_BETWEEN_STATEMENTS: Final = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")
_ARRAY_FILLING: Final = re.compile(r"(?:[^\[\]\"'#]+|#[^\n]*)*")


class _LostError(Exception):
    """The text does not continue the way a valid document would."""


class _Finder:
    """One walk over one document; `lines` fills up as it goes."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line = 1

    def walk(self) -> None:
        """Visit every statement: table headers and ``key = value`` pairs."""
        table: KeyPath = ()
        self._skip(_BETWEEN_STATEMENTS)
        while self._at < len(self._text):
            if self._peek("["):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BETWEEN_STATEMENTS)

    def _peek(self, token: str) -> bool:
        return self._text.startswith(token, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise _LostError
        self._line += match[0].count("\n")
        self._at = match.end()
        return match[0]

    def _expect(self, token: str) -> None:
        self._skip(_BLANK)
        if not self._peek(token):
            raise _LostError
        self._at += len(token)

    def _note(self, path: KeyPath) -> None:
        """Remember the first mention of `path` and of the tables it implies."""
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], self._line)

    def _header(self) -> KeyPath:
        brackets = 2 if self._peek("[[") else 1
        self._at += brackets
        path = self._key()
        self._note(path)
        self._expect("]" * brackets)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table + self._key()
        self._note(path)
        self._expect("=")
        self._skip(_BLANK)
        if self._peek("{"):
            self._inline_table(path)
        elif self._peek("["):
            self._array()
        elif self._text[self._at : self._at + 1] in {'"', "'"}:
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _key(self) -> KeyPath:
        """Read a key, dotted or not; the position stays behind its last part."""
        parts = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at : self._at + 1] in {'"', "'"}:
                # tomllib knows the escapes; the document it accepted contains this key.
                parts.append(str(tomllib.loads("value = " + self._skip(_STRING))["value"]))
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_BLANK)
            if not self._peek("."):
                return tuple(parts)
            self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        self._skip(_BETWEEN_STATEMENTS)
        while not self._peek("}"):
            self._pair(path)
            self._skip(_BETWEEN_STATEMENTS)
            if self._peek(","):
                self._at += 1
                self._skip(_BETWEEN_STATEMENTS)
        self._expect("}")

    def _array(self) -> None:
        """Step over an array with all that is in it; its elements have no names."""
        depth = 0
        while True:
            self._skip(_ARRAY_FILLING)
            if self._peek("["):
                depth += 1
                self._at += 1
            elif self._peek("]"):
                depth -= 1
                self._at += 1
                if depth == 0:
                    return
            else:
                self._skip(_STRING)


def key_lines(text: str) -> dict[KeyPath, int]:
    r"""Return the line, counted from 1, of every table and key outside arrays.

    Args:
        text: a document that ``tomllib.loads`` accepts.

    Returns:
        Path of names to the line of its first mention. A dotted key or header
        also gives a line to the tables that it implies.

    >>> key_lines('[http]\nport = 80\n"a b".c = {d = 1}\n')[("http", "a b", "c", "d")]
    3
    """
    finder = _Finder(text.replace("\r\n", "\n"))
    try:
        finder.walk()
    except (_LostError, tomllib.TOMLDecodeError):
        # A key without a line of its own is reported with the line of its table.
        return finder.lines
    return finder.lines
