from typing import Final, final

from relay._pure.bencode import Value

PAYLOAD_BYTES_MIN: Final[int]
TRANSACTION_ID_BYTES_MAX: Final[int]

@final
class Answer:
    @property
    def transaction_id(self) -> bytes: ...
    @property
    def node_id(self) -> bytes | None: ...
    @property
    def nodes(self) -> bytes | None: ...
    @property
    def token(self) -> bytes | None: ...
    @property
    def public_key(self) -> bytes | None: ...
    @property
    def seq(self) -> int | None: ...
    @property
    def signature(self) -> bytes | None: ...
    @property
    def v_encoded(self) -> bytes | None: ...
    @property
    def peers(self) -> Value | None: ...
    @property
    def requester(self) -> bytes | None: ...
    @property
    def read_only(self) -> bool: ...
    def __init__(
        self,
        transaction_id: bytes,
        node_id: bytes | None = None,
        nodes: bytes | None = None,
        token: bytes | None = None,
        public_key: bytes | None = None,
        seq: int | None = None,
        signature: bytes | None = None,
        v_encoded: bytes | None = None,
        peers: Value | None = None,
        requester: bytes | None = None,
        read_only: bool = False,
    ) -> None: ...

def read_answer(payload: bytes) -> Answer | None: ...
