from typing import Protocol, Self, final

_Datagrams = list[tuple[bytes, tuple[str, int]]]

class _Counters(Protocol):
    received: int
    sent: int
    receive_errors: int
    send_errors: int

class _Answerer(Protocol):
    @property
    def capsule(self) -> object: ...

@final
class Lane:
    def __new__(cls, descriptor: int, counters: _Counters, answerer: _Answerer | None) -> Self: ...
    def receive(
        self, limit: int, seconds: float, now: float
    ) -> tuple[_Datagrams, _Datagrams, int, bool, bool]: ...
    def send(self, datagrams: _Datagrams) -> int: ...
