"""The relay's end of the control socket.

A peer may write to the cache folder, so it is the operator; still nothing that it does holds up
the relay or ends it: peers, sizes and waits are bounded, and whatever reads the whole file does
it in a thread, piece by piece, and ends when the peer goes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from relay import __version__
from relay.control.frames import Frame, FrameError, FrameReader
from relay.control.protocol import BAD, BATCH_PACKETS_MAX, LETTERS, VERSION
from relay.control.socket_file import SOCKET_FILE, listening
from relay.errors import RelayError
from relay.pkarr.keys import PublicKey
from relay.store.inspection import TABLES, Inspector
from relay.store.records import unpack
from relay.store.verified import verified
from relay.threads import in_thread

if TYPE_CHECKING:
    import socket

    from relay.pkarr.packet import SeenPacket
    from relay.store.upkeep import Upkeep

_log: Final = logging.getLogger("pkarr_relay.control")

LOOK_S: Final = 1.0
"""How often it is made sure that the socket is still there."""
PEERS_MAX: Final = 4
"""One more is told so and closed."""
REQUEST_S: Final = 10.0
"""How long a peer may take to say what it wants."""
SILENCE_S: Final = 600.0
"""How long it may then take no piece, or send none: a person may be paging through an export."""
ALIVE_S: Final = 5.0
"""The other side hears at least so often that the work goes on."""
_RECEIVE_BYTES: Final = 256 * 1024
_REASON_LETTERS_MAX: Final = 80
"""512 of them fit into the head of a frame, as 100 findings do."""
_ERROR_LETTERS_MAX: Final = 1000

T = TypeVar("T")


async def serve_control(
    upkeep: Callable[[], Upkeep | None], wall_clock_us: Callable[[], int]
) -> None:
    """Serve operators' commands until cancelled, whenever there is a folder for their socket.

    Where the folder cannot have a socket the relay goes on without; the log says so. A socket
    that is removed, or whose folder is, is made again.

    Args:
        upkeep: tells what may be done; None while the folder is not ours.
        wall_clock_us: microseconds since 1970.
    """
    told = ""
    while True:
        if (hand := upkeep()) is not None:
            folder = hand.path.parent
            try:
                with listening(folder) as listener:
                    told = ""
                    await _serve_while_there(Control(hand, wall_clock_us), listener, folder)
            except OSError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning(
                        "%s: no command can reach this relay (%s)", folder / SOCKET_FILE, error
                    )
        await trio.sleep(LOOK_S)


async def _serve_while_there(control: Control, listener: socket.socket, folder: Path) -> None:
    """Serve until the socket has gone from its folder."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))]
    path = folder / SOCKET_FILE
    made = path.lstat()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, control.serve_peer, listeners)
        with suppress(OSError):
            # No event tells of the folder.
            while os.path.samestat(made, path.lstat()):  # noqa: ASYNC110
                await trio.sleep(LOOK_S)
        nursery.cancel_scope.cancel()


