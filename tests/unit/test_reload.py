"""Tests of relay.reload: what is taken over, and under which names."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config import Config, Quota, RateLimiterConfig, load_config
from relay.reload import KEYS, LIVE, compare

ROOT = Path(__file__).parents[2]
SLOW, FAST = Quota(interval_s=1.0, burst=1), Quota(interval_s=0.1, burst=1)
LIMITS = RateLimiterConfig(behind_proxy=False, http=SLOW, user_dht=SLOW, dht=SLOW)


def shipped_keys() -> set[str]:
    table, found = "", set()
    for line in (ROOT / "config.toml").read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found.add(f"{table}.{key[1]}")
    return found


def test_every_setting_is_named_as_in_the_file() -> None:
    for section in fields(Config):
        ours = LIMITS if section.name == "rate_limiter" else getattr(Config(), section.name)
        for field in fields(ours) if is_dataclass(ours) else ():
            if not isinstance(getattr(ours, field.name), Quota):
                name = f"{section.name}.{field.name}"
                assert f"{section.name}.{KEYS.get(name, field.name)}" in shipped_keys()


def test_what_may_change_exists() -> None:
    for section, attributes in LIVE.items():
        ours = LIMITS if section == "rate_limiter" else getattr(Config(), section)
        assert attributes <= {field.name for field in fields(ours)}


def test_the_same_is_no_change() -> None:
    config = load_config(ROOT / "config.toml", {})
    found = compare(config, config)
    assert (found.config, found.changed, found.waiting) == (config, (), ())


def test_part_is_taken_over_and_part_waits() -> None:
    running = Config()
    http = replace(running.http, port=1, trusted_proxies=(ip_network("10.0.0.0/8"),))
    cache = replace(running.cache, capacity_packets=7, path=Path("/x"))
    found = compare(running, replace(running, http=http, cache=cache, warnings=("w",)))
    assert found.changed == ("http.trusted_proxies", "cache.size")
    assert found.waiting == ("http.port", "cache.path")
    assert found.config.http == replace(running.http, trusted_proxies=http.trusted_proxies)
    assert found.config.cache == replace(running.cache, capacity_packets=7)
    assert compare(found.config, replace(running, http=http, cache=cache)).changed == ()


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        (LIMITS, replace(LIMITS, http=FAST), {"quota"}),
        (LIMITS, replace(LIMITS, dht=Quota(interval_s=1.0, burst=2)), {"dht_burst"}),
        (LIMITS, replace(LIMITS, user_dht=Quota(interval_s=2.0, burst=2)), {
            "user_dht_quota", "user_dht_burst",
        }),
        (LIMITS, replace(LIMITS, http=FAST, user_dht=None, dht=None), {
            "per_second", "user_dht_quota", "user_dht_burst", "dht_quota", "dht_burst",
        }),
        (None, replace(LIMITS, behind_proxy=True, user_dht=None, dht=None), {
            "behind_proxy", "per_second", "burst_size",
        }),
        (replace(LIMITS, user_dht=None, dht=None), None, {"quota", "burst"}),
    ],
)  # fmt: skip
def test_limits_are_named_as_the_operator_wrote_them(
    before: RateLimiterConfig | None, after: RateLimiterConfig | None, keys: set[str]
) -> None:
    found = compare(Config(rate_limiter=before), Config(rate_limiter=after))
    assert set(found.changed) == {f"rate_limiter.{key}" for key in keys}
    assert found.waiting == ()
    limits = found.config.rate_limiter
    assert limits is not None
    assert limits.http == (after and after.http)
