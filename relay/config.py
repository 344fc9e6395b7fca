"""The relay's configuration: frozen sections whose attribute names say their units.

The keys of the file are those of the reference relay (both generations of its
rate limiter) plus ours; `config.toml` at the top of the repository lists every
one with its unit and consequence. Whoever receives one of these sections may
believe it: `load_config` refuses a wrong type or value, naming the file, the
line, the key and what is allowed.

    built-in defaults  <  file  <  environment (``PKARR_RELAY__SECTION__KEY``)

Leaf module: of ours it imports only the error tree and the reader of tables.
Source: design/protocol.md, sections 5 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from relay import _config_kinds as kinds
from relay._config_table import (
    ENVIRONMENT_PREFIX,
    ConfigDocument,
    ConfigTable,
    key_text,
    read_document,
)
from relay.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

HTTP_PORT_DEFAULT: Final = 6881
TESTNET_HTTP_PORT: Final = 15411
"""Where clients of the reference's own test network look for it."""

_OLD_DIALECT: Final = ("per_second", "burst_size")
_NEW_DIALECT: Final = (
    "quota",
    "burst",
    "user_dht_quota",
    "user_dht_burst",
    "dht_quota",
    "dht_burst",
)
_DIALECTS: Final = (
    "either per_second and burst_size (for HTTP only), or quota, user_dht_quota, dht_quota"
    " and, if wanted, burst, user_dht_burst, dht_burst"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The ``[http]`` table: where to listen and how much one client may hold."""

    bind: tuple[str, ...] | None = None
    """IP addresses; None: all, dual-stack, or only 0.0.0.0 where there is no IPv6."""
    port: int = HTTP_PORT_DEFAULT
    """TCP; 0 takes any free one."""
    max_connections: int = 1024
    """Connections open at once; one more is closed as it comes."""
    max_connection_age_s: float = 300.0
    """After this a connection takes no new request."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Only these may say, in a header, for whom they ask."""
    max_connections_per_address: int = 256
    """0: no limit. Trusted proxies and exempt addresses are free of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MainlineConfig:
    """The ``[mainline]`` table: our node in the DHT."""

    port: int | None = None
    """UDP; None: 6881 if it is free, else any; 0: any. A given one that is taken is an error."""
    bind_address: str | None = None
    """An IPv4 address; None: all."""
    bootstrap: tuple[tuple[str, int], ...] | None = None
    """(host, port) of nodes to begin with; None: the public routers; empty: none."""
    server_mode: bool | Literal["auto"] = "auto"
    """Answer the queries of others: always, never, or once we are known to be reachable."""
    public_ip: IPv4Address | None = None
    """Known from the start, it gives the node a BEP 42 id at once."""
    request_timeout_s: float = 2.0
    """How long a single DHT query may stay unanswered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The ``[cache]`` table: how many packets are kept, where, and how long they are fresh."""

    path: Path | None = None
    """The folder of the database, absolute; None: nothing outlives the process."""
    capacity_packets: int = 1_000_000
    """0: keep nothing."""
    ttl_min_s: int = 300
    """A packet seen less than this long ago is answered without asking the DHT."""
    ttl_max_s: int = 86_400
    """A packet seen longer ago than this is never answered without asking the DHT."""
    serve_stale_s: int = 0
    """How long past its expiry a packet may be served while the DHT does not answer."""

    def __post_init__(self) -> None:
        """Refuse bounds that contradict each other; the reference's words."""
        if self.ttl_min_s > self.ttl_max_s:
            raise ConfigError(
                "cache.minimum_ttl must be less than or equal to cache.maximum_ttl"
                f" ({self.ttl_min_s} > {self.ttl_max_s})"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One GCRA limit: a cell comes back every `interval_s`, at most `burst` wait at once."""

    interval_s: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimiterConfig:
    """The ``[rate_limiter]`` table, whichever dialect it was written in."""

    behind_proxy: bool
    """With no `HttpConfig.trusted_proxies`: believe forwarded headers from anybody."""
    http: Quota | None
    """Every HTTP request but ``/health``."""
    user_dht: Quota | None
    """HTTP requests that are about to touch the DHT."""
    dht: Quota | None
    """Incoming DHT queries; refused ones are dropped in silence."""
    ipv6_prefix: int = 64
    """IPv6 clients that share this many leading bits share one budget."""
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()
    """Clients that no limit applies to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The ``[log]`` table: what is told, beside the options of the command line."""

    filter: str | None = None
    """Counts where neither the command line nor ``RUST_LOG`` has a filter; None: the default."""
    client_addresses: Literal["short", "full", "none"] = "short"
    """How much of a client's address is told: its /24 or /48, all, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """The ``[metrics]`` table: figures for monitoring systems."""

    bind: tuple[str, int] | None = None
    """IP address and TCP port, 0 for any, of a listener for ``/metrics``; None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the relay was told, and what it thinks of it (`warnings`)."""

    http: HttpConfig = HttpConfig()
    mainline: MainlineConfig = MainlineConfig()
    cache: CacheConfig = CacheConfig()
    rate_limiter: RateLimiterConfig | None = None
    """None: no limits."""
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    warnings: tuple[str, ...] = ()
    """Sentences to log once the logger stands: unknown keys and risky settings."""
    source: Path | None = None
    """The file, absolute; None: there was none."""


def testnet_config() -> Config:
    """Return the settings of ``--testnet``: everything on loopback, nothing limited or kept.

    The ten DHT nodes that `relay.server` starts are the bootstrap list, so there
    is none here. A query times out after half a second: loopback answers in
    less than a millisecond, a busy machine not always.
    """
    return Config(
        http=HttpConfig(bind=("127.0.0.1",), port=TESTNET_HTTP_PORT),
        mainline=MainlineConfig(
            port=0,
            bind_address="127.0.0.1",
            bootstrap=(),
            server_mode=True,
            request_timeout_s=0.5,
        ),
    )


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of the file at `path`, overridden from the environment.

    Args:
        path: a TOML file in either dialect of the rate limiter. None: no file, and then
            the reference's built-in limits hold (two requests a second, burst 2); a file
            without ``[rate_limiter]`` has none.
        environ: usually ``os.environ``; ``PKARR_RELAY__HTTP__PORT=8080`` sets ``http.port``.

    Raises:
        ConfigError: names file, line, key and what is allowed.
    """
    document = read_document(
        path,
        environ,
        known_tables=frozenset({"http", "mainline", "cache", "rate_limiter", "log", "metrics"}),
        built_in={"rate_limiter": _built_in_limits(environ)},
    )
    source = None if path is None else path.absolute()
    config = Config(
        http=_http(document.table("http")),
        mainline=_mainline(document.table("mainline")),
        cache=_cache(document.table("cache"), source),
        rate_limiter=_rate_limiter(document.table("rate_limiter"))
        if document.has("rate_limiter")
        else None,
        log=_log(document.table("log")),
        metrics=MetricsConfig(
            bind=document.table("metrics").get("bind", kinds.LISTEN_ADDRESS, None)
        ),
        source=source,
    )
    _warn_of_forgeable_addresses(config, document)
    document.warn_of_unknown()
    return replace(config, warnings=tuple(document.warnings))


def _http(table: ConfigTable) -> HttpConfig:
    default = HttpConfig()
    return HttpConfig(
        bind=table.get("bind", kinds.BIND, default.bind),
        port=table.get("port", kinds.PORT, default.port),
        max_connections=table.get("max_connections", kinds.POSITIVE_U32, default.max_connections),
        max_connection_age_s=table.get(
            "max_connection_age_seconds", kinds.AGE, default.max_connection_age_s
        ),
        trusted_proxies=table.get("trusted_proxies", kinds.NETWORKS, default.trusted_proxies),
        max_connections_per_address=table.get(
            "max_connections_per_address", kinds.U32, default.max_connections_per_address
        ),
    )


def _mainline(table: ConfigTable) -> MainlineConfig:
    default = MainlineConfig()
    bind_address = table.get("bind_address", kinds.IPV4, None)
    return MainlineConfig(
        port=table.get("port", kinds.PORT, default.port),
        bind_address=None if bind_address is None else str(bind_address),
        bootstrap=table.get("bootstrap", kinds.BOOTSTRAP, default.bootstrap),
        server_mode=table.get("server_mode", kinds.SERVER_MODE, default.server_mode),
        public_ip=table.get("public_ip", kinds.PUBLIC_IP, default.public_ip),
        request_timeout_s=table.get(
            "request_timeout_seconds", kinds.SECONDS, default.request_timeout_s
        ),
    )


def _cache(table: ConfigTable, source: Path | None) -> CacheConfig:
    """Read ``[cache]``; a relative path starts where the file is, or the process without one."""
    default = CacheConfig()
    path = table.get("path", kinds.PATH, None)
    if path is not None and not path.is_absolute():
        try:
            path = (Path.cwd() if source is None else source.parent) / path
        except OSError as error:
            message = f"cache.path is relative, and there is no working directory: {error.strerror}"
            raise table.error("path", f"{message}; allowed: an absolute path") from error
    size = table.get("size", kinds.SIZE, default.capacity_packets)
    ttl_min_s = table.get("minimum_ttl", kinds.U32, default.ttl_min_s)
    ttl_max_s = table.get("maximum_ttl", kinds.U32, default.ttl_max_s)
    serve_stale_s = table.get("serve_stale_seconds", kinds.U32, default.serve_stale_s)
    try:
        return CacheConfig(
            path=path,
            capacity_packets=size,
            ttl_min_s=ttl_min_s,
            ttl_max_s=ttl_max_s,
            serve_stale_s=serve_stale_s,
        )
    except ConfigError as error:
        key = "minimum_ttl" if table.has("minimum_ttl") else "maximum_ttl"
        raise table.error(key, str(error)) from None


def _rate_limiter(table: ConfigTable) -> RateLimiterConfig:
    """Read ``[rate_limiter]`` in the dialect its keys are from.

    The old one limits HTTP only: one budget for HTTP clients and DHT nodes, as in
    relay 0.11, would let either starve the other, and the node has budgets of its own.
    """
    old = [key for key in _OLD_DIALECT if table.has(key)]
    new = [key for key in _NEW_DIALECT if table.has(key)]
    ipv6_prefix = table.get("ipv6_prefix", kinds.IPV6_PREFIX, 64)
    exempt = table.get("exempt", kinds.NETWORKS, ())
    behind_proxy = table.get("behind_proxy", kinds.BOOLEAN, None)
    for key in table.unknown():
        # Here, unlike elsewhere, the reference refuses: a limit misspelt is no limit.
        message = f"unknown key rate_limiter.{key_text(key)} is refused"
        raise table.error(
            key, f"{message}; allowed: behind_proxy, ipv6_prefix, exempt and {_DIALECTS}"
        )
    if old and new:
        message = f"rate_limiter.{old[0]} and rate_limiter.{new[0]} belong to two dialects"
        raise table.error(old[0], f"{message}; allowed: one of them, {_DIALECTS}")
    if behind_proxy is None:
        behind_proxy = table.require("behind_proxy", kinds.BOOLEAN)
    return RateLimiterConfig(
        behind_proxy=behind_proxy,
        http=_old_quota(table) if old else _quota(table, "quota", "burst"),
        user_dht=None if old else _quota(table, "user_dht_quota", "user_dht_burst"),
        dht=None if old else _quota(table, "dht_quota", "dht_burst"),
        ipv6_prefix=ipv6_prefix,
        exempt=exempt,
    )


def _log(table: ConfigTable) -> LogConfig:
    default = LogConfig()
    return LogConfig(
        filter=table.get("filter", kinds.LOG_FILTER, default.filter),
        client_addresses=table.get(
            "client_addresses", kinds.CLIENT_ADDRESSES, default.client_addresses
        ),
    )


def _old_quota(table: ConfigTable) -> Quota:
    """One cell every `per_second` seconds: seconds per cell, whatever the name says."""
    return Quota(
        interval_s=float(table.require("per_second", kinds.POSITIVE_U32)),
        burst=table.require("burst_size", kinds.POSITIVE_U32),
    )


def _quota(table: ConfigTable, quota: str, burst: str) -> Quota:
    rate = table.require(quota, kinds.RATE)
    return Quota(
        interval_s=rate.interval_s,
        burst=table.get(burst, kinds.POSITIVE_U32, rate.cells),
    )


def _built_in_limits(environ: Mapping[str, str]) -> Mapping[str, object]:
    """Return what limits a relay without a file: the reference's two requests a second.

    Quotas of the old dialect, if the environment brings them, take their place.
    """
    if any(f"{ENVIRONMENT_PREFIX}RATE_LIMITER__{key.upper()}" in environ for key in _OLD_DIALECT):
        return {"behind_proxy": False}
    return {
        "behind_proxy": False,
        "quota": "2r/s",
        "user_dht_quota": "2r/s",
        "dht_quota": "2r/s",
    }


def _warn_of_forgeable_addresses(config: Config, document: ConfigDocument) -> None:
    limiter = config.rate_limiter
    if limiter is not None and limiter.behind_proxy and not config.http.trusted_proxies:
        table = document.table("rate_limiter")
        message = (
            "rate_limiter.behind_proxy = true without http.trusted_proxies believes whatever"
            " address a client writes into a header; list your proxies in http.trusted_proxies"
        )
        document.warnings.append(str(table.error("behind_proxy", message)))
