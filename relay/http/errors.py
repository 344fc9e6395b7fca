"""Errors to answers: one table, looked up along an error's classes.

The bodies are the reference's, byte for byte (protocol.md, sections 1.1, 2, 4.2 and 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.errors import (
    BodyTooLargeError,
    DhtQuotaError,
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PacketError,
    PublicKeyError,
    PublishFailedError,
    RelayError,
    TimestampRangeError,
)
from relay.http.messages import Answer, BodyBrokenError, BodyTimeoutError
from relay.http.query import PolicyError

STATUS_OF: Final[Mapping[type[RelayError], int]] = {
    PublicKeyError: 400,
    PolicyError: 400,
    PacketError: 400,
    TimestampRangeError: 400,
    InvalidItemError: 404,
    BodyBrokenError: 400,
    BodyTimeoutError: 408,
    NotMostRecentError: 409,
    BodyTooLargeError: 413,
    DhtQuotaError: 429,
    PublishFailedError: 500,
    LookupFailedError: 503,
}
KEY_ERROR_PREFIX: Final = "Invalid URL: "
_LEAVES_BODY_UNREAD: Final = (BodyTooLargeError, BodyTimeoutError, BodyBrokenError)


def error_answer(error: RelayError, *, closable: bool = True) -> Answer | None:
    """Return the answer to a request that ended in `error`, or None: then it is our fault.

    Args:
        error: what a handler raised.
        closable: HTTP/1: say so when the connection must end with this answer.
    """
    status = next(
        (STATUS_OF[class_] for class_ in type(error).__mro__ if class_ in STATUS_OF), None
    )
    if status is None:
        return None
    text = str(error)
    if isinstance(error, PublicKeyError):
        text = KEY_ERROR_PREFIX + text
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, InvalidItemError):
        headers.append((b"pkarr-invalid-signed-packet-seq", b"%d" % error.seq))
    if closable and isinstance(error, _LEAVES_BODY_UNREAD):
        headers.append((b"connection", b"close"))
    return Answer.text(status, text, headers)
