"""What the control socket does as time passes; real processes are in tests/integration."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from relay.control.server import REQUEST_S, SILENCE_S, Control
from relay.pkarr.packet import SignedPacket
from relay.store.worker import PacketStore


async def serve(control: Control, stream: trio.SocketStream) -> None:
    """As a listener does."""
    async with stream:
        await control.serve_peer(stream)


@asynccontextmanager
async def talking(folder: Path) -> AsyncIterator[trio.SocketStream]:
    """A peer's end of a connection to the control of a store."""
    store = PacketStore(folder, 100, lambda: 1)
    store.open()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        assert store.upkeep is not None
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
        nursery.start_soon(serve, Control(store.upkeep, lambda: 1), theirs)
        yield ours
        await ours.aclose()
        await store.close()


async def test_who_says_nothing_is_left(tmp_path, autojump_clock):
    async with talking(tmp_path) as peer:
        began = trio.current_time()
        await peer.send_all(b'{"control"')
        assert await peer.receive_some() == b""
        assert trio.current_time() - began < REQUEST_S + 1


async def test_who_sends_no_more_packets_is_left_in_the_end(tmp_path, autojump_clock):
    async with talking(tmp_path) as peer:
        began = trio.current_time()
        await peer.send_all(b'{"control": 1, "do": "import"}\n')
        assert json.loads(await peer.receive_some()) == {"ready": True}
        assert await peer.receive_some() == b""
        assert SILENCE_S <= trio.current_time() - began < SILENCE_S + 2


async def test_a_mistake_of_ours_ends_the_command_only(tmp_path, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SignedPacket, "from_relay_payloads", fail)
    async with talking(tmp_path) as peer:
        await peer.send_all(b'{"control": 1, "do": "import"}\n{"bytes": 114}\n')
        await peer.send_all(b"\0\x50" + bytes(112))
        said = b""
        while piece := await peer.receive_some():
            said += piece
    assert json.loads(said.splitlines()[1])["error"] == "the relay made a mistake; its log has more"
    assert "ZeroDivisionError" in caplog.text
