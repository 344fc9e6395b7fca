"""``pkarr-relay health``: ask a running relay whether it is well.

Meant for those who ask often and start a process each time, as Docker does. Without options it
asks the relay of its container: process 1 tells with which options that one was started.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.errors import CommandError

if TYPE_CHECKING:
    from relay.config import HttpConfig

TIMEOUT_S: Final = 4.0
"""To connect, and for each piece of the answer."""
ANSWER_BYTES_MAX: Final = 65_536
SHOWN_CHARACTERS_MAX: Final = 500
PROCESS_1: Final = Path("/proc/1/cmdline")
_ALL_ADDRESSES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where each is asked


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``health``."""
    parser = commands.add_parser(
        "health",
        help="ask a running relay whether it is well, and end",
        description="Prints one line. Exit code 0: the relay serves requests, perhaps degraded."
        " 1: it does not.",
        allow_abbrev=False,
    )
    _add_config(
        parser,
        "the configuration that the relay runs with; without it and --url that of process 1,"
        " where this is a relay (in a container), or else the built-in defaults",
    )
    parser.add_argument("--url", metavar="URL", help="where the relay is, http or https")
    parser.set_defaults(run=run)


def _add_config(parser: argparse.ArgumentParser, explanation: str | None = None) -> None:
    """Add ``--config``; where it is missing, the one before the command's name counts."""
    parser.add_argument(
        "-c", "--config", type=Path, metavar="PATH", default=argparse.SUPPRESS, help=explanation
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask ``/health`` and print what comes of it.

    Raises:
        CommandError: nobody answers, or not as a relay does, or it does not serve.
        ConfigError: the configuration that tells the address cannot be used.
    """
    from relay.config import load_config, testnet_config

    url: str | None = arguments.url
    if url is None:
        path: Path | None = arguments.config
        testnet: bool = arguments.testnet
        if path is None and not testnet:
            path, testnet = options_of(PROCESS_1)
        config = testnet_config() if testnet else load_config(path, os.environ)
        url = url_of(config.http)
    print(ask(url))
    return 0


def options_of(command_line: Path) -> tuple[Path | None, bool]:
    """Return ``--config`` and ``--testnet`` of a process, if it is a relay.

    Args:
        command_line: a process's ``cmdline`` under /proc: arguments, each with a zero byte
            behind it; those of an init before ours are skipped.
    """
    try:
        words = command_line.read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return None, False
    for index, word in enumerate(words):
        if Path(word).name == "pkarr-relay" or words[index : index + 2] == ["-m", "relay"]:
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            _add_config(parser)
            parser.add_argument("--testnet", action="store_true")
            parser.set_defaults(config=None)
            found, _ = parser.parse_known_args(words[index + 1 :])
            return found.config, found.testnet
    return None, False


def url_of(http: HttpConfig) -> str:
    """Return where a relay with this configuration is to be asked from its own machine.

    Raises:
        CommandError: it takes any free port.
    """
    if not http.port:
        raise CommandError("http.port = 0 takes any free port; say which one with --url")
    host = http.bind[0] if http.bind else "0.0.0.0"  # noqa: S104
    host = _ALL_ADDRESSES.get(host, host)
    return f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"


def ask(url: str) -> str:
    """Return what the relay at `url` says about its health, in one line.

    Raises:
        CommandError: nobody answers, or not as a relay does, or it does not serve.
    """
    import http.client
    from contextlib import closing
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CommandError(f"{url}: {error}") from None
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not host:
        raise CommandError(f"{url}: not a URL that begins with http:// or https:// and a host")
    try:
        with closing(kinds[parts.scheme](host, port, timeout=TIMEOUT_S)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandError(f"{url}: no answer: {str(error) or type(error).__name__}") from None
    said = _told(body)
    if response.status != 200 or said is None:
        raise CommandError(f"{url}: status {response.status}, {said or 'not as a relay answers'}")
    return said


def _told(body: bytes) -> str | None:
    """Return the status and the troubles of a ``/health``; None if it is none."""
    import json

    try:
        health = json.loads(body)
        troubles = [
            f"{name}: {part['reason']}"
            for name, part in health["parts"].items()
            if part["status"] != "ok"
        ]
        text = f"{health['status']}: {'; '.join(troubles)}" if troubles else str(health["status"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN_CHARACTERS_MAX])
