"""What a reload of the configuration may change, and what has to wait for a restart.

`compare` holds the settings that a relay runs with against those it is to have: some are taken
over, the others stay, and the keys of both are named as the operator wrote them. A setting that
nobody has declared to be safe needs a restart.

Source: issue 5, section 3.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from relay import logs
from relay.config import Config, Quota, RateLimiterConfig, load_config
from relay.errors import ConfigError
from relay.threads import NoThreadError, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_log: Final = logging.getLogger("pkarr_relay")

LIVE: Final[Mapping[str, frozenset[str]]] = {
    "http": frozenset({"trusted_proxies"}),
    "cache": frozenset({"capacity_packets", "ttl_min_s", "ttl_max_s", "serve_stale_s"}),
    "rate_limiter": frozenset({"behind_proxy", "http", "user_dht", "dht", "ipv6_prefix", "exempt"}),
    "log": frozenset({"filter", "client_addresses"}),
}
"""Attributes of the sections that a running relay can take over."""
KEYS: Final[Mapping[str, str]] = {
    "http.max_connection_age_s": "max_connection_age_seconds",
    "mainline.request_timeout_s": "request_timeout_seconds",
    "cache.capacity_packets": "size",
    "cache.ttl_min_s": "minimum_ttl",
    "cache.ttl_max_s": "maximum_ttl",
    "cache.serve_stale_s": "serve_stale_seconds",
}
"""Keys of the file that are not called as our attributes are; quotas are two keys each."""
_QUOTAS: Final[Mapping[str, tuple[str, str]]] = {
    "http": ("quota", "burst"),
    "user_dht": ("user_dht_quota", "user_dht_burst"),
    "dht": ("dht_quota", "dht_burst"),
}
_OLD_QUOTA: Final = ("per_second", "burst_size")
_NO_LIMITS: Final = RateLimiterConfig(behind_proxy=False, http=None, user_dht=None, dht=None)
"""What a file without the table means."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two configurations, compared; keys are ``table.key``, in the order of the sections."""

    config: Config
    """What the relay runs with once it has taken over what it can."""
    changed: tuple[str, ...]
    """Keys that it takes over."""
    waiting: tuple[str, ...]
    """Keys that differ and need a restart."""


def compare(running: Config, wanted: Config) -> Difference:
    """Return what becomes of a relay with `running` that is to have `wanted`."""
    sections: dict[str, Any] = {"warnings": wanted.warnings}
    changed: list[str] = []
    waiting: list[str] = []
    for name, ours, theirs in _sections(running, wanted):
        if ours is None or theirs is None:
            waiting.append(f"[{name}]")
            continue
        live = LIVE.get(name, frozenset())
        taken = {}
        for attribute in (field.name for field in fields(ours)):
            old, new = getattr(ours, attribute), getattr(theirs, attribute)
            if old == new:
                continue
            keys = [f"{name}.{key}" for key in _keys(name, attribute, old, new, theirs)]
            if attribute in live:
                taken[attribute] = new
                changed += keys
            else:
                waiting += keys
        if taken:
            sections[name] = replace(ours, **taken)
    return Difference(replace(running, **sections), tuple(changed), tuple(waiting))


class Reloader:
    """Reads the configuration file again and has a running relay take over what it can.

    Args:
        config: what the relay runs with.
        apply: is given that and another one, of which only what is in `LIVE` differs, and
            makes the relay run with it; does not fail.
    """

    def __init__(self, config: Config, apply: Callable[[Config, Config], None]) -> None:
        self._running = config
        self._apply = apply

    async def reload(self) -> None:
        """Do it, and log in one line what came of it; a file with an error changes nothing."""
        path = self._running.source
        if path is None:
            _log.warning("reload: there is no configuration file; nothing is changed")
            return
        try:
            # In a thread: a file system may hang, and that is not to keep us when we are to end.
            wanted = await in_thread(load_config, path, os.environ, abandon_on_cancel=True)
        except (ConfigError, NoThreadError) as error:
            _log.error("reload refused, everything stays as it is: %s", error)
            return
        difference = compare(self._running, wanted)
        self._apply(self._running, difference.config)
        self._running = difference.config
        log = difference.config.log
        for complaint in logs.reconfigure(log.filter, log.client_addresses):
            _log.warning("%s", complaint)
        for warning in wanted.warnings:
            _log.warning("%s", warning)
        sentence = f"reloaded {path}; changed: {', '.join(difference.changed) or 'nothing'}"
        if difference.waiting:
            _log.warning("%s; needs a restart: %s", sentence, ", ".join(difference.waiting))
        else:
            _log.info("%s", sentence)


def _sections(running: Config, wanted: Config) -> Iterator[tuple[str, Any, Any]]:
    for field in fields(Config):
        ours, theirs = getattr(running, field.name), getattr(wanted, field.name)
        if field.name == "rate_limiter":
            ours, theirs = ours or _NO_LIMITS, theirs or _NO_LIMITS
        if (is_dataclass(ours) or is_dataclass(theirs)) and ours != theirs:
            yield field.name, ours, theirs


def _keys(
    section: str, attribute: str, old: object, new: object, theirs: RateLimiterConfig
) -> list[str]:
    """Return the keys of the file that stand for an attribute's change."""
    if section != "rate_limiter" or attribute not in _QUOTAS:
        return [KEYS.get(f"{section}.{attribute}", attribute)]
    in_old_dialect = attribute == "http" and theirs.user_dht is None and new is not None
    rate, burst = _OLD_QUOTA if in_old_dialect else _QUOTAS[attribute]
    if not isinstance(old, Quota) or not isinstance(new, Quota):
        return [rate, burst]
    differs = (old.interval_s != new.interval_s, old.burst != new.burst)
    return [key for key, is_other in zip((rate, burst), differs, strict=True) if is_other]
