"""The relay's log: one line a record on standard error, as text or as JSON.

The text lines look like those of the reference relay, so that whoever reads
them by script need not learn anew:

    2026-11-22T10:00:00.000000Z  INFO pkarr_relay: Running as a relay on TCP socket 0.0.0.0:6881

The filter has the reference's grammar too: ``level`` or ``target=level``, separated
by commas. `pkarr_relay` is all of ours; a target that nothing names logs warnings
and errors. Remote data may end up in messages, so control characters are escaped.

Source: tracing-subscriber's EnvFilter directives; design/protocol.md, section 5.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

LogFormat = Literal["text", "json"]

FILTER_DEFAULT: Final = "pkarr_relay=info"
TRACE: Final = 5
OFF: Final = logging.CRITICAL + 10
"""Above every level that is ever logged."""
LEVELS: Final[Mapping[str, int]] = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": OFF,
}
_LEVEL_NAMES: Final[Mapping[int, str]] = {
    TRACE: "TRACE",
    logging.WARNING: "WARN",
    logging.CRITICAL: "ERROR",
}
_ROOTS: Final = ("relay", "pkarr_relay")
"""Our loggers are named after their modules, or after the program."""
_ROOMS_OF_TARGET: Final[Mapping[str, tuple[str, ...]]] = {
    "pkarr_relay": ("",),
    "relay": ("",),
    "pkarr": (".pkarr",),
    "mainline": (".dht", ".net"),
    "tower_http": (".http",),
}
"""Targets of the reference's log, and which of our rooms say such things."""
_PLAIN_LOGGERS: Final = frozenset({"relay", "relay.cli", "relay.server"})
"""They speak for the program as a whole: shown as ``pkarr_relay`` alone."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TARGET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


def configure(
    filter_text: str | None,
    environ: Mapping[str, str],
    log_format: LogFormat,
    *,
    stream: TextIO | None = None,
) -> list[str]:
    """Send the log to `stream`, as much of it as the filter lets through.

    Args:
        filter_text: of the command line; None or empty: ``RUST_LOG`` in `environ`,
            or else `FILTER_DEFAULT`.
        environ: usually ``os.environ``.
        log_format: ``text`` for people, ``json`` for collectors, one object a line.
        stream: None: standard error.

    Returns:
        A sentence for every piece of the filter that means nothing; they are for
        the log, which stands now.
    """
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    levels, complaints = parse_filter(filter_text or environ.get("RUST_LOG") or FILTER_DEFAULT)
    root.setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    return complaints


def parse_filter(text: str) -> tuple[dict[str, int], list[str]]:
    """Return the level of each logger that `text` names, and what in it means nothing.

    The empty name is the root: the level of all that is not named.

    >>> parse_filter("info,relay.store=debug,nonsense")[0]
    {'': 20, 'relay.store': 10, 'pkarr_relay.store': 10}
    """
    levels: dict[str, int] = {}
    complaints = []
    for piece in filter(None, map(str.strip, text.split(","))):
        target, equals, level_name = piece.rpartition("=")
        level = LEVELS.get(level_name.lower())
        if level is not None and not equals:
            levels[""] = level
        elif level is not None and _TARGET.fullmatch(target):
            levels.update(dict.fromkeys(_logger_names(target), level))
        elif _TARGET.fullmatch(piece) and re.split("::|[.]", piece)[0] in _ROOMS_OF_TARGET:
            # A target without a level: everything it says.
            levels.update(dict.fromkeys(_logger_names(piece), TRACE))
        else:
            complaints.append(
                f"log filter: {json.dumps(piece)} is ignored; a piece is a level or target=level,"
                f" levels are {', '.join(LEVELS)}"
            )
    return levels, complaints


def _logger_names(target: str) -> list[str]:
    first, *rest = re.split("::|[.]", target)
    rooms = _ROOMS_OF_TARGET.get(first)
    names = [first] if rooms is None else [root + room for root in _ROOTS for room in rooms]
    return [".".join([name, *rest]) for name in names]


class TextFormatter(logging.Formatter):
    """Time, level, target and message on one line; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, without its end."""
        message = _CONTROL.sub(_escaped, record.getMessage())
        line = f"{_timestamp(record)} {_level(record):>5} {_target(record)}: {message}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: timestamp, level, target, message and, with a traceback, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object for `record`, in ASCII and without line breaks."""
        fields = {
            "timestamp": _timestamp(record),
            "level": _level(record),
            "target": _target(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _level(record: logging.LogRecord) -> str:
    return _LEVEL_NAMES.get(record.levelno, record.levelname)


def _target(record: logging.LogRecord) -> str:
    if record.name in _PLAIN_LOGGERS:
        return "pkarr_relay"
    room, *rest = record.name.split(".")
    return "::".join(["pkarr_relay" if room == "relay" else room, *rest])


def _escaped(control: re.Match[str]) -> str:
    return control[0].encode("unicode_escape").decode()
