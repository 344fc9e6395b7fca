"""The command ``pkarr-relay``: arguments to calls, errors to exit codes.

    pkarr-relay [-c PATH] [-t FILTER] [--log-format text|json] [--testnet]
    pkarr-relay COMMAND ..., see `relay.commands`

Exit codes: 0 after SIGINT or SIGTERM and for --help, --version and a good
configuration; 1 for errors of configuration and start-up; 2 for wrong usage.

Whatever is not needed for --help, --version or a command is imported late.
"""

from __future__ import annotations

import argparse
import gc
import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relay import __version__, logs
from relay.commands import COMMANDS
from relay.errors import CommandError, ConfigError, StartupError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code.

    Raises:
        SystemExit: with 2 for wrong usage, with 0 after --help and --version.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a terminal's encoding lacks is escaped, as on standard error: texts of strangers,
        # and names of files that are no UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except (CommandError, ConfigError, StartupError, StoreError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pkarr-relay",
        description="A Pkarr relay: signed DNS packets over HTTP and the Mainline DHT.",
        epilog="Environment: PKARR_RELAY__SECTION__KEY overrides a setting; RUST_LOG sets the log"
        " filter where -t does not.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="PATH",
        help="configuration file (TOML); without one, built-in defaults and rate limits hold",
    )
    parser.add_argument(
        "-t",
        "--tracing-env-filter",
        metavar="FILTER",
        help="what to log: LEVEL or TARGET=LEVEL, separated by commas; levels are "
        f"{', '.join(logs.LEVELS)} (default: {logs.FILTER_DEFAULT})",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="form of the log lines on standard error (default: text)",
    )
    parser.add_argument(
        "--testnet",
        action="store_true",
        help="run on a DHT of ten own nodes, all on 127.0.0.1, with HTTP on port 15411;"
        " wins over --config",
    )
    parser.add_argument("--version", action="version", version=f"pkarr-relay {__version__}")
    parser.set_defaults(run=_run)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from relay.config import load_config, testnet_config

    testnet: bool = arguments.testnet
    config = testnet_config() if testnet else load_config(arguments.config, os.environ)
    complaints = logs.configure(
        arguments.tracing_env_filter,
        os.environ,
        arguments.log_format,
        file_filter=config.log.filter,
        client_addresses=config.log.client_addresses,
    )
    for complaint in complaints:
        _log.warning("%s", complaint)
    _log.debug("configuration: %r", config)
    gc.disable()  # until the server has started: importing makes no garbage to look for
    try:
        _require_kernels()
        from relay import server  # late: it brings Trio, and --help must not wait for that
        from relay.notify import ServiceManager

        manager = ServiceManager.from_environment(os.environ)
        return server.run(config, testnet=testnet, manager=manager)
    finally:
        gc.enable()


def _require_kernels() -> None:
    """Refuse to serve a fraction of the load in silence.

    Raises:
        StartupError: the extension is missing and nobody asked for its twins.
    """
    from relay import _kernels  # late: this loads the extension

    if _kernels.IMPLEMENTATION == "compiled" or _kernels.FORCED_PURE:
        return
    raise StartupError(
        "the compiled part of the relay (relay._speedups) is missing or does not load;"
        " install the relay where there is a C compiler (pip install .),"
        " or set RELAY_PURE_PYTHON=1 to run without it, many times slower"
    )
