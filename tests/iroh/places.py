"""Where two relays, a DHT and iroh programs meet: on loopback, or in containers.

Every place has relays A and B on one DHT, each told of two of its nodes, and some machines to run
iroh programs on. In containers each machine has an address of its own on a network that leads
nowhere else; relay A runs the repository's ``config.toml`` and relay B the one of relay 0.11 that
many projects have, both unchanged but for the DHT that they are to join.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from tests.iroh import docker
from tests.support import peers
from tests.support.peers import ROOT, Json, Peer
from tests.support.relay import Answer, RelayProcess, fetch, wait_until

MACHINES: Final = 10
NODES: Final = 5
ENTRY_NODES: Final = 2
"""How many nodes of the DHT a relay is told of."""
OLD_CONFIG: Final = Path(__file__).with_name("config-0.11.toml")


class Relay(Protocol):
    """A relay, as operators and clients see it."""

    @property
    def url(self) -> str:
        """Base URL for every program of the place, with a slash at its end."""

    def get(self, key: str, policy: str | None = None) -> Answer:
        """Ask for a key."""

    def put(self, key: str, payload: bytes, timeout_s: float = 30.0) -> Answer:
        """Publish a packet."""

    def stop(self) -> object:
        """End it properly."""

    def start(self) -> object:
        """Start it again, with its cache, and wait until it serves."""


class Place(Protocol):
    """Two relays on a DHT, and machines for programs."""

    a: Relay
    b: Relay
    dht: str
    """``ip:port`` of a node of the DHT that the relays were not told of."""

    def listen(self, machine: int, name: str, *arguments: object) -> Peer:
        """Start a program that runs until it is closed."""

    def run(self, machine: int, name: str, *arguments: object) -> Json:
        """Run a program to its end and return its last line."""

    def bind(self, machine: int) -> str:
        """The address that ``--bind`` of iroh-pair takes; port 0."""

    def path(self, file: Path) -> str:
        """A file of the place's folder, as its programs see it."""

    def freeze(self, relay: Relay) -> None:
        """Stop the relay in its tracks; its connections stay."""

    def thaw(self, relay: Relay) -> None:
        """Let it go on."""

    def freeze_dht(self) -> None:
        """Freeze every node of the DHT."""

    def thaw_dht(self) -> None:
        """Let them go on."""


class Loopback:
    """Everything on 127.0.0.1, as processes."""

    name: Final = "loopback"

    def __init__(self, net: Peer, a: RelayProcess, b: RelayProcess, folder: Path) -> None:
        self._net = net
        self.a: RelayProcess = a
        self.b: RelayProcess = b
        self.dht = net.bootstrap[5]
        self.folder = folder

    def listen(self, machine: int, name: str, *arguments: object) -> Peer:
        return Peer(peers.program(name), *arguments)

    def run(self, machine: int, name: str, *arguments: object) -> Json:
        return peers.run(name, *arguments, timeout_s=120)

    def bind(self, machine: int) -> str:
        return "127.0.0.1:0"

    def path(self, file: Path) -> str:
        return str(file)

    def freeze(self, relay: Relay) -> None:
        os.kill(self._process(relay).pid, signal.SIGSTOP)

    def thaw(self, relay: Relay) -> None:
        os.kill(self._process(relay).pid, signal.SIGCONT)

    def freeze_dht(self) -> None:
        os.kill(self._net.pid, signal.SIGSTOP)

    def thaw_dht(self) -> None:
        os.kill(self._net.pid, signal.SIGCONT)

    def _process(self, relay: Relay) -> RelayProcess:
        assert isinstance(relay, RelayProcess)
        return relay


@contextmanager
def loopback(folder: Path) -> Iterator[Loopback]:
    """Ten DHT nodes of ours and two relays."""
    with ExitStack() as stack:
        net = stack.enter_context(peers.own_net(10))
        relays = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            relay = RelayProcess(folder / name, bootstrap=net.bootstrap[:ENTRY_NODES])
            relays.append(stack.enter_context(relay).wait_bootstrapped())
        yield Loopback(net, relays[0], relays[1], folder)


class ContainerRelay:
    """A relay in a container; it keeps its address, and over restarts its cache."""

    def __init__(self, container: docker.Container) -> None:
        self.container = container

    @property
    def url(self) -> str:
        return f"http://{self.container.ip}:8080/"

    def get(self, key: str, policy: str | None = None) -> Answer:
        return fetch(self.url + (key if policy is None else f"{key}?policy={policy}"))

    def put(self, key: str, payload: bytes, timeout_s: float = 30.0) -> Answer:
        return fetch(self.url + key, "PUT", payload, timeout_s=timeout_s)

    def stop(self) -> None:
        self.container.stop()

    def start(self) -> None:
        self.container.start()
        self.wait()

    def wait(self) -> None:
        """Wait until it serves and knows somebody."""
        wait_until(self._ready, f"{self.container.name} to find the DHT")

    def _ready(self) -> bool:
        try:
            dht = fetch(self.url + "stats").json()["dht"]
        except OSError:
            return False
        assert isinstance(dht, dict)
        return bool(dht["table_size"])


