"""RelayService between a cache and a DHT of plain Python: policy, order, single flight."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from relay import service as service_module
from relay.errors import (
    DhtQuotaError,
    InvalidItemError,
    LookupFailedError,
    NoNodesRespondedError,
    NotMostRecentError,
    PublishTimedOutError,
    TimestampRangeError,
)
from relay.pkarr.keys import Keypair, PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket
from relay.pkarr.policy import ResolvePolicy
from relay.service import ABSENT_S, RelayService, Resolved
from tests.support.memory_cache import MemoryCache

KEY = PublicKey.parse("o4dksfbqk85ogzdb5osziw6befigbuxmuxkuxq8434q89uj56uyy")
NOW_US = 1_800_000_000_000_000
EMPTY_DNS = bytes(2) + b"\x80" + bytes(9)


def packet(timestamp_us: int, tail: bytes = b"") -> SignedPacket:
    """Unsigned: the service trusts whoever made it."""
    return SignedPacket(KEY, bytes(64), timestamp_us, EMPTY_DNS + tail)


OLD, NEW = packet(1000), packet(2000)


@dataclass
class FakeDht:
    found: list[SignedPacket] = field(default_factory=list)
    error: Exception | None = None
    stored: int = 8
    gate: trio.Event | None = None
    assured: bool = False
    on_packet: Callable[[SignedPacket], None] | None = None
    asked: list[int | None] = field(default_factory=list)
    published: list[SignedPacket] = field(default_factory=list)

    async def resolve(
        self,
        key: PublicKey,
        *,
        newer_than_us: int | None = None,
        accept: Callable[[SignedPacket], bool] | None = None,
    ) -> SignedPacket | None:
        self.asked.append(newer_than_us)
        if self.error is not None:
            raise self.error
        first = None
        for item in self.found:
            if self.on_packet is not None:
                self.on_packet(item)
            if first is None and (accept is None or accept(item)):
                first = item
        return first

    async def publish(
        self, item: SignedPacket, *, on_assured: Callable[[], None] | None = None
    ) -> int:
        self.published.append(item)
        if self.assured and on_assured is not None:
            on_assured()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.stored


@dataclass
class World:
    cache: MemoryCache
    dht: FakeDht
    service: RelayService
    spent: int = 0

    def spend(self) -> None:
        self.spent += 1

    async def resolve(self, policy: ResolvePolicy = ResolvePolicy.CACHE_FIRST) -> Resolved | None:
        return await self.service.resolve(KEY, policy, spend=self.spend)

    async def publish(self, item: SignedPacket) -> int:
        return await self.service.publish(item, spend=self.spend)


@pytest.fixture
def world() -> World:
    return make_world()


def make_world(serve_stale_s: int = 0) -> World:
    cache, dht = MemoryCache(), FakeDht()
    service = RelayService(
        cache,
        dht,
        ttl_min_s=300,
        ttl_max_s=86_400,
        serve_stale_s=serve_stale_s,
        wall_clock_us=lambda: NOW_US,
    )
    return World(cache, dht, service)


def seen(item: SignedPacket, age_s: int) -> SeenPacket:
    return SeenPacket(item, NOW_US - age_s * 1_000_000)


async def test_fresh_packet_is_answered_without_the_dht(world: World) -> None:
    world.cache.put_soon(seen(OLD, 299))
    assert await world.resolve() == Resolved(seen(OLD, 299), cached=True)
    assert (world.dht.asked, world.spent) == ([], 0)


async def test_expired_packet_is_looked_up_and_renewed(world: World) -> None:
    world.cache.put_soon(seen(OLD, 300))
    world.dht.found = [OLD]
    assert await world.resolve() == Resolved(seen(OLD, 0))
    assert (world.dht.asked, world.spent) == ([999], 1)
    assert world.cache.stored[KEY] == seen(OLD, 0)


async def test_an_older_first_packet_is_passed_over(world: World) -> None:
    world.cache.put_soon(seen(NEW, 300))
    world.dht.found = [OLD]
    assert await world.resolve() is None
    assert world.cache.stored[KEY] == seen(NEW, 300)


async def test_timestamp_zero_asks_without_seq(world: World) -> None:
    world.cache.put_soon(seen(packet(0), 300))
    await world.resolve()
    assert world.dht.asked == [None]


async def test_evicted_key_is_not_answered_with_something_older(world: World) -> None:
    world.cache.floors[KEY] = 1500
    world.dht.found = [OLD]
    assert await world.resolve() is None
    assert KEY not in world.cache.stored
    world.dht.found = [OLD, NEW]
    assert await world.resolve() == Resolved(seen(NEW, 0))


async def test_a_key_that_nobody_has_is_asked_for_once_a_second(
    world: World, mock_clock: trio.testing.MockClock
) -> None:
    for _ in range(100):
        assert await world.resolve() is None
    assert (len(world.dht.asked), world.spent) == (1, 100)
    assert world.service.counters["known_absent"] == 99
    assert await world.resolve(ResolvePolicy.NETWORK_ONLY) is None
    assert len(world.dht.asked) == 2, "who wants to know it exactly does"
    mock_clock.jump(ABSENT_S)
    world.dht.found = [NEW]
    assert await world.resolve() == Resolved(seen(NEW, 0))


async def test_what_is_published_or_seen_is_absent_no_more(world: World) -> None:
    for appear in (lambda: world.publish(NEW), lambda: world.resolve(ResolvePolicy.NETWORK_ONLY)):
        world.dht.found = []
        assert await world.resolve() is None
        world.dht.found = [NEW]
        await appear()
        world.cache.stored.clear()  # as if it were full of others
        asked = len(world.dht.asked)
        assert await world.resolve() is not None
        assert len(world.dht.asked) == asked + 1
        world.cache.stored.clear()


async def test_no_more_absent_keys_are_remembered_than_there_may_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ABSENT_MAX", 8)
    keys = [Keypair.generate().public_key for _ in range(20)]
    for key in [*keys, keys[-1], keys[12], keys[11]]:
        await world.service.resolve(key, ResolvePolicy.CACHE_FIRST, spend=world.spend)
        assert len(world.service._absent) <= 8
    assert len(world.dht.asked) == 20 + 1, "all but one of the last three were remembered"


async def test_cache_only_never_asks_and_serves_expired(world: World) -> None:
    assert await world.resolve(ResolvePolicy.CACHE_ONLY) is None
    world.cache.put_soon(seen(OLD, 10_000))
    assert await world.resolve(ResolvePolicy.CACHE_ONLY) == Resolved(seen(OLD, 10_000), cached=True)
    assert (world.dht.asked, world.spent) == ([], 0)


async def test_network_only_may_answer_older_than_the_cache(world: World) -> None:
    world.cache.put_soon(seen(NEW, 1))
    world.dht.found = [OLD]
    assert await world.resolve(ResolvePolicy.NETWORK_ONLY) == Resolved(seen(OLD, 0))
    assert world.cache.stored[KEY] == seen(NEW, 1)
    assert world.spent == 1


async def test_expired_is_not_served_when_the_dht_is_silent(world: World) -> None:
    world.cache.put_soon(seen(OLD, 300))
    world.dht.error = NoNodesRespondedError()
    with pytest.raises(LookupFailedError, match="No queried DHT nodes responded"):
        await world.resolve()


@pytest.mark.parametrize(("age_s", "served"), [(300, True), (359, True), (360, False)])
async def test_serve_stale_covers_a_silent_dht_for_its_time(age_s: int, served: bool) -> None:
    world = make_world(serve_stale_s=60)
    world.cache.put_soon(seen(OLD, age_s))
    world.dht.error = NoNodesRespondedError()
    if served:
        assert await world.resolve() == Resolved(seen(OLD, age_s), stale=True, cached=True)
    else:
        with pytest.raises(LookupFailedError):
            await world.resolve()


@pytest.mark.parametrize(("seq", "raises"), [(1000, False), (1001, True)])
async def test_invalid_item_matters_only_when_newer_than_the_cache(
    world: World, seq: int, raises: bool
) -> None:
    world.cache.put_soon(seen(OLD, 300))
    world.dht.error = InvalidItemError(seq)
    if raises:
        with pytest.raises(InvalidItemError):
            await world.resolve()
    else:
        assert await world.resolve() is None


async def test_quota_is_asked_before_the_dht(world: World) -> None:
    def refuse() -> None:
        raise DhtQuotaError

    with pytest.raises(DhtQuotaError):
        await world.service.resolve(KEY, ResolvePolicy.CACHE_FIRST, spend=refuse)
    with pytest.raises(DhtQuotaError):
        await world.service.publish(NEW, spend=refuse)
    assert (world.dht.asked, world.dht.published) == ([], [])


async def test_publish_is_cached_after_the_dht_took_it(world: World) -> None:
    assert await world.publish(NEW) == 8
    assert world.cache.stored[KEY] == seen(NEW, 0)
    assert await world.publish(NEW) == 8, "the identical packet is welcome again"
    assert len(world.dht.published) == 2


async def test_failed_publish_is_not_cached(world: World) -> None:
    world.dht.error = PublishTimedOutError()
    with pytest.raises(PublishTimedOutError):
        await world.publish(NEW)
    assert KEY not in world.cache.stored


async def test_publish_refuses_what_is_older_than_cache_or_floor(world: World) -> None:
    world.cache.put_soon(seen(NEW, 0))
    with pytest.raises(NotMostRecentError):
        await world.publish(OLD)
    world.cache.stored.clear()
    world.cache.floors[KEY] = 1001
    with pytest.raises(NotMostRecentError):
        await world.publish(OLD)
    assert (world.dht.published, world.spent) == ([], 0)


async def test_publish_refuses_timestamps_beyond_the_seq(world: World) -> None:
    assert await world.publish(replace(NEW, timestamp_us=2**63 - 1)) == 8
    with pytest.raises(TimestampRangeError):
        await world.publish(replace(NEW, timestamp_us=2**63))


async def test_the_cache_has_it_as_soon_as_it_is_assured(
    world: World, nursery: trio.Nursery
) -> None:
    """While slow nodes are waited for; who put it still waits for both."""
    gate = world.dht.gate = trio.Event()
    world.dht.assured = True
    stored: list[int] = []

    async def put() -> None:
        stored.append(await world.publish(NEW))

    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    assert (world.cache.stored[KEY], stored) == (seen(NEW, 0), [])
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (world.cache.stored[KEY], stored) == (seen(NEW, 0), [8])


async def test_identical_publishes_share_one_put(world: World, nursery: trio.Nursery) -> None:
    world.dht.gate = trio.Event()
    results: list[int] = []

    async def put() -> None:
        results.append(await world.publish(NEW))

    nursery.start_soon(put)
    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    world.dht.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (results, world.dht.published) == ([8, 8], [NEW])


async def test_identical_publishes_share_a_failure(world: World, nursery: trio.Nursery) -> None:
    world.dht.gate = trio.Event()
    world.dht.error = PublishTimedOutError()
    failures: list[str] = []

    async def put() -> None:
        try:
            await world.publish(NEW)
        except PublishTimedOutError as error:
            failures.append(str(error))

    nursery.start_soon(put)
    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    world.dht.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (len(failures), world.dht.published) == (2, [NEW])


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (OLD, NEW, "stored"),
        (OLD, packet(1000, b"x"), "stored"),
        (NEW, OLD, "refused"),
        (packet(1000, b"x"), OLD, "refused"),
    ],
)
async def test_another_publish_of_the_key_waits_its_turn(
    world: World, nursery: trio.Nursery, first: SignedPacket, second: SignedPacket, outcome: str
) -> None:
    gate = world.dht.gate = trio.Event()
    outcomes: list[str] = []

    async def put_second() -> None:
        try:
            await world.publish(second)
        except NotMostRecentError:
            outcomes.append("refused")
        else:
            outcomes.append("stored")

    nursery.start_soon(world.publish, first)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(put_second)
    await trio.testing.wait_all_tasks_blocked()
    assert (world.dht.published, outcomes) == ([first], [])
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert outcomes == [outcome]
    winner = second if outcome == "stored" else first
    assert world.cache.stored[KEY].packet == winner


async def test_a_waiter_takes_over_when_the_first_client_hangs_up(
    world: World, nursery: trio.Nursery
) -> None:
    gate = world.dht.gate = trio.Event()
    results: list[int] = []

    async def put() -> None:
        results.append(await world.publish(NEW))

    with trio.CancelScope() as hang_up:
        async with trio.open_nursery() as client:
            client.start_soon(world.publish, NEW)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
            hang_up.cancel()
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (results, len(world.dht.published)) == ([8], 2)


async def test_a_publish_goes_on_when_its_client_hangs_up(
    world: World, nursery: trio.Nursery
) -> None:
    """What is stored on the DHT is then in the cache; who comes meanwhile joins it."""
    await nursery.start(world.service.run)
    gate = world.dht.gate = trio.Event()
    results: list[int] = []

    async def put() -> None:
        results.append(await world.publish(NEW))

    async with trio.open_nursery() as client:
        client.start_soon(world.publish, NEW)
        await trio.testing.wait_all_tasks_blocked()
        client.cancel_scope.cancel()
    nursery.start_soon(put)
    await trio.testing.wait_all_tasks_blocked()
    assert world.cache.stored == {}
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (results, world.dht.published) == ([8], [NEW])
    assert world.cache.stored[KEY].packet == NEW
    assert world.service.counters["published"] == 1


async def test_nothing_that_goes_wrong_behind_ends_the_relay(
    world: World, nursery: trio.Nursery
) -> None:
    await nursery.start(world.service.run)
    for error in (PublishTimedOutError(), OSError("a fault of ours")):
        world.dht.error = error
        with pytest.raises(type(error)):
            await world.publish(NEW)
    world.dht.error = None
    assert await world.publish(NEW) == 8


async def test_the_end_of_the_relay_is_that_of_its_publishes(
    world: World, nursery: trio.Nursery
) -> None:
    world.dht.gate = trio.Event()
    async with trio.open_nursery() as rooms:
        await rooms.start(world.service.run)
        outcomes: list[str] = []

        async def put() -> None:
            try:
                await world.publish(NEW)
            except PublishTimedOutError:
                outcomes.append("timed out")

        nursery.start_soon(put)
        await trio.testing.wait_all_tasks_blocked()
        rooms.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert outcomes == ["timed out"]
    assert world.cache.stored == {}


async def test_publishes_that_outlive_their_clients_are_bounded(
    monkeypatch: pytest.MonkeyPatch, world: World, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(service_module, "OUTLIVING_MAX", 1)
    await nursery.start(world.service.run)
    gate = world.dht.gate = trio.Event()
    other = replace(NEW, public_key=Keypair.from_seed(bytes(32)).public_key)
    async with trio.open_nursery() as client:
        for item in (NEW, other):
            client.start_soon(world.publish, item)
            await trio.testing.wait_all_tasks_blocked()
        client.cancel_scope.cancel()
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert list(world.cache.stored) == [KEY]
