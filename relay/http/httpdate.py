"""HTTP dates: written as IMF-fixdate, read in all three forms of the specification.

Packet timestamps are unsigned 64-bit microseconds and reach far beyond the year 9999,
which four digits cannot say; such times are written as the last second of that year.

Source: RFC 9110, section 5.6.7; design/protocol.md, section 4.2.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND: Final = int((datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds())
_US: Final = 1_000_000
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
_TIME: Final = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS: Final = tuple(
    re.compile(form)
    for form in (
        # Sun, 06 Nov 1994 08:49:37 GMT
        rb"(?P<weekday>[A-Za-z]{3}), (?P<day>[0-9]{2}) (?P<month>[A-Za-z]{3})"
        rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT",
        # Sunday, 06-Nov-94 08:49:37 GMT
        rb"(?P<weekday>[A-Za-z]{6,9}), (?P<day>[0-9]{2})-(?P<month>[A-Za-z]{3})"
        rb"-(?P<year>[0-9]{2}) " + _TIME + rb" GMT",
        # Sun Nov  6 08:49:37 1994
        rb"(?P<weekday>[A-Za-z]{3}) (?P<month>[A-Za-z]{3}) (?P<day>[0-9]{2}| [0-9])"
        rb" " + _TIME + rb" (?P<year>[0-9]{4})",
    )
)


@lru_cache(maxsize=4096)
def _format_second(second: int) -> str:
    moment = _EPOCH + timedelta(seconds=min(second, _LAST_SECOND))
    return (
        f"{_DAYS[moment.weekday()][:3]}, {moment.day:02} {_MONTHS[moment.month - 1]}"
        f" {moment.year:04} {moment:%H:%M:%S} GMT"
    )


def format_http_date(timestamp_us: int) -> str:
    """Return an IMF-fixdate, truncated to the second.

    Args:
        timestamp_us: microseconds since 1970, not negative; from the year 10000 on the
            last second of 9999 is returned.

    >>> format_http_date(784_111_777_999_999)
    'Sun, 06 Nov 1994 08:49:37 GMT'
    """
    return _format_second(timestamp_us // _US)


def parse_http_date(text: bytes) -> int | None:
    """Return microseconds since 1970, or None for what is no HTTP date.

    As strict as the reference: the weekday must be right, the zone GMT, the second below
    60 and the year in 1970..9999. Surrounding blanks are allowed.

    >>> parse_http_date(b"Sunday, 06-Nov-94 08:49:37 GMT")
    784111777000000
    >>> parse_http_date(b"Mon, 06 Nov 1994 08:49:37 GMT") is None
    True
    """
    text = text.strip(b" \t")
    for form in _FORMS:
        if match := form.fullmatch(text):
            return _from_parts({name: part.decode() for name, part in match.groupdict().items()})
    return None


def _from_parts(parts: dict[str, str]) -> int | None:
    year = int(parts["year"])
    if len(parts["year"]) == 2:  # RFC 850: the reference's pivot
        year += 2000 if year < 70 else 1900
    try:
        moment = datetime(
            year,
            _MONTHS.index(parts["month"]) + 1,
            int(parts["day"]),
            int(parts["hour"]),
            int(parts["minute"]),
            int(parts["second"]),
            tzinfo=UTC,
        )
    except ValueError:  # no such month, day, hour, minute or second
        return None
    weekday = _DAYS[moment.weekday()]
    expected = weekday if len(parts["year"]) == 2 else weekday[:3]
    if year < 1970 or parts["weekday"] != expected:
        return None
    return int((moment - _EPOCH).total_seconds()) * _US
