from typing import Final

from relay._pure.bencode import Value

DEPTH_MAX: Final[int]
DIGITS_MAX: Final[int]

class BencodeError(ValueError):
    reason: str
    position: int
    def __init__(self, reason: str, position: int) -> None: ...

def decode(data: bytes) -> Value: ...
def decode_prefix(data: bytes) -> tuple[Value, int]: ...
def encode(value: Value) -> bytes: ...
