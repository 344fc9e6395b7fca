"""The front lane: drives the native reactor, which answers most requests by itself.

The reactor (`_speedups/front_reactor.h`) accepts connections, keeps caps and deadlines, and
answers GET and HEAD of packets that are in the table and fresh. It tells of everything else:

* a request that it understands completely, but cannot answer: a miss, a PUT, ``/health``. The
  application answers it in a task of its own, and the lane sends that answer (warm);
* a connection that it does not understand: it goes on as a `Connection`, with the bytes read so
  far. It still counts for the caps, and ends with its next answer.

The lane's own answers are counted, but not logged, not even when the log is to tell all.

As shipped the lane is a task. With more cores to serve from there may be several lanes, each in
a thread without the GIL; then all of the above reaches Trio's thread through an eventfd, and
caps and limits hold for all together.

Source: design/architecture.md, section 1; issue 4, section 1.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypedDict

import trio

from relay.errors import StartupError
from relay.http.deadlines import Past
from relay.http.messages import (
    BODY_TIMEOUT_S,
    Application,
    BodyTimeoutError,
    Message,
    Request,
)
from relay.http.native import Cells, Lane, Lanes
from relay.http.serve import EXHAUSTED_PAUSE_S, HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.config import HttpConfig
    from relay.http.app import App, Response
    from relay.http.clients import ClientRules, Network
    from relay.http.connection import Connection
    from relay.http.counters import Counters
    from relay.http.deadlines import Deadlines

_log: Final = logging.getLogger("pkarr_relay.http")

VARIABLE: Final = "RELAY_FRONT_LANE"
"""In the environment: how the lane runs; see `front_lane`."""
THREADS_MAX: Final = 64
_THREADS: Final = re.compile(r"threads:([1-9][0-9]?)", re.ASCII)
_LANE_SHIFT: Final = 24
_LANE_MASK: Final = 0xFF
"""Where a token carries the number of its lane."""
OUTLIVING_MAX: Final = 512
"""With fewer requests than this under way a PUT is not cancelled when its client leaves: it goes
on behind anyway (see `RelayService.publish`), and to be ready for it takes 6 % of a PUT's time."""
PATIENCE_S: Final = 0.0001
"""Frequent requests wait no longer for rare ones than this, or one step of a task."""
_FAILED: Final = b"HTTP/1.1 500 \r\ncontent-length: 0\r\n"


class _Tunable(TypedDict):
    """Settings of a lane that may change while it runs."""

    limiter: Cells | None
    ttl_s: tuple[int, int]
    trusted: Sequence[tuple[bytes, int]]
    exempt: Sequence[tuple[bytes, int]]
    behind_proxy: bool
    ipv6_prefix: int


@dataclass(frozen=True, slots=True)
class FrontLane:
    """What the lane needs to know beyond a server's own settings.

    Args:
        app: answers what the lane does not.
        table: a capsule with the C packet table; None: the lane answers nothing by itself.
        threads: how many lanes with a thread of their own; 0: one, as a task.
    """

    app: App
    table: object | None
    threads: int = 0

    def make_server(
        self,
        app: Application,
        config: HttpConfig,
        rules: ClientRules,
        counters: Counters,
        deadlines: Deadlines | None,
    ) -> HttpServer:
        """Return a server that has a lane in front."""
        return FrontServer(self, app, config, rules, counters, deadlines)


def front_lane(app: App, table: object | None) -> FrontLane | None:
    """Return a lane for `app`, or None where there is none, or is to be none.

    ``RELAY_FRONT_LANE`` in the environment is ``task`` (as if it were not set), ``threads:N``
    with N from 1 to `THREADS_MAX`, or ``0``, to compare with Hypercorn, and to rule the lane out.

    Raises:
        StartupError: it is none of these.
    """
    wanted = os.environ.get(VARIABLE) or "task"
    threads = _THREADS.fullmatch(wanted)
    count = 0 if threads is None else int(threads[1])
    if count > THREADS_MAX or (threads is None and wanted not in ("task", "0", "1")):
        raise StartupError(
            f"{VARIABLE}={wanted!r} is not 0, task or threads:N with N from 1 to {THREADS_MAX}"
        )
    if Lane is None or wanted == "0":
        return None
    return FrontLane(app, table, count)


