"""How one event becomes one line of the log, as text or as JSON, and how many lines there may be.

An event has a message and, often, fields (`fields`): in a text line they follow as ``name=value``,
in a JSON line they are keys of the object. The request that a task works for is a field of
everything that is logged on its way (`request_id`).

A line is a line: what others sent is escaped where it could end one, and a traceback is one
sentence, innermost frame first (whole in JSON).

Leaf module.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

TRACE: Final = 5
_LEVEL_NAMES: Final[Mapping[int, str]] = {
    TRACE: "TRACE",
    logging.WARNING: "WARN",
    logging.CRITICAL: "ERROR",
}
_PLAIN_LOGGERS: Final = frozenset({"relay", "relay.cli", "relay.server", "relay.reload"})
"""They speak for the program as a whole: shown as ``pkarr_relay`` alone."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN_VALUE: Final = re.compile(r"[!#-<>-\[\]-~]+", re.ASCII)
"""Is shown without quotes: no space, quote, backslash or equals sign."""
_FRAMES_MAX: Final = 12
_PACKAGE: Final = "relay"

BURST_LINES: Final = 50
"""Lines that one place in the code may log at once, at info or above."""
PAUSE_S: Final = 10.0
"""After that it may log one line in this time."""

request_id: Final[ContextVar[Callable[[], str] | None]] = ContextVar("request_id", default=None)
"""Tells the id of the request that the running task works for; None: it works for none."""


def fields(**values: object) -> dict[str, object]:
    """Return what gives an event fields: ``_log.info("x", extra=fields(key=key))``.

    Those that are None are left out.
    """
    return {"fields": {name: value for name, value in values.items() if value is not None}}


class TextFormatter(logging.Formatter):
    """Time, level, target, message, and fields as ``name=value``.

    Args:
        priorities: begin each line with what tells the journal its level (sd-daemon(3)).
    """

    def __init__(self, *, priorities: bool = False) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, without its end."""
        pieces = [_timestamp(record), f"{_level(record):>5}", f"{_target(record)}:"]
        pieces.append(_CONTROL.sub(_escaped, record.getMessage()))
        if record.exc_info and record.exc_info[1] is not None:
            pieces[-1] += f": {_CONTROL.sub(_escaped, _condensed(record.exc_info[1]))}"
        pieces += [f"{name}={_shown(value)}" for name, value in _fields(record).items()]
        return _priority(record, wanted=self._priorities) + " ".join(pieces)


class JsonFormatter(logging.Formatter):
    """One object: timestamp, level, target, message, the fields, and with an error exception.

    Args:
        priorities: as for `TextFormatter`.
    """

    def __init__(self, *, priorities: bool = False) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """Return the object for `record`, in ASCII and without line breaks."""
        values: dict[str, object] = {
            "timestamp": _timestamp(record),
            "level": _level(record),
            "target": _target(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        line = json.dumps(_fields(record) | values, default=str).replace("\x7f", "\\u007f")
        return _priority(record, wanted=self._priorities) + line


class Sparing(logging.Filter):
    """Lets no place in the code flood the log, whatever strangers make it do.

    At info and above, each place has `BURST_LINES` lines at once and then one in `PAUSE_S`. The
    last line before a pause says so, the first one after it how many were left out. Debug and
    trace are for whoever asked for all of it. There are as many places as lines of code, so what
    is remembered is bounded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether `record` is to be logged; it may get a field ``left_out``."""
        if record.levelno < logging.INFO:
            return True
        place = (record.pathname, record.lineno)
        now = self._clock()
        # As in relay.gcra: when the next line would be due if there were no burst.
        due, left_out = self._places.get(place, (now, 0))
        early_s = max(due, now) - now - (BURST_LINES - 1) * PAUSE_S
        if early_s > 0:
            self._places[place] = due, left_out + 1
            return False
        self._places[place] = max(due, now) + PAUSE_S, 0
        if left_out:
            _add_field(record, "left_out", left_out)
        elif early_s + PAUSE_S > 0:
            _add_field(record, "left_out", "more like this")
        return True


def _add_field(record: logging.LogRecord, name: str, value: object) -> None:
    record.fields = {**getattr(record, "fields", {}), name: value}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    values = dict(getattr(record, "fields", {}))
    tell = request_id.get()
    if tell is not None:
        values["request_id"] = tell()
    return values


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text).replace("\x7f", "\\u007f")


def _condensed(error: BaseException) -> str:
    """Return an error and where it came from as one sentence."""
    sentence = f"{type(error).__name__}: {error} ({_places(error.__traceback__)})"
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(map(_condensed, error.exceptions))
        sentence = f"{sentence} [{inner}]"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return sentence if cause is None else f"{sentence} because of {_condensed(cause)}"


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[: -_FRAMES_MAX - 1 : -1]
    return " < ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _short(path: str) -> str:
    """Return a source file's path from our package on, or its last two parts."""
    parts = PurePath(path).parts
    if _PACKAGE in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index(_PACKAGE) :])
    return "/".join(parts[-2:])


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _level(record: logging.LogRecord) -> str:
    return _LEVEL_NAMES.get(record.levelno, record.levelname)


def _priority(record: logging.LogRecord, *, wanted: bool) -> str:
    if not wanted:
        return ""
    if record.levelno >= logging.ERROR:
        return "<3>"
    if record.levelno >= logging.WARNING:
        return "<4>"
    return "<6>" if record.levelno >= logging.INFO else "<7>"


def _target(record: logging.LogRecord) -> str:
    if record.name in _PLAIN_LOGGERS:
        return "pkarr_relay"
    room, *rest = record.name.split(".")
    return "::".join(["pkarr_relay" if room == _PACKAGE else room, *rest])


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()
