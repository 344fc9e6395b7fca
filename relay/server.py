"""The composition root: builds every object once and owns the outermost nurseries.

Start-up order is listeners, store, DHT, HTTP; shutdown is the reverse: stop accepting,
finish requests, save the routing table, flush the store. What is slow to import is
imported after the listeners are bound, so that clients can connect at once.

Source: design/architecture.md, section 3; design/style.md, section 4.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relay import __version__, _kernels
from relay.clock import wall_clock_us
from relay.http.listener import open_listeners, shown_address
from relay.notify import ServiceManager
from relay.reload import Reloader
from relay.supervision import Supervisor, Terminal
from relay.threads import imported

if TYPE_CHECKING:
    from types import FrameType

    from relay.config import Config, Quota
    from relay.dht.budget import QueryLimit
    from relay.http.app import App
    from relay.http.clients import ClientRules
    from relay.http.serve import HttpServer
    from relay.net.udp import DhtDriver
    from relay.service import RelayService
    from relay.store.worker import PacketStore

_log: Final = logging.getLogger("pkarr_relay")

TESTNET_NODES: Final = 10
SPARE_DESCRIPTORS: Final = 64
"""Besides connections: listeners, the DHT socket, the database, Python's own."""
SWITCH_INTERVAL_S: Final = 0.001
"""How long the event loop waits at most for a thread of ours that runs Python; 5 ms by default."""
SHUTDOWN_S: Final = 4.5
"""After a signal everything that can be cancelled has ended by then."""
LAST_S: Final = 0.3
"""So much later the process ends, whatever hangs: a call in a thread cannot be cancelled."""


def run(config: Config, *, testnet: bool = False, manager: ServiceManager | None = None) -> int:
    """Serve until SIGINT or SIGTERM, reload at SIGHUP; return the exit code.

    Args:
        config: as checked by `relay.config`.
        testnet: begin with ten DHT nodes of our own on loopback.
        manager: hears how the relay is; None: nobody does.

    Raises:
        StartupError: a port cannot be had.
        StoreError: another relay uses the cache folder.
    """
    listeners = open_listeners(config.http.bind, config.http.port)
    ending = _Ending()
    faulthandler.enable()  # says what hung, when a watchdog ends us with SIGABRT
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _allow_descriptors(config.http.max_connections + SPARE_DESCRIPTORS)
    try:
        trio.run(partial(_serve_until_signal, config, listeners, manager, ending, testnet=testnet))
    except BaseExceptionGroup as group:
        raise _first_cause(group) from None
    finally:
        faulthandler.cancel_dump_traceback_later()
        ending.ignore_signals()
    return 0


class _Ending:
    """What SIGINT and SIGTERM do before the relay listens to them, and when it does no more.

    Before, what they did; but once one has been heeded another changes nothing: without this one
    that comes in the last moment, when Trio has given signals back, would end an orderly end with
    the signal's own exit code.
    """

    def __init__(self) -> None:
        self._over = False
        self._before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def begin(self) -> None:
        """Note that the relay ends."""
        self._over = True

    def ignore_signals(self) -> None:
        """Leave it to the kernel to ignore them, while the interpreter goes; else as before."""
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._over else before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._over:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit on open files as far as `wanted` connections need and may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    granted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    if granted < wanted:
        _log.warning("only %d open files are allowed; %d may be needed", granted, wanted)


