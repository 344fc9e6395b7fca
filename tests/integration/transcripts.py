"""Replaying recorded sessions of the reference relay against a relay process of ours.

`replay.py` of the transcripts replays what is self-contained. The rest needs a DHT beside the
relay, overlapping requests or a configuration of its own, and is driven from here: requests
are the recorded bytes and the comparison is `replay.py`'s. The seeds of the recorded keys are
not known; where a case puts an item into the DHT, the case is signed anew with a key of ours,
which has as many letters.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import trio

from relay.dht.items import MutableItem
from relay.net.start import open_driver
from tests.support.packets import KEY_LETTERS, Author
from tests.support.peers import ROOT, SHARED
from tests.support.relay import fetch, free_port, wait_until

TRANSCRIPTS: Final = SHARED / "transcripts"
TESTNET_URL: Final = "http://127.0.0.1:15411/"
START_S: Final = 30.0
STOP_S: Final = 10.0
_HEADER_BYTES: Final = 72
"""Signature and timestamp, in front of the DNS message."""

Json = dict[str, Any]


def _load_replay() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay", TRANSCRIPTS / "replay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["replay"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


replay: Final = _load_replay()


def cases(name: str) -> list[Json]:
    """Return the cases of one transcript file."""
    content: Json = json.loads((TRANSCRIPTS / f"{name}.json").read_text())
    found: list[Json] = content["cases"]
    return found


def case(name: str, case_id: str) -> Json:
    """Return one case of a transcript file."""
    return next(entry for entry in cases(name) if entry["id"] == case_id)


@dataclass(frozen=True)
class Outcome:
    """What a step came to, and how it differs from the recording."""

    label: str
    status: int | None
    headers: Mapping[str, str]
    body: bytes
    differences: Sequence[str]


class Signer:
    """Rewrites a recorded case for a key whose seed is known.

    Keys stand in paths and, as letters, in the DNS messages; a signature is deterministic, so
    the bytes that the relay must answer are known beforehand.
    """

    def __init__(self, recorded: Json) -> None:
        first = next(step for step in recorded["steps"] if "request" in step)
        path = first["request"]["head_text"].split(" ")[1]
        self._old = path[1 : 1 + KEY_LETTERS].encode()
        self.author = Author()
        self._new = self.author.key.encode()

    def payload(self, recorded: bytes) -> bytes:
        """Sign a recorded packet anew."""
        timestamp_us = int.from_bytes(recorded[64:_HEADER_BYTES])
        return self.author.sign(self._renamed(recorded[_HEADER_BYTES:]), timestamp_us).payload

    def item(self, recorded: Json) -> MutableItem:
        """Sign a recorded DHT item anew."""
        value = self._renamed(bytes.fromhex(recorded["v_hex"]))
        packet = self.author.sign(value, recorded["timestamp"])
        return MutableItem.from_value(
            self.author.public_key, recorded["timestamp"], value, packet.payload[:64]
        )

    def step(self, recorded: Json) -> Json:
        """Rewrite one request and the answer that is expected."""
        raw = bytes.fromhex(recorded["request"]["raw_hex"])
        head, separator, body = raw.partition(b"\r\n\r\n")
        request = self._renamed(head) + separator + (self.payload(body) if body else b"")
        response = dict(recorded["response"])
        answered = bytes.fromhex(response.get("body_hex", ""))
        if response.get("status") == 200 and len(answered) > _HEADER_BYTES:
            response["body_hex"] = self.payload(answered).hex()
        changed = {**recorded["request"], "raw_hex": request.hex()}
        return {**recorded, "request": changed, "response": response}

    def _renamed(self, data: bytes) -> bytes:
        return data.replace(self._old, self._new)


async def perform(step: Json, port: int) -> Outcome:
    """Send the recorded bytes of one step and compare the answer."""
    expected = step["response"]
    got = await trio.to_thread.run_sync(
        lambda: replay.exchange(
            "127.0.0.1",
            port,
            bytes.fromhex(step["request"]["raw_hex"]),
            wait_for_continue="interim" in expected,
        )
    )
    path = step["request"]["head_text"].split(" ", 2)[1].partition("?")[0]
    found, _ = replay.differences(expected, got, is_index=path == "/")
    return Outcome(step["label"], got.status, dict(got.headers), got.body, found)


async def put_on_dht(item: MutableItem, bootstrap: Sequence[tuple[str, int]]) -> None:
    """Store an item on a network, past the relay."""
    driver = open_driver(port=0, bind_address="127.0.0.1", bootstrap=bootstrap, server_mode=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        assert await driver.wait_bootstrapped(10.0)
        outcome = await driver.put(item)
        assert outcome.failure is None, outcome
        nursery.cancel_scope.cancel()


class RelayCommand:
    """The relay's command, as an operator types it, with all output kept."""

    def __init__(self, folder: Path, arguments: Sequence[str], url: str, **variables: str) -> None:
        self.url = url
        self.port = int(url.rstrip("/").rpartition(":")[2])
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "relay", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return self._output.read_text(errors="replace")

    def starts(self) -> bool:
        """Wait for the first answer; False if the process ends before."""

        def answers() -> str:
            if self._process.poll() is not None:
                return "ended"
            try:
                return "started" if fetch(self.url + "health").status else ""
            except OSError:
                return ""

        return wait_until(answers, "the relay's first answer", START_S) == "started"

    def dht(self) -> Json:
        """Return the DHT part of ``/stats``."""
        stats: Json = json.loads(fetch(self.url + "stats").body)
        found: Json = stats["dht"]
        return found

    def ended(self) -> int:
        """Return the exit code; the process ends by itself."""
        return self._process.wait(STOP_S)

    def stop(self) -> int:
        """Ask it to end, as a service manager would; return the exit code."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


@contextmanager
def running(
    folder: Path, arguments: Sequence[str], url: str, **variables: str
) -> Iterator[RelayCommand]:
    """Run a relay for the length of the block; it must start, and end well."""
    command = RelayCommand(folder, arguments, url, **variables)
    try:
        assert command.starts(), command.output
        yield command
    except BaseException as error:
        error.add_note(f"the relay printed:\n{command.output[-4000:]}")
        raise
    finally:
        exit_code = command.stop()
    assert exit_code == 0, command.output


@asynccontextmanager
async def configured(
    folder: Path, config_toml: str | None, bootstrap: Sequence[tuple[str, int]]
) -> AsyncIterator[RelayCommand]:
    """Run a relay with the recorded file as it stands; only ports and network are ours."""
    port = free_port()
    network = json.dumps([f"{host}:{number}" for host, number in bootstrap])
    variables = {
        "PKARR_RELAY__HTTP__PORT": str(port),
        "PKARR_RELAY__MAINLINE__PORT": "0",
        "PKARR_RELAY__MAINLINE__BIND_ADDRESS": "127.0.0.1",
        "PKARR_RELAY__MAINLINE__BOOTSTRAP": network,
        "PKARR_RELAY__MAINLINE__REQUEST_TIMEOUT_SECONDS": "1",
    }
    arguments: list[str] = []
    if config_toml is not None:
        (folder / "config.toml").write_text(config_toml)
        arguments = ["--config", "config.toml"]
    command = await trio.to_thread.run_sync(
        lambda: RelayCommand(folder, arguments, f"http://127.0.0.1:{port}/", **variables)
    )
    try:
        assert await trio.to_thread.run_sync(command.starts), command.output
        yield command
    finally:
        exit_code = await trio.to_thread.run_sync(command.stop)
    assert exit_code == 0, command.output
