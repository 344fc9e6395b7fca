from typing import Final, Protocol, Self, final

from relay._pure import dht as kernels  # as relay._kernels, which names the twins to type checkers

RECORD_BYTES_MAX: Final[int]

_Allowance = tuple[float, float, float, float]

def siphash(key: bytes, data: bytes) -> int: ...

@final
class IdTable:
    def __new__(cls, capacity: int) -> Self: ...
    def __len__(self) -> int: ...
    def set(self, slot: int, node: bytes, preferred: bool) -> None: ...
    def clear(self, slot: int) -> None: ...
    def clear_all(self) -> None: ...
    def closest(self, target: bytes, count: int) -> list[int]: ...
    def closest_compact(self, target: bytes, count: int) -> bytes: ...

@final
class RecordTable:
    def __new__(cls, capacity: int) -> Self: ...
    def __len__(self) -> int: ...
    def get(self, target: bytes) -> bytes | None: ...
    def put(self, target: bytes, record: bytes) -> None: ...

@final
class BudgetCells:
    def __new__(
        cls,
        key: bytes,
        cells: int,
        *,
        unproven: _Allowance,
        proven: _Allowance,
        credit_ratio: float,
        proof_lasts_s: float,
    ) -> Self: ...
    def admit(self, octets: bytes, bytes_in: int, now: float) -> bool: ...
    def charge(self, octets: bytes, bytes_out: int, now: float) -> bool: ...
    def prove(self, octets: bytes, now: float) -> None: ...

@final
class RateCells:
    def __new__(cls, interval_s: float, burst: int, max_keys: int) -> Self: ...
    def check(self, octets: bytes, now: float) -> bool: ...

class _Identity(Protocol):
    @property
    def node_id(self) -> bytes: ...
    @property
    def server_mode(self) -> bool: ...

class _Public(Protocol):
    @property
    def trial_source(self) -> bytes: ...

class _Counters(Protocol):
    queries_in: int
    replies_out: int
    dropped_budget: int
    dropped_filter: int

@final
class Responder:
    def __new__(
        cls,
        *,
        identity: _Identity,
        public: _Public,
        counters: _Counters,
        ids: kernels.IdTable,
        values: kernels.RecordTable,
        items: kernels.RecordTable,
        swarms: kernels.RecordTable,
        budgets: kernels.BudgetCells,
        limit: kernels.RateCells | None,
        token_key: bytes,
        greets_below: int,
    ) -> Self: ...
    @property
    def capsule(self) -> object: ...
    def answer(self, payload: bytes, source: bytes, now: float) -> bytes | None: ...
