"""An internet in one process: production nodes on public addresses, virtual time, every fault.

`World` moves datagrams, as bytes, between hosts. A host is a machine (a `DhtNode`, or a liar of
`hostile`) with an address, a clock of its own, perhaps a NAT in front of it, and it may sleep. The
wires lose, repeat, delay and reorder what they carry, and may be cut between two halves of the
world. Nothing waits: time jumps to the next thing that happens.

Everything follows from one seed. `digest` tells whether two runs were the same.

Unlike `network.SimNetwork`, which is for networks that work, this one asks a node's native
responder first, as the driver does, and shows datagrams that came together as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush, nsmallest
from itertools import count
from math import inf
from typing import Protocol
from zlib import crc32

from relay.dht import krpc
from relay.dht.events import Event
from relay.dht.node import DhtNode
from relay.dht.node_id import Address, NodeInfo, is_exempt, secure_id
from tests.support.chance import seeded

NAT_FORGETS_S = 120.0
"""How long a NAT lets answers in after the last datagram out (RFC 4787 asks for that)."""
GATHER_S = 0.001
"""How long a busy machine takes to read its socket again."""


class Machine(Protocol):
    """Whatever has an address and takes datagrams."""

    def receive_datagram(self, payload: bytes, source: Address, now: float) -> None: ...
    def handle_deadline(self, now: float) -> None: ...
    def next_deadline(self) -> float: ...
    def datagrams_to_send(self) -> list[tuple[bytes, Address]]: ...
    def take_events(self) -> list[Event]: ...


@dataclass
class Faults:
    """What the wires do; may be changed while the world turns. Ratios are of datagrams."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Held up for as long as `held_s`."""
    corrupt: float = 0.0
    """Arrive with a byte changed."""
    jitter_s: float = 0.01
    held_s: float = 1.0


@dataclass(eq=False)
class Host:
    """A machine in its place."""

    address: Address
    machine: Machine
    honest: bool
    lag_s: float
    """Its part of every datagram's way."""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    """Seconds of its clock per second."""
    lane: bool = False
    """Whether the node's native responder sees queries first."""
    gathers: bool = False
    """Whether what arrives within `GATHER_S` is shown to the node together."""
    nat: dict[Address, float] | None = None
    """When something was last sent where; None: everybody reaches it."""
    side: int = 0
    alive: bool = True
    asleep_until: float = 0.0
    armed: float = inf
    clock_s: float = -inf
    events: list[Event] = field(default_factory=list)
    on_events: Callable[[list[Event]], None] | None = None
    waiting: list[tuple[bytes, Address]] = field(default_factory=list)

    @property
    def node(self) -> DhtNode:
        """The node of an honest host."""
        assert isinstance(self.machine, DhtNode)
        return self.machine

    def clock(self, now: float) -> float:
        """What its clock shows; never less than it has shown."""
        self.clock_s = max(self.clock_s, self.clock_offset_s + now * self.clock_rate)
        return self.clock_s

    def when(self, clock_s: float) -> float:
        """The world's time when its clock shows `clock_s`."""
        return (clock_s - self.clock_offset_s) / self.clock_rate