class FrontServer(HttpServer):
    """A server whose connections begin on the lane; see `relay.http.serve.serve_http`.

    Raises:
        ValueError: the limiter tells clients apart by other rules than the caps.
    """

    def __init__(
        self,
        front: FrontLane,
        app: Application,
        config: HttpConfig,
        rules: ClientRules,
        counters: Counters,
        deadlines: Deadlines | None,
    ) -> None:
        super().__init__(app, config, rules, counters, deadlines)
        self._front = front
        self._limits = front.app.limits
        if self._limits.http is not None and rules != self._limits.rules:
            raise ValueError("one set of rules for clients, please")
        self._lanes: Sequence[Lane]
        self._news: int
        self._together = Lanes(config.max_connections, config.max_connections_per_address)
        self._nursery: trio.Nursery
        self._asked: dict[int, trio.CancelScope | None] = {}
        self._lent: dict[Connection, int] = {}
        self._draining = False
        self._seen: list[tuple[bool, int]] = []
        """Of each lane, when last looked at: whether it had something to do, and its rounds."""

    # ---- The steps of HttpServer ----

    async def run(
        self,
        sockets: Sequence[socket.socket],
        shutdown: trio.Event,
        task_status: trio.TaskStatus[HttpServer],
    ) -> None:
        """Serve until `shutdown`, then let requests finish; cancelling ends them at once."""
        for sock in sockets:
            sock.setblocking(False)
        # The first lane accepts, and gives others their share.
        heard = [[sock.fileno() for sock in sockets]] + [[]] * (self._front.threads - 1)
        self._lanes = [self._make_lane(descriptors) for descriptors in heard]
        news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._counters.refresh = self._refresh_counts
            if self._front.threads:
                self._together.start(*self._now(), news)
            self._news = news
            await super().run(sockets, shutdown, task_status)
        finally:
            self._together.stop()
            self._refresh_counts()
            self._counters.refresh = _nothing
            for lane in self._lanes:
                lane.close()
            os.close(news)

    def retune(self, rules: ClientRules) -> None:
        """Take what has become of the rules, the limiter and the times to live."""
        super().retune(rules)
        for lane in self._lanes:
            lane.retune(**self._tunable())

    def turning(self) -> bool:
        """Tell whether every lane does what it has to do.

        One that has had something to do since the last time, and did nothing, is stuck. A lane
        may be caught between the two, so ask twice before you draw conclusions.
        """
        seen = [(_is_readable(lane.fileno()), lane.rounds) for lane in self._lanes]
        stuck = any(now == before and now[0] for now, before in zip(seen, self._seen, strict=False))
        self._seen = seen
        return not stuck

    def _begin(
        self, sockets: Sequence[socket.socket], accepting: trio.Nursery, nursery: trio.Nursery
    ) -> None:
        self._nursery = nursery
        nursery.start_soon(self._listen_to_threads if self._front.threads else self._react)

    def _stop_accepting(self) -> None:
        self._lanes[0].stop_accepting()

    def _drain(self) -> None:
        self._draining = True
        super()._drain()
        for lane in self._lanes:
            lane.drain(*self._now())
        self._note_counts()

    def _check(self, now: float) -> None:
        super()._check(now)
        for lane in self._lanes:
            lane.sweep(*self._now())
        self._note_counts()

    def _count(self) -> int:
        return self._together.open

    def _forget(self, connection: Connection) -> None:
        super()._forget(connection)
        token = self._lent.pop(connection)
        self._lane_of(token).give_back(token)

    # ---- The lane ----

    def _lane_of(self, token: int) -> Lane:
        return self._lanes[token >> _LANE_SHIFT & _LANE_MASK]

    def _make_lane(self, listeners: Sequence[int]) -> Lane:
        deadlines = self._deadlines
        return Lane(
            self,
            listeners=listeners,
            table=self._front.table,
            lanes=self._together,
            deadlines_s=(
                deadlines.head_s,
                BODY_TIMEOUT_S,
                deadlines.idle_s,
                deadlines.write_s,
                deadlines.age_s,
                deadlines.drain_s,
                deadlines.linger_s,
            ),
            **self._tunable(),
        )

    def _tunable(self) -> _Tunable:
        service, limiter, rules = self._front.app.service, self._limits.http, self._rules
        return {
            "limiter": limiter if isinstance(limiter, Cells) else None,
            "ttl_s": (service.ttl_min_s, service.ttl_max_s),
            "trusted": _packed(rules.trusted_proxies),
            "exempt": _packed(rules.exempt),
            "behind_proxy": rules.behind_proxy,
            "ipv6_prefix": rules.ipv6_prefix,
        }

    async def _react(self) -> None:
        """Let the lane do a bounded piece of work at a time; other tasks get their turn between."""
        between = _BetweenSteps(partial(self._turn, alone=False))
        trio.lowlevel.add_instrument(between)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._lanes[0].fileno())
                self._turn(alone=between.nobody_else())
                between.note_turn()
        finally:
            trio.lowlevel.remove_instrument(between)

    def _turn(self, *, alone: bool) -> None:
        self._lanes[0].turn(*self._now(), alone)
        self._note_counts()

    async def _listen_to_threads(self) -> None:
        """Hear what lanes have to tell that are threads of their own."""
        while True:
            await trio.lowlevel.wait_readable(self._news)
            os.eventfd_read(self._news)
            for lane in self._lanes:
                lane.tell()
            self._note_counts()

    def _now(self) -> tuple[float, float]:
        return trio.current_time(), self._limits.clock()

    def _note_counts(self) -> None:
        taken = [counts for lane in self._lanes if (counts := lane.take_counts()) is not None]
        for hits, answers, events in taken:
            if hits:
                self._front.app.service.counters["hits"] += hits
            for (kind, status), count in answers:
                self._counters.answers[kind, status, "none" if status == 429 else "hit"] += count
                if status == 429:
                    self._limits.refused["http"] += count
            for event, count in events:
                self._counters.connections[event] += count
        if taken:
            self._note_count()
        if self._front.threads:
            self._note_waits()

    def _refresh_counts(self) -> None:
        self._note_counts()
        for lane in self._lanes:
            for sort, (counts, seconds) in zip(("hit", "refused"), lane.take_spans(), strict=True):
                self._counters.durations_s[sort].add(counts, seconds)

    def _note_waits(self) -> None:
        lanes, limiter, table = zip(*(lane.waits for lane in self._lanes), strict=True)
        self._counters.waits = {
            "lanes": sum(lanes),
            "caps": self._together.waits,
            "limiter": max(limiter),  # one for all, like the table
            "table": max(table),
        }

    # ---- What the lane tells ----

    def asked(self, token: int, head: bytes, body: bytes | None, peer: str) -> None:
        """Answer a request in a task of its own; the lane has at most one per connection."""
        request = _request(head, body, peer)
        outlives = request.method == "PUT" and len(self._asked) < OUTLIVING_MAX
        self._asked[token] = scope = None if outlives else trio.CancelScope()
        self._nursery.start_soon(self._answer, token, request, scope)

    def gone(self, token: int) -> None:
        """Stop answering a request whose client has hung up, if that is not done already.

        A lane that is a thread may see the end while the answer is on its way to it.
        """
        scope = self._asked.get(token)
        if scope is not None:
            scope.cancel()

    def lent(
        self,
        token: int,
        descriptor: int,
        data: bytes,
        address: tuple[str, int],
        opened_at: float,
        head_since: float,
    ) -> None:
        """Go on with a connection as if its bytes had only just come."""
        # Not asked of the socket: its client may have reset it already. Of either family addresses
        # are read right through a socket of the one with the longer ones.
        known = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
        sock = trio.socket.from_stdlib_socket(known)
        past = Past(opened_at=opened_at, head_since=head_since)
        try:
            connection = self._connection(sock, address, data, past)
        except (OSError, ImportError) as error:  # what is imported first may want a descriptor
            sock.close()
            self._lane_of(token).give_back(token)
            self._complain("cannot go on with a connection: %s", error)
            return
        self._open[connection] = None
        self._by_peer[None] += 1  # the lane counts by address
        self._lent[connection] = token
        if self._draining:
            connection.drain()
        self._nursery.start_soon(self._serve, connection)

    def refused(self) -> None:
        """Say that there are too many connections."""
        self._complain("closing new connections: %d are open", self._together.open)

    def cannot_accept(self, error: OSError) -> None:
        """Let the lane try again in a while: at once would be in vain."""
        self._complain("cannot accept connections: %s", error)
        self._nursery.start_soon(self._accept_later)

    async def _accept_later(self) -> None:
        await trio.sleep(EXHAUSTED_PAUSE_S)
        self._lanes[0].accept_again()

    async def _answer(self, token: int, request: Request, scope: trio.CancelScope | None) -> None:
        response = None
        try:
            with scope or nullcontext():
                response = await self._front.app.respond(request)
        except Exception:
            _log.exception("the application failed on %s", request.method)
        finally:
            del self._asked[token]
        if scope is not None and scope.cancelled_caught:
            return
        head, body, close = (_FAILED, b"", True) if response is None else _composed(response)
        self._lane_of(token).answer(token, head, body, close, *self._now())
        self._note_counts()


