"""Payloads of PUTs that come together are checked together, and each gets its own verdict."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.errors import PacketError
from relay.http.packets import BATCH_MAX, PayloadChecker
from relay.pkarr import packet as packet_module
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import SignedPacket

EMPTY_DNS = bytes(2) + b"\x80" + bytes(9)
PAIRS = [Keypair.from_seed(bytes([number]) * 32) for number in range(BATCH_MAX + 3)]
PACKETS = [SignedPacket.sign(pair, EMPTY_DNS, number) for number, pair in enumerate(PAIRS)]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the sizes of the batches that are verified."""
    sizes: list[int] = []
    verify_all = packet_module._kernels.verify_batch

    def noted(members, random):
        sizes.append(len(members))
        return verify_all(members, random)

    monkeypatch.setattr(packet_module._kernels, "verify_batch", noted)
    return sizes


async def check_all(payloads: list[tuple[PublicKey, bytes]]) -> list[SignedPacket | str]:
    checker = PayloadChecker()
    outcomes: list[SignedPacket | str] = [""] * len(payloads)

    async def check(place: int) -> None:
        try:
            outcomes[place] = await checker.check(*payloads[place])
        except PacketError as error:
            outcomes[place] = error.fault

    async with trio.open_nursery() as nursery:
        for place in range(len(payloads)):
            nursery.start_soon(check, place)
    return outcomes


async def test_those_of_one_round_are_one_batch(batches):
    payloads = [(packet.public_key, packet.to_relay_payload()) for packet in PACKETS]
    assert await check_all(payloads) == PACKETS
    assert sorted(batches) == [3, BATCH_MAX]  # Trio draws who of a round goes first


async def test_each_gets_its_own_verdict(batches):
    good = PACKETS[0].to_relay_payload()
    payloads = [
        (PACKETS[0].public_key, good),
        (PACKETS[0].public_key, good[:-1] + b"\x01"),
        (PACKETS[0].public_key, good[:71]),
        (PACKETS[1].public_key, PACKETS[1].to_relay_payload()),
        (PACKETS[0].public_key, good + bytes(1000)),
    ]
    wanted = [PACKETS[0], "signature", "too_short", PACKETS[1], "too_large"]
    assert await check_all(payloads) == wanted
    assert batches == [3]


async def test_who_leaves_takes_nobody_along(batches):
    checker = PayloadChecker()
    packets: list[SignedPacket] = []

    async def check(packet: SignedPacket) -> None:
        packets.append(await checker.check(packet.public_key, packet.to_relay_payload()))

    async with trio.open_nursery() as others:
        with trio.CancelScope() as gone:
            gone.cancel()
            await check(PACKETS[0])
        others.start_soon(check, PACKETS[1])
    assert packets == [PACKETS[1]]


async def test_the_next_round_has_a_batch_of_its_own(batches):
    checker = PayloadChecker()
    for packet in PACKETS[:3]:
        assert await checker.check(packet.public_key, packet.to_relay_payload()) == packet
    assert batches == [1, 1, 1]
