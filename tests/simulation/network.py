"""A whole DHT in one process: production nodes, virtual time, and faults by name.

`SimNetwork` moves datagrams between `DhtNode` objects, each with its latency, some of them
lost. Nothing waits: the clock jumps to the next datagram or deadline. Everything follows from
one seed, so that a failure found here is one integer to repeat.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol

from nacl.signing import SigningKey

from relay.dht.events import (
    Event,
    GetFinished,
    GetHandle,
    GetOutcome,
    ItemReceived,
    PutFinished,
    PutHandle,
    PutOutcome,
)
from relay.dht.items import MutableItem
from relay.dht.node import DhtNode
from relay.dht.node_id import Address
from tests.support.chance import seeded


class Machine(Protocol):
    """Whatever has an address and takes datagrams: a `DhtNode` or a liar."""

    def receive_datagram(self, payload: bytes, source: Address, now: float) -> None: ...
    def handle_deadline(self, now: float) -> None: ...
    def next_deadline(self) -> float: ...
    def datagrams_to_send(self) -> list[tuple[bytes, Address]]: ...
    def take_events(self) -> list[Event]: ...


@dataclass
class Inbox:
    """Events of one node, sorted by what tests ask about."""

    items: list[ItemReceived] = field(default_factory=list)
    item_times: list[float] = field(default_factory=list)
    gets: dict[GetHandle, GetOutcome] = field(default_factory=dict)
    puts: dict[PutHandle, PutOutcome] = field(default_factory=dict)
    others: list[Event] = field(default_factory=list)

    def take(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            if isinstance(event, ItemReceived):
                self.items.append(event)
                self.item_times.append(now)
            elif isinstance(event, GetFinished):
                self.gets[event.handle] = event.outcome
            elif isinstance(event, PutFinished):
                self.puts[event.handle] = event.outcome
            else:
                self.others.append(event)


class SimNetwork:
    """Machines and the wires between them.

    Args:
        seed: of everything random.
        latency_s: shortest and longest time a datagram takes, seconds; uniform between.
        loss_ratio: share of datagrams that never arrive.
        public: addresses are public ones, so that limits per address and BEP 42 apply;
            otherwise they are from 10/8.
    """

    def __init__(
        self,
        seed: int,
        *,
        latency_s: tuple[float, float] = (0.01, 0.05),
        loss_ratio: float = 0.0,
        public: bool = False,
    ) -> None:
        self.rng = seeded(seed)
        self.now = 1000.0
        self.latency_s = latency_s
        self.loss_ratio = loss_ratio
        self.public = public
        self.machines: dict[Address, Machine] = {}
        self.inboxes: dict[Address, Inbox] = {}
        self.log = hashlib.blake2b()
        self.sent = 0
        self._order = count()
        self._wire: list[tuple[float, int, Address, Address, bytes]] = []
        self._deadlines: list[tuple[float, int, Address]] = []
        self._armed: dict[Address, float] = {}
        self._hosts = count(1)

    # Building.

    def new_address(self) -> Address:
        host = next(self._hosts)
        first = 20 + host % 180 if self.public else 10
        return (f"{first}.{host >> 16 & 255}.{host >> 8 & 255}.{host & 255}", 6881)

    def add_node(
        self,
        bootstrap: Iterable[Address] = (),
        *,
        server: bool = True,
        knows_ip: bool = True,
        **options: object,
    ) -> tuple[Address, DhtNode]:
        address = self.new_address()
        node = DhtNode(
            rng=seeded(self.rng.getrandbits(64)),
            secret=self.rng.randbytes(32),
            now=self.now,
            local_address=("0.0.0.0", 6881),  # noqa: S104 - nothing is bound
            server_mode=server,
            public_ip=address[0] if self.public and knows_ip else None,
            bootstrap=tuple(bootstrap),
            **options,  # type: ignore[arg-type]
        )
        self.add_machine(address, node)
        return address, node

    def add_machine(self, address: Address, machine: Machine) -> None:
        self.machines[address] = machine
        self.inboxes[address] = Inbox()
        self.flush(address)

    def grow(self, nodes: int) -> list[Address]:
        """Add a first node and others that join through it, and let them get acquainted."""
        first, _ = self.add_node()
        addresses = [first]
        for _ in range(nodes - 1):
            entry = self.rng.choice(addresses[:8])
            address, _ = self.add_node([entry])
            addresses.append(address)
            self.advance(0.2)
        self.advance(5.0)
        return addresses

    def kill(self, address: Address) -> None:
        del self.machines[address]

    def move(self, address: Address) -> Address:
        """Give a machine another address, as a NAT does; returns that."""
        new = self.new_address()
        self.machines[new] = self.machines.pop(address)
        self.inboxes[new] = self.inboxes.pop(address)
        self.flush(new)
        return new

    # Running.

    def flush(self, address: Address) -> None:
        """Put what a machine wants to send on the wire, take its events, note its deadline."""
        machine = self.machines[address]
        for payload, to in machine.datagrams_to_send():
            self.sent += 1
            self.log.update(repr((address, to, payload)).encode())
            if self.rng.random() >= self.loss_ratio:
                delay = self.rng.uniform(*self.latency_s)
                heappush(self._wire, (self.now + delay, next(self._order), to, address, payload))
        self.inboxes[address].take(machine.take_events(), self.now)
        deadline = machine.next_deadline()
        if deadline != inf and self._armed.get(address) != deadline:
            self._armed[address] = deadline
            heappush(self._deadlines, (deadline, next(self._order), address))

    def step(self) -> bool:
        """Let the next thing happen; False if nothing ever will."""
        arrival = self._wire[0][0] if self._wire else inf
        deadline = self._deadlines[0][0] if self._deadlines else inf
        if arrival == deadline == inf:
            return False
        if arrival <= deadline:
            at, _, to, source, payload = heappop(self._wire)
            self.now = max(self.now, at)
            if to in self.machines:
                self.machines[to].receive_datagram(payload, source, self.now)
                self.flush(to)
            return True
        at, _, address = heappop(self._deadlines)
        if self._armed.get(address) == at:
            del self._armed[address]
        if address in self.machines:
            self.now = max(self.now, at)
            self.machines[address].handle_deadline(self.now)
            self.flush(address)
        return True

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self.now + seconds
        while (
            min(
                self._wire[0][0] if self._wire else inf,
                self._deadlines[0][0] if self._deadlines else inf,
            )
            <= until
        ):
            self.step()
        self.now = until

    def run_until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Let time pass until `condition` holds; fails after `limit_s` of virtual time."""
        until = self.now + limit_s
        while not condition():
            assert self.now < until, "the condition never came true"
            assert self.step(), "nothing more will happen"

    # Using.

    def node(self, address: Address) -> DhtNode:
        machine = self.machines[address]
        assert isinstance(machine, DhtNode)
        return machine

    def start_get(self, via: Address, public_key: bytes, **options: object) -> GetHandle:
        handle = self.node(via).start_get(public_key, now=self.now, **options)  # type: ignore[arg-type]
        self.flush(via)
        return handle

    def start_put(self, via: Address, item: MutableItem, **options: object) -> PutHandle:
        handle = self.node(via).start_put(item, now=self.now, **options)  # type: ignore[arg-type]
        self.flush(via)
        return handle

    def get(self, via: Address, public_key: bytes, **options: object) -> GetOutcome:
        handle = self.start_get(via, public_key, **options)
        gets = self.inboxes[via].gets
        self.run_until(lambda: handle in gets)
        return gets[handle]

    def put(self, via: Address, item: MutableItem, **options: object) -> PutOutcome:
        handle = self.start_put(via, item, **options)
        puts = self.inboxes[via].puts
        self.run_until(lambda: handle in puts)
        return puts[handle]