class Containers:
    """A private network; nothing of it can be reached from elsewhere, nor can it reach anything."""

    name: Final = "containers"

    def __init__(
        self,
        image: str,
        network: docker.Network,
        nodes: Sequence[docker.Container],
        relays: Sequence[ContainerRelay],
        machines: Sequence[docker.Container],
        folder: Path,
    ) -> None:
        self.image = image
        self.network = network
        self._nodes = nodes
        self._machines = machines
        self.a: ContainerRelay = relays[0]
        self.b: ContainerRelay = relays[1]
        self.dht = f"{nodes[-1].ip}:6881"
        self.folder = folder

    def listen(self, machine: int, name: str, *arguments: object) -> Peer:
        return Peer(*self._command(machine, name), *arguments)

    def run(self, machine: int, name: str, *arguments: object) -> Json:
        return peers.last_line(*self._command(machine, name), *arguments, timeout_s=120)

    def machine(self, number: int) -> docker.Container:
        return self._machines[number % len(self._machines)]

    def bind(self, machine: int) -> str:
        return "0.0.0.0:0"

    def path(self, file: Path) -> str:
        return f"/data/{file.relative_to(self.folder)}"

    def freeze(self, relay: Relay) -> None:
        docker.run("pause", self._container(relay).name)

    def thaw(self, relay: Relay) -> None:
        docker.run("unpause", self._container(relay).name)

    def freeze_dht(self) -> None:
        docker.run("pause", *(node.name for node in self._nodes))

    def thaw_dht(self) -> None:
        docker.run("unpause", *(node.name for node in self._nodes))

    def cut(self, relay: Relay) -> None:
        """Take the relay's network away."""
        self.network.disconnect(self._container(relay))

    def heal(self, relay: Relay) -> None:
        """Give it back."""
        self.network.connect(self._container(relay))

    def cut_dht(self) -> None:
        """Take the network of every node of the DHT away."""
        for node in self._nodes:
            self.network.disconnect(node)

    def heal_dht(self) -> None:
        """Give it back."""
        for node in self._nodes:
            self.network.connect(node)

    def _container(self, relay: Relay) -> docker.Container:
        assert isinstance(relay, ContainerRelay)
        return relay.container

    def _command(self, machine: int, name: str) -> list[str]:
        return docker.command("exec", "-i", self.machine(machine).name, f"/peers/{name}")


@contextmanager
def containers(image: str, folder: Path, machines: int = MACHINES) -> Iterator[Containers]:
    """DHT nodes, relays and machines, each a container of the relay's image."""
    programs = peers.program("iroh-sync").parent
    with docker.network() as network:
        node_ips = [network.address(11 + number) for number in range(NODES)]

        def relay(name: str, ip: str, config: Path, bootstrap: list[str], *more: str) -> list[str]:
            quoted = ", ".join(f'"{known}:6881"' for known in bootstrap if known != ip)
            return [
                *("--env", f"PKARR_RELAY__MAINLINE__BOOTSTRAP=[{quoted}]"),
                *("--volume", f"{config}:/config.toml:ro", *more, image),
            ]

        config = ROOT / "config.toml"
        serve = ("--env", "PKARR_RELAY__MAINLINE__SERVER_MODE=true")
        nodes = [
            network.run(f"node{number}", ip, *relay("node", ip, config, node_ips, *serve))
            for number, ip in enumerate(node_ips)
        ]
        entry = node_ips[:ENTRY_NODES]
        relays = []
        for number, (name, file) in enumerate((("a", config), ("b", OLD_CONFIG))):
            ip = network.address(21 + number)
            container = network.run(f"relay-{name}", ip, *relay(name, ip, file, entry))
            relays.append(ContainerRelay(container))
        idle = [
            network.run(
                f"machine{number}",
                network.address(101 + number),
                *("--init", "--user", f"{os.getuid()}:{os.getgid()}"),
                *("--volume", f"{programs}:/peers:ro", "--volume", f"{folder}:/data"),
                *("--entrypoint", "sleep", image, "infinity"),
            )
            for number in range(machines)
        ]
        for found in relays:
            found.wait()
        yield Containers(image, network, nodes, relays, idle, folder)