def _first_cause(error: BaseException) -> BaseException:
    """Return what a nursery wrapped: one error ends the relay, the others follow from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve_until_signal(
    config: Config,
    listeners: Sequence[socket.socket],
    manager: ServiceManager | None,
    ending: _Ending,
    *,
    testnet: bool,
) -> None:
    manager = manager or ServiceManager()
    wish_to_reload, wishes = trio.open_memory_channel[None](1)
    terminal = Terminal()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def wait_for_signals() -> None:
                async for number in signals:
                    if number == signal.SIGHUP and not terminal.is_gone():
                        with suppress(trio.WouldBlock):  # one that waits will do
                            wish_to_reload.send_nowait(None)
                        continue
                    _log.info("%s: shutting down", signal.Signals(number).name)
                    ending.begin()
                    break
                stop.set()
                _end_at_the_latest()
                await manager.tell(STOPPING=1, STATUS="Shutting down")
                await trio.sleep(SHUTDOWN_S)
                _log.error("shutdown takes too long; leaving without it")
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_signals)
            try:
                async with AsyncExitStack() as rooms:
                    if testnet:
                        config = await _join_testnet(rooms, config)
                    await serve(config, listeners, stop=stop, reloads=wishes, manager=manager)
            finally:
                for listener in listeners:
                    listener.close()
            nursery.cancel_scope.cancel()
    # Now, not after: a signal while Trio closes its wakeup socket has Python write a traceback.
    ending.ignore_signals()
    _log.info("shutdown")


def _end_at_the_latest() -> None:
    """Have the process end with exit code 1, and say where it hung, should all else fail.

    A disk may never answer the thread that waits for it, and Trio waits for its threads.
    """
    with suppress(RuntimeError):  # there is no thread for that
        faulthandler.dump_traceback_later(SHUTDOWN_S + LAST_S, exit=True)


async def _join_testnet(rooms: AsyncExitStack, config: Config) -> Config:
    """Start DHT nodes of our own for as long as `rooms` is open; return a config that uses them."""
    from relay.net.testnet import open_testnet

    network = await rooms.enter_async_context(open_testnet(TESTNET_NODES))
    return replace(config, mainline=replace(config.mainline, bootstrap=network.bootstrap))


async def serve(
    config: Config,
    listeners: Sequence[socket.socket],
    *,
    stop: trio.Event,
    reloads: trio.MemoryReceiveChannel[None] | None = None,
    manager: ServiceManager | None = None,
) -> None:
    """Run a whole relay until `stop` is set, then end it in good order.

    Args:
        config: as checked by `relay.config`.
        listeners: bound sockets, which it takes over.
        stop: ends it.
        reloads: each item is a wish to read the configuration file again; None: there are none.
        manager: hears how the relay is; None: nobody does.

    Raises:
        StartupError: the DHT port cannot be had.
        StoreError: another relay uses the cache folder.
    """
    async with running(config) as relay, trio.open_nursery() as watching:
        from relay.http.front import front_lane
        from relay.http.serve import serve_http

        async with trio.open_nursery() as nursery:
            http: HttpServer = await nursery.start(
                partial(
                    serve_http,
                    relay.app,
                    listeners,
                    config.http,
                    rules=relay.rules,
                    counters=relay.app.counters,
                    shutdown=stop,
                    front=front_lane(relay.app, relay.store.table_capsule),
                )
            )
            for listener in listeners:
                address = shown_address(*listener.getsockname()[:2])
                _log.info("Running as a relay on TCP socket %s", address)
            nursery.start_soon(_complete)
            manager = manager or ServiceManager()
            supervisor = Supervisor(manager, relay.service, http, partial(_status, relay))
            await supervisor.ready()
            watching.start_soon(supervisor.run)
            reloader = Reloader(config, partial(_retune, relay, http))
            watching.start_soon(_reload_on_wish, reloads, reloader, manager, supervisor)
            await stop.wait()
            relay.service.serving = False
        watching.cancel_scope.cancel()


async def _reload_on_wish(
    wishes: trio.MemoryReceiveChannel[None] | None,
    reloader: Reloader,
    manager: ServiceManager,
    supervisor: Supervisor,
) -> None:
    if wishes is None:
        return
    async for _ in wishes:
        await manager.tell_reloading()
        await reloader.reload()
        await supervisor.ready()


def _retune(relay: Relay, http: HttpServer, before: Config, config: Config) -> None:
    """Have a relay that runs with `before` run with `config`, in what `relay.reload.LIVE` names."""
    cache, service = config.cache, relay.service
    service.ttl_min_s, service.ttl_max_s = cache.ttl_min_s, cache.ttl_max_s
    service.serve_stale_s = cache.serve_stale_s
    limits = relay.app.limits
    limits.retune(config.rate_limiter, trusted_proxies=config.http.trusted_proxies)
    http.retune(limits.rules)
    if cache.capacity_packets != before.cache.capacity_packets:
        relay.store.resize(cache.capacity_packets)
    if _dht_quota(config) != _dht_quota(before):
        relay.driver.node.limit_queries(_query_limit(config))


def _status(relay: Relay) -> str:
    """Return one sentence on how the relay is, for the service manager."""
    health, stats = relay.service.health(), relay.store.stats()
    troubles = "; ".join(f"{part}: {why}" for part, why in health.parts.items() if why)
    return (
        f"{health.status}{f' ({troubles})' if troubles else ''}: {stats.packets:,} packets,"
        f" {relay.driver.node.table_size} DHT nodes,"
        f" {relay.app.counters.connections_open} connections"
    )


async def _complete() -> None:
    """Finish the start behind the first answers: import, in a thread, what they can do without."""
    await imported("relay.http.connection")
    # What there is now stays: to look through it for garbage takes 40 ms, and who asks meanwhile
    # waits.
    gc.freeze()
    gc.enable()


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """What `running` builds: a relay to which only the way in is missing."""

    app: App
    rules: ClientRules
    service: RelayService
    store: PacketStore
    driver: DhtDriver


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Relay]:
    """Run store, DHT node and service for the length of the block; leave in reverse order.

    Raises:
        StartupError: the DHT port cannot be had.
        StoreError: another relay uses the cache folder.
    """
    from relay.http.app import create_app
    from relay.http.limits import HttpLimits
    from relay.net.packets import PkarrDht
    from relay.service import RelayService
    from relay.store.worker import PacketStore

    for warning in config.warnings:
        _log.warning("%s", warning)
    started_s = trio.current_time()
    store = PacketStore(config.cache.path, config.cache.capacity_packets, wall_clock_us)
    store.open()
    if config.cache.path is None:
        _log.warning("Cache path is not configured, running ephemeral Relay")
    else:
        _log.info("Cache path: %s", config.cache.path)
    async with AsyncExitStack() as rooms:
        rooms.push_async_callback(store.close)
        driver = _open_driver(config, store)
        await rooms.enter_async_context(_background(store.run))
        await rooms.enter_async_context(
            _background(partial(_control, store, in_a_folder=config.cache.path is not None))
        )
        await rooms.enter_async_context(_background(driver.run))
        _log.info("Running as a DHT node on %s:%d", *driver.local_address)

        def facts() -> Mapping[str, object]:
            counters = service.counters
            cache = asdict(store.stats()) | {
                "hits": counters["hits"],
                "misses": counters["misses"],
            }
            return {
                "version": __version__,
                "implementation": _kernels.IMPLEMENTATION,
                "uptime_s": round(trio.current_time() - started_s, 3),
                "http": app.counters.snapshot(),
                "cache": cache,
                "dht": _dht_facts(driver),
            }

        service = RelayService(
            store,
            PkarrDht(driver, config.mainline.request_timeout_s),
            ttl_min_s=config.cache.ttl_min_s,
            ttl_max_s=config.cache.ttl_max_s,
            serve_stale_s=config.cache.serve_stale_s,
            wall_clock_us=wall_clock_us,
            facts=facts,
            troubles=lambda: {"cache": _cache_trouble(store), "dht": _dht_trouble(driver)},
        )
        await rooms.enter_async_context(_background(service.run))
        limits = HttpLimits(config.rate_limiter, trusted_proxies=config.http.trusted_proxies)
        app = create_app(service, wall_clock_us=wall_clock_us, limits=limits)
        await _serve_metrics(rooms, config, app, service, store, driver)
        yield Relay(app=app, rules=limits.rules, service=service, store=store, driver=driver)
        service.serving = False


async def _serve_metrics(
    rooms: AsyncExitStack,
    config: Config,
    app: App,
    service: RelayService,
    store: PacketStore,
    driver: DhtDriver,
) -> None:
    """Let figures be read for as long as `rooms` is open, if that is wanted."""
    if config.metrics.bind is None:
        return
    from relay.metrics.listener import serve_metrics
    from relay.metrics.sources import Sources

    host, port = config.metrics.bind
    (listener,) = open_listeners([host], port)
    sources = Sources(app=app, service=service, store=store, driver=driver)
    await rooms.enter_async_context(_background(partial(serve_metrics, listener, sources)))


async def _control(
    store: PacketStore,
    *,
    in_a_folder: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Let an operator's commands in, where there is a cache folder for their socket."""
    task_status.started()
    if in_a_folder:
        await imported("relay.control.server")
        from relay.control.server import serve_control

        await serve_control(lambda: store.upkeep, wall_clock_us)


