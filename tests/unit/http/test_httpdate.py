"""HTTP dates against the reference's vectors and the forms of RFC 9110."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.httpdate import format_http_date, parse_http_date

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "httpdate.json"
CASES = json.loads(VECTORS.read_text())["cases"]
LAST = "Fri, 31 Dec 9999 23:59:59 GMT"
SUN = 784_111_777_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_vector(case: dict[str, Any]) -> None:
    # null: the reference panics; issue 3 says clamp.
    expected = LAST if case["http_date"] is None else case["http_date"]
    assert format_http_date(int(case["timestamp"])) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"Sun Nov 06 08:49:37 1994",
        b" \tSun, 06 Nov 1994 08:49:37 GMT  ",
    ],
)
def test_three_forms(text: bytes) -> None:
    assert parse_http_date(text) == SUN


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"1755302400",
        b"Mon, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:60 GMT",
        b"Sun, 06 Nov 1994 24:49:00 GMT",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Wed, 31 Dec 1969 23:59:59 GMT",
        b"Tue, 30 Feb 2024 00:00:00 GMT",
        b"Sun, 06 Nof 1994 08:49:37 GMT",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT".encode(),
    ],
)
def test_what_is_no_date(text: bytes) -> None:
    assert parse_http_date(text) is None


def test_two_digit_years_turn_at_1970() -> None:
    assert parse_http_date(b"Thursday, 01-Jan-70 00:00:00 GMT") == 0
    assert parse_http_date(b"Tuesday, 31-Dec-69 23:59:59 GMT") == 3_155_759_999_000_000


@given(st.integers(0, 253_402_300_799_999_999))
def test_reads_what_it_writes(timestamp_us: int) -> None:
    text = format_http_date(timestamp_us).encode()
    assert parse_http_date(text) == timestamp_us // 1_000_000 * 1_000_000


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    parsed = parse_http_date(text)
    assert parsed is None or parsed >= 0
