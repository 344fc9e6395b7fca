"""The relay's log: one line an event on standard error, as text or as JSON.

The text lines look like those of the reference relay, so that whoever reads
them by script need not learn anew:

    2026-11-22T10:00:00.000000Z  INFO pkarr_relay: Running as a relay on TCP socket 0.0.0.0:6881

The filter has the reference's grammar too: ``level`` or ``target=level``, separated
by commas. `pkarr_relay` is all of ours; a target that nothing names logs warnings
and errors. How a line is made is in `relay._log_lines`.

At info there are events of the relay's own life and rare troubles, which strangers cannot
multiply; at debug, too, what becomes of each request. A client is told of by its network,
unless the operator wants more, or less (`show_client`).

Source: tracing-subscriber's EnvFilter directives; design/protocol.md, section 5.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Final, Literal, TextIO

from relay._log_lines import (
    TRACE,
    JsonFormatter,
    Sparing,
    TextFormatter,
    fields,
    request_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FILTER_DEFAULT",
    "LEVELS",
    "TRACE",
    "ClientAddresses",
    "JsonFormatter",
    "LogFormat",
    "TextFormatter",
    "configure",
    "fields",
    "parse_filter",
    "reconfigure",
    "request_id",
    "show_client",
]

LogFormat = Literal["text", "json"]
ClientAddresses = Literal["short", "full", "none"]

FILTER_DEFAULT: Final = "pkarr_relay=info"
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
_TARGET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_IPV4_SHOWN_BITS: Final = 24
_IPV6_SHOWN_BITS: Final = 48


class _State:
    """What the log was told; there is one log in a process."""

    overruling: str | None = None
    """The filter of the command line or of ``RUST_LOG``, which the file's is no match for."""
    named: tuple[str, ...] = ()
    """Loggers whose level the filter has set."""
    client_addresses: ClientAddresses = "short"


def configure(
    filter_text: str | None,
    environ: Mapping[str, str],
    log_format: LogFormat,
    *,
    file_filter: str | None = None,
    client_addresses: ClientAddresses = "short",
    stream: TextIO | None = None,
) -> list[str]:
    """Send the log to `stream`, as much of it as the filter lets through.

    Args:
        filter_text: of the command line; None or empty: ``RUST_LOG`` in `environ`,
            or else `file_filter`, or else `FILTER_DEFAULT`.
        environ: usually ``os.environ``.
        log_format: ``text`` for people, ``json`` for collectors, one object a line.
        file_filter: of the configuration file.
        client_addresses: how much of them is told; see `show_client`.
        stream: None: standard error.

    Returns:
        A sentence for every piece of the filter that means nothing; they are for
        the log, which stands now.
    """
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    formatter = JsonFormatter if log_format == "json" else TextFormatter
    handler.setFormatter(formatter(priorities=stream is None and _is_journal(environ)))
    handler.addFilter(Sparing())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    _State.overruling = filter_text or environ.get("RUST_LOG") or None
    return reconfigure(file_filter, client_addresses)


def reconfigure(file_filter: str | None, client_addresses: ClientAddresses) -> list[str]:
    """Take other settings of the configuration file; the way out stays as it is.

    Args:
        file_filter: counts if neither command line nor ``RUST_LOG`` had a filter.
        client_addresses: how much of them is told.

    Returns:
        As `configure`, and a sentence if the filter does not count.
    """
    overruled = []
    if file_filter and _State.overruling is not None:
        overruled.append("log.filter does not count: the option -t or RUST_LOG is set")
    levels, complaints = parse_filter(_State.overruling or file_filter or FILTER_DEFAULT)
    for name in _State.named:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    _State.named = tuple(name for name in levels if name)
    _State.client_addresses = client_addresses
    return overruled + complaints


def show_client(address: IPv4Address | IPv6Address | None) -> str | None:
    """Return what the log may say of a client's address; None: nothing.

    By default the network it is in, /24 or /48: enough to tell customers of one provider from
    those of another, and no person from their neighbours.

    >>> show_client(IPv4Address("192.0.2.77"))
    '192.0.2.0/24'
    """
    if address is None or _State.client_addresses == "none":
        return None
    if _State.client_addresses == "full":
        return str(address)
    bits = _IPV4_SHOWN_BITS if address.version == 4 else _IPV6_SHOWN_BITS
    return str(ip_network(f"{address}/{bits}", strict=False))


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Tell whether standard error is the stream that systemd gave us to its journal."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


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
