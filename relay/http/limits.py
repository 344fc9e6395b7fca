"""The two limits of the HTTP side: requests, and requests that touch the DHT.

Each client has a budget of its own for both (GCRA, protocol.md 4.5); an exempt client has
none to lose. Without a ``[rate_limiter]`` table nothing is limited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, Final

import trio

from relay.errors import DhtQuotaError
from relay.gcra import KEYS_MAX, Decision, Gcra
from relay.http.clients import Client, ClientRules, Headers, Network
from relay.http.native import Cells

if TYPE_CHECKING:
    from relay.config import Quota, RateLimiterConfig
    from relay.service import Spend


class HttpLimits:
    """Counts requests by client.

    Args:
        config: the ``[rate_limiter]`` table; None: no limits.
        trusted_proxies: ``http.trusted_proxies``.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RateLimiterConfig | None,
        *,
        trusted_proxies: tuple[Network, ...] = (),
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.clock = clock
        self.refused: Counter[str] = Counter()
        """Requests refused, by the limit: ``http`` or ``user_dht``."""
        self.rules = _rules(config, trusted_proxies)
        self.http = self._user_dht = None
        self._config = config
        if config is not None:
            self.http = _limiter(config.http)
            self._user_dht = _limiter(config.user_dht)

    def retune(
        self, config: RateLimiterConfig | None, *, trusted_proxies: tuple[Network, ...]
    ) -> None:
        """Take other settings. Where a quota is another, all clients begin anew."""
        before, self._config = self._config, config
        self.rules = _rules(config, trusted_proxies)
        http, user_dht = (None, None) if config is None else (config.http, config.user_dht)
        if http != (before and before.http):
            self.http = _limiter(http)
        if user_dht != (before and before.user_dht):
            self._user_dht = _limiter(user_dht)

    def client_of(self, peer: str | None, headers: Headers) -> Client:
        """Return whose budget a request draws on; see `ClientRules.client_of`."""
        return self.rules.client_of(peer, headers)

    def admit(self, client: Client) -> Admission | None:
        """Count one HTTP request; None when nothing limits it."""
        if self.http is None or client.exempt:
            return None
        admission = Admission(self.http.check(client.key, self.clock()), self.http.burst)
        self.refused["http"] += not admission.allowed
        return admission

    def spender(self, client: Client) -> Spend:
        """Return what the service calls before it asks the DHT for this client."""

        def spend() -> None:
            if self._user_dht is None or client.exempt:
                return
            if not self._user_dht.check(client.key, self.clock()).allowed:
                self.refused["user_dht"] += 1
                raise DhtQuotaError

        return spend


class Admission:
    """The HTTP limiter's verdict on one request, as headers and text."""

    def __init__(self, decision: Decision, burst: int) -> None:
        self.allowed: Final = decision.allowed
        # Rounded up, and never 0: a client that waits that long is welcome (issue 3, 6).
        self.wait_s: Final = max(ceil(decision.retry_after_s), 1)
        self._decision = decision
        self._burst = burst

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the fields that go with any answer to this request."""
        quota = [
            (b"x-ratelimit-limit", b"%d" % self._burst),
            (b"x-ratelimit-remaining", b"%d" % self._decision.remaining),
        ]
        if self.allowed:
            return quota
        wait = b"%d" % self.wait_s
        return [(b"x-ratelimit-after", wait), (b"retry-after", wait), *quota]


def _rules(config: RateLimiterConfig | None, trusted_proxies: tuple[Network, ...]) -> ClientRules:
    if config is None:
        return ClientRules(trusted_proxies=trusted_proxies)
    return ClientRules(config.behind_proxy, trusted_proxies, config.exempt, config.ipv6_prefix)


def _limiter(quota: Quota | None) -> Gcra | Cells | None:
    if quota is None:
        return None
    return (Gcra if Cells is None else Cells)(quota.interval_s, quota.burst, KEYS_MAX)
