"""schemathesis asks a real relay all that its OpenAPI document allows, and much besides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.integration.http_world import author
from tests.support.peers import ROOT
from tests.support.relay import STOP_S, TESTNET_PORT, fetch, wait_for_port, wait_until

COMMAND = os.environ.get("SCHEMATHESIS", "schemathesis")
URL = f"http://127.0.0.1:{TESTNET_PORT}/"
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "12"))
"""Of each operation, beside those that cover what the document says."""
SEED = "6"
ALICE = author(1)
"""Whose key is the document's example."""
LEFT_OUT = (
    "positive_data_acceptance",  # no schema can tell which letters are a point, or a good signature
    "ignored_auth",  # there is nothing to authorise
    "not_a_server_error",  # a DHT on a busy machine may be silent; errors of ours are in the log
)


def started() -> bool:
    try:
        return fetch(URL + "health").status == 200
    except OSError:
        return False


def test_the_relay_does_what_its_document_says(tmp_path: Path) -> None:
    wait_for_port(TESTNET_PORT)
    log = tmp_path / "relay.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "relay", "--testnet"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as relay,
    ):
        try:
            wait_until(started, "the relay's first answer")
            packet = ALICE.packet(timestamp_us=1_755_302_400_000_000, ttl_s=86_400)
            assert fetch(URL + ALICE.key, "PUT", packet.payload).status == 204
            done = subprocess.run(
                [
                    *(COMMAND, "run", URL + "openapi.json"),
                    *("--phases", "examples,coverage,fuzzing", "--checks", "all"),
                    *("--exclude-checks", ",".join(LEFT_OUT)),
                    *("--max-examples", str(EXAMPLES), "--seed", SEED, "--continue-on-failure"),
                    *("--request-timeout", "60", "--suppress-health-check", "all"),
                ],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            print(done.stdout)
            assert done.returncode == 0
            assert fetch(URL + ALICE.key).body == packet.payload
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(STOP_S) == 0
        finally:
            relay.kill()
    assert "ERROR" not in log.read_text()
