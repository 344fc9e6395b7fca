"""Query strings and paths as the reference reads them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import PublicKeyError
from relay.http.query import PolicyError, origin_form, parse_key, parse_policy
from relay.pkarr.keys import PublicKey
from relay.pkarr.policy import ResolvePolicy

KEY = "dwo8nxe19y1qimfrb4smz4anb7j4gcoyxum86utxr9yk443gbpny"
START = "Failed to deserialize query string: "


@pytest.mark.parametrize(
    ("query", "policy"),
    [
        (b"", ResolvePolicy.CACHE_FIRST),
        (b"most_recent&x=1", ResolvePolicy.CACHE_FIRST),
        (b"Policy=NetworkOnly", ResolvePolicy.CACHE_FIRST),
        (b"policy=CacheOnly", ResolvePolicy.CACHE_ONLY),
        (b"policy=CacheOnly&", ResolvePolicy.CACHE_ONLY),
        (b"&&x&policy=%43acheOnly", ResolvePolicy.CACHE_ONLY),
        (b"pol%69cy=NetworkOnly", ResolvePolicy.NETWORK_ONLY),
    ],
)
def test_policy(query: bytes, policy: ResolvePolicy) -> None:
    assert parse_policy(query) is policy


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (b"policy", "policy: invalid resolve policy: "),
        (b"policy=", "policy: invalid resolve policy: "),
        (b"policy=foo", "policy: invalid resolve policy: foo"),
        (b"policy=Cache+Only", "policy: invalid resolve policy: Cache Only"),
        (b"policy=%zz", "policy: invalid resolve policy: %zz"),
        (b"policy=%ff", "policy: invalid resolve policy: \ufffd"),
        (b"policy=CacheOnly&policy=CacheOnly", "duplicate field `policy`"),
        (b"policy=CacheOnly&policy=foo", "duplicate field `policy`"),
        (b"policy=foo&policy=CacheOnly", "policy: invalid resolve policy: foo"),
    ],
)
def test_policy_errors(query: bytes, text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(query)
    assert str(caught.value) == START + text


def test_keys_are_decoded_once() -> None:
    key = PublicKey.parse(KEY)
    assert parse_key(b"%64" + KEY[1:].encode()) == key
    assert parse_key(b"https:%2F%2Ffoo." + KEY.encode() + b"%2Fbar") == key
    with pytest.raises(PublicKeyError, match="encoding"):
        parse_key(b"%2564" + KEY[1:].encode())


def test_a_segment_that_is_not_utf8() -> None:
    with pytest.raises(PublicKeyError) as caught:
        parse_key(b"%FF")
    assert str(caught.value) == "Invalid UTF-8 in `key`"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a", b"/a"),
        (b"*", b"*"),
        (b"http://relay.test/a/b", b"/a/b"),
        (b"https://relay.test:8080", b"/"),
        (b"/http://relay.test/", b"/http://relay.test/"),
        (b"relay.test:80", b"relay.test:80"),
    ],
)
def test_origin_form(target: bytes, path: bytes) -> None:
    assert origin_form(target) == path


@given(st.binary(max_size=80))
def test_hostile_bytes_are_read_or_refused(data: bytes) -> None:
    origin_form(data)
    with suppress(PolicyError):
        assert isinstance(parse_policy(b"policy=" + data), ResolvePolicy)
    with suppress(PublicKeyError):
        assert isinstance(parse_key(data), PublicKey)
