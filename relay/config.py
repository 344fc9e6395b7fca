"""The relay's configuration: frozen sections whose attribute names say their units.

The keys of the file are those of the reference relay (both generations of its
rate limiter) plus ours; `config.toml` at the top of the repository lists every
one with its unit and consequence. Whoever receives one of these sections may
believe it: `load_config` refuses a wrong type or value, naming the file, the
line, the key and what is allowed.

    built-in defaults  <  file  <  environment (``PKARR_RELAY__SECTION__KEY``)

Leaf module: of ours it imports only the error tree and the reader of sources.
Source: design/protocol.md, sections 5 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal

from relay.errors import ConfigError

HTTP_PORT_DEFAULT: Final = 6881
TESTNET_HTTP_PORT: Final = 15411
"""Where clients of the reference's own test network look for it."""


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
class Config:
    """Everything the relay was told, and what it thinks of it (`warnings`)."""

    http: HttpConfig = HttpConfig()
    mainline: MainlineConfig = MainlineConfig()
    cache: CacheConfig = CacheConfig()
    rate_limiter: RateLimiterConfig | None = None
    """None: no limits."""
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
