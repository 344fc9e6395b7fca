"""Reading URLs the way the reference does: its query strings and its paths.

Query strings follow `serde_urlencoded`: fields in order, ``+`` is a space, a broken
percent escape stays as it is, invalid UTF-8 becomes U+FFFD. Paths are never decoded before
they are split, so an encoded slash stays inside its segment.

Source: design/protocol.md, sections 1.1, 4.1 and 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from relay.errors import PublicKeyError, RelayError
from relay.pkarr.keys import PublicKey
from relay.pkarr.policy import ResolvePolicy

_QUERY_ERROR: Final = "Failed to deserialize query string: "
_ORIGIN: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class PolicyError(RelayError):
    """The caller's: a query string whose ``policy`` cannot be read."""


def fields(query: bytes) -> Iterator[tuple[str, str]]:
    """Yield the decoded fields of a query string, in order."""
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            yield _decoded(name), _decoded(value)


def parse_policy(query: bytes) -> ResolvePolicy:
    """Return the policy that a query string asks for.

    Raises:
        PolicyError: an unknown value, or ``policy`` twice; the first fault from the left.
    """
    policy: ResolvePolicy | None = None
    for name, value in fields(query):
        if name != "policy":
            continue
        if policy is not None:
            raise PolicyError(_QUERY_ERROR + "duplicate field `policy`")
        try:
            policy = ResolvePolicy(value)
        except ValueError:
            raise PolicyError(f"{_QUERY_ERROR}policy: invalid resolve policy: {value}") from None
    return policy or ResolvePolicy.CACHE_FIRST


def parse_key(segment: bytes) -> PublicKey:
    """Return the key that a path segment names, percent-decoding it once.

    Raises:
        PublicKeyError: not UTF-8, or no key.
    """
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise PublicKeyError("encoding", "Invalid UTF-8 in `key`") from None
    return PublicKey.parse(text)


def origin_form(target: bytes) -> bytes:
    """Return the path of a request target, which may be a whole URL (RFC 9112, 3.2.2).

    >>> origin_form(b"http://relay.test/key"), origin_form(b"http://relay.test"), origin_form(b"*")
    (b'/key', b'/', b'*')
    """
    origin = _ORIGIN.match(target)
    return target if origin is None else target[origin.end() :] or b"/"


def _decoded(text: bytes) -> str:
    return unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8", "replace")