@asynccontextmanager
async def _background(run: Callable[..., Awaitable[object]]) -> AsyncIterator[None]:
    """Run a room's task for the length of the block; if it fails, so does the block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield
        nursery.cancel_scope.cancel()


def _open_driver(config: Config, store: PacketStore) -> DhtDriver:
    from relay.net.start import open_driver

    mainline = config.mainline
    return open_driver(
        port=mainline.port,
        bind_address=mainline.bind_address,
        bootstrap=mainline.bootstrap,
        server_mode=mainline.server_mode,
        public_ip=mainline.public_ip,
        request_timeout_s=mainline.request_timeout_s,
        nodes=store.load_nodes(),
        save_nodes=store.save_nodes,
        query_filter=_query_limit(config),
    )


def _dht_quota(config: Config) -> Quota | None:
    return None if config.rate_limiter is None else config.rate_limiter.dht


def _query_limit(config: Config) -> QueryLimit | None:
    """Return the configured limit on DHT queries by source; local networks are free of it."""
    from relay.dht.budget import QueryLimit

    quota = _dht_quota(config)
    return None if quota is None else QueryLimit(quota.interval_s, quota.burst)


def _dht_facts(driver: DhtDriver) -> dict[str, object]:
    node = driver.node
    size, deviation = node.size_estimate
    public = node.public_address
    return {
        "node_id": node.node_id.hex(),
        "local_address": "{}:{}".format(*driver.local_address),
        "public_address": None if public is None else "{}:{}".format(*public),
        "server_mode": node.server_mode,
        "firewalled": node.firewalled,
        "bootstrapped": node.bootstrapped,
        "table_size": node.table_size,
        "size_estimate": round(size),
        "size_deviation": round(deviation, 4),
        **asdict(node.counters),
        "datagrams": asdict(driver.counters) | {"kernel_drops": driver.kernel_drops},
    }


def _cache_trouble(store: PacketStore) -> str | None:
    reason = store.health().reason
    # It names a folder, which may be called what UTF-8 cannot say.
    return None if reason is None else reason.encode(errors="backslashreplace").decode()


def _dht_trouble(driver: DhtDriver) -> str | None:
    if not driver.node.bootstrapped:
        return "no DHT node has answered yet"
    return "no DHT node answers any more" if driver.silent else None
