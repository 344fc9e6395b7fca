"""Drives a sans-IO `DhtNode` on a UDP socket under Trio.

    socket ─→ lane ─→ inbox ─→ node ─→ outbox ─→ socket
               │                │
               │                └─→ events ─→ whoever waits for the handle
               └─ others' plain queries: answered at once ─→ socket

Two tasks share one method, `_turn`: the reader takes it when datagrams arrive, the keeper when
a deadline of the node has come. A turn empties the kernel's buffer first (that is where
datagrams get lost). On the way the lane (`udp_socket.open_datagrams`) has most queries of others
answered in C, for a limited time; without the extension they go to the node like all else. Then
the node sees a few of the rest, also for a limited time, so that other tasks of the process get
their share. The node's clock follows the arrival of datagrams: a deadline takes effect only when
everything that arrived before it has been seen, or an answer that waited in our own queue would
count as a time-out.

Where queries come in crowds the reader may let them gather for a moment before the next turn (see
`gathering`). It does not while there is anything for the node among them, whose look-ups are not
to wait.

Sends go out at once, in bursts of limited size; the rest waits for the writer task, which also
waits when the socket is full. No error of the network ends the driver: what cannot be sent is
counted and forgotten, as if lost on its way.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from relay.dht.events import (
    Bootstrapped,
    Event,
    GetFinished,
    GetHandle,
    GetOutcome,
    ItemReceived,
    PutAssured,
    PutFailure,
    PutFinished,
    PutHandle,
    PutOutcome,
    TablePoor,
)
from relay.net.bootstrap import BootstrapNames
from relay.net.gathering import Gathering
from relay.net.silence import Silence
from relay.net.udp_socket import DatagramCounters, Datagrams, kernel_drops, open_datagrams

if TYPE_CHECKING:
    from relay.dht.items import MutableItem
    from relay.dht.node import DhtNode
    from relay.dht.node_id import Address

_log: Final = logging.getLogger("relay.net")

READ_DATAGRAMS_MAX: Final = 256
"""Taken from the kernel in one go; a microsecond or two each."""
TURN_DATAGRAMS_MAX: Final = 32
"""Shown to the node before other tasks run."""
BATCH_DATAGRAMS: Final = 4
"""Shown to the node together: it verifies the items among them as one batch."""
TURN_S: Final = 0.0001
"""The same as a time, also for the lane: HTTP answers are to leave within a millisecond."""
INBOX_MAX: Final = 4096
"""Datagrams read but not yet seen by the node, 8 MiB at most; beyond it the kernel drops."""
BURST_DATAGRAMS_MAX: Final = 8
"""Sent before other tasks run, some 10 microseconds each; answers must find room, too."""
OUTBOX_MAX: Final = 16_384
"""Datagrams waiting to be sent; beyond it new ones are dropped, as by a full network."""
ERRORS_PAUSE_S: Final = 0.05
"""When reading gives nothing but errors, wait this long instead of spinning."""
SAVE_INTERVAL_S: Final = 180.0
SILENCE_TICK_S: Final = 0.25
PROBE_S: Final = 1.0
"""How often somebody is asked while nobody answers: health tells soon that one does."""

SavedNode = tuple[bytes, str, int]
"""Node id, IPv4 address, port: how a routing table is kept between runs."""


class _Arrival(NamedTuple):
    payload: bytes
    source: Address
    arrived: float


class _Seen(NamedTuple):
    """What a turn found."""

    answered: int
    """Datagrams that the lane took."""
    others: int
    """Datagrams for the node."""
    more: bool
    """Whether there may be more at once."""
    healthy: bool
    """Whether there was something else than errors."""


class _Lookup(NamedTuple):
    on_item: Callable[[MutableItem], None]
    on_finished: Callable[[GetOutcome], None]


@dataclass(slots=True, eq=False)
class _Put:
    on_assured: Callable[[], None] | None
    outcome: PutOutcome | None = None
    finished: trio.Event = field(default_factory=trio.Event)


class DhtDriver:
    """Our node on a socket.

    Args:
        node: sees nothing of sockets and clocks; nobody else may call it while the driver runs.
        sock: from `bind_udp`; the driver is its only user and closes it at the end.
        bootstrap: (host, port) of the nodes to begin with; names are resolved in the
            background, again when the routing table runs poor.
        save_nodes: given the routing table every few minutes and at the end, for the next start.
    """

    def __init__(
        self,
        node: DhtNode,
        sock: socket.socket,
        *,
        bootstrap: Sequence[tuple[str, int]] = (),
        save_nodes: Callable[[list[SavedNode]], None] | None = None,
    ) -> None:
        self.node = node
        self.counters = DatagramCounters()
        self.local_address: Address = sock.getsockname()
        self._sock = sock
        self._datagrams = open_datagrams(sock, self.counters, node.native_responder)
        self._names = BootstrapNames(bootstrap)
        self._save_nodes = save_nodes
        self._inbox: deque[_Arrival] = deque()
        self._outbox: deque[tuple[bytes, Address]] = deque()
        self._lookups: dict[GetHandle, _Lookup] = {}
        self._puts: dict[PutHandle, _Put] = {}
        self._gathering = Gathering()
        self._alarm = trio.CancelScope()
        self._leftover = trio.Event()
        self._socket_full = False
        self._bootstrapped = trio.Event()
        self._closed = False
        self._silence = Silence()

    @property
    def silent(self) -> bool:
        """Whether nobody answers us any more, though somebody did."""
        return self._silence.silent

    @property
    def kernel_drops(self) -> int | None:
        """Datagrams that the kernel dropped because its buffer was full; None: unknown."""
        return None if self._closed else kernel_drops(self._sock)

    async def run(
        self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Move datagrams between socket and node until cancelled.

        Start with ``await nursery.start(driver.run)``, which returns the bound address.
        A peer can never make this raise; whatever does escape is our bug and should end
        the program. At the end whoever still waits gets an outcome without answers.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_socket)
                nursery.start_soon(self._keep_deadlines)
                nursery.start_soon(self._write_leftovers)
                nursery.start_soon(self._names.run, self._add_bootstrap)
                nursery.start_soon(self._save_now_and_then)
                nursery.start_soon(self._listen_for_silence)
                self._flush()
                task_status.started(self.local_address)
        finally:
            self._save()
            self._close()

    async def wait_bootstrapped(self, timeout: float) -> bool:
        """Wait until a node has answered us, at most `timeout` seconds; tell whether one has.

        With nobody to ask, neither now nor once names are resolved, it does not wait.
        """
        if self.node.bootstrapped:
            return True
        if not self._names.configured and self.node.counters.queries_out == 0:
            return False
        with trio.move_on_after(timeout):
            await self._bootstrapped.wait()
        return self.node.bootstrapped

    def start_get(
        self,
        public_key: bytes,
        *,
        salt: bytes = b"",
        seq: int | None = None,
        on_item: Callable[[MutableItem], None],
        on_finished: Callable[[GetOutcome], None],
    ) -> GetHandle:
        """Start or join a look-up of a mutable item.

        Args:
            public_key: 32 bytes.
            salt: as in BEP 44.
            seq: only items with a higher one are wanted.
            on_item: called for each verified item, newer ones after older ones.
            on_finished: called once, last; not after `release`. Neither may raise.
        """
        handle = self.node.start_get(public_key, salt=salt, seq=seq, now=trio.current_time())
        self._lookups[handle] = _Lookup(on_item, on_finished)
        if self._closed:
            self._end_waiting()
        else:
            self._flush()
        return handle

    def release(self, handle: GetHandle) -> None:
        """Lose interest in a look-up; one that has finished may be released, too."""
        if self._lookups.pop(handle, None) is not None and not self._closed:
            self.node.release(handle, now=trio.current_time())
            self._flush()

    async def put(
        self,
        item: MutableItem,
        *,
        cas: int | None = None,
        on_assured: Callable[[], None] | None = None,
    ) -> PutOutcome:
        """Store an item on the nodes closest to its target, and wait for their answers.

        Cancelled, it leaves the decision how to end to the node: what was sent is sent.

        Args:
            item: what to store.
            cas: store only where this is the present sequence number.
            on_assured: called, at most once, when it can no longer fail but is still waiting
                for slow nodes. May not raise.
        """
        handle = self.node.start_put(item, cas=cas, now=trio.current_time())
        put = self._puts[handle] = _Put(on_assured)
        try:
            if self._closed:
                self._end_waiting()
            else:
                self._flush()
            await put.finished.wait()
        finally:
            del self._puts[handle]
            if put.outcome is None and not self._closed:
                self.node.release(handle, now=trio.current_time())
                self._flush()
        return put.outcome or PutOutcome(0, 0, PutFailure.TIMED_OUT)

    # The tasks.

    async def _read_socket(self) -> None:
        more = False
        while True:
            if not self._inbox and not more:
                await trio.lowlevel.wait_readable(self._sock)
            seen = self._turn()
            more = seen.more
            if not seen.healthy:
                await trio.sleep(ERRORS_PAUSE_S)
            elif (wait_s := self._gathering.note(seen.answered, trio.current_time())) and not (
                more or seen.others or self._inbox
            ):
                await trio.sleep(wait_s)
                more = True  # no doubt
            elif more or self._inbox:  # otherwise waiting for the socket lets others run
                await trio.lowlevel.checkpoint()

    async def _keep_deadlines(self) -> None:
        while True:
            # `_flush` moves the deadline while we sleep.
            with trio.CancelScope(deadline=self._next_alarm()) as self._alarm:
                await trio.sleep_forever()
            self._turn()
            while self._inbox:  # the reader may be waiting for the socket, which is empty now
                await trio.lowlevel.checkpoint()
                self._turn()

    async def _write_leftovers(self) -> None:
        while True:
            await self._leftover.wait()
            if self._socket_full:
                await trio.lowlevel.wait_writable(self._sock)
            self._send_burst()
            await trio.lowlevel.checkpoint()

    async def _listen_for_silence(self) -> None:
        """Notice when nobody answers any more; then ask every second, to notice the end of it."""
        probe: GetHandle | None = None
        probe_due = 0.0
        while True:
            await trio.sleep(SILENCE_TICK_S)
            counters, now = self.node.counters, trio.current_time()
            answers = counters.responses_in + counters.errors_in
            self._silence.note(counters.queries_out, answers, self.node.in_flight, now)
            if self._silence.silent and now >= probe_due:
                probe_due = now + PROBE_S
                if probe is not None:
                    self.node.release(probe, now=now)
                probe = self.node.start_find_node(self.node.node_id, now=now)
                self._flush()

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(SAVE_INTERVAL_S)
            self._save()

    # What they share; none of it waits.

    def _turn(self) -> _Seen:
        """Read, show the node a limited number of datagrams, let it act."""
        seen = self._drain()
        inbox = self._inbox
        now = trio.current_time()
        if seen.answered and not inbox and not self._outbox and now < self.node.next_deadline():
            return seen  # the lane did it all
        end = now + TURN_S
        for _ in range(TURN_DATAGRAMS_MAX // BATCH_DATAGRAMS):
            if not inbox:
                break
            self._show_batch()
            if trio.current_time() > end:
                break
        now = inbox[0].arrived if inbox else trio.current_time()
        if self.node.next_deadline() <= now:
            self.node.handle_deadline(now)
        self._flush(at_once=trio.current_time() < end)
        return seen

    def _show_batch(self) -> None:
        """Show the node the first datagrams of the inbox, as many as arrived together."""
        inbox = self._inbox
        arrived = inbox[0].arrived
        batch: list[tuple[bytes, Address]] = []
        while inbox and len(batch) < BATCH_DATAGRAMS and inbox[0].arrived == arrived:
            payload, source, _ = inbox.popleft()
            batch.append((payload, source))
        self.node.receive_datagrams(batch, arrived)

    def _drain(self) -> _Seen:
        """Move datagrams from the kernel to the inbox, but for those that the lane answers."""
        limit = min(READ_DATAGRAMS_MAX, INBOX_MAX - len(self._inbox))
        others, unsent, answered, more, healthy = self._datagrams.receive(
            limit, TURN_S, trio.current_time()
        )
        if others:
            arrived = trio.current_time()
            self._inbox.extend(_Arrival(payload, source, arrived) for payload, source in others)
        if unsent:
            self._queue(unsent)
        return _Seen(answered, len(others), more, healthy)

    def _flush(self, *, at_once: bool = True) -> None:
        """Send what the node wants to send, tell what it has to tell, set the alarm.

        Args:
            at_once: False: others have waited long enough; the writer sends, in its turn.
        """
        # Those who are told may start or release something: then there is more of both.
        while events := self.node.take_events():
            for event in events:
                self._dispatch(event)
        if datagrams := self.node.datagrams_to_send():
            self._queue(datagrams)
        if self._outbox and not self._leftover.is_set():
            if at_once:
                self._send_burst()
            else:
                self._leftover.set()
        self._alarm.deadline = self._next_alarm()

    def _queue(self, datagrams: Datagrams) -> None:
        """Have datagrams sent as soon as may be; those that find no place are dropped."""
        room = max(OUTBOX_MAX - len(self._outbox), 0)
        self._outbox.extend(datagrams[:room])
        self.counters.send_overflows += len(datagrams[room:])

    def _next_alarm(self) -> float:
        """When the node wants to act next; not while datagrams wait, which come first."""
        return inf if self._inbox else self.node.next_deadline()

    def _send_burst(self) -> None:
        outbox = self._outbox
        burst = list(islice(outbox, BURST_DATAGRAMS_MAX))
        done = self._datagrams.send(burst)
        self._socket_full = done < len(burst)
        for _ in range(done):
            outbox.popleft()
        if outbox:
            self._leftover.set()
        elif self._leftover.is_set():
            self._leftover = trio.Event()

    def _dispatch(self, event: Event) -> None:
        match event:
            case ItemReceived(handle, item):
                if (lookup := self._lookups.get(handle)) is not None:
                    lookup.on_item(item)
            case GetFinished(handle, outcome):
                if (lookup := self._lookups.pop(handle, None)) is not None:
                    lookup.on_finished(outcome)
            case PutAssured(handle):
                if (put := self._puts.get(handle)) is not None and put.on_assured is not None:
                    put.on_assured()
            case PutFinished(handle, outcome):
                if (put := self._puts.get(handle)) is not None:
                    put.outcome = outcome
                    put.finished.set()
            case Bootstrapped():
                self._bootstrapped.set()
            case TablePoor():
                self._names.resolve_again()
            # Values and peers are left out: nothing here asks for them.

    def _add_bootstrap(self, addresses: list[Address]) -> None:
        self.node.add_bootstrap(addresses, trio.current_time())
        self._flush()

    def _save(self) -> None:
        """Hand the routing table over; an empty one would overwrite what the next start needs."""
        nodes = self.node.nodes()
        if self._save_nodes is not None and nodes:
            self._save_nodes([(node.id, *node.address) for node in nodes])

    def _close(self) -> None:
        self._closed = True
        self._sock.close()
        self._end_waiting()

    def _end_waiting(self) -> None:
        for lookup in self._lookups.values():
            lookup.on_finished(GetOutcome(None, 0, 0, 0))
        self._lookups.clear()
        for put in self._puts.values():
            put.finished.set()