class World:
    """Hosts and the wires between them.

    Args:
        seed: of everything random.
        faults: of the wires.
    """

    def __init__(self, seed: object, faults: Faults | None = None) -> None:
        self.rng = seeded(seed)
        self.faults = faults or Faults()
        self.now = 0.0
        self.hosts: dict[Address, Host] = {}
        self.sent = 0
        self.digest = 0
        """Of every datagram sent so far, in order."""
        self.watchers: list[Callable[[Host, bytes, Address, float], None]] = []
        """Told of each datagram that an honest host sends."""
        self._order = count()
        self._queue: list[tuple[float, int, Host | None, object, Address | None]] = []
        self._taken: set[str] = set()
        self._closest: dict[bytes, bytes] = {}

    # Building.

    def new_ip(self) -> str:
        """Return a public address that nobody has."""
        while True:
            bits = self.rng.getrandbits(32)
            ip = f"{bits >> 24}.{bits >> 16 & 255}.{bits >> 8 & 255}.{bits & 255}"
            if 1 <= bits >> 24 <= 223 and not is_exempt(ip) and ip not in self._taken:
                self._taken.add(ip)
                return ip

    def add(
        self,
        machine: Machine,
        address: Address,
        *,
        honest: bool,
        clock_offset_s: float = 0.0,
        clock_rate: float = 1.0,
        lane: bool = False,
        gathers: bool = False,
        behind_nat: bool = False,
    ) -> Host:
        """Put a machine into its place and let it begin."""
        host = Host(
            address,
            machine,
            honest,
            self.rng.uniform(0.005, 0.06),
            clock_offset_s,
            clock_rate,
            lane=lane,
            gathers=gathers,
            nat={} if behind_nat else None,
        )
        self.hosts[address] = host
        self._closest.clear()
        self.flush(host)
        return host

    def add_node(
        self,
        bootstrap: Iterable[Address] = (),
        *,
        server: bool | str = True,
        knows_ip: bool = True,
        clock_offset_s: float = 0.0,
        clock_rate: float = 1.0,
        make: Callable[..., DhtNode] = DhtNode,
        **place: bool,
    ) -> Host:
        """Add a production node; `place` as for `add`."""
        address = (self.new_ip(), 6881)
        node = make(
            rng=seeded(self.rng.getrandbits(64)),
            secret=self.rng.randbytes(32),
            now=clock_offset_s + self.now * clock_rate,
            local_address=("0.0.0.0", 6881),  # noqa: S104 - nothing is bound
            server_mode=server,
            public_ip=address[0] if knows_ip else None,
            bootstrap=tuple(bootstrap),
        )
        return self.add(
            node,
            address,
            honest=True,
            clock_offset_s=clock_offset_s,
            clock_rate=clock_rate,
            **place,
        )

    def acquaint(self, host: Host, others: Iterable[tuple[bytes, Address]]) -> None:
        """Let an honest host's node know others, as if they had answered it."""
        now = host.clock(self.now)
        for node_id, address in others:
            if address != host.address:
                host.node._table.add(NodeInfo(node_id, address), now)

    def remove(self, host: Host) -> None:
        """Let a host vanish; what is on its way to it is lost."""
        host.alive = False
        del self.hosts[host.address]
        self._closest.clear()

    def secure_id(self, ip: str) -> bytes:
        """Return a random identifier that fits an address (BEP 42)."""
        return secure_id(ip, self.rng)

    def closest(self, target: bytes) -> bytes:
        """Return the 20 nodes nearest to a target, as a know-all would name them."""
        packed = self._closest.get(target)
        if packed is None:
            centre = int.from_bytes(target, "big")
            nodes = nsmallest(
                20,
                self.ids(),
                key=lambda node: int.from_bytes(node[0], "big") ^ centre,
            )
            packed = krpc.pack_nodes(NodeInfo(*node) for node in nodes)
            if len(self._closest) > 1000:
                self._closest.clear()
            self._closest[target] = packed
        return packed

    def ids(self) -> list[tuple[bytes, Address]]:
        """Return all who have an identifier."""
        return [
            (host.machine.node_id, address)  # type: ignore[attr-defined]
            for address, host in self.hosts.items()
        ]

    # Running.

    def call_at(self, at: float, action: Callable[[], None]) -> None:
        """Call `action` when the world's time is `at`."""
        heappush(self._queue, (at, next(self._order), None, action, None))

    def sleep(self, host: Host, seconds: float) -> None:
        """Suspend a machine: meanwhile it hears nothing, and its clock goes on."""
        host.asleep_until = self.now + seconds
        self._arm(host)

    def wake(self, host: Host) -> None:
        """End a host's sleep now."""
        host.asleep_until = self.now
        self._arm(host)

    def flush(self, host: Host) -> None:
        """Put what a host wants to send on the wire, take its events, note its deadline."""
        machine = host.machine
        for payload, to in machine.datagrams_to_send():
            self.transmit(host, payload, to)
        events = machine.take_events()
        if events:
            if host.on_events is not None:
                host.on_events(events)
            else:
                host.events.extend(events)
        self._arm(host)

    def _arm(self, host: Host) -> None:
        deadline = host.machine.next_deadline()
        if deadline != inf:
            at = max(host.when(deadline), host.asleep_until, self.now)
            if at != host.armed:
                host.armed = at
                heappush(self._queue, (at, next(self._order), host, deadline, None))

    def transmit(
        self, host: Host, payload: bytes, to: Address, source: Address | None = None
    ) -> None:
        """Put a datagram on the wire; a liar may forge its source."""
        self.sent += 1
        self.digest = crc32(payload, self.digest ^ to[1] ^ self.sent)
        if host.honest:
            for watch in self.watchers:
                watch(host, payload, to, self.now)
        if host.nat is not None:
            host.nat[to] = self.now
        receiver = self.hosts.get(to)
        faults, chance = self.faults, self.rng.random
        if receiver is None or chance() < faults.loss:
            return
        copies = 1 + (faults.duplicate > 0.0 and chance() < faults.duplicate)
        for _ in range(copies):
            delay_s = host.lag_s + receiver.lag_s + chance() * faults.jitter_s
            if faults.reorder and chance() < faults.reorder:
                delay_s += chance() * faults.held_s
            if faults.corrupt and payload and chance() < faults.corrupt:
                at = int(chance() * len(payload))
                payload = payload[:at] + bytes([int(chance() * 256)]) + payload[at + 1 :]
            heappush(
                self._queue,
                (self.now + delay_s, next(self._order), receiver, payload, source or host.address),
            )

    def step(self, until: float = inf) -> bool:
        """Let the next thing happen if it happens by `until`; False if not."""
        if not self._queue or self._queue[0][0] > until:
            self.now = max(self.now, until) if until != inf else self.now
            return False
        at, _, host, what, source = heappop(self._queue)
        self.now = max(self.now, at)
        if host is None:
            what()  # type: ignore[operator]
        elif source is not None:
            if host.alive:
                self._deliver(host, what, source)  # type: ignore[arg-type]
        elif what is None:
            self._show(host)
        elif host.alive and at == host.armed:
            host.armed = inf
            if self.now >= host.asleep_until:
                # Rounding must not make it early, or it would be called again and again.
                host.clock_s = max(host.clock(self.now), what)  # type: ignore[type-var]
                host.machine.handle_deadline(host.clock_s)
            self.flush(host)
        return True

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self.now + seconds
        while self.step(until):
            pass

    def run_until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Let time pass until `condition` holds; fails after `limit_s` of the world's time."""
        until = self.now + limit_s
        while not condition():
            assert self.step(until), "the condition never came true"

    def _deliver(self, host: Host, payload: bytes, source: Address) -> None:
        if self.now < host.asleep_until:
            return
        sender = self.hosts.get(source)
        if sender is not None and sender.side != host.side:
            return
        if host.nat is not None and host.nat.get(source, -inf) < self.now - NAT_FORGETS_S:
            return
        now = host.clock(self.now)
        if host.lane:
            native = host.node.native_responder
            if native is not None:
                reply = native.answer(payload, krpc.pack_address(source), now)
                if reply is not None:
                    if reply:
                        self.transmit(host, reply, source)
                    return
        if host.gathers:
            if not host.waiting:
                heappush(self._queue, (self.now + GATHER_S, next(self._order), host, None, None))
            host.waiting.append((payload, source))
            return
        host.machine.receive_datagram(payload, source, now)
        self.flush(host)

    def _show(self, host: Host) -> None:
        batch, host.waiting = host.waiting, []
        if host.alive and self.now >= host.asleep_until:
            host.node.receive_datagrams(batch, host.clock(self.now))
            self.flush(host)
