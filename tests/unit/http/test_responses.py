"""The one function that turns a packet into an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.responses import Conditions, entity_tag, packet_answer
from relay.pkarr.keys import PublicKey
from relay.pkarr.packet import SeenPacket, SignedPacket

KEY = PublicKey(bytes(32))
EMPTY_DNS = bytes(2) + b"\x80" + bytes(9)
AT_US = 1_755_302_400_000_000
DATE = b"Sat, 16 Aug 2025 00:00:00 GMT"
SEEN_US = AT_US + 60_000_000


def seen(timestamp_us: int = AT_US, dns: bytes = EMPTY_DNS) -> SeenPacket:
    return SeenPacket(SignedPacket(KEY, bytes(64), timestamp_us, dns), SEEN_US)


def tag_of(packet: SeenPacket) -> bytes:
    return entity_tag(packet.packet.to_relay_payload())


def test_a_packet_is_described_whole() -> None:
    answer = packet_answer(seen(), Conditions(), ttl_s=300, now_us=SEEN_US + 7_900_000)
    assert answer.status == 200
    assert answer.body == seen().packet.to_relay_payload()
    assert dict(answer.headers) == {
        b"content-type": b"application/pkarr.org/relays#payload",
        b"cache-control": b"public, max-age=300",
        b"age": b"7",
        b"etag": tag_of(seen()),
        b"last-modified": DATE,
        b"memento-datetime": b"Sat, 16 Aug 2025 00:01:00 GMT",
    }


def test_a_stale_packet_may_not_be_kept() -> None:
    answer = packet_answer(
        seen(), Conditions(), ttl_s=300, now_us=SEEN_US + 500_000_000, stale=True
    )
    assert dict(answer.headers)[b"cache-control"] == b"public, max-age=0"
    assert dict(answer.headers)[b"age"] == b"500"


def test_age_never_runs_backwards() -> None:
    answer = packet_answer(seen(), Conditions(), ttl_s=300, now_us=SEEN_US - 5_000_000)
    assert dict(answer.headers)[b"age"] == b"0"


@pytest.mark.parametrize("timestamp_us", [253_402_300_800_000_000, 2**63 - 1, 2**64 - 1])
def test_times_beyond_9999_are_clamped(timestamp_us: int) -> None:
    answer = packet_answer(seen(timestamp_us), Conditions(), ttl_s=300, now_us=SEEN_US)
    assert dict(answer.headers)[b"last-modified"] == b"Fri, 31 Dec 9999 23:59:59 GMT"


@pytest.mark.parametrize(
    ("timestamp_us", "date", "status"),
    [
        (AT_US, DATE, 304),
        (AT_US, b"Saturday, 16-Aug-25 00:00:00 GMT", 304),
        (AT_US, b"Sat Aug 16 00:00:00 2025", 304),
        (AT_US, b"Fri, 15 Aug 2025 23:59:59 GMT", 200),
        (AT_US + 500_000, DATE, 200),
        (AT_US + 500_000, b"Sat, 16 Aug 2025 00:00:01 GMT", 304),
        (AT_US, b"Sun, 16 Aug 2025 00:00:00 GMT", 200),
        (AT_US, b"nonsense", 200),
    ],
)
def test_if_modified_since(timestamp_us: int, date: bytes, status: int) -> None:
    conditions = Conditions(if_modified_since=date)
    answer = packet_answer(seen(timestamp_us), conditions, ttl_s=300, now_us=SEEN_US)
    assert answer.status == status
    assert bool(answer.body) is (status == 200)
    assert dict(answer.headers)[b"last-modified"] == DATE


TAG = tag_of(seen())


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (TAG, 304),
        (b"W/" + TAG, 304),
        (b'"other", ' + TAG, 304),
        (b'"a,b",W/' + TAG + b' , "c"', 304),
        (b"*", 304),
        (b" * ", 304),
        (b'"other"', 200),
        (TAG.strip(b'"'), 200),
        (b"", 200),
    ],
)
def test_if_none_match_wins_over_dates(wanted: bytes, status: int) -> None:
    since = b"Fri, 31 Dec 9999 23:59:59 GMT" if status == 200 else b"Thu, 01 Jan 1970 00:00:00 GMT"
    answer = packet_answer(seen(), Conditions(wanted, since), ttl_s=300, now_us=SEEN_US)
    assert answer.status == status


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_the_tag_changes_exactly_with_the_bytes(left: bytes, right: bytes) -> None:
    assert (entity_tag(left) == entity_tag(right)) is (left == right)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_condition_is_survived(wanted: bytes, since: bytes) -> None:
    answer = packet_answer(seen(), Conditions(wanted, since), ttl_s=300, now_us=SEEN_US)
    assert answer.status in (200, 304)
