"""Tests of relay.logs: what is let through, and how a line looks."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from relay import _log_lines, logs

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


def test_a_traceback_is_one_sentence() -> None:
    stream = written()
    try:
        try:
            raise ValueError("no\nluck")
        except ValueError as error:
            raise RuntimeError("broken") from error
    except RuntimeError:
        logging.getLogger("relay").exception("failed")
    (line,) = stream.getvalue().splitlines()
    name = "test_a_traceback_is_one_sentence"
    assert re.search(
        rf"ERROR pkarr_relay: failed: RuntimeError: broken \(unit/test_logs.py:\d+ {name}\)"
        rf" because of ValueError: no\\nluck \(unit/test_logs.py:\d+ {name}\)$",
        line,
    )


def test_a_group_of_errors_is_one_line() -> None:
    stream = written()
    try:
        raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])
    except ExceptionGroup:
        logging.getLogger("relay").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "[ValueError: a (); KeyError: 'b' ()]" in line


def test_frames_of_ours_are_shown_from_the_package_on() -> None:
    stream = written()
    try:
        logs.parse_filter(None)  # type: ignore[arg-type]
    except AttributeError:
        logging.getLogger("relay").exception("failed")
    assert re.search(r"\(relay/logs\.py:\d+ parse_filter < unit/test_logs", stream.getvalue())


def test_fields_follow_the_message() -> None:
    stream = written()
    values = logs.fields(key="a=b c\n\x7f", n=3, none=None, client="192.0.2.0/24")
    logging.getLogger("relay").info("x", extra=values)
    shown = stream.getvalue().partition(": x ")[2]
    assert shown == 'key="a=b c\\n\\u007f" n=3 client=192.0.2.0/24\n'


def test_fields_are_keys_of_the_object_and_replace_none_of_its_own() -> None:
    stream = written("json")
    logging.getLogger("relay").info("x", extra=logs.fields(n=3, level="?", text="\x7f"))
    assert "\x7f" not in stream.getvalue()
    record = json.loads(stream.getvalue())
    assert (record["n"], record["level"], record["text"]) == (3, "INFO", "\x7f")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_caused_by_a_request_bear_its_id(log_format: logs.LogFormat) -> None:
    stream = written(log_format)
    token = logs.request_id.set(lambda: "abc-1")
    logging.getLogger("relay.net").warning("x")
    logs.request_id.reset(token)
    logging.getLogger("relay.net").warning("y")
    first, second = stream.getvalue().splitlines()
    assert "abc-1" in first
    assert "request_id" in first
    assert "request_id" not in second


def test_no_place_floods_the_log() -> None:
    times = [0.0]
    sparing = _log_lines.Sparing(lambda: times[-1])

    def log(line: int, level: int = logging.WARNING) -> str | None:
        """Return what became of a record of one place: its field if it has got one."""
        record = logging.LogRecord("relay", level, "a.py", line, "x", (), None)
        if not sparing.filter(record):
            return None
        fields: dict[str, object] = getattr(record, "fields", {})
        return str(fields.get("left_out", "passed"))

    burst = _log_lines.BURST_LINES
    seen = [log(1) for _ in range(1000)]
    assert seen == ["passed"] * (burst - 1) + ["more like this"] + [None] * (1000 - burst)
    assert log(2) == "passed"
    assert log(1, logging.DEBUG) == "passed"
    times.append(_log_lines.PAUSE_S)
    assert [log(1), log(1)] == [str(1000 - burst), None]
    times.append(10_000.0)
    assert [log(1), log(1)] == ["1", "passed"]


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("short", ["192.0.2.0/24", "2001:db8:1::/48", None]),
        ("full", ["192.0.2.77", "2001:db8:1:2::3", None]),
        ("none", [None, None, None]),
    ],
)
def test_a_client_is_told_of_as_the_operator_wants(
    how: logs.ClientAddresses, shown: list[str | None]
) -> None:
    logs.configure(None, {}, "text", client_addresses=how, stream=io.StringIO())
    addresses = (IPv4Address("192.0.2.77"), IPv6Address("2001:db8:1:2::3"), None)
    assert [logs.show_client(address) for address in addresses] == shown


def test_the_files_filter_counts_where_there_is_no_other() -> None:
    logs.configure(None, {}, "text", file_filter="warn,pkarr_relay=debug", stream=io.StringIO())
    assert logging.getLogger("relay.store").isEnabledFor(logging.DEBUG)
    assert logs.reconfigure("error", "short") == []
    assert not logging.getLogger("relay.store").isEnabledFor(logging.WARNING)
    assert logs.reconfigure(None, "short") == []
    assert logging.getLogger("relay.store").isEnabledFor(logging.INFO)
    assert not logging.getLogger("relay.store").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(("option", "environ"), [("info", {}), (None, {"RUST_LOG": "info"})])
def test_a_filter_that_does_not_count_is_told(option: str | None, environ: dict[str, str]) -> None:
    told = logs.configure(option, environ, "text", file_filter="off", stream=io.StringIO())
    assert [sentence[:10] for sentence in told] == ["log.filter"]
    assert logging.getLogger("relay").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_journal_is_told_how_grave_a_line_is(log_format: str) -> None:
    """Standard error is the journal's stream if JOURNAL_STREAM names its device and inode."""
    script = (
        "import logging, os, sys; from relay import logs\n"
        "status = os.fstat(2); stream = f'{status.st_dev}:{status.st_ino}'\n"
        f"logs.configure('debug', {{'JOURNAL_STREAM': stream}}, {log_format!r})\n"
        "log = logging.getLogger('relay')\n"
        "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')\n"
        f"logs.configure('debug', {{'JOURNAL_STREAM': '1:2'}}, {log_format!r}); log.error('e')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    *lines, last = done.stderr.splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    assert last[0] in "2{"


def test_configuring_twice_writes_once() -> None:
    written()
    stream = written()
    logging.getLogger("relay").info("x")
    assert stream.getvalue().count("\n") == 1