class Control:
    """Answers the frames that `relay.control` lists."""

    def __init__(self, upkeep: Upkeep, wall_clock_us: Callable[[], int]) -> None:
        self._upkeep = upkeep
        self._wall_clock_us = wall_clock_us
        self._peers = 0
        self._threads = trio.CapacityLimiter(PEERS_MAX)
        self._requests = {
            "backup": self._backup,
            "integrity": self._integrity,
            "rows": self._rows,
            "import": self._import,
            "purge": self._purge,
        }

    async def serve_peer(self, stream: trio.SocketStream) -> None:
        """Do the one thing that a peer asks for."""
        peer = _Peer(stream)
        self._peers += 1
        try:
            if self._peers > PEERS_MAX:
                await peer.send(Frame({"error": f"{PEERS_MAX} other commands are under way"}))
            else:
                await self._serve(peer)
        except (trio.BrokenResourceError, trio.TooSlowError, _GoneError):
            _log.debug("a command went away")
        finally:
            self._peers -= 1

    async def _serve(self, peer: _Peer) -> None:
        try:
            request = await peer.receive(REQUEST_S)
            if request.integer("control") != VERSION:
                raise FrameError(f"this is pkarr-relay {__version__}; use its own command")
            what = request.text("do")
            if what not in self._requests:
                raise FrameError(f"pkarr-relay {__version__} cannot do {what[:20]!r}")
            said = await self._requests[what](peer, request)
            _log.info("%s: %s", what, said)
        except RelayError as error:
            _log.warning("refused or failed: %s", error)
            await peer.send(Frame({"error": str(error)[:_ERROR_LETTERS_MAX]}))
        except (trio.BrokenResourceError, trio.TooSlowError, _GoneError):
            raise
        except Exception:
            _log.exception("a command failed")
            await peer.send(Frame({"error": "the relay made a mistake; its log has more"}))

    async def _backup(self, peer: _Peer, request: Frame) -> str:
        target = Path(request.text("target"))
        if not target.is_absolute() or "\0" in str(target):
            raise FrameError("the path of a backup begins with a slash, and holds no NUL")
        copy = partial(
            Inspector.copy_to,
            target=target,
            replace=request.flag("force"),
            on_progress=trio.from_thread.check_cancelled,
        )
        size = await self._work(peer, copy)
        await peer.send(Frame({"done": True, "size": size}))
        return f"{size} bytes to {target}"

    async def _integrity(self, peer: _Peer, request: Frame) -> str:
        findings = await self._work(peer, partial(Inspector.integrity, quick=request.flag("quick")))
        await peer.send(Frame({"done": True, "findings": findings}))
        return f"{len(findings)} findings"

    async def _rows(self, peer: _Peer, request: Frame) -> str:
        table = request.text("table")
        if table not in TABLES:
            raise FrameError(f"there is no table {table[:20]!r}")
        sent = 0
        async with self._inspector() as inspector:
            pieces = inspector.rows(table)
            while (piece := await self._in_thread(next, pieces, None)) is not None:
                head = {"rows": piece.count, "first": piece.first, "last": piece.last}
                await peer.send(Frame(head, piece.text))
                sent += piece.count
        await peer.send(Frame({"done": True}))
        return f"{sent} of {table}"

    async def _import(self, peer: _Peer, request: Frame) -> str:
        counts: Counter[str] = Counter()
        await peer.send(Frame({"ready": True}))
        while "done" not in (frame := await peer.receive(SILENCE_S)):
            letters, reasons = await self._take_in(frame.body)
            counts.update(letters)
            await peer.send(Frame({"outcomes": letters, "reasons": reasons}))
        await peer.send(Frame({"done": True}))
        return f"{counts[LETTERS['stored']]} of {counts.total()} packets are new"

    async def _take_in(self, pack: bytes) -> tuple[str, list[str]]:
        """Verify and store; return a letter for each packet, and a reason for each bad one."""
        judged = await self._in_thread(_judged, pack, self._wall_clock_us())
        good = [packet for packet in judged if not isinstance(packet, str)]
        outcomes = iter(await self._upkeep.take_in(good))
        letters = (BAD if isinstance(packet, str) else LETTERS[next(outcomes)] for packet in judged)
        reasons = [reason[:_REASON_LETTERS_MAX] for reason in judged if isinstance(reason, str)]
        return "".join(letters), reasons

    async def _purge(self, peer: _Peer, request: Frame) -> str:
        key = PublicKey.parse(request.text("key"))
        seen = await self._upkeep.purge(key)
        timestamp_us = None if seen is None else seen.packet.timestamp_us
        await peer.send(Frame({"done": True, "timestamp_us": timestamp_us}))
        return f"{key} was not there" if seen is None else f"{key} of {timestamp_us}"

    @asynccontextmanager
    async def _inspector(self) -> AsyncIterator[Inspector]:
        inspector = await self._in_thread(Inspector, self._upkeep.path)
        try:
            yield inspector
        finally:
            with trio.CancelScope(shield=True):
                await self._in_thread(inspector.close)

    async def _work(self, peer: _Peer, job: Callable[[Inspector], T]) -> T:
        """Do what takes long in a thread; end it when the peer goes or the relay ends.

        Raises:
            _GoneError: the peer went.
            StoreError: from the job.
        """
        results: list[T] = []
        failures: list[Exception] = []
        async with self._inspector() as inspector, trio.open_nursery() as nursery:
            nursery.start_soon(peer.keep_posted)
            nursery.start_soon(peer.watch, nursery.cancel_scope)
            nursery.start_soon(_interrupt_at_the_end, inspector)
            try:
                results.append(await self._in_thread(job, inspector))
            except (RelayError, sqlite3.OperationalError) as error:  # not wrapped by the nursery
                failures.append(error)
            nursery.cancel_scope.cancel()
        if results:
            return results[0]
        if failures and not peer.gone:
            raise failures[0]
        raise _GoneError

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await in_thread(work, *arguments, limiter=self._threads)


class _GoneError(Exception):
    """The peer has closed its connection."""


class _Peer:
    """Frames over a stream. `gone`: the peer hung up, or spoke when it had nothing to say."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = FrameReader()
        self.gone = False

    async def send(self, frame: Frame) -> None:
        with trio.fail_after(SILENCE_S):
            await self._stream.send_all(frame.encode())

    async def receive(self, timeout_s: float) -> Frame:
        with trio.fail_after(timeout_s):
            while (frame := self._reader.take()) is None:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    raise _GoneError
                self._reader.feed(data)
        return frame

    async def keep_posted(self) -> None:
        """Say now and then that the work goes on."""
        with suppress(trio.BrokenResourceError, trio.TooSlowError):  # `watch` sees it as well
            while True:
                await trio.sleep(ALIVE_S)
                await self.send(Frame({"alive": True}))

    async def watch(self, work: trio.CancelScope) -> None:
        """End `work` when the peer goes."""
        with suppress(trio.BrokenResourceError):
            await self._stream.receive_some(1)
        self.gone = True
        work.cancel()


async def _interrupt_at_the_end(inspector: Inspector) -> None:
    try:
        await trio.sleep_forever()
    finally:
        inspector.interrupt()


def _judged(pack: bytes, now_us: int) -> list[SeenPacket | str]:
    try:
        rows = list(unpack(pack))
    except ValueError as error:
        raise FrameError(str(error)) from None
    if len(rows) > BATCH_PACKETS_MAX:
        raise FrameError(f"more than {BATCH_PACKETS_MAX} packets at once")
    return verified(rows, now_us)
