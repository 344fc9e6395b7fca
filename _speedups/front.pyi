from collections.abc import Hashable, Sequence
from typing import Protocol, Self, final

from relay.gcra import Decision

@final
class Cells:
    def __new__(cls, interval_s: float, burst: int, max_keys: int = ...) -> Self: ...
    @property
    def burst(self) -> int: ...
    def __len__(self) -> int: ...
    def check(self, key: Hashable, now: float) -> Decision: ...

class _Listener(Protocol):
    def asked(self, token: int, head: bytes, body: bytes | None, peer: str) -> None: ...
    def lent(
        self,
        token: int,
        descriptor: int,
        data: bytes,
        address: tuple[str, int],
        opened_at: float,
        head_since: float,
    ) -> None: ...
    def gone(self, token: int) -> None: ...
    def refused(self) -> None: ...
    def cannot_accept(self, error: OSError) -> None: ...

@final
class Lanes:
    def __new__(cls, total: int, per_address: int) -> Self: ...
    @property
    def open(self) -> int: ...
    @property
    def waits(self) -> int: ...
    def start(self, now: float, limiter_now: float, news: int) -> None: ...
    def stop(self) -> None: ...

@final
class Lane:
    def __new__(
        cls,
        listener: _Listener,
        *,
        listeners: Sequence[int],
        table: object | None,
        limiter: Cells | None,
        ttl_s: tuple[int, int],
        lanes: Lanes,
        deadlines_s: tuple[float, float, float, float, float, float, float],
        trusted: Sequence[tuple[bytes, int]],
        exempt: Sequence[tuple[bytes, int]],
        behind_proxy: bool,
        ipv6_prefix: int,
    ) -> Self: ...
    @property
    def waits(self) -> tuple[int, int, int]: ...
    @property
    def rounds(self) -> int: ...
    def fileno(self) -> int: ...
    def retune(
        self,
        *,
        limiter: Cells | None,
        ttl_s: tuple[int, int],
        trusted: Sequence[tuple[bytes, int]],
        exempt: Sequence[tuple[bytes, int]],
        behind_proxy: bool,
        ipv6_prefix: int,
    ) -> None: ...
    def turn(self, now: float, limiter_now: float, alone: bool) -> None: ...
    def tell(self) -> None: ...
    def sweep(self, now: float, limiter_now: float) -> None: ...
    def drain(self, now: float, limiter_now: float) -> None: ...
    def answer(
        self, token: int, head: bytes, body: bytes, close: bool, now: float, limiter_now: float
    ) -> None: ...
    def give_back(self, token: int) -> None: ...
    def stop_accepting(self) -> None: ...
    def accept_again(self) -> None: ...
    def take_counts(
        self,
    ) -> tuple[int, list[tuple[tuple[str, int], int]], list[tuple[str, int]]] | None: ...
    def take_spans(self) -> list[tuple[list[int], float]]: ...
    def close(self) -> None: ...

def read_request(
    data: bytes,
) -> (
    tuple[
        str,
        bytes | None,
        str,
        bool,
        bool,
        bool,
        bytes | None,
        bytes | None,
        bytes | None,
        int,
        int,
    ]
    | bool
    | None
): ...
def read_client(
    head: bytes,
    address: bytes,
    *,
    trusted: Sequence[tuple[bytes, int]],
    exempt: Sequence[tuple[bytes, int]],
    behind_proxy: bool,
    ipv6_prefix: int,
) -> tuple[bytes, bool, bool] | None: ...
def span_of(ns: int) -> int: ...
def format_http_date(timestamp_us: int) -> str: ...
def parse_http_date(text: bytes) -> int | None: ...
