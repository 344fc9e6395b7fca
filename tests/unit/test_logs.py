"""Tests of relay.logs: what is let through, and how a line looks."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from relay import logs

LOGGERS = (
    "relay",
    "relay.server",
    "relay.store",
    "relay.http.app",
    "pkarr_relay.http",
    "relay.dht.node",
    "relay.net.udp",
    "pkarr_relay",
    "hypercorn.error",
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give every logger back the level that it had."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {None: root.level}
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[None])
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and logger.name.split(".")[0] in {
            "relay",
            "pkarr_relay",
            "hypercorn",
        }:
            logger.setLevel(logging.NOTSET)


def written(
    log_format: logs.LogFormat = "text",
    filter_text: str | None = None,
    environ: dict[str, str] | None = None,
) -> io.StringIO:
    stream = io.StringIO()
    assert logs.configure(filter_text, environ or {}, log_format, stream=stream) == []
    return stream


def heard(filter_text: str | None, environ: dict[str, str] | None = None) -> set[str]:
    """Return "logger level" of the most talkative level that passes, for each logger."""
    written("text", filter_text, environ)
    found = set()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for level_name, level in logs.LEVELS.items():
            if logger.isEnabledFor(level):
                found.add(f"{name} {level_name}")
                break
    return found


def all_at(level: str, *names: str) -> set[str]:
    return {f"{name} {level}" for name in names}


OURS = tuple(name for name in LOGGERS if name != "hypercorn.error")


@pytest.mark.parametrize(
    ("filter_text", "expected"),
    [
        (None, all_at("info", *OURS) | {"hypercorn.error warn"}),
        ("", all_at("info", *OURS) | {"hypercorn.error warn"}),
        ("info", all_at("info", *LOGGERS)),
        (" DEBUG ", all_at("debug", *LOGGERS)),
        ("off", all_at("off", *LOGGERS)),
        ("error,pkarr_relay=trace", all_at("trace", *OURS) | {"hypercorn.error error"}),
        ("error,relay=trace", all_at("trace", *OURS) | {"hypercorn.error error"}),
        ("pkarr_relay", all_at("trace", *OURS) | {"hypercorn.error warn"}),
        (
            "off,tower_http=debug",
            all_at("off", *LOGGERS) - all_at("off", "relay.http.app", "pkarr_relay.http")
            | all_at("debug", "relay.http.app", "pkarr_relay.http"),
        ),
        (
            "info,pkarr_relay::store=debug",
            all_at("info", *LOGGERS) - {"relay.store info"} | {"relay.store debug"},
        ),
        (
            "warn,mainline=info",
            all_at("warn", *LOGGERS) - all_at("warn", "relay.dht.node", "relay.net.udp")
            | all_at("info", "relay.dht.node", "relay.net.udp"),
        ),
        (
            "warn,hypercorn.error=info",
            all_at("warn", *LOGGERS) - {"hypercorn.error warn"} | {"hypercorn.error info"},
        ),
    ],
)
def test_filter(filter_text: str | None, expected: set[str]) -> None:
    assert heard(filter_text) == expected


def test_rust_log_counts_where_no_filter_is_given() -> None:
    assert heard(None, {"RUST_LOG": "error"}) == all_at("error", *LOGGERS)
    assert heard("info", {"RUST_LOG": "error"}) == all_at("info", *LOGGERS)
    assert "relay info" in heard(None, {"RUST_LOG": ""})


@pytest.mark.parametrize("piece", ["inof", "a b=info", "pkarr_relay=loud", "=info", "x[y]=info"])
def test_pieces_that_mean_nothing_are_told_and_left_out(piece: str) -> None:
    complaints = logs.configure(f"debug,{piece}", {}, "text", stream=io.StringIO())
    assert len(complaints) == 1
    assert json.dumps(piece) in complaints[0]
    assert logging.getLogger("relay").isEnabledFor(logging.DEBUG)


def test_a_line_looks_like_the_references() -> None:
    stream = written()
    logging.getLogger("pkarr_relay").info("Running on %s", "0.0.0.0:1")
    logging.getLogger("relay.server").warning("x")
    logging.getLogger("pkarr_relay.http").error("y")
    logging.getLogger("hypercorn.error").critical("z")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    first, second, third, fourth = stream.getvalue().splitlines()
    assert re.fullmatch(f"{stamp}  INFO pkarr_relay: Running on 0\\.0\\.0\\.0:1", first)
    assert re.fullmatch(f"{stamp}  WARN pkarr_relay: x", second)
    assert re.fullmatch(f"{stamp} ERROR pkarr_relay::http: y", third)
    assert re.fullmatch(f"{stamp} ERROR hypercorn::error: z", fourth)


def test_a_moment_is_told_in_utc() -> None:
    record = logging.LogRecord("relay", logging.INFO, "", 0, "x", (), None)
    record.created = 1_795_341_600.5
    assert logs.TextFormatter().format(record) == (
        "2026-11-22T10:00:00.500000Z  INFO pkarr_relay: x"
    )


def test_strangers_cannot_forge_lines() -> None:
    stream = written()
    logging.getLogger("relay").info("key %s", "a\r\nb\x1b[2J\x85\u2028")
    assert stream.getvalue().endswith("key a\\r\\nb\\x1b[2J\\x85\\u2028\n")
    assert stream.getvalue().count("\n") == 1


def test_json_is_one_object_a_line() -> None:
    stream = written("json")
    try:
        raise ValueError("no\nluck")
    except ValueError:
        logging.getLogger("relay.store").exception('a "b"\n%s', "\udcff")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["level"] == "ERROR"
    assert record["target"] == "pkarr_relay::store"
    assert record["message"] == 'a "b"\n\udcff'
    assert "ValueError: no\nluck" in record["exception"]
    assert line.isascii()


def test_a_traceback_follows_the_line() -> None:
    stream = written()
    try:
        raise ValueError("no luck")
    except ValueError:
        logging.getLogger("relay").exception("failed")
    head, *rest = stream.getvalue().splitlines()
    assert head.endswith("ERROR pkarr_relay: failed")
    assert rest[-1] == "ValueError: no luck"


def test_configuring_twice_writes_once() -> None:
    written()
    stream = written()
    logging.getLogger("relay").info("x")
    assert stream.getvalue().count("\n") == 1
