"""The HTTP limiter's headers and the user DHT quota, on a clock of the test's own."""

from dataclasses import dataclass
from ipaddress import ip_network

import pytest

from relay.config import Quota, RateLimiterConfig
from relay.errors import DhtQuotaError
from relay.http.limits import HttpLimits


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock, **changes: object) -> HttpLimits:
    settings: dict[str, object] = {
        "behind_proxy": False,
        "http": Quota(interval_s=60.0, burst=2),
        "user_dht": Quota(interval_s=10.0, burst=1),
        "dht": None,
        **changes,
    }
    return HttpLimits(RateLimiterConfig(**settings), clock=clock)  # type: ignore[arg-type]


def test_without_a_table_nothing_is_limited() -> None:
    free = HttpLimits(None, clock=Clock())
    client = free.client_of("203.0.113.1", [])
    assert free.admit(client) is None
    for _ in range(100):
        free.spender(client)()


def test_headers_count_down_and_then_say_how_long_to_wait() -> None:
    clock = Clock()
    limited = limits(clock)
    client = limited.client_of("203.0.113.1", [])
    seen = [limited.admit(client) for _ in range(3)]
    assert [entry.allowed for entry in seen if entry] == [True, True, False]
    assert seen[0] is not None
    assert seen[0].headers() == [(b"x-ratelimit-limit", b"2"), (b"x-ratelimit-remaining", b"1")]
    clock.now += 0.5
    refused = limited.admit(client)
    assert refused is not None
    assert dict(refused.headers()) == {
        b"x-ratelimit-after": b"60",
        b"retry-after": b"60",
        b"x-ratelimit-limit": b"2",
        b"x-ratelimit-remaining": b"0",
    }


def test_the_wait_is_never_zero() -> None:
    clock = Clock()
    limited = limits(clock, http=Quota(interval_s=0.5, burst=1))
    client = limited.client_of("203.0.113.1", [])
    limited.admit(client)
    refused = limited.admit(client)
    assert refused is not None
    assert refused.wait_s == 1


def test_user_dht_quota() -> None:
    clock = Clock()
    limited = limits(clock)
    spend = limited.spender(limited.client_of("203.0.113.1", []))
    other = limited.spender(limited.client_of("203.0.113.2", []))
    spend()
    other()
    with pytest.raises(DhtQuotaError, match="Too many requests to DHT nodes"):
        spend()
    clock.now += 10
    spend()


def test_the_old_dialect_limits_http_only() -> None:
    limited = limits(Clock(), user_dht=None)
    spend = limited.spender(limited.client_of("203.0.113.1", []))
    for _ in range(100):
        spend()


def test_exempt_clients_are_free_of_both() -> None:
    limited = limits(Clock(), exempt=(ip_network("203.0.113.0/24"),))
    client = limited.client_of("203.0.113.1", [])
    spend = limited.spender(client)
    for _ in range(100):
        assert limited.admit(client) is None
        spend()