def make_item(
    seed: int, seq: int = 1, value: bytes = b"hello", salt: bytes | None = None
) -> MutableItem:
    """Return a correctly signed item of the key with that seed."""
    key = SigningKey(hashlib.sha256(b"%d" % seed).digest())
    public_key = key.verify_key.encode()
    unsigned = MutableItem.from_value(public_key, seq, value, bytes(64), salt)
    signature = key.sign(unsigned.signable).signature
    return MutableItem.from_value(public_key, seq, value, signature, salt)


class Scripted:
    """A machine whose answers come out of a function: liars, old nodes, sleepers.

    Args:
        answer: (datagram, source) to the datagrams to send back to that source.
    """

    def __init__(self, answer: Callable[[bytes, Address], list[bytes]]) -> None:
        self._answer = answer
        self._outbox: deque[tuple[bytes, Address]] = deque()
        self.received: list[tuple[bytes, Address]] = []

    def receive_datagram(self, payload: bytes, source: Address, now: float) -> None:
        self.received.append((payload, source))
        self._outbox.extend((reply, source) for reply in self._answer(payload, source))

    def handle_deadline(self, now: float) -> None: ...

    def next_deadline(self) -> float:
        return inf

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        datagrams = list(self._outbox)
        self._outbox.clear()
        return datagrams

    def take_events(self) -> list[Event]:
        return []