class _BetweenSteps(trio.abc.Instrument):
    """Lets something be done between the steps of all tasks, when the last time is a while ago.

    Trio looks for events once in a round, and a round has a step of every task that can go on:
    some dozens, when datagrams and PUTs come together. Who has a packet ready to be served
    would wait for all of them.
    """

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn
        self._turned_at = perf_counter()
        self._steps = 0

    def note_turn(self) -> None:
        """Take note that it has been done otherwise, in a step of its own."""
        self._turned_at = perf_counter()
        self._steps = 0

    def nobody_else(self) -> bool:
        """Whether no other task has had a step since the last note."""
        return self._steps <= 1  # that in which the note was made

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio, which would end the instrument if this raised."""
        self._steps += 1
        if perf_counter() - self._turned_at >= PATIENCE_S:
            self._turn()
            self._turned_at = perf_counter()


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _packed(networks: Sequence[Network]) -> list[tuple[bytes, int]]:
    return [(network.network_address.packed, network.prefixlen) for network in networks]


def _request(head: bytes, body: bytes | None, peer: str) -> Request:
    """Read a head that the lane has found to be in order."""
    request_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, _ = request_line.split(b" ")
    path, _, query = target.partition(b"?")
    fields = (line.partition(b":") for line in lines)
    return Request(
        method=method.decode("ascii"),
        path=path,
        query=query,
        headers=[(name.lower(), value.strip(b" \t")) for name, _, value in fields],
        peer=peer,
        receive=_nothing_more,
        content=body,
    )


def _nothing() -> None:
    """There is no lane to ask any more."""


async def _nothing_more() -> Message:
    """Receive from a client whose body did not come in time."""
    raise BodyTimeoutError


def _composed(response: Response) -> tuple[bytes, bytes, bool]:
    """Return status line and fields, the body, and whether the connection is to end with it."""
    status, headers, body = response
    lines = [b"HTTP/1.1 %d \r\n" % status]
    lines += [b"%b: %b\r\n" % field for field in headers if field[0] != b"connection"]
    return b"".join(lines), body, len(lines) <= len(headers)
