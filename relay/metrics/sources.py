"""Whose counters the metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.http.app import App
    from relay.net.udp import DhtDriver
    from relay.service import RelayService
    from relay.store.worker import PacketStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The parts of a relay that count."""

    app: App
    service: RelayService
    store: PacketStore
    driver: DhtDriver
