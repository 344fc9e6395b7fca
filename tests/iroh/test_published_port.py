"""Through a published port all programs on the host are one client: Docker's gateway.

docs/iroh.md says what that does to the rate limits, and what to write against it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.iroh import docker
from tests.iroh.conftest import Note
from tests.iroh.places import OLD_CONFIG, Containers
from tests.iroh.steps import Iroh
from tests.support import peers
from tests.support.packets import Author
from tests.support.peers import ROOT, Json, Peer
from tests.support.relay import fetch, wait_until

pytestmark = pytest.mark.interop

BURST: Final = 10
"""``burst_size`` of the old configuration."""
PAIRS: Final = 10
GATEWAYS: Final = '[rate_limiter]\nexempt = ["172.16.0.0/12", "192.168.0.0/16"]\n'
"""What docs/iroh.md says."""


@contextmanager
def published_port(place: Containers, config: Path) -> Iterator[str]:
    """A relay of the DHT of `place` with a port on the host; gives its URL."""
    name = f"{place.network.name}-published-{secrets.token_hex(2)}"
    docker.run(
        *("run", "--detach", "--name", name, "--publish", "127.0.0.1::8080"),
        *("--env", f'PKARR_RELAY__MAINLINE__BOOTSTRAP=["{place.dht}"]'),
        *("--volume", f"{config}:/config.toml:ro", place.image),
    )
    try:
        docker.run("network", "connect", place.network.name, name)
        url = f"http://{docker.run('port', name, '8080/tcp').splitlines()[0]}/"

        def joined() -> bool:
            try:
                return fetch(f"{url}health").json()["status"] == "ok"
            except OSError:
                return False

        wait_until(joined, "the relay's first answer")
        yield url
    finally:
        docker.run("rm", "--force", "--volumes", name)


def test_ten_requests_use_up_the_old_configuration(in_containers: Containers) -> None:
    """Whoever sent them; `/health` is not among what is counted."""
    with published_port(in_containers, OLD_CONFIG) as url:
        paths = [f"{Author().key}?policy=CacheOnly" for _ in range(BURST + 1)]
        statuses = [fetch(url + path).status for path in paths]
    assert statuses == [404] * BURST + [429]


@pytest.mark.parametrize("config", [ROOT / "config.toml", OLD_CONFIG], ids=lambda path: path.name)
def test_ten_pairs_on_the_host_with_the_gateway_exempt(
    in_containers: Containers, iroh: Iroh, note: Note, config: Path, tmp_path: Path
) -> None:
    exempting = tmp_path / "config.toml"
    shown = "exempt = []\n"
    text = config.read_text().replace(f"\n{shown}", "\n")
    exempting.write_text(text.replace("[rate_limiter]\n", GATEWAYS))
    bind = ("--bind", "127.0.0.1:0")
    with (
        published_port(in_containers, exempting) as url,
        ExitStack() as stack,
        ThreadPoolExecutor(PAIRS) as threads,
    ):

        def listen(_: int) -> Peer:
            return Peer(peers.program(iroh.pair), "--pkarr", url, *bind, "listen")

        def dial(far: Peer) -> Json:
            key = far.ready["key"]
            return peers.run(iroh.pair, "--pkarr", url, *bind, "dial", key, timeout_s=60)

        listeners = [stack.enter_context(far) for far in threads.map(listen, range(PAIRS))]
        met = list(threads.map(dial, listeners))
        assert all(report["ok"] for report in met), met
        slowest = max(float(str(report["seconds"])) for report in met)
        note(f"ten pairs on the host, port published, {config.name}", slowest_dial=slowest)
